"""The typed configuration of every job: what a YAML file and the command line can say, and nothing else.

Knows no Ray, torch or storage: it is read before any of them is imported.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    field_serializer,
    field_validator,
    model_validator,
)

from tart_ray.locations import MASK, STORES, check_location, printable, scheme_of

Fraction = Annotated[float, Field(ge=0, le=1)]
Location = Annotated[str, AfterValidator(check_location)]  # what is read
Destination = Annotated[str, AfterValidator(partial(check_location, written=True))]
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"  # of what files are named by
ROLES = ("candidates", "queries", "corpus", "qrels")
CANDIDATE_COLUMNS = ("query_id", "query", "doc_id", "text", "title", "instruction", "score", "candidates")
QUERY_COLUMNS, CORPUS_COLUMNS = ("query_id", "query"), ("doc_id", "text", "title")
QRELS_COLUMNS, RUN_COLUMNS = ("query_id", "doc_id", "relevance"), ("query_id", "doc_id", "score", "candidates")


def check_column_names(
    key: str, columns: Mapping[str, str], roles: Mapping[str, Sequence[str]], names: Sequence[str] | None = None
) -> None:
    """Refuse names of columns that are none of ours.

    Args:
        roles: what may stand behind each role and a dot.
        names: what may stand without a role; None: anything.

    Raises:
        ValueError: a name is another.
    """
    of_roles = [f"{role}.{name}" for role, found in roles.items() for name in found]
    with_role = [name for name in columns if name.partition(".")[0] in ROLES and "." in name]
    unknown = sorted({*with_role} - {*of_roles})
    if names is not None:
        unknown += sorted({*columns} - {*with_role} - {*names})
    if unknown:
        raise ValueError(f"{key}: got {unknown}, expected names among {[*(names or ()), *of_roles]}")


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ModelConfig(Section):
    """The checkpoint and how it reads a pair.

    Attributes:
        path: Hub id, local directory, or s3://bucket/prefix/.
        revision: Hub branch, tag or commit.
        fingerprint: Of the checkpoint that must be there, as a run's manifest.json names it; null takes what is there.
        dtype: bfloat16 on GPUs and float32 on CPUs where it is auto; float32 is the reference.
        max_length: Tokens of a pair, or of a window of it.
        long_documents: What becomes of longer ones: truncate cuts them; maxp reads the whole document in windows, and
            the best window's score is the pair's. See docs/long_documents.md.
        truncation: longest_first as TART was trained (it can cut the query), or only_document.
        split_special_tokens: True encodes "</s>" and the like in raw text as plain text.
        max_tokens_per_batch: Padded tokens that go through a replica at once; auto suits the device.
    """

    path: Location = "facebook/tart-full-flan-t5-xl"
    revision: str | None = None
    fingerprint: str | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    max_length: Annotated[int, Field(ge=8)] = 512
    long_documents: Literal["truncate", "maxp"] = "truncate"
    truncation: Literal["longest_first", "only_document"] = "longest_first"
    split_special_tokens: bool = False
    max_tokens_per_batch: PositiveInt | Literal["auto"] = "auto"


class CandidatesConfig(Section):
    """Candidates and what belongs to them, in every job that takes them.

    Attributes:
        candidates: File, directory or glob: Parquet or JSONL of pairs or of lists, a TREC run, or what an earlier run
            wrote to reranked/ or scores/.
        queries: For candidates without query text: BEIR queries.jsonl, TSV or Parquet.
        corpus: For candidates without document text: BEIR corpus.jsonl, TSV or Parquet.
        instruction: For every row; a row's own instruction column wins, unless an earlier run wrote it. "" says that
            none is meant.
        columns: Our name: their name, of columns that are called otherwise: of the candidates, or else of the queries
            or the corpus. A name may say whose: {corpus.doc_id: docno}. Other columns of the candidates can be renamed
            in the same way.
        drop_columns: Their names of columns to leave out.
        empty_documents: Documents whose title and text are blank: quarantine keeps them out, score gives them the score
            of an empty text, as the original does.
    """

    candidates: Location | None = None
    queries: Location | None = None
    corpus: Location | None = None
    instruction: str | None = None
    columns: dict[str, str] = {}
    empty_documents: Literal["quarantine", "score"] = "quarantine"
    drop_columns: list[str] = []

    @model_validator(mode="after")
    def _known_columns(self) -> CandidatesConfig:
        roles = {"candidates": CANDIDATE_COLUMNS, "queries": QUERY_COLUMNS, "corpus": CORPUS_COLUMNS}
        check_column_names("input.columns", self.columns, roles)
        return self


class InputConfig(CandidatesConfig):
    """What is scored."""

    candidates: Location


class OutputConfig(Section):
    """Where results go.

    Attributes:
        path: Directory of this run, local or s3://; one run, one path.
        partition_by: Columns that become key=value directories of reranked/.
        top_k: Documents kept per query in reranked/; scores/ keeps every pair.
    """

    path: Destination
    partition_by: list[str] = []
    top_k: PositiveInt | None = None


class ReplicasConfig(Section):
    """How far the pool of replicas scales.

    Attributes:
        min: Replicas that are kept while there is work.
        max: Replicas at most.
    """

    min: PositiveInt = 1
    max: PositiveInt = 8

    @model_validator(mode="after")
    def _ordered(self) -> ReplicasConfig:
        if self.min > self.max:
            raise ValueError(f"cluster.replicas: got min {self.min} above max {self.max}")
        return self


class ClusterConfig(Section):
    """The Ray cluster.

    Attributes:
        address: auto joins the cluster of RAY_ADDRESS, or one that `ray start` started on this machine, or else starts
            Ray for this job alone; local always does the latter; or host:port of a head. See docs/clusters.md.
        replicas: How far the pool of replicas scales.
        gpus_per_replica: 0 scores on CPUs.
        cpus_per_replica: Also the threads of torch in a replica.
    """

    address: str = "auto"
    replicas: ReplicasConfig = ReplicasConfig()
    gpus_per_replica: Annotated[float, Field(ge=0)] = 1
    cpus_per_replica: Annotated[float, Field(gt=0)] = 1


class LimitsConfig(Section):
    """When a run gives up.

    Attributes:
        max_quarantined_fraction: More bad rows than this: exit code 3, and no _SUCCESS.
        max_attempts_per_chunk: Processes that may die with a row at work before it goes to quarantine, and on any
            other unit of work before the job fails.
        max_seconds_per_batch: A replica that takes longer for a batch hangs: its process is ended, which counts as
            such a death. Loading the model may take four times as long.
    """

    max_quarantined_fraction: Fraction = 0.01
    max_attempts_per_chunk: PositiveInt = 3
    max_seconds_per_batch: PositiveFloat = 900


class StorageConfig(Section):
    """The stores, where their usual environment variables do not say it; see docs/storage.md.

    Attributes:
        endpoint_url: Of an S3 server other than AWS.
        region: AWS region.
        key: Of S3, the access key id; better left to the environment or an instance profile.
        secret: Of S3, the secret access key.
        token: Of S3, the session token.
        anonymous: Read public S3 buckets without credentials.
        gs: Options of gcsfs for gs://, such as project or token.
        az: Options of adlfs for az:// and abfs://, such as account_name or sas_token.
        hf: Options of huggingface_hub's filesystem for hf://, such as token.
    """

    endpoint_url: str | None = None
    region: str | None = None
    key: SecretStr | None = None
    secret: SecretStr | None = None
    token: SecretStr | None = None
    anonymous: bool = False
    gs: dict[str, Any] = Field(default={}, repr=False)
    az: dict[str, Any] = Field(default={}, repr=False)
    hf: dict[str, Any] = Field(default={}, repr=False)

    @field_serializer("gs", "az", "hf", when_used="json")
    def _masked(self, options: dict[str, Any]) -> dict[str, str]:
        return dict.fromkeys(options, MASK)  # any of them may be a secret

    @field_validator("key", "secret", "token", mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if text is not None and not isinstance(text, str):
            raise ValueError("got a number, expected text: put it in quotes")
        return value

    @field_validator("endpoint_url")
    @classmethod
    def _without_credentials(cls, value: str | None) -> str | None:
        if value and ("@" in value or "?" in value or printable(value) != value):
            raise ValueError("credentials in the URL would show in logs; use storage.key and storage.secret")
        if value and not value.startswith(("http://", "https://")):
            raise ValueError(f"got {value!r}, expected http://host:port or https://host")
        return value

    def fsspec_options(self, location: str) -> dict[str, Any]:
        """Keyword arguments of the filesystem that serves ``location``; secrets in clear."""
        store = STORES.get(scheme_of(location) or "")
        if store is None:
            return {}
        if store.name != "s3":
            return {**store.options, **getattr(self, store.name, {})}
        client = {"region_name": self.region} if self.region else {}
        secrets = {"key": self.key, "secret": self.secret, "token": self.token}
        return {
            **store.options,
            "endpoint_url": self.endpoint_url,
            "anon": self.anonymous,
            "client_kwargs": client,
            **{name: value.get_secret_value() for name, value in secrets.items() if value},
        }


class PlanConfig(Section):
    """What --dry-run reckons with.

    Attributes:
        pairs_per_second: Of one replica; a window counts as a pair.
        dollars_per_gpu_hour: Price of one GPU.
    """

    pairs_per_second: PositiveFloat | None = None
    dollars_per_gpu_hour: PositiveFloat | None = None


class MineInputConfig(CandidatesConfig):
    """Whose scores are mined: those of a finished run, or of candidates that are scored first, into scoring/.

    Attributes:
        run: output.path of a finished jobs.rerank; nothing is scored.
    """

    run: Location | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> MineInputConfig:
        given = [name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default]
        if (self.run is None) == (self.candidates is None) or (self.run is not None and given != ["run"]):
            raise ValueError(f"input: got {given}, expected run alone, or candidates and what belongs to them")
        if self.candidates is not None:
            self.to_score()
        return self

    def to_score(self) -> InputConfig:
        """The candidates, as jobs.rerank takes them."""
        return InputConfig.model_validate(self.model_dump(exclude={"run"}))


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
        policies: Applied in order; keys are those of tart_ray.mining.negatives.MiningPolicy, see docs/mining.md.
        twins: Keep copies of positives under other ids from being negatives.
    """

    policies: list[dict[str, Any]] = [{"name": "hard"}]
    twins: bool = True


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
            raise ValueError(f"input.tasks: {self.name}: got instructions, expected none: {whose}")
        if self.compare_with == "bm25":
            raise ValueError(f"input.tasks: {self.name}: compare_with: got bm25, expected a run")
        roles = {
            "candidates": RUN_COLUMNS, "queries": QUERY_COLUMNS, "corpus": CORPUS_COLUMNS, "qrels": QRELS_COLUMNS,
        }  # fmt: skip
        of_one = ("query", "text", "title", "relevance", "score")
        check_column_names(f"input.tasks: {self.name}: columns", self.columns, roles, of_one)
        if self.scores and self.kind in ("followir", "cqadupstack"):
            raise ValueError(f"input.tasks: {self.name}: got scores, which kind {self.kind} does not take")
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


class GeometryConfig(Section):
    """A new model's size.

    Attributes:
        num_layers: Blocks of attention and feed-forward.
        d_model: Width.
        num_heads: Of attention.
        d_kv: Width of a head.
        d_ff: Width of the feed-forward layers, which are gated.
    """

    num_layers: PositiveInt = 4
    d_model: PositiveInt = 256
    num_heads: PositiveInt = 8
    d_kv: PositiveInt = 32
    d_ff: PositiveInt = 512

    @model_validator(mode="after")
    def _heads_fit(self) -> GeometryConfig:
        if self.d_kv > self.d_model:
            raise ValueError(f"got d_kv {self.d_kv} above d_model {self.d_model}, expected at most as much")
        return self


class StartConfig(Section):
    """What training starts from: a checkpoint, or a vocabulary and a size.

    Attributes:
        path: A T5 (google/flan-t5-xl, or any size) or an EncT5: hub id, local directory, or s3://bucket/prefix/.
        revision: Hub branch, tag or commit.
        vocabulary: Of a new model: a sentencepiece model in T5's layout, or a place that holds spiece.model.
        geometry: Of a new model.
        initialisation: Of a new model: t5 as T5 is, mimetic lets attention begin as a search for equal tokens.
        max_length: Tokens of a pair; longer ones are cut.
    """

    path: Location | None = None
    revision: str | None = None
    vocabulary: Location | None = None
    geometry: GeometryConfig = GeometryConfig()
    initialisation: Literal["t5", "mimetic"] = "mimetic"
    max_length: Annotated[int, Field(ge=8)] = 512

    @model_validator(mode="after")
    def _one_of_two(self) -> StartConfig:
        if (self.path is None) == (self.vocabulary is None):
            given = [name for name in ("path", "vocabulary") if getattr(self, name) is not None]
            raise ValueError(f"model: got {given}, expected one of path, vocabulary")
        if self.path is not None:
            for name in ("geometry", "initialisation"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"model: got {name} beside model.path, which brings its own")
        return self


class TrainInputConfig(Section):
    """What is trained on.

    Attributes:
        train: File, directory or glob: JSONL or Parquet of pairs, lists or groups, see docs/training.md.
        evaluation: The like, of queries held out.
        instructions: JSON, {task: [instruction, ...]}: one of its task's is drawn for each pair.
    """

    train: Location
    evaluation: Location | None = None
    instructions: Location | None = None


class TrainOutputConfig(Section):
    """Where results go.

    Attributes:
        path: Directory of this run, local or s3://; one run, one path. The checkpoint is in checkpoint/.
        dtype: Of the weights in the checkpoint; bfloat16 halves it.
    """

    path: Destination
    dtype: Literal["float32", "bfloat16"] = "float32"


class WorkersConfig(Section):
    """The Ray cluster, and the workers that share each step.

    Attributes:
        address: auto joins the cluster of RAY_ADDRESS, or one that `ray start` started on this machine, or else starts
            Ray for this job alone; local always does the latter; or host:port of a head. See docs/clusters.md.
        workers: Each holds the model and all examples.
        gpus_per_worker: 1, or 0 to train on CPUs.
        cpus_per_worker: Also the threads of torch in a worker.
    """

    address: str = "auto"
    workers: PositiveInt = 1
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] = 1
    cpus_per_worker: PositiveInt = 1


PUBLISHED_RECIPE: dict[str, Any] = {  # of TART-full; what else belongs to it is tart_ray.training.published
    "loss": "cross_entropy",
    "num_negatives": 4,
    "random_negatives": (0.0, 0.0),
    "max_unfollowing_fraction": 0.16,
    "max_unfollowing": 10_000,
    "learning_rate": 5e-5,
    "schedule": "linear",
    "warmup_fraction": 0.0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "optimizer": "adamw",
    "dropout": None,
    "dtype": "float32",
    "select_by": "accuracy",
    "patience": 5,
}


class TrainingConfig(Section):
    """How an EncT5 is trained.

    Attributes:
        preset: tart is the recipe that TART-full was published with, exactly: it sets the keys listed in
            docs/training.md, draws its pairs once, takes 64 of them a step, and starts as the authors' code does. Null
            is this project's own recipe, with the defaults given here.
        loss: cross_entropy of two labels; listwise, a softmax over the margins of a positive and its negatives; or
            margin_mse, distillation of a teacher's margins.
        num_negatives: Of each positive, drawn afresh in every epoch; null takes all there are.
        random_negatives: Share of the negatives that are documents of other queries of the task: at the start and at
            the end of training, linear in between.
        max_unfollowing_fraction: Of a task's pairs, those whose document answers the query but not the instruction;
            margin_mse uses none.
        max_unfollowing: Of a task in an epoch, at most so many of those pairs.
        epochs: Each has every positive once.
        max_steps: In place of epochs.
        queries_per_step: Positives, each with its negatives, of one step of the optimizer, over all workers.
        max_tokens_per_batch: Padded tokens that go through a worker at once; a step is cut into such batches.
        learning_rate: At its peak.
        schedule: Of the learning rate after the warm-up.
        warmup_fraction: Of all steps.
        weight_decay: Of matrices; norms, biases and embeddings have none.
        max_grad_norm: Longer gradients are scaled down to it.
        optimizer: adafactor keeps next to no state.
        dropout: null keeps the checkpoint's.
        dtype: bfloat16 computes in it where that is safe; weights and their updates are float32.
        gradient_checkpointing: Compute activations a second time rather than keep them.
        seed: Of order, negatives, instructions and dropout.
        evaluate_every: Steps between evaluations on the held-out queries.
        select_by: What tells the best weights on the held-out queries: ndcg_at_10, or accuracy of the two labels.
        patience: Stop after so many evaluations without better weights; null never does.
        checkpoint_every: Steps between states that a killed run continues from.
        log_every: Steps between lines of the log.
    """

    preset: Literal["tart"] | None = None
    loss: Literal["cross_entropy", "listwise", "margin_mse"] = "cross_entropy"
    num_negatives: PositiveInt | None = 4
    random_negatives: tuple[Fraction, Fraction] = (0.0, 0.0)
    max_unfollowing_fraction: Fraction = 0.16
    max_unfollowing: Annotated[int, Field(ge=0)] = 10_000
    epochs: PositiveInt = 1
    max_steps: PositiveInt | None = None
    queries_per_step: PositiveInt = 32
    max_tokens_per_batch: PositiveInt = 8_192
    learning_rate: PositiveFloat = 1e-4
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_fraction: Fraction = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    max_grad_norm: PositiveFloat = 1.0
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    gradient_checkpointing: bool = False
    seed: Annotated[int, Field(ge=0)] = 0
    evaluate_every: PositiveInt = 500
    select_by: Literal["ndcg_at_10", "accuracy"] = "ndcg_at_10"
    patience: PositiveInt | None = None
    checkpoint_every: PositiveInt = 500
    log_every: PositiveInt = 50

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, values: Any) -> Any:
        """The preset's values in place of the defaults; the command line gives both as if they had been asked for."""
        if not isinstance(values, dict) or values.get("preset") != "tart":
            return values
        defaults = {name: field.default for name, field in cls.model_fields.items()}
        fixed = PUBLISHED_RECIPE | {"queries_per_step": defaults["queries_per_step"]}
        given = {name: values[name] for name in fixed if name in values}
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        other = {name: value for name, value in given.items() if value not in (defaults[name], fixed[name])}
        if other:
            raise ValueError(f"got {other} beside preset tart, which sets these keys; leave them or the preset out")
        return values | fixed

    @model_validator(mode="after")
    def _random_negatives_fit(self) -> TrainingConfig:
        if self.loss == "margin_mse" and max(self.random_negatives):
            raise ValueError("random_negatives: a teacher has not scored them, expected [0, 0] with loss margin_mse")
        if self.num_negatives is None and max(self.random_negatives):
            raise ValueError("random_negatives: got a share of no number, expected num_negatives beside it")
        return self


class RerankConfig(Section):
    """Configuration of jobs.rerank."""

    input: InputConfig
    output: OutputConfig
    model: ModelConfig = ModelConfig()
    cluster: ClusterConfig = ClusterConfig()
    limits: LimitsConfig = LimitsConfig()
    storage: StorageConfig = StorageConfig()
    plan: PlanConfig = PlanConfig()


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


class TrainConfig(Section):
    """Configuration of jobs.train."""

    model: StartConfig
    input: TrainInputConfig
    output: TrainOutputConfig
    training: TrainingConfig = TrainingConfig()
    cluster: WorkersConfig = WorkersConfig()
    limits: LimitsConfig = LimitsConfig()
    storage: StorageConfig = StorageConfig()

    @model_validator(mode="after")
    def _patience_has_something_to_wait_for(self) -> TrainConfig:
        if self.training.patience is not None and self.input.evaluation is None:
            why = "the published recipe stops early" if self.training.preset else "whose queries it waits for"
            raise ValueError(f"got training.patience without input.evaluation: {why}")
        if self.training.preset and self.model.path is None:
            raise ValueError("got training.preset tart without model.path: the published recipe starts from a T5")
        return self
