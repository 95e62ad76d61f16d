"""The configuration of jobs.mine_negatives."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from tart_ray.config.policy import MiningPolicy
from tart_ray.config.sections import (
    CORPUS_COLUMNS,
    QRELS_COLUMNS,
    ClusterConfig,
    Destination,
    LimitsConfig,
    Location,
    MineInputConfig,
    ModelConfig,
    PlanConfig,
    Section,
    StorageConfig,
    check_column_names,
)


class PositivesConfig(Section):
    """What is known to answer each query; either qrels or label_column.

    Attributes:
        qrels: Files of TREC qrels, BEIR's TSV (query-id, corpus-id, score), or Parquet or JSONL with such columns.
        columns: Our name: their name, of columns of the qrels that are called otherwise; {corpus.doc_id: docno} is of
            the corpus here.
        corpus: Documents of positives that are no candidates; by default the corpus of the candidates.
        label_column: Column of the candidates: an integer or a boolean.
        min_relevance: Judgements below it are no positives.
    """

    qrels: Location | None = None
    columns: dict[str, str] = {}
    corpus: Location | None = None
    label_column: str | None = None
    min_relevance: int = 1

    @model_validator(mode="after")
    def _one_of_two(self) -> PositivesConfig:
        if (self.qrels is None) == (self.label_column is None):
            given = [name for name in ("qrels", "label_column") if getattr(self, name) is not None]
            raise ValueError(f"positives: got {given}, expected one of qrels, label_column")
        if self.corpus is not None and self.qrels is None:
            raise ValueError("positives.corpus belongs to qrels: with label_column every positive is a candidate")
        roles = {"qrels": QRELS_COLUMNS, "corpus": CORPUS_COLUMNS}
        check_column_names("positives.columns", self.columns, roles, QRELS_COLUMNS)
        return self


class MiningConfig(Section):
    """Which candidates become negatives.

    Attributes:
        policies: Applied in order; docs/mining.md describes their keys.
        twins: Keep copies of positives under other ids from being negatives.
    """

    policies: Annotated[tuple[MiningPolicy, ...], Field(min_length=1)] = (MiningPolicy(),)
    twins: bool = True

    @model_validator(mode="after")
    def _names(self) -> MiningConfig:
        names = [policy.name for policy in self.policies]
        if len(set(names)) < len(names):
            raise ValueError(f"got policies named {names}, expected each name once")
        return self


class TrainerConfig(Section):
    """Files that trainers read, under trainer/<format>/.

    Attributes:
        formats: Names of formats, see docs/mining.md.
        score: The number that is written as score: margin, or score, the probability.
        with_scores: Write scores, for distillation; documents without one are left out.
        num_negatives: Of n-tuple and colbert; queries with fewer are left out.
        join_instruction: Write "instruction [SEP] query" where a format has no field for the instruction; null does so
            in tart-full and tart-dual alone, whose trainers read it so.
        easy_policies: Policies whose negatives are negative_ctxs of dpr, dpr-jsonl and tart-dual.
        passage_prompt: Of flagembedding-reranker.
    """

    formats: list[str] = []
    score: Literal["margin", "score"] = "margin"
    with_scores: bool = False
    num_negatives: PositiveInt | None = None
    join_instruction: bool | None = None
    easy_policies: list[str] = []
    passage_prompt: str = ""


class MineOutputConfig(Section):
    """Where results go.

    Attributes:
        path: Directory of this run, local or s3://; one run, one path.
    """

    path: Destination


class MineConfig(Section):
    """Configuration of jobs.mine_negatives; model, replicas and plan are for candidates that are scored first."""

    input: MineInputConfig
    positives: PositivesConfig
    output: MineOutputConfig
    mining: MiningConfig = MiningConfig()
    trainer: TrainerConfig = TrainerConfig()
    model: ModelConfig = ModelConfig()
    cluster: ClusterConfig = ClusterConfig()
    limits: LimitsConfig = LimitsConfig()
    storage: StorageConfig = StorageConfig()
    plan: PlanConfig = PlanConfig()
