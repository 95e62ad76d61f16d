"""The configuration of jobs.evaluate."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from tart_ray.config.sections import (
    CORPUS_COLUMNS,
    QRELS_COLUMNS,
    QUERY_COLUMNS,
    RUN_COLUMNS,
    ClusterConfig,
    Destination,
    LimitsConfig,
    Location,
    ModelConfig,
    PlanConfig,
    Section,
    StorageConfig,
    check_column_names,
)

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"  # of what files are named by


class TaskConfig(Section):
    """One task of an evaluation, see docs/evaluation.md.

    Attributes:
        name: Names its files; letters, digits, dots, hyphens and underscores.
        path: Directory of the collection.
        kind: Format of the collection; cqadupstack is BEIR's directory of twelve forums, which are averaged.
        split: Of the qrels of BEIR.
        questions: Of LoTTE.
        instructions: Texts, or {preset: name}; none scores bare queries. FollowIR has its own.
        template: instruction_first as TART was trained, or query_first, FollowIR's reversed one.
        first_stage: bm25, or a run (TREC, Parquet, JSONL; without scores its order is the ranking); a directory of
            {forum}.trec for cqadupstack.
        pooled_first_stage: The same over the corpora of the task's pool; documents are called {task}:{doc_id}.
        columns: Our name: their name, of columns that are called otherwise, with a role where more than one has it:
            {text: contents, candidates.doc_id: docno, qrels.doc_id: pid}.
        scores: output.path of finished jobs.rerank over this task, one per instruction; nothing is scored.
        compare_with: A run that is measured beside, and tested against.
        top_k: Documents of the first stage that are scored, per query.
        measures: Names of ir-measures; the first is the one in the table.
        ignore_identical_ids: Leave a document out that has its query's id, as BEIR does; by default for its kinds only.
        protocol: Refuse settings other than those that figures were published with: tart, or followir.
    """

    name: Annotated[str, Field(pattern=NAME)]
    path: Location
    kind: Literal["beir", "lotte", "followir", "cqadupstack"] = "beir"
    split: str = "test"
    questions: Literal["search", "forum"] = "search"
    instructions: tuple[str | dict[str, str], ...] = ()
    template: Literal["instruction_first", "query_first"] = "instruction_first"
    first_stage: Location | None = None
    pooled_first_stage: Location | None = None
    columns: dict[str, str] = {}
    scores: tuple[Location, ...] = ()
    compare_with: Location | None = None
    top_k: PositiveInt = 100
    measures: tuple[str, ...] = ()
    ignore_identical_ids: bool | None = None
    protocol: Literal["tart", "followir"] | None = None

    @model_validator(mode="after")
    def _goes_together(self) -> TaskConfig:
        if self.instructions and (self.scores or self.kind == "followir"):
            whose = "scores were made with theirs" if self.scores else "kind followir has those of its queries"
            raise ValueError(f"{self.name}: got instructions, expected none: {whose}")
        if self.compare_with == "bm25":
            raise ValueError(f"{self.name}: compare_with: got bm25, expected a run")
        roles = {
            "candidates": RUN_COLUMNS, "queries": QUERY_COLUMNS, "corpus": CORPUS_COLUMNS, "qrels": QRELS_COLUMNS,
        }  # fmt: skip
        of_one = ("query", "text", "title", "relevance", "score")
        check_column_names(f"{self.name}: columns", self.columns, roles, of_one)
        if self.scores and self.kind in ("followir", "cqadupstack"):
            raise ValueError(f"{self.name}: got scores, which kind {self.kind} does not take")
        return self


class EvaluateInputConfig(Section):
    """What is evaluated.

    Attributes:
        tasks: Evaluated with one loading of the model.
        pools: Name: names of tasks, each of which is evaluated on the corpora of all of them, too (X2-Retrieval).
        empty_documents: Documents whose title and text are blank: quarantine keeps them out, score gives them the score
            of an empty text, as the original does.
    """

    tasks: Annotated[tuple[TaskConfig, ...], Field(min_length=1)]
    pools: dict[str, tuple[str, ...]] = {}
    empty_documents: Literal["quarantine", "score"] = "quarantine"

    @model_validator(mode="after")
    def _names(self) -> EvaluateInputConfig:
        names = [task.name for task in self.tasks]
        odd = [pool for pool in self.pools if not re.fullmatch(NAME, pool)]
        if odd:
            raise ValueError(f"input.pools: got names {odd}, expected letters, digits, dots, hyphens and underscores")
        if len({name.lower() for name in names}) < len(names):  # names of files, also where case does not count
            raise ValueError(f"input.tasks: got names {names}, expected each once")
        pooled = [name for members in self.pools.values() for name in members]
        can = [task.name for task in self.tasks if task.kind in ("beir", "lotte") and not task.scores]
        if (
            len(set(pooled)) < len(pooled)
            or not set(pooled) <= set(can)
            or any(len(m) < 2 for m in self.pools.values())
        ):
            raise ValueError(
                f"input.pools: got {self.pools}, expected two tasks or more in each, each task once, available: {can}"
            )
        without = [task.name for task in self.tasks if task.pooled_first_stage and task.name not in pooled]
        if without:
            raise ValueError(f"input.tasks: {without} have a pooled_first_stage and are in none of input.pools")
        return self


class MetricsConfig(Section):
    """How sure figures are.

    Attributes:
        confidence: Of the intervals.
        resamples: Of the bootstrap over queries.
        seed: Of the bootstrap.
    """

    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    resamples: PositiveInt = 1_000
    seed: Annotated[int, Field(ge=0)] = 0


class EvaluateOutputConfig(Section):
    """Where results go.

    Attributes:
        path: Directory of this run, local or s3://; one run, one path.
    """

    path: Destination


class EvaluateConfig(Section):
    """Configuration of jobs.evaluate."""

    input: EvaluateInputConfig
    output: EvaluateOutputConfig
    metrics: MetricsConfig = MetricsConfig()
    model: ModelConfig = ModelConfig()
    cluster: ClusterConfig = ClusterConfig()
    limits: LimitsConfig = LimitsConfig()
    storage: StorageConfig = StorageConfig()
    plan: PlanConfig = PlanConfig()
