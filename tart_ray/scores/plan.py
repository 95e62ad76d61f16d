"""What a run will do, settled before any work: sources, buckets, chunks to expect, and the run's identity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from tart_ray.config import ModelConfig, RerankConfig, StorageConfig
from tart_ray.errors import CheckpointChangedError, ConfigurationError
from tart_ray.input.columns import Naming, check_used
from tart_ray.input.sources import Source, inspect_source
from tart_ray.model.checkpoint import PUT_BACK, fingerprint_checkpoint, resolve_revision
from tart_ray.model.fitness import check_checkpoint
from tart_ray.runs.output_path import check_output
from tart_ray.runs.run import Record
from tart_ray.scores.releases import versions_of_scores
from tart_ray.storage import Storage
from tart_ray.tables.hive import is_hidden_partition, partitionable
from tart_ray.tables.ranking import RANKING_VERSION
from tart_ray.tables.schemas import RERANKED, SCORES, WINDOWS, Role

PAIRS_PER_BUCKET = 32_768
BYTES_PER_BUCKET = 64 << 20
MAX_BUCKETS = 2_048
# of preparing: goes up when the same input gives other rows, chunks or quarantine, or when fragments, chunks or commits
# of an older version cannot be read
FORMAT_VERSION = 4
NO_PARTITION = ("rank", "first_stage_rank", "instruction")  # an instruction is too long for a directory's name
BARE = 'TART was trained to follow one; input.instruction: "" says that none is meant'
PAIRS_PER_CHUNK = (512, 8_192)  # at least and at most
CHUNKS_OF_A_SMALL_RUN = 16  # so that several replicas share it, and progress is seen

Files = Mapping[str, Sequence[str]]  # URLs by role: candidates, queries, corpus


@dataclass(frozen=True)
class Plan:
    """Everything that the stages need to know of the input. Depends on the input and the configuration alone.

    ``query_buckets``: queries are spread over so many; a bucket is prepared, and later ranked, by one task.
    ``document_buckets``: likewise for documents, where texts are joined; 0 where they are not.
    ``windows``: whether long documents are read in windows, of which the score store tells the best.
    """

    candidates: Source
    queries: Source | None
    corpus: Source | None
    query_buckets: int
    document_buckets: int
    windows: bool

    def as_read(self, records: Mapping[str, Record]) -> Plan:
        """The plan with the columns that the candidates were found to have when every split of them was read.

        Args:
            records: of the units that read them.

        Raises:
            InputError: there are too many columns.
        """
        fields = [record.get("fields", {}) for record in records.values()]
        return replace(self, candidates=self.candidates.as_read(fields))

    @property
    def pairs_per_chunk(self) -> int:
        """Pairs of a chunk: the unit of scoring, commit and resume."""
        least, most = PAIRS_PER_CHUNK
        return min(max(self.candidates.rows // CHUNKS_OF_A_SMALL_RUN, least), most)

    @property
    def sources(self) -> dict[str, Source]:
        """The sources by role."""
        found = {"candidates": self.candidates, "queries": self.queries, "corpus": self.corpus}
        return {role: source for role, source in found.items() if source is not None}

    @property
    def text_bytes(self) -> int:
        """Estimated bytes of all pairs, their texts included."""
        if self.corpus is None:
            return self.candidates.nbytes
        return self.candidates.nbytes + self.candidates.rows * self.corpus.nbytes // max(self.corpus.rows, 1)


def make_plan(storage: Storage, config: RerankConfig, files: Files | None = None) -> Plan:
    """Look at the input.

    Args:
        files: URLs of all files of a role, where they are known.

    Raises:
        StorageError, InputError: it is not there, or not as configured.
        ConfigurationError: ``input.queries`` or ``input.corpus`` is needed, a column to partition by is not there, or
            the output would be among the input's files.
    """
    read = {f"input.{name}": getattr(config.input, name) for name in ("candidates", "queries", "corpus")}
    check_output(config.output.path, read)
    columns, known = config.input.columns, files or {}
    candidates = inspect_source(
        storage,
        config.input.candidates,
        "candidates",
        Naming.of(columns, "candidates", renames=True),
        known.get("candidates"),
        config.input.drop_columns,
    )
    scores_empty = config.input.empty_documents == "score"
    candidates = replace(candidates, allows_empty_documents=scores_empty)
    if candidates.is_cascade and config.input.instruction is not None and "instruction" in candidates.columns:
        candidates = _without_instruction(candidates)
    if not candidates.rows:
        raise ConfigurationError(
            f"{config.input.candidates}: no rows in {len(candidates.files)} files; nothing to score"
        )
    queries = _texts(storage, candidates, "queries", "query", config.input.queries, columns, known.get("queries"))
    corpus = _texts(storage, candidates, "corpus", "text", config.input.corpus, columns, known.get("corpus"))
    windows = config.model.long_documents == "maxp"
    plan = Plan(candidates, queries, corpus, 1, 0, windows)
    found: dict[str, Any] = {role: (source.columns, source.names) for role, source in plan.sources.items()}
    check_used("input.columns", columns, found)
    by_documents = max(candidates.rows / PAIRS_PER_BUCKET, corpus.nbytes / BYTES_PER_BUCKET) if corpus else 0
    by_queries = max(candidates.rows / PAIRS_PER_BUCKET, plan.text_bytes / BYTES_PER_BUCKET)
    check_partitions(plan, config.output.partition_by)
    document_buckets = bucket_count(by_documents) if corpus else 0
    return Plan(candidates, queries, corpus, bucket_count(by_queries), document_buckets, windows)


def missing_instruction(candidates: Source, instruction: str | None) -> str | None:
    """What to say where no pair has an instruction and nobody said that none is meant; else None.

    Args:
        instruction: input.instruction; an empty one says it.
    """
    if instruction is not None or "instruction" in candidates.columns:
        return None
    return f"no instruction: the candidates have no column instruction, and input.instruction is not set. {BARE}"


def check_partitions(plan: Plan, wanted: Sequence[str]) -> None:
    """Refuse to partition the output by what cannot name a directory.

    Raises:
        ConfigurationError: a column is not there, of another type, or named twice.
    """
    available = partitionable(pa.schema([f for f in output_schema(plan) if f.name not in NO_PARTITION]))
    hidden = [name for name in wanted if is_hidden_partition(name)]
    if hidden:
        raise ConfigurationError(
            f"output.partition_by: got {hidden}, but readers such as pyarrow skip directories that begin with _ or a "
            "dot; give the column another name by input.columns (our name: their name)"
        )
    unknown = [name for name in wanted if name not in available]
    if unknown or len({*wanted}) < len(wanted):
        sampled = "; of JSON lines, columns are those in a sample of the files" if plan.candidates.has_objects else ""
        raise ConfigurationError(f"output.partition_by: got {[*wanted]}, available, once each: {available}{sampled}")


def scores_schema(plan: Plan) -> pa.Schema:
    """Columns of ``scores/``."""
    return pa.schema([*SCORES, *(WINDOWS if plan.windows else ()), *plan.candidates.extras])


def output_schema(plan: Plan) -> pa.Schema:
    """Columns of ``reranked/``, partition columns included."""
    ranked = scores_schema(plan).append(pa.field("rank", pa.int32()))
    return pa.schema([ranked.field(name) for name in (*RERANKED, "instruction", *plan.candidates.extras.names)])


def identity(plan: Plan, config: RerankConfig) -> dict[str, Any]:
    """What must be equal for a rerun to continue a run: input, model, and all that changes the rows of the output.

    Replicas, endpoints, limits and batch sizes may change in between.
    """
    return {
        "job": "rerank",
        "model": model_identity(config),
        "output": config.output.model_dump(include={"partition_by", "top_k"}),
        "versions": {"ranking": RANKING_VERSION},
        **input_identity(plan, config),
    }


def pin_model(model: ModelConfig, storage: StorageConfig) -> ModelConfig:
    """The model with the commit and the fingerprint of the checkpoint that is there now, found fit to score with.

    Workers load by these, whatever is at that path by then.

    Raises:
        CheckpointError: it is not there, has another fingerprint than ``model.fingerprint``, or cannot be scored with.
    """
    options = storage.fsspec_options(model.path)
    revision = resolve_revision(model.path, revision=model.revision)
    found = fingerprint_checkpoint(model.path, revision=revision, storage_options=options)
    if model.fingerprint not in (None, found):
        raise CheckpointChangedError(
            f"{model.path}: got a checkpoint of fingerprint {found}, expected {model.fingerprint}: {PUT_BACK}"
        )
    check_checkpoint(model.path, fingerprint=found, revision=revision, storage_options=options)
    return model.model_copy(update={"revision": revision, "fingerprint": found})


def model_identity(config: RerankConfig) -> dict[str, Any]:
    """The part of `identity` that is the model, and how it reads a pair.

    The model must have been pinned by `pin_model`.
    """
    assert config.model.fingerprint is not None
    told = {"fingerprint", "max_length", "long_documents", "truncation", "split_special_tokens"}
    return {**config.model.model_dump(include=told), "dtype": replica_dtype(config), "versions": versions_of_scores()}


def input_identity(plan: Plan, config: RerankConfig) -> dict[str, Any]:
    """The part of `identity` that chunks depend on: equal ones prepare to equal chunks."""
    return {
        "format_version": FORMAT_VERSION,
        "input": {
            **config.input.model_dump(include={"instruction", "columns"}),
            **({"empty_documents": "score"} if plan.candidates.allows_empty_documents else {}),
            **_chosen_columns(plan.candidates, config.input.drop_columns),
            "files": {role: files_identity(source) for role, source in plan.sources.items()},
        },
        "plan": {
            "splits": {role: len(source.splits) for role, source in plan.sources.items()},
            "query_buckets": plan.query_buckets,
            "document_buckets": plan.document_buckets,
            "pairs_per_chunk": plan.pairs_per_chunk,
        },
    }


def _chosen_columns(candidates: Source, dropped: Sequence[str]) -> dict[str, Any]:
    """What is left out or renamed; nothing where the columns are carried as they are."""
    renamed = {name: theirs for name, theirs in candidates.carried.items() if name != theirs}
    chosen = {"drop_columns": sorted(dropped), "renamed": renamed, "is_cascade": candidates.is_cascade}
    return {name: value for name, value in chosen.items() if value}


def files_identity(source: Source) -> list[list[Any]]:
    """URL, size and version of each file of a source."""
    return [[file.url, file.size, file.version] for file in source.files]


def replica_dtype(config: RerankConfig) -> str:
    """The dtype that replicas compute in: ``auto`` is bfloat16 on GPUs, float32 on CPUs."""
    if config.model.dtype != "auto":
        return config.model.dtype
    return "bfloat16" if config.cluster.gpus_per_replica else "float32"


def _without_instruction(candidates: Source) -> Source:
    """The output of an earlier run without the instruction that it was scored under: this run has one of its own."""
    columns = {ours: theirs for ours, theirs in candidates.columns.items() if ours != "instruction"}
    note = "input.instruction takes the place of the earlier run's"
    dropped = (*candidates.dropped, candidates.columns["instruction"])
    return replace(candidates, columns=columns, dropped=dropped, notes=(*candidates.notes, note))


def _texts(
    storage: Storage,
    candidates: Source,
    role: Role,
    column: str,
    url: str | None,
    columns: Mapping[str, str],
    files: Sequence[str] | None,
) -> Source | None:
    """The source that texts are joined from, where the candidates do not hold them."""
    if column in candidates.columns:
        return None
    if url is None:
        raise ConfigurationError(
            f"{candidates.url}: candidates have no column {column!r} and input.{role} is not set; one is needed. "
            f"Columns found: {[*candidates.names]}; name theirs in input.columns, as in {{{column}: THEIR_NAME}}"
        )
    taken = [ours for ours, theirs in columns.items() if candidates.columns.get(ours) == theirs]
    return inspect_source(storage, url, role, Naming.of(columns, role, taken=taken), files)


def bucket_count(wanted: float) -> int:
    """How many buckets there are where so many would each have the size that is wanted."""
    return min(max(math.ceil(wanted), 1), MAX_BUCKETS)
