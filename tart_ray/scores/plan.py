"""What preparing will do, settled before any work: sources, buckets, chunks to expect, and their identity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from tart_ray.config import InputConfig
from tart_ray.errors import ConfigurationError
from tart_ray.input.columns import Naming, check_used
from tart_ray.input.sources import Source, inspect_source
from tart_ray.storage import Storage
from tart_ray.tables.hive import is_hidden_partition, partitionable
from tart_ray.tables.schemas import SCORES, WINDOWS, Role

PAIRS_PER_BUCKET = 32_768
BYTES_PER_BUCKET = 64 << 20
MAX_BUCKETS = 2_048
# of preparing: goes up when the same input gives other rows, chunks or quarantine, or when fragments, chunks or commits
# of an older version cannot be read
FORMAT_VERSION = 4
PAIRS_PER_CHUNK = (512, 8_192)  # at least and at most
CHUNKS_OF_A_SMALL_RUN = 16  # so that several replicas share it, and progress is seen

Files = Mapping[str, Sequence[str]]  # URLs by role: candidates, queries, corpus


@dataclass(frozen=True)
class Plan:
    """Everything that the stages need to know of the input. Depends on the input and the configuration alone.

    ``input``: as it is configured.
    ``query_buckets``: queries are spread over so many; a bucket is prepared, and later ranked, by one task.
    ``document_buckets``: likewise for documents, where texts are joined; 0 where they are not.
    ``windows``: whether long documents are read in windows, of which the score store tells the best.
    """

    input: InputConfig
    candidates: Source
    queries: Source | None
    corpus: Source | None
    query_buckets: int
    document_buckets: int
    windows: bool

    def as_read(self, fields: Sequence[Mapping[str, Any]]) -> Plan:
        """The plan with the columns that the candidates were found to have when every split of them was read.

        Args:
            fields: what each split found, as of `json_lines.kinds_of`.

        Raises:
            InputError: there are too many columns.
        """
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
    def identity(self) -> dict[str, Any]:
        """What chunks depend on: equal ones prepare to equal chunks."""
        return {
            "format_version": FORMAT_VERSION,
            "input": {
                **self.input.model_dump(include={"instruction", "columns"}),
                **({"empty_documents": "score"} if self.candidates.allows_empty_documents else {}),
                **({"made_ids": list(self.candidates.made_ids)} if self.candidates.made_ids else {}),
                **_chosen_columns(self.candidates, self.input.drop_columns),
                "files": {role: files_identity(source) for role, source in self.sources.items()},
            },
            "plan": {
                "splits": {role: len(source.splits) for role, source in self.sources.items()},
                "query_buckets": self.query_buckets,
                "document_buckets": self.document_buckets,
                "pairs_per_chunk": self.pairs_per_chunk,
            },
        }

    @property
    def reads(self) -> dict[str, list[str]]:
        """URLs of the files that workers read, by the keys of the configuration."""
        return {f"input.{role}": [file.url for file in source.files] for role, source in self.sources.items()}

    @property
    def text_bytes(self) -> int:
        """Estimated bytes of all pairs, their texts included."""
        if self.corpus is None:
            return self.candidates.nbytes
        return self.candidates.nbytes + self.candidates.rows * self.corpus.nbytes // max(self.corpus.rows, 1)


def make_plan(storage: Storage, given: InputConfig, *, windows: bool, files: Files | None = None) -> Plan:
    """Look at the input.

    Args:
        windows: whether long documents are read in windows.
        files: URLs of all files of a role, where they are known; else listings of the input's directories tell them.

    Raises:
        StorageError, InputError: it is not there, or not as configured.
        ConfigurationError: ``input.queries`` or ``input.corpus`` is needed, or nothing is there to score.
    """
    columns, known = given.columns, files or {}
    naming = Naming.of(columns, "candidates", renames=True, ids_from_text=given.ids == "from_text")
    candidates = inspect_source(
        storage, given.candidates, "candidates", naming, known.get("candidates"), given.drop_columns
    )
    candidates = replace(candidates, allows_empty_documents=given.empty_documents == "score")
    if candidates.is_cascade and given.instruction is not None and "instruction" in candidates.columns:
        candidates = _without_instruction(candidates)
    if not candidates.rows:
        raise ConfigurationError(f"{given.candidates}: no rows in {len(candidates.files)} files; nothing to score")
    queries = _texts(storage, candidates, "queries", "query", given.queries, columns, known.get("queries"))
    corpus = _texts(storage, candidates, "corpus", "text", given.corpus, columns, known.get("corpus"))
    plan = Plan(given, candidates, queries, corpus, 1, 0, windows)
    found = {role: (source.columns, source.names) for role, source in plan.sources.items()}
    check_used("input.columns", columns, found)
    by_documents = max(candidates.rows / PAIRS_PER_BUCKET, corpus.nbytes / BYTES_PER_BUCKET) if corpus else 0
    by_queries = max(candidates.rows / PAIRS_PER_BUCKET, plan.text_bytes / BYTES_PER_BUCKET)
    document_buckets = bucket_count(by_documents) if corpus else 0
    return replace(plan, query_buckets=bucket_count(by_queries), document_buckets=document_buckets)


def check_partitions(plan: Plan, wanted: Sequence[str]) -> None:
    """Refuse to partition the output by what cannot name a directory.

    Raises:
        ConfigurationError: a column is not there, of another type, or named twice.
    """
    available = partitionable(
        pa.schema([*(SCORES.field(name) for name in ("query_id", "doc_id")), *plan.candidates.extras])
    )
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


def _chosen_columns(candidates: Source, dropped: Sequence[str]) -> dict[str, Any]:
    """What is left out or renamed; nothing where the columns are carried as they are."""
    renamed = {name: theirs for name, theirs in candidates.carried.items() if name != theirs}
    chosen = {"drop_columns": sorted(dropped), "renamed": renamed, "is_cascade": candidates.is_cascade}
    return {name: value for name, value in chosen.items() if value}


def files_identity(source: Source) -> list[list[Any]]:
    """URL, size and version of each file of a source."""
    return [[file.url, file.size, file.version] for file in source.files]


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
