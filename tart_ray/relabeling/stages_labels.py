"""Units of labelling: what thresholds or a calibration are found from, and the labels."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import pyarrow as pa

from tart_ray.engine.stages import run_stage
from tart_ray.errors import CalibrationError, InputError
from tart_ray.relabeling.calibration import Calibration, calibrate, sample
from tart_ray.relabeling.known import CONTENT, SCORED_AT, SCORED_BY, find
from tart_ray.relabeling.labels import (
    LABEL,
    LABELLED,
    PAIR,
    PROBABILITY,
    THRESHOLD,
    Labelling,
    add_counts,
    count_parts,
    diff,
    find_places,
    label,
    thresholds_at,
)
from tart_ray.relabeling.old_labels import GIVEN, OLD_LABEL, given_labels
from tart_ray.relabeling.stages import (
    LABEL_PAIRS,
    Labelled,
    Work,
    collected_scores,
    known_scores,
)
from tart_ray.runs.directory import WORK
from tart_ray.runs.stage import Record, Stage
from tart_ray.scores.prepare import read_shuffled
from tart_ray.scores.scored import SCORES
from tart_ray.tables.grades import grades
from tart_ray.tables.hive import partitions
from tart_ray.tables.schemas import SCORES as SCORES_SCHEMA

ALL = "all"  # the one unit of a stage that looks at all buckets together
PLACES, LABELS, THRESHOLDS = "place.parquet", "labels", "thresholds.parquet"


class Counted(Record):
    """A bucket whose numbers are counted."""

    counted: int


class Found(Record):
    """Something that was found of each instruction."""

    instructions: int


class Sampled(Record):
    """A bucket of whose pairs those are gathered whose relevance is known."""

    labelled: int


class Calibrated(Record):
    """A calibration, and how good it is."""

    calibration: Calibration
    fitted: dict[str, Any]
    held_out: dict[str, Any]
    held_out_uncalibrated: dict[str, Any]


COUNT, RECOUNT = Stage("count", Counted), Stage("recount", Counted)
PLACE, FIND_THRESHOLDS = Stage("place", Found), Stage("thresholds", Found)
SAMPLE = Stage("sample", Sampled)
CALIBRATE = Stage("calibrate", Calibrated)


def fit(work: Work) -> Calibrated | None:
    """Find what the labelling needs to know of all pairs together."""
    run, buckets = work.run, [*work.chunks]
    if work.labels.by == "quantiles":
        run_stage(run, COUNT, buckets, partial(_count_bucket, work, COUNT))
        run_stage(run, PLACE, [ALL], lambda _: _place_quantiles(work))
        run_stage(run, RECOUNT, buckets, partial(_count_bucket, work, RECOUNT))
        run_stage(run, FIND_THRESHOLDS, [ALL], lambda _: _write_thresholds(work))
    if work.labels.by == "calibrated":
        run_stage(run, SAMPLE, buckets, partial(_sample_bucket, work))
        return run_stage(run, CALIBRATE, [ALL], lambda _: _calibrate(work))[ALL]
    return None


def label_pairs(work: Work) -> dict[str, Labelled]:
    """Label the pairs of each bucket, compare with the labels until now, and write all three."""
    return run_stage(work.run, LABEL_PAIRS, work.chunks, partial(_label_bucket, work))


def _count_bucket(work: Work, stage: Stage[Counted], unit: str) -> Counted:
    """The numbers of one bucket, counted: their upper halves first, then the whole ones near the quantiles."""
    places = work.run.read_table(WORK, PLACES) if stage == RECOUNT else None
    counts = count_parts(collected_scores(work, unit), work.labels.score, places)
    work.run.write_table(counts, WORK, stage.name, f"{unit}.parquet")
    return Counted(counted=len(counts))


def _all_counts(work: Work, stage: Stage[Counted]) -> pa.Table:
    return add_counts(work.run.read_table(WORK, stage.name, f"{unit}.parquet") for unit in work.chunks)


def _place_quantiles(work: Work) -> Found:
    """Where the quantiles of each instruction lie."""
    places = find_places(_all_counts(work, COUNT), work.labels.cuts)
    work.run.write_table(places, WORK, PLACES)
    return Found(instructions=len(places))


def _write_thresholds(work: Work) -> Found:
    thresholds = thresholds_at(work.run.read_table(WORK, PLACES), _all_counts(work, RECOUNT))
    work.run.write_table(thresholds, THRESHOLDS)
    return Found(instructions=len(thresholds))


def _sample_bucket(work: Work, unit: str) -> Sampled:
    config, rows = work.labels.calibration, collected_scores(work, unit)
    if work.qrels is None:
        assert config.label_column is not None
        try:
            relevance = grades(config.label_column, rows[config.label_column])
        except ValueError as error:
            raise InputError(f"labels.calibration.label_column: {error}") from error
    else:
        judged = read_shuffled(work.run, work.qrels, int(unit))
        relevance = judged["relevance"].take(find(rows, judged))
    pairs = sample(rows, relevance, config)
    work.run.write_table(pairs, WORK, SAMPLE.name, f"{unit}.parquet")
    return Sampled(labelled=len(pairs))


def _calibrate(work: Work) -> Calibrated:
    """Fit a calibration to the labelled pairs of some queries, and assess it on those of the others."""
    pairs = [work.run.read_table(WORK, SAMPLE.name, f"{unit}.parquet") for unit in work.chunks]
    try:
        calibration, assessed = calibrate(pa.concat_tables(pairs), work.labels.calibration)
    except CalibrationError as error:
        raise InputError(str(error)) from error
    return Calibrated(calibration=calibration, **assessed)


def _labelling(work: Work) -> Labelling:
    """How scores become labels, once everything for it is found."""
    labels = work.labels
    if labels.by == "quantiles":
        columns = work.run.read_table(THRESHOLDS).to_pydict()
        by_instruction = dict(zip(columns["instruction"], map(tuple, columns["thresholds"]), strict=True))
        return Labelling(labels.score, (), by_instruction)
    if labels.by == "calibrated":
        record = work.run.records(CALIBRATE, [ALL])[ALL]
        return Labelling("margin", labels.cuts, calibration=record.calibration)
    return Labelling(labels.score, labels.cuts)


def _label_bucket(work: Work, unit: str) -> Labelled:
    known, rows, old_column = known_scores(work, unit), collected_scores(work, unit), work.labels.old_column
    base = known.filter(known["is_base"]).select(LABELLED.names)
    if old_column is not None:
        rows = rows.rename_columns({old_column: GIVEN})  # it may be called label
    rows = label(rows, _labelling(work))
    given = given_labels(old_column, rows, base) if old_column is not None else LABELLED.empty_table()
    compared = diff(pa.concat_tables([base, given]), rows.select(LABELLED.names))
    rows = rows.append_column(OLD_LABEL, compared.old_labels)
    extras = [field.name for field in work.extras]
    stored = [*SCORES_SCHEMA.names, CONTENT.name, SCORED_BY.name, SCORED_AT.name, LABEL.name, *extras]
    work.run.write_table(rows.select(stored), SCORES, f"{unit}.parquet")
    numbers = [name for name in ("score", "margin", PROBABILITY.name, THRESHOLD.name) if name in rows.schema.names]
    shown = [*PAIR, LABEL.name, OLD_LABEL.name, *numbers, "instruction", SCORED_BY.name, SCORED_AT.name, *extras]
    for folder, part in partitions(rows.select(shown), work.partition_by):
        if len(part):
            work.run.write_table(part, LABELS, *folder, f"{unit}.parquet")
    if len(compared.rows):
        work.run.write_table(compared.rows, "diff", f"{unit}.parquet")
    return Labelled(
        rows=len(rows),
        given=len(given),
        labels=Counter(map(str, rows[LABEL.name].to_pylist())),
        flips=tuple((*pair, pairs) for pair, pairs in compared.flips.items()),
        **compared.counts,
    )
