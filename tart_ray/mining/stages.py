"""The units of mining: positives with their texts, rows brought together, negatives and trainers' files."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.engine.stages import run_stage
from tart_ray.errors import InputError
from tart_ray.input.sources import Source
from tart_ray.mining.groups import group
from tart_ray.mining.mined import LEFT_OUT
from tart_ray.mining.negatives import mine
from tart_ray.mining.positives import judgements_from_labels, positives_from_qrels, shared_keys, without_candidates
from tart_ray.mining.settings import JUDGED_TEXTS, JUDGEMENTS, Settings
from tart_ray.mining.trainer_files import FORMATS, contents
from tart_ray.runs.balance import ReconciliationError
from tart_ray.runs.directory import WORK, Directory
from tart_ray.runs.fragments import encode_fragment
from tart_ray.runs.stage import Record, Stage
from tart_ray.scores.plan import Plan, scores_schema
from tart_ray.scores.prepare import fragment_path, read_chunk, read_fragments, read_shuffled, shuffle, unit_names
from tart_ray.scores.store import ScoreStore, prepare_again
from tart_ray.tables import texts
from tart_ray.tables.groups import first_rows, in_input_order
from tart_ray.tables.keys import bucket_of, positions
from tart_ray.tables.schemas import CANDIDATE_FIELDS, CORPUS_FIELDS

REGROUPED_POSITIVES = "regroup-positives"  # fragments of the stage that regroups
TEXTS = "texts"  # under _work: the input of the scored run, prepared again
TEXT_COLUMNS = ("query", "text", "title")
PAIR = ["query_id", "doc_id"]
EXAMPLES = 3  # of instructions that the report names
LEFT_OUT_OF = pa.field("left_out_of", pa.string())  # negatives, trainer (all formats) or the name of a format

Counts = dict[str, int]


class Rows(Record):
    """A bucket whose rows were sent on."""

    rows: int


class Mined(Record):
    """A bucket of queries that is mined.

    Attributes:
        rows: scored pairs; ``ranked``: of them, those with a first-stage rank.
        repeated: judgements that repeat another of the same pair.
        judged_positive: pairs that are relevant; ``without_candidates``: of them, those whose query has none.
        counts: of `tart_ray.mining.negatives.Mined`.
        left_out: queries and documents by what they are left out of, and why.
        short_queries: queries with fewer negatives than asked for, by policy.
        trainer_rows, trainer_queries, trainer_queries_left_out: by format; ``trainer`` is what all formats take.
        instructions: some.
        examples: a query id of the candidates and one of the positives, each in a list that may be empty.
    """

    rows: int
    ranked: int
    judgements: int
    repeated: int
    judged_positive: int
    without_candidates: int
    counts: Counts
    left_out: Counts
    short_queries: Counts
    trainer_rows: Counts
    trainer_queries: Counts
    trainer_queries_left_out: Counts
    instructions: tuple[str, ...]
    examples: tuple[tuple[str, ...], tuple[str, ...]]


JOIN_POSITIVES = Stage("join-positives", Rows)
REGROUP = Stage("regroup", Rows)
MINE = Stage("mine", Mined)


@dataclass(frozen=True)
class Work:
    """Everything that a unit needs. Pickles into every worker.

    Attributes:
        run: of the job; ``texts``: in its ``_work``, the input prepared again.
        corpus: of positives that are no candidates, where candidates come with their texts.
        document_buckets: 0 without a corpus.
    """

    run: Directory
    store: ScoreStore
    plan: Plan
    settings: Settings
    qrels: Source | None
    corpus: Source | None
    document_buckets: int

    @property
    def texts(self) -> Directory:
        """Where the input of the scored run is prepared again."""
        return self.run.sub(WORK, TEXTS)

    @property
    def regroup_by(self) -> str | None:
        """The column whose equal values must be in one bucket, where that is not given: see `_regroup`."""
        return self.settings.regroup_by if self.plan.query_buckets > 1 else None

    @property
    def has_corpus(self) -> bool:
        """Whether judgements are joined with documents."""
        return self.document_buckets > 0


def bring_texts(work: Work, partition_by: list[str]) -> None:
    """Texts of the scored run, and positives with theirs, by bucket of queries.

    Args:
        partition_by: as the scored run was prepared with.
    """
    plan = work.plan
    prepare_again(work.texts, plan, partition_by, work.store)
    if work.qrels is not None and not work.has_corpus:
        shuffle(work.run, work.qrels, "query_id", plan.query_buckets)
    elif work.qrels is not None:
        shuffle(work.run, work.qrels, "doc_id", work.document_buckets)
        if work.corpus is not None:
            shuffle(work.run, work.corpus, "doc_id", work.document_buckets)
        units = unit_names(work.document_buckets)
        run_stage(work.run, JOIN_POSITIVES, units, functools.partial(_join_positives, work))
    if work.regroup_by is not None:
        run_stage(work.run, REGROUP, list(work.store.chunks), functools.partial(_regroup, work, work.regroup_by))


def mine_buckets(work: Work) -> dict[str, Mined]:
    """Mine every bucket of queries."""
    return run_stage(work.run, MINE, list(work.store.chunks), functools.partial(_mine_bucket, work))


def _join_positives(work: Work, unit: str) -> Rows:
    """Judgements of one bucket of document ids with the texts of the corpus, sent on by query.

    Positives that are no candidates have their text from here.
    """
    source = work.corpus or work.plan.corpus
    assert work.qrels is not None
    assert source is not None
    judged = read_shuffled(work.run, work.qrels, int(unit)).select(JUDGEMENTS.names)
    corpus = texts.share(in_input_order(read_shuffled(work.run if work.corpus else work.texts, source, int(unit))))
    at = pc.index_in(judged["doc_id"], value_set=corpus["doc_id"].combine_chunks())
    for field in list(JUDGED_TEXTS)[len(JUDGEMENTS) :]:
        known = field.name in corpus.schema.names
        judged = judged.append_column(
            field, corpus[field.name].take(at) if known else pa.nulls(len(judged), field.type)
        )
    buckets = work.plan.query_buckets
    fragment = encode_fragment(judged, bucket_of(judged["query_id"], buckets), buckets)
    work.run.write(fragment, *fragment_path(JOIN_POSITIVES.name, unit))
    return Rows(rows=len(judged))


def _regroup(work: Work, column: str, unit: str) -> Rows:
    """Rows and judgements of one bucket of query ids, sent on by the column that several query ids share."""
    rows, judged = _scored_and_judged(work, unit)
    shared, buckets = shared_keys(rows, column), work.plan.query_buckets
    queries = shared["query_id"].combine_chunks()
    for stage, table in ((REGROUP.name, rows), (REGROUPED_POSITIVES, judged)):
        at = pc.index_in(table["query_id"], value_set=queries)
        keys = pc.coalesce(shared["key"].take(at), table["query_id"].cast(pa.large_string()))
        fragment = encode_fragment(table, bucket_of(keys, buckets), buckets)
        work.run.write(fragment, *fragment_path(stage, unit))
    return Rows(rows=len(rows))


def _regrouped(work: Work, unit: str) -> tuple[pa.Table, pa.Table]:
    """What `_regroup` sent to one bucket: scored rows and judgements."""
    rows, judged = (
        read_fragments(work.run, stage, work.store.chunks, int(unit), schema)
        for stage, schema in ((REGROUP.name, rows_schema(work.plan)), (REGROUPED_POSITIVES, JUDGED_TEXTS))
    )
    return rows, judged


def _mine_bucket(work: Work, unit: str) -> Mined:
    """Mine the queries of one bucket and write all that came out."""
    settings, run = work.settings, work.run
    rows, judged = _regrouped(work, unit) if work.regroup_by is not None else _scored_and_judged(work, unit)
    distinct = first_rows(judged.sort_by([("relevance", "descending")]), *PAIR)
    positives = positives_from_qrels(distinct, settings.min_relevance)
    mined = mine(rows, positives, settings.policies, twins=settings.twins)
    absent = without_candidates(positives, rows["query_id"])
    of_others = [policy.name for policy in settings.policies if policy.source == "other_task"]
    groups = group(mined, rows.select(["query_id", "query"]), of_other_instructions=of_others)
    left_out = [("negatives", mined.left_out), ("negatives", absent)]
    run.write_table(mined.negatives, "negatives", f"{unit}.parquet")
    run.write_table(mined.positives, "positives", f"{unit}.parquet")
    run.write_table(mined.shortfalls, "shortfalls", f"{unit}.parquet")
    written, queries, lost = {}, {}, {}
    if settings.formats:
        left_out.append(("trainer", groups.left_out))
        queries["trainer"], lost["trainer"] = groups.queries, groups.left_out["doc_id"].null_count
    for name in settings.formats:
        formatted = FORMATS[name].rows(groups.rows, settings.options)
        _write_trainer_file(run, name, formatted.rows, unit)
        left_out.append((name, formatted.left_out))
        written[name] = len(formatted.rows)
        queries[name] = formatted.queries
        lost[name] = formatted.left_out["doc_id"].null_count
    named = [table.append_column(LEFT_OUT_OF, pa.array([of] * len(table), pa.string())) for of, table in left_out]
    run.write_table(
        pa.concat_tables([LEFT_OUT.append(LEFT_OUT_OF).empty_table(), *named]), "left_out", f"{unit}.parquet"
    )
    return Mined(
        rows=len(rows),
        ranked=len(rows) - rows["first_stage_rank"].null_count,
        judgements=len(judged),
        repeated=len(judged) - len(distinct),
        judged_positive=len(positives),
        without_candidates=len(absent),
        counts=mined.counts,
        left_out=Counter(f"{of}: {reason}" for of, table in left_out for reason in table["reason"].to_pylist()),
        short_queries=Counter(mined.shortfalls["policy"].to_pylist()),
        trainer_rows=written,
        trainer_queries=queries,
        trainer_queries_left_out=lost,
        instructions=tuple(pc.unique(groups.rows["instruction"].drop_null())[:EXAMPLES].to_pylist()),
        examples=(tuple(rows["query_id"][:1].to_pylist()), tuple(positives["query_id"][:1].to_pylist())),
    )


def _scored_and_judged(work: Work, unit: str) -> tuple[pa.Table, pa.Table]:
    """Every scored pair of one bucket of queries with its texts, and the judgements of that bucket with theirs.

    A candidate that was quarantined while it was scored is no row, but its label counts, and its text stands for it.

    Raises:
        InputError: a label is no integer.
        ReconciliationError: a pair that has a score has no text.
    """
    schema = rows_schema(work.plan)
    scores = work.store.bucket(unit, _stored(work.plan))
    chunks = [read_chunk(work.texts, chunk) for chunk in work.store.chunks[unit]]
    candidates = pa.concat_tables(chunks).unify_dictionaries() if chunks else None
    if candidates is None:
        rows, unscored, labelled = schema.empty_table(), _no_texts(), JUDGEMENTS.empty_table()
    else:
        at = positions(scores, candidates, PAIR)
        if (at < 0).any():
            raise ReconciliationError(
                f"{work.store.directory.path}: bucket {unit}: {(at < 0).sum()} of {len(scores)} scores have no text"
            )
        for name in (name for name in TEXT_COLUMNS if name in schema.names):
            scores = scores.append_column(schema.field(name), candidates[name].take(pa.array(at)))
        rows = scores.select(schema.names).cast(schema)
        is_scored = np.zeros(len(candidates), bool)
        is_scored[at] = True
        unscored = _texts_of(candidates.filter(pa.array(~is_scored)))
        labelled = _labels(candidates, work.settings.label_column)
    judged = labelled if work.qrels is None else _judgements(work, unit)
    return rows, _with_texts(judged, unscored)


def _labels(candidates: pa.Table, column: str | None) -> pa.Table:
    """`JUDGEMENTS` out of a column of the candidates.

    Raises:
        InputError: a label is no integer.
    """
    if column is None:
        return JUDGEMENTS.empty_table()
    try:
        return judgements_from_labels(candidates, column).cast(JUDGEMENTS)
    except ValueError as error:
        raise InputError(f"positives.label_column: {error}") from error


def _no_texts() -> pa.Table:
    return JUDGED_TEXTS.empty_table().drop_columns(["relevance"])


def _texts_of(candidates: pa.Table) -> pa.Table:
    """``query_id, doc_id, text, title``."""
    columns = {name: candidates[name] for name in PAIR}
    for field in list(JUDGED_TEXTS)[len(JUDGEMENTS) :]:
        known = field.name in candidates.schema.names
        columns[field.name] = candidates[field.name] if known else pa.nulls(len(candidates), field.type)
    return pa.table(columns)


def _with_texts(judged: pa.Table, candidates: pa.Table) -> pa.Table:
    """Judgements with the texts of the candidates that they are about, else with those that they have: JUDGED_TEXTS."""
    judged = pa.concat_tables([JUDGED_TEXTS.empty_table(), judged], promote_options="default")
    at = positions(judged, candidates, PAIR)
    with_texts = candidates.unify_dictionaries().take(pa.array(at, mask=at < 0))
    for name in texts.DOCUMENT_COLUMNS:
        place = judged.schema.get_field_index(name)
        judged = judged.set_column(place, judged.schema.field(name), texts.first_known(with_texts[name], judged[name]))
    return judged.unify_dictionaries()


def _judgements(work: Work, unit: str) -> pa.Table:
    """The judgements of one bucket of queries: JUDGEMENTS, or JUDGED_TEXTS where there is a corpus."""
    assert work.qrels is not None
    if not work.has_corpus:
        return read_shuffled(work.run, work.qrels, int(unit)).select(JUDGEMENTS.names)
    units = unit_names(work.document_buckets)
    return read_fragments(work.run, JOIN_POSITIVES.name, units, int(unit), JUDGED_TEXTS)


def _write_trainer_file(run: Directory, name: str, rows: pa.Table, unit: str) -> None:
    kind = FORMATS[name]
    if kind.file == "parquet":
        run.write_table(rows, "trainer", name, kind.file_name(unit))
    elif (text := contents(name, rows)) is not None:
        run.write(text, "trainer", name, kind.file_name(unit))


def rows_schema(plan: Plan) -> pa.Schema:
    """Columns of a scored pair with its texts."""
    titled = "title" in plan.candidates.columns or (plan.corpus is not None and "title" in plan.corpus.columns)
    kinds = {field.name: field.type for field in (*CANDIDATE_FIELDS, *CORPUS_FIELDS)}
    names = TEXT_COLUMNS if titled else TEXT_COLUMNS[:2]
    return texts.shared_schema(pa.schema([*_stored(plan), *((name, kinds[name]) for name in names)]))


def _stored(plan: Plan) -> pa.Schema:
    """Columns of the score store, without one that `mine` would take for its own."""
    return pa.schema([field for field in scores_schema(plan) if field.name != "text_key"])
