"""The configuration of jobs.relabel."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from tart_ray.config.sections import (
    QRELS_COLUMNS,
    ClusterConfig,
    Destination,
    Fraction,
    LimitsConfig,
    Location,
    MineInputConfig,
    ModelConfig,
    PlanConfig,
    Section,
    StorageConfig,
    check_column_names,
)


class RelabelInputConfig(MineInputConfig):
    """What is labelled: candidates, or a finished run whose scores are taken over; pairs whose score holds keep it."""


class CalibrationConfig(Section):
    """From margins to probabilities, on pairs whose relevance is known; either qrels or label_column.

    Attributes:
        method: platt, a sigmoid, does with few labels; isotonic, a rising step function, wants a thousand or more.
        qrels: Files of TREC qrels, BEIR's TSV (query-id, corpus-id, score), or Parquet or JSONL with such columns.
        columns: Our name: their name, of columns of the qrels that are called otherwise.
        label_column: Column of the candidates: an integer or a boolean; null where nothing is known.
        min_relevance: What is judged lower is irrelevant.
        held_out_fraction: Share of the queries that nothing is fitted to: Brier score and reliability curve are theirs.
        min_labels: Relevant pairs, and irrelevant ones, that are needed to fit on, and as many among those held out.
        seed: Of the choice of queries that are held out.
    """

    method: Literal["platt", "isotonic"] = "platt"
    qrels: Location | None = None
    columns: dict[str, str] = {}
    label_column: str | None = None
    min_relevance: int = 1
    held_out_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    min_labels: PositiveInt = 10
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @model_validator(mode="after")
    def _known_columns(self) -> CalibrationConfig:
        key = "labels.calibration.columns"
        check_column_names(key, self.columns, {"qrels": QRELS_COLUMNS}, QRELS_COLUMNS)
        return self


class LabelsConfig(Section):
    """How scores become labels: the label is the number of cuts that a pair reaches, 0 to their number.

    Attributes:
        by: thresholds of score, quantiles of each instruction, or calibrated: thresholds of a calibrated probability.
        cuts: Rising; numbers of score, quantiles in (0, 1), or probabilities in (0, 1).
        score: What is compared: margin, or score, the probability as the model says it. calibrated has its own.
        old_column: Column of the candidates, integer or boolean: a pair's label until now, where no run gave it one.
        calibration: Of by: calibrated.
    """

    by: Literal["thresholds", "quantiles", "calibrated"] = "thresholds"
    cuts: tuple[float, ...]
    score: Literal["margin", "score"] = "margin"
    old_column: str | None = None
    calibration: CalibrationConfig = CalibrationConfig()

    @model_validator(mode="after")
    def _fit_together(self) -> LabelsConfig:
        rising = all(a < b for a, b in itertools.pairwise(self.cuts))
        if not self.cuts or not rising or not all(map(math.isfinite, self.cuts)):
            raise ValueError(f"labels.cuts: got {[*self.cuts]}, expected one or more finite numbers, rising")
        if self.by != "thresholds" and not all(0 < cut < 1 for cut in self.cuts):
            raise ValueError(
                f"labels.cuts: got {[*self.cuts]}, expected numbers between 0 and 1 with labels.by: {self.by}"
            )
        given = [name for name in ("qrels", "label_column") if getattr(self.calibration, name) is not None]
        if len(given) != (1 if self.by == "calibrated" else 0):
            expected = "one of qrels, label_column" if self.by == "calibrated" else "neither qrels nor label_column"
            raise ValueError(f"labels.calibration: got {given}, expected {expected} with labels.by: {self.by}")
        return self


class RelabelOutputConfig(Section):
    """Where results go, and which of them is current.

    Attributes:
        path: Directory of all runs over this corpus, local or s3://.
        partition_by: Columns that become key=value directories of labels/; by default those of the input.
        switch_to: Label nothing, but make another finished run current: its id, or previous, the one before.
    """

    path: Destination
    partition_by: list[str] | None = None
    switch_to: str | None = None


class RelabelLimitsConfig(LimitsConfig):
    """When a run gives up, or waits for a person.

    Attributes:
        max_quarantined_fraction: More bad rows than this: exit code 3, and no _SUCCESS.
        max_attempts_per_chunk: Processes that may die with a row at work before it goes to quarantine, and on any
            other unit of work before the job fails.
        max_changed_fraction: More of the old labels than this changed or gone: exit code 4, no _SUCCESS, and the old
            label set stays the current one.
    """

    max_changed_fraction: Fraction = 1.0


class RelabelConfig(Section):
    """Configuration of jobs.relabel."""

    input: RelabelInputConfig
    labels: LabelsConfig
    output: RelabelOutputConfig
    model: ModelConfig = ModelConfig()
    cluster: ClusterConfig = ClusterConfig()
    limits: RelabelLimitsConfig = RelabelLimitsConfig()
    storage: StorageConfig = StorageConfig()
    plan: PlanConfig = PlanConfig()
