"""Prepare: input files to chunks of whole queries, with texts joined, duplicates dropped and bad rows quarantined.

candidates ──by doc_id──┐
corpus ─────by doc_id──join──┐
(or candidates with text) ──by query_id──▶ chunks
queries ────────────────────by query_id──┘
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.engine.stages import run_stage
from tart_ray.errors import ConfigurationError, InputError
from tart_ray.input import json_lines
from tart_ray.input.quarantine import JOIN, READ, Quarantine
from tart_ray.input.readers import read_split
from tart_ray.input.sources import Source, table_schema
from tart_ray.runs.directory import WORK, Directory
from tart_ray.runs.fragments import decode_rows, encode_fragment, encode_fragments, encode_rows, read_bucket
from tart_ray.runs.stage import Record, Stage, total
from tart_ray.scores import chunks
from tart_ray.scores.instructions import remarks_after, remarks_before
from tart_ray.scores.plan import Plan, check_partitions
from tart_ray.scores.spec import ScoringSpec
from tart_ray.tables import texts
from tart_ray.tables.groups import in_input_order
from tart_ray.tables.hive import partition_rules
from tart_ray.tables.keys import bucket_of
from tart_ray.tables.ranking import first_stage_ranks
from tart_ray.tables.schemas import Role

log = logging.getLogger(__name__)


class Chunk(NamedTuple):
    """The unit of scoring, retry, commit and resume."""

    id: str
    rows: int


class Read(Record):
    """A split that was read.

    Attributes:
        fields: of JSON lines: the kinds of values that each column was found to have.
        overruled: values that gave way to those of their key=value directories.
    """

    rows: int  # quarantined ones included
    quarantined: int
    fields: dict[str, Any] = {}
    overruled: int = 0


class Joined(Record):
    """A bucket of document ids whose candidates have their texts."""

    rows: int
    fragments: int
    quarantined: int
    other_quarantined: int  # rows of the corpus
    corpus_duplicates: int


class Cut(Record):
    """A bucket of query ids cut into chunks."""

    chunks: tuple[Chunk, ...]
    rows: int
    duplicates: int
    without_instruction: int
    quarantined: int
    other_quarantined: int  # rows of the queries
    query_duplicates: int


JOIN_TEXTS = Stage("join", Joined)
CUT_CHUNKS = Stage("chunk", Cut)


@dataclass(frozen=True)
class Prepared:
    """What preparing did: chunks by bucket of queries, and counts of rows."""

    buckets: dict[str, list[Chunk]]
    read: int
    duplicates: int
    quarantined: int
    plan: Plan  # with the columns that the candidates were found to have
    columns: list[str]  # what became of those that the sample of the candidates showed
    other_quarantined: int  # rows of the queries and the corpus
    corpus_duplicates: int  # rows that repeat an earlier one
    query_duplicates: int
    warnings: tuple[str, ...]
    overruled: int  # values that gave way to those of their key=value directories

    @property
    def chunks(self) -> list[Chunk]:
        """All chunks, in order."""
        return [chunk for found in self.buckets.values() for chunk in found]


def prepare(run: Directory, plan: Plan, partition_by: Sequence[str] = (), spec: ScoringSpec | None = None) -> Prepared:
    """Bring the input into chunks; what an earlier run has done is not done again.

    Args:
        spec: how they will be scored, for remarks on their instructions; None where they have been.
        partition_by: columns of the output's directories; rows that no directory can be named for are quarantined.

    Raises:
        InputError: a column to partition by turned out to be of another type than in the sample.
    """
    reads = {role: shuffle(run, source, *_key(plan, role)) for role, source in plan.sources.items()}
    plan, columns = _as_read(plan, reads)
    for line in columns:
        log.warning("%s: column %s", plan.candidates.url, line)
    try:
        check_partitions(plan, partition_by)
    except ConfigurationError as error:
        raise InputError(f"{plan.candidates.url}: {error}; columns: {columns}") from None
    joins: dict[str, Joined] = {}
    if plan.corpus is not None:
        units = unit_names(plan.document_buckets)
        joins = run_stage(run, JOIN_TEXTS, units, lambda unit: _join_bucket(run, plan, unit))
    for remark in remarks_before(plan, spec) if spec else ():
        log.warning("%s", remark)
    joined = {unit: record.fragments for unit, record in joins.items()}
    units = unit_names(plan.query_buckets)
    cuts = run_stage(run, CUT_CHUNKS, units, lambda unit: _cut_bucket(run, plan, joined, partition_by, unit))
    prepared = _summed_up(plan, columns, spec, reads, joins, cuts)
    for warning in prepared.warnings:
        log.warning("%s", warning)
    return prepared


def prepared_before(run: Directory, plan: Plan, spec: ScoringSpec) -> Prepared:
    """What `prepare` told of a run that has ended, from its commits.

    Raises:
        StorageError: a commit is not there.
    """
    reads = {role: run.records(read_stage(source.role), split_names(source)) for role, source in plan.sources.items()}
    joins = run.records(JOIN_TEXTS, unit_names(plan.document_buckets))
    cuts = run.records(CUT_CHUNKS, unit_names(plan.query_buckets))
    return _summed_up(*_as_read(plan, reads), spec, reads, joins, cuts)


def _as_read(plan: Plan, reads: Mapping[str, Mapping[str, Read]]) -> tuple[Plan, list[str]]:
    """The plan with the columns that the candidates were found to have, and what became of those of the sample."""
    found = plan.as_read([record.fields for record in reads["candidates"].values()])
    return found, json_lines.changes(plan.candidates.extras, found.candidates.extras)


def _summed_up(
    plan: Plan, columns: list[str], spec: ScoringSpec | None,
    reads: Mapping[str, Mapping[str, Read]], joins: Mapping[str, Joined], cuts: Mapping[str, Cut],
) -> Prepared:  # fmt: skip
    pairs, bare = total(cuts.values(), "rows"), total(cuts.values(), "without_instruction")
    candidates = [*reads["candidates"].values(), *joins.values(), *cuts.values()]
    others = [record for role, found in reads.items() if role != "candidates" for record in found.values()]
    return Prepared(
        buckets={unit: list(record.chunks) for unit, record in cuts.items()},
        read=total(reads["candidates"].values(), "rows"),
        duplicates=total(cuts.values(), "duplicates"),
        quarantined=total(candidates, "quarantined"),
        plan=plan,
        columns=columns,
        other_quarantined=total(others, "quarantined") + total((*joins.values(), *cuts.values()), "other_quarantined"),
        corpus_duplicates=total(joins.values(), "corpus_duplicates"),
        query_duplicates=total(cuts.values(), "query_duplicates"),
        warnings=tuple(remarks_after(plan, spec, pairs=pairs, bare=bare)) if spec else (),
        overruled=total((record for found in reads.values() for record in found.values()), "overruled"),
    )


def read_chunk(run: Directory, chunk: str) -> pa.Table:
    """The rows of a chunk, sorted by query, with all their texts; those of documents as `texts.share` makes them."""
    return decode_rows(run.read(*chunk_path(chunk)))


def write_chunk(run: Directory, chunk: str, rows: pa.Table) -> None:
    """Write what `read_chunk` reads."""
    run.write(encode_rows(rows), *chunk_path(chunk))


def unit_name(index: int) -> str:
    """A name that sorts as its number does."""
    return f"{index:05d}"


def unit_names(number: int) -> list[str]:
    """The names of so many units."""
    return [unit_name(index) for index in range(number)]


def _key(plan: Plan, role: str) -> tuple[str, int]:
    """The column that rows of a source are first spread by, and over how many buckets."""
    by_document = role == "corpus" or (role == "candidates" and plan.corpus is not None)
    return ("doc_id", plan.document_buckets) if by_document else ("query_id", plan.query_buckets)


def shuffle(run: Directory, source: Source, key: str, buckets: int) -> dict[str, Read]:
    """Read every split of a source into a fragment, whose buckets are by the column ``key``."""
    stage = read_stage(source.role)

    def read(unit: str) -> Read:
        quarantine = Quarantine(READ)
        tables = list(read_split(run.storage, source, source.splits[int(unit)], quarantine))
        table = pa.concat_tables([table_schema(source).empty_table(), *tables])
        fragment = encode_fragment(table, bucket_of(table[key], buckets), buckets)
        run.write(fragment, *fragment_path(stage.name, unit))
        quarantined = run.write_quarantine(quarantine, stage.name, unit)
        return Read(
            rows=len(table) + quarantined,
            quarantined=quarantined,
            fields=json_lines.kinds_of(json_lines.objects_of(table)) if source.has_objects else {},
            overruled=quarantine.overruled,
        )

    return run_stage(run, stage, split_names(source), read)


def _join_bucket(run: Directory, plan: Plan, unit: str) -> Joined:
    """Candidates and documents of one bucket of document ids, joined and sent on by query."""
    assert plan.corpus is not None
    rows = read_shuffled(run, plan.candidates, int(unit))
    quarantine, of_corpus = Quarantine(JOIN), Quarantine(JOIN)
    documents = in_input_order(read_shuffled(run, plan.corpus, int(unit)))
    corpus, repeated = chunks.first_of_each(documents, "doc_id", ["text", "title"], plan.corpus, of_corpus)
    joined = chunks.join_documents(rows, corpus, plan.candidates, quarantine)
    buckets = bucket_of(joined["query_id"], plan.query_buckets)
    fragments = 0
    for fragment in encode_fragments(joined, buckets, plan.query_buckets):
        run.write(fragment, *fragment_path(JOIN_TEXTS.name, _part_name(unit, fragments)))
        fragments += 1
    run.write_quarantine(Quarantine(JOIN, [*quarantine.rows, *of_corpus.rows]), JOIN_TEXTS.name, unit)
    return Joined(
        rows=len(joined),
        fragments=fragments,
        quarantined=len(quarantine),
        other_quarantined=len(of_corpus),
        corpus_duplicates=repeated,
    )


def _cut_bucket(run: Directory, plan: Plan, joined: Mapping[str, int], partition_by: Sequence[str], unit: str) -> Cut:
    """All rows of one bucket of queries, cut into chunks.

    Args:
        joined: how many fragments each unit of the join has written.
    """
    if plan.corpus is None:
        rows = texts.share(read_shuffled(run, plan.candidates, int(unit)))
    else:
        names = [_part_name(bucket, part) for bucket, parts in joined.items() for part in range(parts)]
        fragments = [run.url(*fragment_path(JOIN_TEXTS.name, name)) for name in names]
        rows = read_bucket(run.storage, fragments, int(unit), _joined_schema(plan))
    quarantine, of_queries, repeated = Quarantine(JOIN), Quarantine(JOIN), 0
    if plan.queries is not None:
        told = in_input_order(read_shuffled(run, plan.queries, int(unit)))
        queries, repeated = chunks.first_of_each(told, "query_id", ["query"], plan.queries, of_queries)
        rows = chunks.join_queries(rows, queries, plan.candidates, quarantine)
    rows = json_lines.expand(rows, plan.candidates.extras, plan.candidates.carried)
    rows = quarantine.sift(plan.candidates, rows, list(partition_rules(rows, partition_by)))
    rows = _with_instruction(rows, plan.input.instruction)
    consistent = chunks.quarantine_contradictions(rows, plan.candidates, quarantine)
    kept = chunks.drop_duplicates(consistent)
    ready = _with_first_stage(kept, plan.candidates)
    parts = chunks.cut(ready, plan.pairs_per_chunk)
    for index, part in enumerate(parts):
        write_chunk(run, _part_name(unit, index), part)
    run.write_quarantine(Quarantine(JOIN, [*quarantine.rows, *of_queries.rows]), CUT_CHUNKS.name, unit)
    return Cut(
        chunks=tuple(Chunk(_part_name(unit, index), len(part)) for index, part in enumerate(parts)),
        rows=len(kept),
        duplicates=len(consistent) - len(kept),
        without_instruction=pc.sum(pc.equal(pc.fill_null(kept["instruction"], ""), "")).as_py() or 0,
        quarantined=len(quarantine),
        other_quarantined=len(of_queries),
        query_duplicates=repeated,
    )


def _with_instruction(rows: pa.Table, instruction: str | None) -> pa.Table:
    """Every row with its own instruction or else the one for all, of which an empty one is none."""
    instruction = instruction or None
    if "instruction" not in rows.schema.names:
        return rows.append_column("instruction", pa.repeat(pa.scalar(instruction, pa.large_string()), len(rows)))
    if instruction is None:
        return rows
    filled = pc.fill_null(rows["instruction"], pa.scalar(instruction, pa.large_string()))
    return rows.set_column(rows.schema.get_field_index("instruction"), "instruction", filled)


def _with_first_stage(rows: pa.Table, candidates: Source) -> pa.Table:
    ranks = first_stage_ranks(rows, listed=candidates.shape == "lists")
    scores = rows["score"] if "score" in rows.schema.names else pa.nulls(len(rows), pa.float64())
    kept = rows.drop_columns(["score"]) if "score" in rows.schema.names else rows
    return kept.append_column("first_stage_rank", ranks).append_column("first_stage_score", scores)


def read_shuffled(run: Directory, source: Source, bucket: int) -> pa.Table:
    """The rows of a source that are in one bucket."""
    return read_fragments(run, read_stage(source.role).name, split_names(source), bucket, table_schema(source))


def _joined_schema(plan: Plan) -> pa.Schema:
    assert plan.corpus is not None
    documents = [field for field in table_schema(plan.corpus) if field.name in texts.DOCUMENT_COLUMNS]
    replaced = {field.name for field in documents}
    own = [field for field in table_schema(plan.candidates) if field.name not in replaced]
    return texts.shared_schema(pa.schema([*own, *documents]))


def _part_name(unit: str, part: int) -> str:
    return f"{unit}-{unit_name(part)}"


def read_stage(role: Role) -> Stage[Read]:
    """The stage that reads a source; its units are `split_names`."""
    return Stage(f"read-{role}", Read)


def split_names(source: Source) -> list[str]:
    """The units of reading a source."""
    return [unit_name(split.index) for split in source.splits]


def fragment_path(stage: str, unit: str) -> tuple[str, str, str]:
    """Where in a run a unit leaves its rows for the next stage."""
    return WORK, stage, f"{unit}.fragment"


def read_fragments(run: Directory, stage: str, units: Iterable[str], bucket: int, schema: pa.Schema) -> pa.Table:
    """The rows of one bucket that units of a stage left for the next."""
    fragments = [run.url(*fragment_path(stage, unit)) for unit in units]
    return read_bucket(run.storage, fragments, bucket, schema)


def chunk_path(chunk: str) -> tuple[str, str, str]:
    """Where a chunk is, in the directory of its run."""
    return WORK, "chunks", f"{chunk}.arrow"
