"""Units of work of a relabelling, one bucket of queries each unless they say otherwise.

candidates ──prepare──▶ chunks ──match──▶ pairs whose score holds ───────────┐
scores of earlier runs ──by query_id──┘ └▶ changed and new ones ──score──▶ collect ──label──▶ scores/ labels/ diff/
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.config import LabelsConfig
from tart_ray.engine.stages import run_stage
from tart_ray.input.quarantine import SCORE, Quarantine
from tart_ray.input.sources import Source
from tart_ray.relabeling.known import (
    CONTENT,
    KNOWN,
    SCORED,
    SCORED_AT,
    SCORED_BY,
    KnownTable,
    Provenance,
    as_known,
    find,
    with_results,
)
from tart_ray.runs.directory import WORK, Directory
from tart_ray.runs.fragments import encode_fragment
from tart_ray.runs.run import Run
from tart_ray.runs.stage import Record, Stage, total
from tart_ray.runs.versions import Versions
from tart_ray.scores.chunks import cut
from tart_ray.scores.encoder_report import EncoderReport, count_encoders
from tart_ray.scores.one_encoder import chosen
from tart_ray.scores.plan import FORMAT_VERSION, Plan, scores_schema
from tart_ray.scores.prepare import (
    Chunk,
    fragment_path,
    read_chunk,
    read_fragments,
    unit_name,
    write_chunk,
)
from tart_ray.scores.replica import LoadScorer
from tart_ray.scores.scored import SCORE_CHUNKS, SCORES, Scored
from tart_ray.scores.spec import ScoringSpec
from tart_ray.scores.store import ScoreStore, StoredRun, score
from tart_ray.tables.hive import partition_rules
from tart_ray.tables.keys import bucket_of, content_keys
from tart_ray.tables.schemas import ORIGIN

ALL = "all"  # the one unit of a stage that looks at all buckets together
PENDING = "pending"  # under _work: a directory of its own, of the pairs that must be scored
BUCKET, CHUNK = "bucket", "chunk"  # kinds of known tables
PLACES, LABELS, THRESHOLDS = "place.parquet", "labels", "thresholds.parquet"


class Spread(Record):
    """A table of known scores that was sent to the buckets of queries."""

    rows: int
    of_base: int


class Matched(Record):
    """A bucket whose pairs have a score that holds, or are in chunks to score."""

    rows: int
    reused: int
    quarantined: int
    chunks: tuple[Chunk, ...]


class Collected(Record):
    """A bucket all of whose scores are together; ``tokens`` and what follows is of those that are new.

    Attributes:
        encoders: chunks by the encoder that scored them, ``fallbacks`` by why it is another one than was chosen.
    """

    rows: int
    scored: int
    quarantined: int
    truncated: int
    tokens: int
    padded_tokens: int
    seconds: float
    encoders: dict[str, int] = {}
    fallbacks: dict[str, int] = {}


class Labelled(Record):
    """A bucket that is labelled and compared.

    Attributes:
        given: old labels that the candidates brought.
        labels: pairs by label.
        flips: old label, new label, pairs.
    """

    rows: int
    given: int
    labels: dict[str, int]
    flips: tuple[tuple[int, int, int], ...]
    unchanged: int
    changed: int
    new: int
    gone: int

    @property
    def differs(self) -> bool:
        """Whether the bucket has a file in ``diff/``."""
        return self.changed + self.new + self.gone > 0


SPREAD_KNOWN = Stage("known", Spread)
MATCH = Stage("match", Matched)
COLLECT = Stage("collect", Collected)
LABEL_PAIRS = Stage("label", Labelled)


@dataclass(frozen=True)
class Work:
    """Everything that a unit needs. Pickles into every worker.

    Attributes:
        base: id of the run that was current when this one began.
        stored: the run whose scores are taken over, and ``stored_by`` what is said of them.
        scored_by: what is said of the pairs that this run scores.
        scored_with: what describes the model, for content keys.
        chunks: of each bucket of queries.
    """

    versions: Versions
    run: Run
    base: str | None
    plan: Plan
    labels: LabelsConfig
    partition_by: tuple[str, ...]
    stored: StoredRun | None
    stored_by: Provenance | None
    scored_by: Provenance
    scored_with: bytes
    qrels: Source | None
    chunks: Mapping[str, list[Chunk]]
    known: tuple[KnownTable, ...]

    @property
    def pending(self) -> Directory:
        """Where the pairs are that must be scored."""
        return self.run.sub(WORK, PENDING)

    @property
    def extras(self) -> list[pa.Field]:
        """The columns of the candidates that are carried through."""
        return [field for field in self.plan.candidates.extras if field.name != self.labels.old_column]


def is_readable(versions: Versions, id_: str) -> bool:
    """Whether this release wrote a run's files, or one that wrote them alike."""
    return bool(versions.run(id_).read_manifest()["identity"]["scores"].get("format_version") == FORMAT_VERSION)


def known_tables(versions: Versions, id_: str, base: str | None) -> Iterator[KnownTable]:
    """What may tell scores to the run with an id.

    It is of the current run, and of others that did not become current: interrupted, held back or switched away from.
    """
    for other in sorted({*versions.ids(since=base), *([base] if base else [])}):  # a listing may lag
        if other == id_ or not is_readable(versions, other):
            continue
        run = versions.run(other).opened()
        if run.is_complete():  # its buckets have all of its scores; their names do not depend on a listing
            buckets = versions.run(other).read_manifest()["identity"]["scores"]["plan"]["query_buckets"]
            yield from (KnownTable(other, BUCKET, unit_name(bucket)) for bucket in range(buckets))
            continue
        yield from (KnownTable(other, BUCKET, bucket) for bucket in run.committed(LABEL_PAIRS))
        pending = run.sub(WORK, PENDING)
        files = {*pending.storage.names(pending.url(SCORES))}  # a kill may have come while they were removed
        yield from (
            KnownTable(other, CHUNK, chunk)
            for chunk, record in pending.committed(SCORE_CHUNKS).items()
            if record.rows and f"{chunk}.parquet" in files
        )


def spread_known(work: Work) -> dict[str, Spread]:
    """Send the scores of earlier runs to this run's buckets of queries: they may have had another number of them."""
    return run_stage(work.run, SPREAD_KNOWN, map(str, work.known), partial(_spread_table, work))


def match_pairs(work: Work) -> dict[str, Matched]:
    """Find the pairs whose score holds; the others become chunks to score."""
    return run_stage(work.run, MATCH, work.chunks, partial(_match_bucket, work))


def score_pending(
    work: Work, matched: Mapping[str, Matched], spec: ScoringSpec | None, load: LoadScorer
) -> dict[str, Scored]:
    """Score the chunks that matching left, unless all their scores are collected already."""
    if spec is None or not set(work.chunks) - set(work.run.committed(COLLECT, work.chunks)):
        return {}
    # their scores carry what they are the scores of, and nothing else
    candidates = dataclasses.replace(work.plan.candidates, extras=pa.schema([CONTENT]))
    plan = dataclasses.replace(work.plan, candidates=candidates)
    chunks = [chunk for record in matched.values() for chunk in record.chunks]
    return score(work.pending, plan, spec, chunks, load)


def collect_scores(work: Work, matched: Mapping[str, Matched], scored: Mapping[str, Scored]) -> dict[str, Collected]:
    """Bring all scores of each bucket together, old and new."""
    return run_stage(work.run, COLLECT, work.chunks, partial(_collect_bucket, work, matched, scored))


def _spread_table(work: Work, unit: str) -> Spread:
    table = KnownTable.parse(unit)
    run, is_base = work.versions.run(table.run).opened(), table.run == work.base
    if table.kind == BUCKET:
        rows = run.read_table(SCORES, f"{table.name}.parquet")
    else:
        scores = run.sub(WORK, PENDING).read_table(SCORES, f"{table.name}.parquet")
        rows = Provenance.of(table.run, run.read_manifest()["created"]).sign(scores)
    rows = as_known(rows, is_base=is_base)
    buckets = work.plan.query_buckets
    fragment = encode_fragment(rows, bucket_of(rows["query_id"], buckets), buckets)
    work.run.write(fragment, *fragment_path(SPREAD_KNOWN.name, unit))
    return Spread(rows=len(rows), of_base=len(rows) if is_base else 0)


def known_scores(work: Work, unit: str) -> pa.Table:
    """What earlier runs know of one bucket of queries: `KNOWN`, rows of the current run first."""
    rows = read_fragments(work.run, SPREAD_KNOWN.name, map(str, work.known), int(unit), KNOWN)
    return rows.sort_by([("is_base", "descending")])


def _match_bucket(work: Work, unit: str) -> Matched:
    """Whatever is joined with them later, the rows here are those of the label set, without their texts."""
    tables = [read_chunk(work.run, chunk.id) for chunk in work.chunks[unit]]
    if not tables:
        return Matched(rows=0, reused=0, quarantined=0, chunks=())
    candidates, quarantine = work.plan.candidates, Quarantine(SCORE)
    rows = pa.concat_tables(tables).unify_dictionaries()
    rows = quarantine.sift(candidates, rows, list(partition_rules(rows, work.partition_by)))
    rows = rows.append_column(CONTENT, content_keys(rows, work.scored_with))
    known = known_scores(work, unit) if work.stored is None else _stored(work, unit, rows)
    at = find(rows, known, CONTENT.name)
    if work.stored is not None:
        why = f"has no score in {work.stored.run.path}; its quarantine says why"
        missing = at.is_null().to_numpy(zero_copy_only=False)
        rows, at = quarantine.sift(candidates, rows, [(missing, why)]), at.drop_null()
    parts = cut(rows.filter(at.is_null()), work.plan.pairs_per_chunk)
    chunks = [Chunk(f"{unit}-{unit_name(index)}", len(part)) for index, part in enumerate(parts)]
    for chunk, part in zip(chunks, parts, strict=True):
        write_chunk(work.pending, chunk.id, part)
    texts = [name for name in ("query", "text", "title", *ORIGIN.names) if name in rows.schema.names]
    work.run.write_table(with_results(rows.drop_columns(texts), known, at), WORK, MATCH.name, f"{unit}.parquet")
    return Matched(
        rows=len(rows),
        reused=len(at) - at.null_count,
        quarantined=work.run.write_quarantine(quarantine, MATCH.name, unit),
        chunks=tuple(chunks),
    )


def _stored(work: Work, unit: str, rows: pa.Table) -> pa.Table:
    """The scores of the stored run for the rows of one bucket, whose texts are those that it scored."""
    assert work.stored is not None
    assert work.stored_by is not None
    scores = work.stored.store.bucket(unit, SCORED)
    at = find(scores, rows)
    scores = scores.filter(at.is_valid()).append_column(CONTENT, rows["content"].take(at.drop_null()))
    return work.stored_by.sign(scores)


def _collect_bucket(work: Work, matched: Mapping[str, Matched], scored: Mapping[str, Scored], unit: str) -> Collected:
    records = {chunk.id: scored[chunk.id] for chunk in matched[unit].chunks}
    for chunk, record in records.items():
        if record.quarantined:
            path = "quarantine", f"{SCORE_CHUNKS.name}-{chunk}.parquet"
            work.run.write(work.pending.read(*path), *path)
    kept = 0
    if matched[unit].rows:
        store = ScoreStore(work.pending, {unit: {chunk: record.rows for chunk, record in records.items()}})
        fresh = work.scored_by.sign(store.bucket(unit, SCORED))
        rows = work.run.read_table(WORK, MATCH.name, f"{unit}.parquet")
        rows = with_results(rows, fresh, find(rows, fresh))
        rows = rows.filter(pc.is_valid(rows["margin"]))
        work.run.write_table(rows, WORK, COLLECT.name, f"{unit}.parquet")
        kept = len(rows)
    names = ("quarantined", "truncated", "tokens", "padded_tokens", "seconds")
    sums = {name: total(records.values(), name) for name in names}
    encoders, fallbacks = count_encoders(records.values())
    return Collected(rows=kept, scored=total(records.values(), "rows"), encoders=encoders, fallbacks=fallbacks, **sums)


def report_encoder(work: Work, collected: Mapping[str, Collected]) -> EncoderReport:
    """By what the pairs were scored that this run scored."""
    chunks: Counter[str] = Counter()
    fallbacks: Counter[str] = Counter()
    for record in collected.values():
        chunks.update(record.encoders)
        fallbacks.update(record.fallbacks)
    return EncoderReport(chosen(work.pending), dict(chunks), dict(fallbacks))


def collected_scores(work: Work, unit: str) -> pa.Table:
    """All scores of one bucket, with their content keys and provenance; a bucket may be empty."""
    path = WORK, COLLECT.name, f"{unit}.parquet"
    if not work.run.storage.exists(work.run.url(*path)):
        return pa.schema([*scores_schema(work.plan), CONTENT, SCORED_BY, SCORED_AT]).empty_table()
    return work.run.read_table(*path)
