"""jobs.mine_negatives from its configuration to its exit code: score if need be, bring the texts back, mine, report.

The score store has no texts. They are prepared again from the input of the scored run, into this run's ``_work``:
preparing is deterministic, so a chunk has the rows that its scores belong to. Then a bucket of queries is a unit.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter, ValidationError

import tart_ray
from tart_ray.config import MineConfig, OutputConfig, RerankConfig
from tart_ray.engine.cluster import room_for_replicas
from tart_ray.engine.session import Clock, ReconciliationError, as_figures, execute_run, finish, tell
from tart_ray.engine.stages import run_stage
from tart_ray.errors import ConfigurationError, ExitCode, InputError
from tart_ray.input.columns import Naming, check_used
from tart_ray.input.judgements import check_grades, check_ids
from tart_ray.input.sources import Source, inspect_source, notes_of
from tart_ray.mining.mined import LEFT_OUT
from tart_ray.mining.negatives import MINING_VERSION, mine
from tart_ray.mining.policy import MiningPolicy
from tart_ray.mining.positives import judgements_from_labels, positives_from_qrels, shared_keys, without_candidates
from tart_ray.mining.trainer_files import FORMATS, FormatOptions, contents, group
from tart_ray.reranking.job import files_read, rerank, with_absolute_paths
from tart_ray.runs.fragments import encode_fragment, read_bucket
from tart_ray.runs.lease import Lease
from tart_ray.runs.output_path import check_output
from tart_ray.runs.run import MANIFEST, WORK, Record, Run
from tart_ray.scores import estimate as dry_run
from tart_ray.scores.plan import (
    BYTES_PER_BUCKET,
    Plan,
    bucket_count,
    files_identity,
    identity,
    make_plan,
    pin_model,
    scores_schema,
)
from tart_ray.scores.prepare import (
    fragment_path,
    fragment_url,
    prepare,
    read_chunk,
    read_shuffled,
    read_stage,
    shuffle,
    unit_name,
)
from tart_ray.scores.score import LoadScorer, load_scorer
from tart_ray.scores.store import Scored, ScoreStore, find_run, scored_chunks
from tart_ray.storage import Storage, absolute, join_url
from tart_ray.tables import texts
from tart_ray.tables.groups import in_input_order
from tart_ray.tables.keys import bucket_of, positions
from tart_ray.tables.parquet import read_parquet
from tart_ray.tables.schemas import CANDIDATE_FIELDS, CORPUS_FIELDS

log = logging.getLogger(__name__)

MINED = "mine"
POSITIVES = "join-positives"
REGROUPED, REGROUPED_POSITIVES = "regroup", "regroup-positives"  # a stage; the second names fragments of it
SCORING = "scoring"  # under output.path: the run that scores first
TEXTS = "texts"  # under _work: the input of the scored run, prepared again
TEXT_COLUMNS = ("query", "text", "title")
PAIR = ["query_id", "doc_id"]
EXAMPLES = 3  # of instructions that the report names
JUDGEMENTS = pa.schema([("query_id", pa.string()), ("doc_id", pa.string()), ("relevance", pa.int64())])
JUDGED_TEXTS = pa.schema([*JUDGEMENTS, ("text", texts.SHARED_TEXT), ("title", texts.SHARED_TEXT)])
LEFT_OUT_OF = pa.field("left_out_of", pa.string())  # negatives, trainer (all formats) or the name of a format


@dataclass(frozen=True)
class Settings:
    """What is mined, checked. Pickles into every worker."""

    policies: tuple[MiningPolicy, ...]
    twins: bool
    formats: tuple[str, ...]
    options: FormatOptions
    label_column: str | None
    min_relevance: int


@dataclass(frozen=True)
class Work:
    """Everything that a unit needs. Pickles into every worker."""

    run: Run
    texts: Run  # in ``_work`` of ``run``
    scored: Run
    plan: Plan
    settings: Settings
    qrels: Source | None
    corpus: Source | None  # of positives that are no candidates, where candidates come with their texts
    document_buckets: int  # 0 without a corpus
    chunks: Mapping[str, Mapping[str, int]]  # of each bucket of queries: the rows of each chunk that have scores

    @property
    def regroup_by(self) -> str | None:
        """The column whose equal values must be in one bucket, where that is not given: see `_regroup`."""
        shared = (policy.same_query for policy in self.settings.policies if policy.source == "contrast")
        return next(shared, None) if self.plan.query_buckets > 1 else None

    @property
    def has_corpus(self) -> bool:
        """Whether judgements are joined with documents."""
        return self.document_buckets > 0


def mine_negatives(config: MineConfig, *, load: LoadScorer = load_scorer, ends_process: bool = False) -> ExitCode:
    """Run the job; a rerun of the same configuration continues where an earlier one stopped.

    Args:
        ends_process: as of `rerank`.

    Raises:
        ConfigurationError, InputError, StorageError, CheckpointError, RunConflictError: before any work.
        RunFailedError: the run began and could not end.
    """
    config = _with_absolute_paths(config)
    storage = Storage(config.storage)
    settings = check_settings(config)
    check_output(config.output.path, _inputs(config))
    scored = find_scores(storage, config)
    check_columns(scored.plan, settings)
    qrels, corpus = _inspect_positives(storage, config, scored)
    for warning in _check_positives(storage, config, scored.plan, qrels, corpus):
        log.warning("%s", warning)
    run = Run.at(storage, config.output.path, config.limits.max_attempts_per_chunk)
    who = {
        "job": "mine_negatives",
        "scored": scored.identity,
        "positives": {
            "files": files_identity(qrels) if qrels else None,
            "corpus": files_identity(corpus) if corpus else None,
            "columns": config.positives.columns,
            "label_column": settings.label_column,
            "min_relevance": settings.min_relevance,
        },
        "mining": {"policies": [dataclasses.asdict(policy) for policy in settings.policies], "twins": settings.twins},
        "versions": {"mining": MINING_VERSION},
        "trainer": {"formats": list(settings.formats), **dataclasses.asdict(settings.options)},
    }
    notes = notes_of(_sources(scored, qrels, corpus))
    tell(notes)
    return execute_run(
        run,
        who,
        config,
        config.cluster.address,
        None if config.input.run else room_for_replicas(config.cluster),
        {
            **files_read(scored.plan, scored.config),
            "input.run": [scored.run.url(MANIFEST)] if config.input.run else [],
            "positives.qrels": [file.url for file in qrels.files] if qrels else [],
            "positives.corpus": [file.url for file in corpus.files] if corpus else [],
        },
        lambda begun, lease: _execute(
            begun, scored, qrels, corpus, settings, config, notes, load, lease, ends_process=ends_process
        ),
        ends_process=ends_process,
    )


def show(config: MineConfig) -> ExitCode:
    """Print what the job would do, line by line as it is known; starts nothing."""
    for line in describe(config):
        print(line)  # noqa: T201
    return ExitCode.DONE


def describe(config: MineConfig) -> Iterator[str]:
    """Lines that say what the job would do.

    Raises:
        the errors of `mine_negatives`, for the same reasons.
    """
    config = _with_absolute_paths(config)
    storage = Storage(config.storage)
    settings = check_settings(config)
    check_output(config.output.path, _inputs(config))
    scored = find_scores(storage, config)
    check_columns(scored.plan, settings)
    qrels, corpus = _inspect_positives(storage, config, scored)
    warnings = _check_positives(storage, config, scored.plan, qrels, corpus)
    if config.input.run is None:
        yield f"scores first, into {scored.run.path}:"
        yield from dry_run.describe(scored.config)
    else:
        pairs = ScoreStore.of(scored.run, scored.identity).rows
        yield f"scores: {pairs:,} pairs in {scored.plan.query_buckets:,} buckets of queries: {scored.run.path}"
    if qrels is None:
        yield f"positives: {settings.label_column} of the candidates, at least {settings.min_relevance}"
    else:
        rows = f"about {qrels.rows:,} judgements"
        yield f"positives: {len(qrels.files):,} files, {rows}, at least {settings.min_relevance}: {qrels.url}"
    told = _sources(scored if config.input.run else None, qrels, corpus)
    yield from (f"  note: {name}: {note}" for name, notes in notes_of(told).items() for note in notes)
    for policy in settings.policies:
        default = MiningPolicy(name=policy.name, contrast_low=policy.contrast_low, contrast_high=policy.contrast_high)
        changed = {
            name: value
            for name, value in dataclasses.asdict(policy).items()
            if value != getattr(default, name) or (name.startswith("contrast") and value is not None)
        }
        yield f"policy {policy.name}: {policy.num_negatives} negatives a query; {changed or 'all else by default'}"
    yield f"trainer files: {', '.join(settings.formats) or 'none'}"
    for name in settings.formats:
        yield f"  {name}: {'; '.join(_told_of(name, settings.options))}"
    yield from warnings


def check_settings(config: MineConfig) -> Settings:
    """The policies and formats.

    Raises:
        ConfigurationError: an unknown key, value, policy or format, with what is available.
    """
    policies = []
    for index, given in enumerate(config.mining.policies):
        known = [field.name for field in dataclasses.fields(MiningPolicy)]
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise ConfigurationError(f"mining.policies[{index}]: got {unknown}, available: {known}")
        try:
            policies.append(_POLICY.validate_python(given))
        except ValidationError as error:
            told = [
                ".".join(["", *map(str, item["loc"])]) + f": {item['msg'].removeprefix('Value error, ')}"
                for item in error.errors()
            ]
            place = f"mining.policies[{index}]"
            raise ConfigurationError("\n".join(place + line for line in told)) from None
    unknown = sorted(set(config.trainer.formats) - set(FORMATS))
    if unknown or len(set(config.trainer.formats)) < len(config.trainer.formats):
        raise ConfigurationError(
            f"trainer.formats: got {[*config.trainer.formats]}, available, once each: {[*FORMATS]}"
        )
    names = {policy.name for policy in policies}
    if not names.issuperset(config.trainer.easy_policies):
        raise ConfigurationError(
            f"trainer.easy_policies: got {[*config.trainer.easy_policies]}, available: {sorted(names)}"
        )
    options = config.trainer.model_dump(exclude={"formats"})
    options["easy_policies"] = tuple(options["easy_policies"])
    settings = Settings(
        tuple(policies),
        config.mining.twins,
        tuple(config.trainer.formats),
        FormatOptions(**options),
        config.positives.label_column,
        config.positives.min_relevance,
    )
    _check_formats(settings)
    return settings


def _check_formats(settings: Settings) -> None:
    """Refuse formats that could hold no row, or whose rows would say what is wrong.

    Raises:
        ConfigurationError: more negatives are needed than the policies choose, or the instruction would be missing
            that makes a negative one.
    """
    most = 0
    for policy in settings.policies:
        most = max(most, policy.num_negatives) if policy.fill else most + policy.num_negatives
    needed = settings.options.num_negatives or 0
    starved = [name for name in settings.formats if FORMATS[name].uses_num_negatives and needed > most]
    if starved:
        raise ConfigurationError(
            f"trainer.num_negatives: got {needed} for {starved}, and the policies choose at most {most} for a query: "
            f"every query would be left out; expected at most {most}, or more of mining.policies"
        )
    by_instruction = [policy.name for policy in settings.policies if policy.source in ("contrast", "other_task")]
    bare = [name for name in settings.formats if FORMATS[name].lacks_instruction(settings.options)]
    if by_instruction and bare and settings.options.join_instruction is None:
        with_instruction = [name for name in FORMATS if not FORMATS[name].lacks_instruction(settings.options)]
        raise ConfigurationError(
            f"trainer.formats: {bare} have no field for the instruction, without which negatives of {by_instruction} "
            'may well answer the query: set trainer.join_instruction to true for queries as "instruction [SEP] query", '
            f"or to false for queries alone, or take formats among {with_instruction}"
        )


def _told_of(name: str, options: FormatOptions) -> Iterator[str]:
    """What a user should know of a format's rows."""
    kind = FORMATS[name]
    yield kind.where_instruction_is(options)
    if options.with_scores and not kind.scores:
        yield "no scores, for which it has no field"


def check_columns(plan: Plan, settings: Settings) -> None:
    """Try the policies and formats on a table without rows.

    Raises:
        ConfigurationError: a column is missing or of the wrong type, a format lacks an option.
    """
    rows = _rows_schema(plan).empty_table()
    if settings.label_column is not None and plan.candidates.shape == "lists":
        raise ConfigurationError(
            f"positives.label_column: got {settings.label_column!r} and candidates as lists, of which columns say "
            "something of the query, not of each document; expected candidates as pairs, or positives.qrels"
        )
    try:
        if settings.label_column is not None:
            judgements_from_labels(rows, settings.label_column)
        mined = mine(rows, JUDGED_TEXTS.empty_table(), settings.policies, twins=settings.twins)
    except ValueError as error:
        raise ConfigurationError(f"mining.policies or positives: {error}") from None
    for name in settings.formats:
        try:
            FORMATS[name].rows(group(mined, rows.select(["query_id", "query"])).rows, settings.options)
        except ValueError as error:
            raise ConfigurationError(f"trainer.formats: {error}") from None
    ranked = plan.candidates.shape == "lists" or "score" in plan.candidates.columns
    if not ranked and (why := _unmet_windows(settings)):
        raise ConfigurationError(why)
    shared = {policy.same_query for policy in settings.policies if policy.source == "contrast"}
    if len(shared) > 1:
        raise ConfigurationError(
            f"mining.policies: got {sorted(shared)} as same_query, expected one column: rows are brought together by it"
        )


def _unmet_windows(settings: Settings) -> str:
    """What is wrong where no candidate has a first-stage rank; nothing if no policy asks for one."""
    windows = [policy.name for policy in settings.policies if policy.needs_first_stage_ranks]
    if not windows:
        return ""
    return (
        f"mining.policies: {windows} have a window of retrieval ranks, and the candidates have no score of a first "
        "stage (column score; input.columns maps other names): give one, or set rank_by to margin or remaining"
    )


def find_scores(storage: Storage, config: MineConfig) -> Scored:
    """The scored run, finished or still to be done.

    Raises:
        ConfigurationError: there is no finished run, or its input has changed since it was scored.
        StorageError, InputError, CheckpointError: the input or the model is not there, or not as configured.
    """
    if config.input.run is None:
        path = join_url(config.output.path, SCORING)
        shared = {name: getattr(config, name) for name in ("model", "cluster", "limits", "storage", "plan")}
        scoring = with_absolute_paths(
            RerankConfig(input=config.input.to_score(), output=OutputConfig(path=path), **shared)
        )
        plan = make_plan(storage, scoring)
        scoring = scoring.model_copy(update={"model": pin_model(scoring.model, scoring.storage)})
        scoring_run = Run.at(storage, path, config.limits.max_attempts_per_chunk)
        return Scored(scoring_run, scoring, plan, identity(plan, scoring))
    return find_run(storage, config.input.run, config.storage, config.limits.max_attempts_per_chunk)


def _execute(
    run: Run,
    scored: Scored,
    qrels: Source | None,
    corpus: Source | None,
    settings: Settings,
    config: MineConfig,
    notes: Mapping[str, Sequence[str]],
    load: LoadScorer,
    lease: Lease,
    *,
    ends_process: bool,
) -> ExitCode:
    """All stages of a run that has begun."""
    clock = Clock()
    if config.input.run is None:
        with clock.timed("score"):
            code = rerank(scored.config, load=load, ends_process=ends_process)
        if code != ExitCode.DONE:
            log.error("scoring ended with exit code %d: nothing is mined", code)
            return code
        scored = scored.as_read()
        check_columns(scored.plan, settings)
    chunks = scored_chunks(scored.run, scored.identity)
    texts = run.within(WORK, TEXTS)
    document_buckets = bucket_count(corpus.nbytes / BYTES_PER_BUCKET) if corpus else scored.plan.document_buckets
    work = Work(run, texts, scored.run, scored.plan, settings, qrels, corpus, document_buckets, chunks)
    with clock.timed("prepare"):
        if set(chunks) - set(run.committed(MINED)):
            _prepare(work, scored)
        read = run.records(read_stage("qrels"), [unit_name(split.index) for split in qrels.splits]) if qrels else {}
    with clock.timed("mine"):
        mined = run_stage(run, MINED, list(chunks), functools.partial(_mine_bucket, work))
    pairs = sum(sum(rows.values()) for rows in chunks.values())
    counts = reconcile(read.values(), mined.values(), pairs, from_qrels=qrels is not None)
    if not counts["queries with negatives"]:
        raise InputError(_nothing_mined(mined.values(), settings))
    report = {**_make_report(config, counts, mined.values(), settings, clock.seconds), "notes": notes}
    report["warnings"] = json.loads(run.storage.read(scored.run.url("report.json"))).get("warnings", [])
    _tell_of_trainer_files(report, settings)
    summary = (
        "{queries with candidates:,} queries with candidates = {queries with negatives:,} with negatives "
        "+ {queries left out:,} left out; {read:,} judgements read = {positives:,} positives "
        "+ {judged lower:,} judged lower + {repeated:,} repeated + {quarantined:,} quarantined"
    )
    figures = {
        **{
            f"{policy}: {name}": number
            for policy, found in report["policies"].items()
            for name, number in found.items()
        },
        **{f"left out: {reason}": number for reason, number in report["left_out"].items()},
        **{f"{name}: rows": number for name, number in report["trainer_rows"].items()},
        **as_figures(notes),
        **{f"seconds: {stage}": seconds for stage, seconds in report["seconds"].items()},
    }
    allowed = config.limits.max_quarantined_fraction
    return finish(run, lease, report, summary.format_map(counts), figures, allowed_bad=allowed)


def _tell_of_trainer_files(report: Mapping[str, Any], settings: Settings) -> None:
    for name, written in report["trainer_rows"].items():
        why = {reason: n for reason, n in report["left_out"].items() if reason.startswith((f"{name}: ", "trainer: "))}
        left_out = f"; left out: {why}" if why else ""
        log.log(
            logging.INFO if written else logging.WARNING,
            "trainer/%s: %s rows of %s queries: %s%s", name, f"{written:,}", f"{report['trainer_queries'][name]:,}",
            "; ".join(_told_of(name, settings.options)), left_out,
        )  # fmt: skip
    bare = [name for name in settings.formats if FORMATS[name].lacks_instruction(settings.options)]
    if bare and report["instructions"]:
        log.warning(
            "trainer files without instructions: %s. Queries were scored under instructions such as %s: give them to "
            "the trainer as a prompt, or set trainer.join_instruction",
            bare, report["instructions"],
        )  # fmt: skip


def _prepare(work: Work, scored: Scored) -> None:
    """Texts of the scored run, and positives with theirs, by bucket of queries."""
    plan = work.plan
    prepared = prepare(work.texts, plan, scored.config.input.instruction, scored.config.output.partition_by)
    again = {bucket: [chunk.id for chunk in found] for bucket, found in prepared.buckets.items()}
    if again != {bucket: [*found] for bucket, found in work.chunks.items()}:
        raise ReconciliationError(f"{scored.run.path}: its input was prepared again, and gave other chunks")
    if work.qrels is not None and not work.has_corpus:
        shuffle(work.run, work.qrels, "query_id", plan.query_buckets)
    elif work.qrels is not None:
        shuffle(work.run, work.qrels, "doc_id", work.document_buckets)
        if work.corpus is not None:
            shuffle(work.run, work.corpus, "doc_id", work.document_buckets)
        units = [unit_name(bucket) for bucket in range(work.document_buckets)]
        run_stage(work.run, POSITIVES, units, functools.partial(_join_positives, work))
    if work.regroup_by is not None:
        run_stage(work.run, REGROUPED, list(work.chunks), functools.partial(_regroup, work, work.regroup_by))


def _join_positives(work: Work, unit: str) -> Record:
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
    work.run.write(fragment, *fragment_path(POSITIVES, unit))
    return {"rows": len(judged)}


def _regroup(work: Work, column: str, unit: str) -> Record:
    """Rows and judgements of one bucket of query ids, sent on by the column that several query ids share."""
    rows, judged = _scored_and_judged(work, unit)
    shared, buckets = shared_keys(rows, column), work.plan.query_buckets
    queries = shared["query_id"].combine_chunks()
    for stage, table in ((REGROUPED, rows), (REGROUPED_POSITIVES, judged)):
        at = pc.index_in(table["query_id"], value_set=queries)
        keys = pc.coalesce(shared["key"].take(at), table["query_id"].cast(pa.large_string()))
        fragment = encode_fragment(table, bucket_of(keys, buckets), buckets)
        work.run.write(fragment, *fragment_path(stage, unit))
    return {"rows": len(rows)}


def _regrouped(work: Work, unit: str) -> tuple[pa.Table, pa.Table]:
    """What `_regroup` sent to one bucket: scored rows and judgements."""
    rows, judged = (
        read_bucket(
            work.run.storage, [fragment_url(work.run, stage, bucket) for bucket in work.chunks], int(unit), schema
        )
        for stage, schema in ((REGROUPED, _rows_schema(work.plan)), (REGROUPED_POSITIVES, JUDGED_TEXTS))
    )
    return rows, judged


def _mine_bucket(work: Work, unit: str) -> Record:
    """Mine the queries of one bucket and write all that came out."""
    settings, run = work.settings, work.run
    rows, judged = _regrouped(work, unit) if work.regroup_by is not None else _scored_and_judged(work, unit)
    ordered = judged.sort_by([("relevance", "descending")])
    highest = _numbered(ordered, "_row").group_by(PAIR, use_threads=False).aggregate([("_row", "min")])
    distinct = ordered.take(highest["_row_min"])
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
    return {
        "rows": len(rows),
        "ranked": len(rows) - rows["first_stage_rank"].null_count,
        "judgements": len(judged),
        "repeated": len(judged) - len(distinct),
        "judged_positive": len(positives),
        "without_candidates": len(absent),
        "counts": mined.counts,
        "left_out": Counter(f"{of}: {reason}" for of, table in left_out for reason in table["reason"].to_pylist()),
        "short_queries": Counter(mined.shortfalls["policy"].to_pylist()),
        "trainer_rows": written,
        "trainer_queries": queries,
        "trainer_queries_left_out": lost,
        "instructions": pc.unique(groups.rows["instruction"].drop_null())[:EXAMPLES].to_pylist(),
        "examples": [column[:1].to_pylist() for column in (rows["query_id"], positives["query_id"])],
    }


def _scored_and_judged(work: Work, unit: str) -> tuple[pa.Table, pa.Table]:
    """Every scored pair of one bucket of queries with its texts, and the judgements of that bucket with theirs.

    A candidate that was quarantined while it was scored is no row, but its label counts, and its text stands for it.

    Raises:
        InputError: a label is no integer.
        ReconciliationError: a pair that has a score has no text.
    """
    schema = _rows_schema(work.plan)
    of_pair = [name for name in TEXT_COLUMNS if name in schema.names]
    scored, candidates = [schema.empty_table()], [JUDGED_TEXTS.empty_table().drop_columns(["relevance"])]
    labels = [JUDGEMENTS.empty_table()]
    files = [work.scored.url("scores", f"{chunk}.parquet") for chunk, rows in work.chunks[unit].items() if rows]
    contents = iter(work.scored.storage.read_many(files))
    for chunk, count in work.chunks[unit].items():
        prepared = read_chunk(work.texts, chunk)
        at = pa.array([], pa.int64())
        if count:
            scores = read_parquet(next(contents))
            joined = _numbered(scores, "_score").join(
                _numbered(prepared, "_text"), PAIR, join_type="inner", use_threads=False
            )
            joined = joined.sort_by("_score")
            if not joined["_score"].combine_chunks().equals(pa.array(np.arange(len(scores)))):
                raise ReconciliationError(
                    f"{work.scored.path}: {chunk}: {len(scores)} scores, {len(joined)} texts of them"
                )
            at = joined["_text"].combine_chunks()
            found = prepared.select([name for name in of_pair if name in prepared.schema.names]).take(at)
            for name in found.schema.names:
                scores = scores.append_column(schema.field(name), found[name])
            scored.append(scores.select(schema.names).cast(schema))
        unscored = np.ones(len(prepared), bool)
        unscored[at.to_numpy(zero_copy_only=False)] = False
        candidates.append(_texts_of(prepared.filter(pa.array(unscored))))
        if work.settings.label_column is not None:
            try:
                labels.append(judgements_from_labels(prepared, work.settings.label_column).cast(JUDGEMENTS))
            except ValueError as error:
                raise InputError(f"positives.label_column: {error}") from error
    judged = pa.concat_tables(labels) if work.qrels is None else _judgements(work, unit)
    return pa.concat_tables(scored).unify_dictionaries(), _with_texts(judged, pa.concat_tables(candidates))


def _numbered(table: pa.Table, name: str) -> pa.Table:
    return table.select(PAIR).append_column(name, pa.array(np.arange(len(table))))


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
    found = candidates.unify_dictionaries().take(pa.array(at, mask=at < 0))
    for name in texts.DOCUMENT_COLUMNS:
        place = judged.schema.get_field_index(name)
        judged = judged.set_column(place, judged.schema.field(name), texts.first_known(found[name], judged[name]))
    return judged.unify_dictionaries()


def _judgements(work: Work, unit: str) -> pa.Table:
    """The judgements of one bucket of queries: JUDGEMENTS, or JUDGED_TEXTS where there is a corpus."""
    assert work.qrels is not None
    if not work.has_corpus:
        return read_shuffled(work.run, work.qrels, int(unit)).select(JUDGEMENTS.names)
    fragments = [fragment_url(work.run, POSITIVES, unit_name(i)) for i in range(work.document_buckets)]
    return read_bucket(work.run.storage, fragments, int(unit), JUDGED_TEXTS)


def _write_trainer_file(run: Run, name: str, rows: pa.Table, unit: str) -> None:
    kind = FORMATS[name]
    if kind.file == "parquet":
        run.write_table(rows, "trainer", name, kind.file_name(unit))
    elif (text := contents(name, rows)) is not None:
        run.write(text, "trainer", name, kind.file_name(unit))


def reconcile(read: Iterable[Record], mined: Iterable[Record], scored: int, *, from_qrels: bool) -> dict[str, int]:
    """Counts, after every scored pair, every query and every judgement is accounted for.

    Args:
        read: records of reading the qrels.
        mined: records of mining.
        scored: pairs in the score store.

    Raises:
        ReconciliationError: something is not.
    """
    read, mined = list(read), list(mined)
    total = _totals(mined, "counts")
    quarantined = sum(record["quarantined"] for record in read)
    judgements = sum(record["judgements"] for record in mined)
    counts = {
        "read": sum(record["rows"] for record in read) if from_qrels else judgements,
        "positives": sum(record["judged_positive"] for record in mined),
        "judged lower": sum(record["judgements"] - record["repeated"] - record["judged_positive"] for record in mined),
        "repeated": sum(record["repeated"] for record in mined),
        "quarantined": quarantined,
        "pairs": sum(record["rows"] for record in mined),
        "queries with candidates": total["queries"],
        "queries with negatives": total["kept"],
        "queries left out": total["queries"] - total["kept"],
        "queries without candidates": sum(record["without_candidates"] for record in mined),
        "positives of queries with candidates": total["positives"],
        **{
            name: total[name]
            for name in ("positives not scored", "new positives", "twins", "query itself", "negatives")
        },
    }
    if counts["pairs"] != scored:
        raise ReconciliationError(f"mined {counts['pairs']} pairs of {scored} scored ones")
    if counts["read"] != judgements + quarantined:
        raise ReconciliationError(f"judgements read ≠ used + quarantined: {counts}")
    queries, lost = (_totals(mined, f"trainer_queries{end}") for end in ("", "_left_out"))
    for name, number in queries.items():
        given = total["kept"] if name == "trainer" else queries["trainer"]
        if number + lost[name] != given:
            raise ReconciliationError(f"{name}: {given} queries ≠ {number} written + {lost[name]} left out")
    return counts


def _totals(records: Iterable[Record], name: str) -> Counter[str]:
    """The sum of the counts that each record has under a name."""
    total: Counter[str] = Counter()
    for record in records:
        total.update(record.get(name, {}))
    return total


def _nothing_mined(mined: Iterable[Record], settings: Settings) -> str:
    """Why no query has a negative."""
    reasons: Counter[str] = Counter()
    examples: list[list[str]] = [[], []]
    ranked = 0
    for record in mined:
        ranked += record["ranked"]
        reasons.update(record["left_out"])
        examples = [old or new for old, new in zip(examples, record["examples"], strict=True)]
    if not ranked and (why := _unmet_windows(settings)):
        return f"no query has a negative: {dict(reasons)}. {why}"
    return (
        f"no query has a negative: {dict(reasons)}. A query of the candidates: {examples[0]}, of the positives: "
        f"{examples[1]}; expected query ids that both have, and policies that some candidates pass"
    )


def _make_report(
    config: MineConfig,
    counts: Mapping[str, int],
    mined: Iterable[Record],
    settings: Settings,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """What ``report.json`` says."""
    mined = list(mined)
    names = ("counts", "left_out", "short_queries", "trainer_rows", "trainer_queries")
    totals = {name: _totals(mined, name) for name in names}
    policies = {}
    for policy in settings.policies:
        start = f"{policy.name}: "
        found = {name.removeprefix(start): n for name, n in totals["counts"].items() if name.startswith(start)}
        policies[policy.name] = {
            "chosen": found.pop("chosen", 0),
            "queries with fewer than asked for": totals["short_queries"][policy.name],
            **{f"dropped by {name}": number for name, number in found.items()},
        }
    return {
        "job": "mine_negatives",
        "tart_ray": tart_ray.__version__,
        "counts": dict(counts),
        "policies": policies,
        "left_out": dict(totals["left_out"]),
        "trainer_rows": dict(totals["trainer_rows"]),
        "trainer_queries": {name: totals["trainer_queries"][name] for name in settings.formats},
        "trainer_instructions": {
            name: FORMATS[name].where_instruction_is(settings.options) for name in settings.formats
        },
        "instructions": sorted({text for record in mined for text in record.get("instructions", ())})[:EXAMPLES],
        "seconds": dict(seconds),
        "config": config.model_dump(mode="json"),
    }


def _rows_schema(plan: Plan) -> pa.Schema:
    """Columns of a scored pair with its texts."""
    titled = "title" in plan.candidates.columns or (plan.corpus is not None and "title" in plan.corpus.columns)
    kinds = {field.name: field.type for field in (*CANDIDATE_FIELDS, *CORPUS_FIELDS)}
    names = TEXT_COLUMNS if titled else TEXT_COLUMNS[:2]
    scores = [field for field in scores_schema(plan) if field.name != "text_key"]  # which `mine` would take for its own
    return texts.shared_schema(pa.schema([*scores, *((name, kinds[name]) for name in names)]))


def _inspect_positives(storage: Storage, config: MineConfig, scored: Scored) -> tuple[Source | None, Source | None]:
    """The qrels, and the corpus of positives that are no candidates, where the scored run did not read one."""
    if config.positives.qrels is None:
        return None, None
    unused = scored.config.input.corpus if scored.plan.corpus is None else None
    url = config.positives.corpus or unused
    columns, of_candidates = config.positives.columns, scored.plan.candidates.columns
    naming = Naming.of(columns, "corpus", "positives.columns", taken=columns)
    if config.positives.corpus is None:
        said = scored.config.input.columns
        naming = Naming.of(said, "corpus", taken=[ours for ours in said if of_candidates.get(ours) == said[ours]])
    corpus = inspect_source(storage, url, "corpus", naming) if url is not None else None
    key = "positives.columns"
    qrels = inspect_source(storage, config.positives.qrels, "qrels", Naming.of(columns, "qrels", key))
    check_used(key, columns, {"qrels": (qrels.columns, qrels.names)})
    return qrels, corpus


def _sources(scored: Scored | None, qrels: Source | None, corpus: Source | None) -> dict[str, Source]:
    """Everything that is read, by what it is."""
    more = {"qrels": qrels, "corpus of positives": corpus}
    return {**(scored.plan.sources if scored else {}), **{name: found for name, found in more.items() if found}}


def _check_positives(
    storage: Storage, config: MineConfig, plan: Plan, qrels: Source | None, corpus: Source | None
) -> list[str]:
    """Refuse positives of other queries or another corpus; what is to be said where that cannot be settled.

    Raises:
        InputError: no query of the candidates has a positive, or no positive is among the documents.
    """
    positives = config.positives
    if qrels is None:
        key, column = "positives.label_column", positives.label_column
        check_grades(storage, plan.candidates, key, positives.min_relevance, of_each=0, column=column)
        return []
    key, documents = "positives.qrels", corpus or plan.corpus
    told = [check_ids(storage, qrels, [plan.candidates], key, positives.min_relevance)]
    if documents is not None:
        told.append(check_ids(storage, qrels, [plan.candidates, documents], key, positives.min_relevance, "doc_id"))
    return [warning for warning in told if warning]


def _inputs(config: MineConfig) -> dict[str, str | None]:
    """Paths that are read, by the keys of the configuration."""
    read = {f"input.{name}": getattr(config.input, name) for name in ("run", "candidates", "queries", "corpus")}
    return {**read, **{f"positives.{name}": getattr(config.positives, name) for name in ("qrels", "corpus")}}


def _with_absolute_paths(config: MineConfig) -> MineConfig:
    """Local paths made absolute: workers have working directories of their own."""
    run = config.input.model_copy(update={"run": absolute(config.input.run)} if config.input.run else {})
    given = {"qrels": config.positives.qrels, "corpus": config.positives.corpus}
    positives = config.positives.model_copy(update={name: absolute(path) for name, path in given.items() if path})
    output = config.output.model_copy(update={"path": absolute(config.output.path)})
    return config.model_copy(update={"input": run, "positives": positives, "output": output})


_POLICY = TypeAdapter(MiningPolicy)
