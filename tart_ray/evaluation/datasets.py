"""Collections as they are distributed: BEIR's directories, LoTTE's files, FollowIR's pairs of instructions.

    beir          corpus.jsonl  queries.jsonl  qrels/<split>.tsv
    cqadupstack   one such directory per forum
    lotte         collection.tsv  questions.<search|forum>.tsv  qas.<search|forum>.jsonl
    followir      corpus.jsonl  queries.jsonl (with instruction_og, instruction_changed)
                  qrels_og/<split>.tsv  qrels_changed/<split>.tsv

Inside of an evaluation a document is called ``{task}:{doc_id}``, so that corpora can be pooled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.config import EvaluateInputConfig, TaskConfig
from tart_ray.config.paths import BM25
from tart_ray.errors import InputError
from tart_ray.evaluation.instructions import Template, Variant, make_variant
from tart_ray.evaluation.metrics import check_measures
from tart_ray.input import text_files
from tart_ray.input.columns import Naming, check_used
from tart_ray.input.listing import list_files
from tart_ray.input.quarantine import READ, Quarantine, id_text
from tart_ray.input.readers import read_split
from tart_ray.input.sources import Source, inspect_source, notes_of
from tart_ray.storage import FileInfo, Storage, join_url
from tart_ray.tables.groups import in_input_order
from tart_ray.tables.ranking import first_stage_ranks
from tart_ray.tables.schemas import Role, Rule

ALL, ORIGINAL, CHANGED = "all", "original", "changed"
CLOSED, POOLED = "closed", "pooled"
INSTRUCTION_COLUMNS = {ORIGINAL: "instruction_og", CHANGED: "instruction_changed"}
FORUMS = (
    "android", "english", "gaming", "gis", "mathematica", "physics", "programmers", "stats", "tex", "unix",
    "webmasters", "wordpress",
)  # fmt: skip
DEFAULT_MEASURES = {
    "beir": ("nDCG@10", "R@100", "RR", "Success@5"),
    "cqadupstack": ("nDCG@10", "R@100", "RR", "Success@5"),
    "lotte": ("Success@5", "nDCG@10", "R@100", "RR"),
    "followir": ("nDCG@5", "AP@1000", "R@100"),
}

MAX_RELEVANCE = 1_000_000  # trec_eval has a counter of 8 bytes for every grade up to the highest, for each query

QUERIES = pa.schema([("query_id", pa.string()), ("query", pa.large_string())])
JUDGEMENTS = pa.schema([("query_id", pa.string()), ("doc_id", pa.string()), ("relevance", pa.int32())])
DOCUMENTS = pa.schema([("doc_id", pa.string()), ("title", pa.large_string()), ("text", pa.large_string())])
RUN = pa.schema([("query_id", pa.string()), ("doc_id", pa.string()), ("score", pa.float64())])


@dataclass(frozen=True)
class Task:
    """One task, its files looked at. Pickles into every worker.

    ``qrels``: by what they judge, `ALL` or FollowIR's two. ``answers``: LoTTE's judgements, which are no qrels.
    ``first_stage``: None for BM25. ``scores``: finished runs of jobs.rerank. ``departures``: from
    the protocol of the TART paper, whose figures are then not shown. ``notes``: what the user should know.
    """

    name: str
    kind: str
    group: str | None
    queries: Source
    corpus: Source
    qrels: Mapping[str, Source]
    answers: tuple[FileInfo, ...]
    variants: tuple[Variant, ...]
    template: Template
    first_stage: Source | None
    pool: str | None
    pooled_first_stage: Source | None
    scores: tuple[str, ...]
    has_own_first_stage: bool  # False: that of the scored runs
    compare_with: Source | None
    top_k: int
    measures: tuple[str, ...]
    ignore_identical_ids: bool
    protocol: str | None = None
    departures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def setups(self) -> tuple[str, ...]:
        """Corpora that the task is evaluated on: its own, and that of its pool."""
        return (CLOSED, POOLED) if self.pool else (CLOSED,)

    @property
    def sources(self) -> dict[str, Source]:
        """Everything that is read of this task, by what it is."""
        found = {
            "queries": self.queries,
            "corpus": self.corpus,
            **{f"qrels: {name}": source for name, source in self.qrels.items()},
            "first_stage": self.first_stage,
            "pooled_first_stage": self.pooled_first_stage,
            "compare_with": self.compare_with,
        }
        return {name: source for name, source in found.items() if source is not None}

    @property
    def told(self) -> tuple[str, ...]:
        """The notes on the task and on what is read of it."""
        of_sources = (f"{name}: {note}" for name, notes in notes_of(self.sources).items() for note in notes)
        return (*self.notes, *of_sources)

    @property
    def judged_by(self) -> tuple[str, ...]:
        """Names of the sets of judgements."""
        return tuple(dict.fromkeys(variant.judged_by for variant in self.variants))

    @property
    def pairs(self) -> int:
        """Pairs that are scored at most; of sampled text files an estimate."""
        return 0 if self.scores else self.queries.rows * self.top_k * len(self.setups) * len(self.variants)


def find_tasks(storage: Storage, config: EvaluateInputConfig) -> list[Task]:
    """The tasks of a configuration; forums become tasks of their own.

    Raises:
        StorageError, InputError: files are missing or not as expected, with what is there.
    """
    pool_of = {name: pool for pool, members in config.pools.items() for name in members}
    return [task for given in config.tasks for task in _find(storage, given, pool_of.get(given.name))]


def _find(storage: Storage, config: TaskConfig, pool: str | None) -> Iterator[Task]:
    if config.kind != "cqadupstack":
        yield _find_one(storage, config, pool)
        return
    folders = storage.names(config.path)
    there = [name for name in folders if _is_there(storage, join_url(config.path, name), "corpus.jsonl")]
    if not there:
        raise InputError(f"{config.path}: no forum of CQADupStack there, expected {', '.join(FORUMS)}")
    missing = [name for name in FORUMS if name not in there]
    notes = (f"forums of CQADupStack that are missing: {', '.join(missing)}",) if missing else ()
    for forum in there:
        of_forum: dict[str, Any] = {"name": f"{config.name}-{forum}", "path": join_url(config.path, forum)}
        for key in ("first_stage", "compare_with"):
            given = getattr(config, key)
            if given not in (None, BM25):
                of_forum[key] = _find_file(storage, given, f"{forum}.trec")
        yield _find_one(storage, config.model_copy(update=of_forum), None, config.name, notes)


def _find_one(
    storage: Storage, config: TaskConfig, pool: str | None, group: str | None = None, notes: tuple[str, ...] = ()
) -> Task:
    def source(name: str, role: Role) -> Source:
        return inspect_source(storage, _find_file(storage, config.path, name), role, _naming(config, role))

    corpus = "collection.tsv" if config.kind == "lotte" else "corpus.jsonl"
    queries = f"questions.{config.questions}.tsv" if config.kind == "lotte" else "queries.jsonl"
    answers: tuple[FileInfo, ...] = ()
    qrels: dict[str, Source] = {}
    if config.kind == "lotte":
        answers = list_files(storage, _find_file(storage, config.path, f"qas.{config.questions}.jsonl")).files
    elif config.kind == "followir":
        qrels = {ORIGINAL: _qrels(storage, config, "qrels_og"), CHANGED: _qrels(storage, config, "qrels_changed")}
    else:
        qrels = {ALL: _qrels(storage, config, "qrels")}
    measures = config.measures or DEFAULT_MEASURES[config.kind]
    check_measures(config.name, measures)
    ignore = config.ignore_identical_ids
    task = Task(
        name=config.name,
        kind=config.kind,
        group=group,
        queries=source(queries, "queries"),
        corpus=source(corpus, "corpus"),
        qrels=qrels,
        answers=answers,
        variants=_variants(config),
        template=config.template,
        first_stage=_run(storage, config, config.first_stage),
        pool=pool,
        pooled_first_stage=_run(storage, config, config.pooled_first_stage),
        scores=config.scores,
        has_own_first_stage=config.first_stage is not None or not config.scores,
        compare_with=_run(storage, config, config.compare_with),
        top_k=config.top_k,
        measures=measures,
        protocol=config.protocol,
        ignore_identical_ids=config.kind in ("beir", "cqadupstack") if ignore is None else ignore,
        notes=notes,
    )
    found = {name: (source.columns, source.names) for name, source in task.sources.items()}
    check_used(f"input.tasks: {config.name}: columns", config.columns, found)
    return task


def _variants(config: TaskConfig) -> tuple[Variant, ...]:
    if config.kind == "followir":
        return tuple(Variant(name, None, column=column, judged_by=name) for name, column in INSTRUCTION_COLUMNS.items())
    if config.scores:
        return tuple(Variant(f"scores-{index + 1}", None) for index in range(len(config.scores)))
    if not config.instructions:
        return (Variant("reranked", None),)
    try:
        found = tuple(make_variant(index, given) for index, given in enumerate(config.instructions))
    except InputError as error:
        raise InputError(f"input.tasks: {config.name}: {error}") from None
    if len({variant.instruction for variant in found}) < len(found):
        raise InputError(f"input.tasks: {config.name}: instructions: one is given twice")
    return found


def _qrels(storage: Storage, config: TaskConfig, folder: str) -> Source:
    """The judgements of a split.

    Raises:
        InputError: there are none; says which splits there are.
    """
    at = join_url(config.path, folder)
    split_of = {name: text_files.plain_name(name).rpartition(".")[0] for name in storage.names(at)}
    found = [name for name, split in split_of.items() if split == config.split]
    if not found:
        splits = sorted({*split_of.values()})
        raise InputError(
            f"{at}: input.tasks: {config.name}: got split {config.split!r}, "
            f"available: {splits or 'none, no such directory'}"
        )
    if len(found) > 1:
        raise InputError(
            f"{at}: input.tasks: {config.name}: got {sorted(found)} for split {config.split!r}, expected one"
        )
    return inspect_source(storage, join_url(at, found[0]), "qrels", _naming(config, "qrels"))


def _naming(config: TaskConfig, role: Role) -> Naming:
    return Naming.of(config.columns, role, f"input.tasks: {config.name}: columns")


def _is_there(storage: Storage, folder: str, name: str) -> bool:
    return any(text_files.plain_name(other).lower() == name.lower() for other in storage.names(folder))


def _find_file(storage: Storage, folder: str, name: str) -> str:
    """URL of a file in a directory that may be compressed, and be called in capitals; of one that may not be there.

    Raises:
        InputError: several files are meant.
    """
    names = storage.names(folder)
    found = [other for other in names if text_files.plain_name(other).lower() == name.lower()]
    if name in found or not found:
        return join_url(folder, name)
    if len(found) > 1:
        raise InputError(f"{folder}: got {sorted(found)}, expected one file {name}")
    return join_url(folder, found[0])


def _run(storage: Storage, config: TaskConfig, url: str | None) -> Source | None:
    if url is None or url == BM25:
        return None
    return inspect_source(storage, url, "candidates", _naming(config, "candidates"))


def full_id(task: str) -> pa.Scalar:
    """What stands before a document's id where corpora are pooled."""
    return pa.scalar(f"{task}:")


def with_full_ids(table: pa.Table, task: str) -> pa.Table:
    """The table with ``doc_id`` as ``{task}:{doc_id}``."""
    ids = pc.binary_join_element_wise(full_id(task), table["doc_id"].cast(pa.string()), "")
    return table.set_column(table.schema.get_field_index("doc_id"), "doc_id", ids)


def without_full_ids(table: pa.Table, task: str) -> pa.Table:
    """The table with the ``doc_id`` of the task's own corpus."""
    ids = pc.utf8_slice_codeunits(table["doc_id"], len(task) + 1)
    return table.set_column(table.schema.get_field_index("doc_id"), "doc_id", ids)


@dataclass
class Read:
    """Good rows of a source, and how many rows it has in all, those in quarantine included."""

    table: pa.Table
    rows: int


def read_queries(storage: Storage, task: Task, quarantine: Quarantine) -> Read:
    """The queries: `QUERIES`, of FollowIR also the columns of its instructions. The first of each id."""
    if task.kind != "followir":
        return _first_of_each(*_read(storage, task.queries, quarantine), task.queries, quarantine, "query_id", "query")
    rows: list[dict[str, str]] = []
    read = 0
    seen: set[str] = set()
    theirs = task.queries.columns
    for file, offset, line in _lines(storage, task.queries.files):
        read += 1
        record = _json(line, file, offset, quarantine)
        if record is None:
            continue
        query_id = id_text(record.get(theirs["query_id"]))
        texts = {
            "query": record.get(theirs["query"]),
            **{name: record.get(name) for name in INSTRUCTION_COLUMNS.values()},
        }
        if not query_id or not all(isinstance(text, str) and text.strip() for text in texts.values()):
            expected = ", ".join((theirs["query_id"], theirs["query"], *INSTRUCTION_COLUMNS.values()))
            quarantine.add(f"expected texts that are not empty in {expected}", file.url, offset, 0, record)
        elif query_id in seen:
            quarantine.add("another query of this id came before", file.url, offset, 0, record)
        else:
            seen.add(query_id)
            rows.append({"query_id": query_id, **{name: str(text) for name, text in texts.items()}})
    columns = [(name, pa.large_string()) for name in INSTRUCTION_COLUMNS.values()]
    return Read(pa.Table.from_pylist(rows, schema=pa.schema([*QUERIES, *columns])), read)


def read_judgements(storage: Storage, task: Task, quarantine: Quarantine) -> dict[str, Read]:
    """Judgements of each set: `JUDGEMENTS`, with full ids, in the order of the input.

    A judged query without any relevant document, as LoTTE's may be, has one row, whose ``doc_id`` and
    ``relevance`` are null.

    Raises:
        InputError: a relevance is beyond `MAX_RELEVANCE`.
    """
    if task.answers:
        return {ALL: _read_answers(storage, task, quarantine)}
    found = {}
    for name, source in task.qrels.items():
        table, rows = _read(storage, source, quarantine)
        _refuse_extreme(storage, source, table)
        read = _first_of_each(table, rows, source, quarantine, "query_id", "doc_id", "relevance")
        found[name] = Read(with_full_ids(read.table.select(JUDGEMENTS.names), task.name), rows)
    return found


def _refuse_extreme(storage: Storage, source: Source, table: pa.Table) -> None:
    """Refuse grades that trec_eval cannot hold.

    Raises:
        InputError: there is one; the message says where.
    """
    grades = table["relevance"]
    extreme = table.filter(pc.or_(pc.greater(grades, MAX_RELEVANCE), pc.less(grades, -MAX_RELEVANCE)))
    if not len(extreme):
        return
    row = in_input_order(extreme).slice(0, 1).to_pylist()[0]
    file, position = source.splits[row["_split"]].file, row["_position"]
    place = f"row {position}"
    if source.format != "parquet":
        place = f"line {text_files.line_number(storage, file, position)}"
    raise InputError(
        f"{file.url}: {place}: relevance {row['relevance']:,} of query {row['query_id']!r} and document "
        f"{row['doc_id']!r}: expected a grade from {-MAX_RELEVANCE:,} to {MAX_RELEVANCE:,}: trec_eval counts documents "
        "by grade, from 0 to the highest. Is it another column, a timestamp or an id? Else scale the grades down"
    )


def _read_answers(storage: Storage, task: Task, quarantine: Quarantine) -> Read:
    """``{"qid": …, "query": …, "answer_pids": […]}``, a line each; every answer is relevant."""
    judged: dict[str, dict[str, None]] = {}
    read = 0
    for file, offset, line in _lines(storage, task.answers):
        read += 1
        record = _json(line, file, offset, quarantine)
        if record is None:
            continue
        query_id, answers = id_text(record.get("qid")), record.get("answer_pids")
        pids = [id_text(answer) for answer in answers] if isinstance(answers, list) else [None]
        if not query_id or None in pids:
            quarantine.add("expected qid and a list of ids, answer_pids", file.url, offset, 0, record)
        elif query_id in judged:
            quarantine.add("answers to this qid came before", file.url, offset, 0, record)
        else:
            judged[query_id] = dict.fromkeys(pid for pid in pids if pid is not None)
    rows = [
        {"query_id": query_id, "doc_id": pid, "relevance": None if pid is None else 1}
        for query_id, pids in judged.items()
        for pid in (pids or (None,))
    ]
    return Read(with_full_ids(pa.Table.from_pylist(rows, schema=JUDGEMENTS), task.name), read)


def read_run(storage: Storage, source: Source, quarantine: Quarantine, prefix: str | None, pool: Sequence[str]) -> Read:
    """A run: `RUN`, with full ids; the first row of each pair.

    Where no row has a score, the order of a query's rows is its ranking, and the score is minus the rank.

    Args:
        prefix: the task whose documents these are; None where the run has full ids already.
        pool: tasks whose documents can be in it.
    """
    table, rows = _read(storage, source, quarantine)
    if "score" not in table.schema.names:
        table = table.append_column("score", pa.nulls(len(table), pa.float64()))
    is_scored = table["score"].null_count < len(table)
    rules: list[Rule] = [(_null(table["score"]), "score is null")] if is_scored else []
    if prefix is None:
        known = pc.is_in(pc.list_element(pc.split_pattern(table["doc_id"], ":", max_splits=1), 0), pa.array(pool))
        expected = f"doc_id is not of {', '.join(pool)}: expected {{task}}:{{doc_id}}"
        rules.append((~np.asarray(known.to_numpy(zero_copy_only=False), bool), expected))
    good = quarantine.sift(source, table, rules)
    good = _first_rows(good, "query_id", "doc_id")
    if not is_scored:
        good = in_input_order(good, "query_id")
        ranks = first_stage_ranks(good, listed=True).cast(pa.float64())
        good = good.set_column(good.schema.get_field_index("score"), "score", pc.negate(ranks))
    good = good.select(RUN.names)
    return Read(good if prefix is None else with_full_ids(good, prefix), rows)


def of_known_queries(task: Task, run: pa.Table, queries: pa.Array | pa.ChunkedArray) -> pa.Table:
    """A run under the ids that its queries have in the collection.

    MTEB lists FollowIR's candidates twice for each query, as ``<id>-og`` and ``<id>-changed``: both are the query's.
    """
    if task.kind != "followir":
        return run
    ids = run["query_id"]
    stems = pc.replace_substring_regex(ids, "-(og|changed)$", "")
    is_of_stem = pc.and_not(pc.is_in(stems, pc.unique(queries)), pc.is_in(ids, pc.unique(queries)))
    return run.set_column(run.schema.get_field_index("query_id"), "query_id", pc.if_else(is_of_stem, stems, ids))


def read_documents(storage: Storage, task: Task, quarantine: Quarantine | None = None) -> Iterator[pa.Table]:
    """The corpus in parts: `DOCUMENTS`, with full ids. Bad rows are kept in ``quarantine``, if it is given."""
    for split in task.corpus.splits:
        for table in read_split(storage, task.corpus, split, Quarantine(READ) if quarantine is None else quarantine):
            if "title" not in table.schema.names:
                table = table.append_column("title", pa.nulls(len(table), pa.large_string()))
            yield with_full_ids(table.select(DOCUMENTS.names), task.name)


def check_ids(ids: pa.ChunkedArray, place: str) -> None:
    """Refuse ids that no line of a run can hold: see `tart_ray.evaluation.measuring.trec_lines`.

    Raises:
        InputError: an id has a tab, a line break, or a blank at its end.
    """
    bad = ids.filter(pc.match_substring_regex(ids, r"[\t\n\v\f\r]|^\s|\s$"))
    if len(bad):
        raise InputError(
            f"{place}: got id {bad[0].as_py()!r}, expected ids without tabs, line breaks, and blanks at their ends: "
            "runs are written as lines of columns, as TREC's are"
        )


def have_blanks(tables: Iterable[pa.Table]) -> bool:
    """Whether an id has white space in it, so that only tabs can stand between the columns of a run's lines."""
    columns = (table[name] for table in tables for name in ("query_id", "doc_id"))
    return any(pc.any(pc.match_substring_regex(ids, r"[\s\x{85}\p{Z}]")).as_py() for ids in columns)


def _read(storage: Storage, source: Source, quarantine: Quarantine) -> tuple[pa.Table, int]:
    """Good rows of all splits, and the number of all."""
    before = len(quarantine)
    tables = [table for split in source.splits for table in read_split(storage, source, split, quarantine)]
    table = pa.concat_tables(tables)
    return table, len(table) + len(quarantine) - before


def _first_of_each(table: pa.Table, rows: int, source: Source, quarantine: Quarantine, *names: str) -> Read:
    """Rows of distinct ``names[:-1]``; one that says another ``names[-1]`` than an earlier one is quarantined."""
    *keys, value = names
    first = _first_rows(table, *keys)
    key_of_all, key_of_first = (
        pc.binary_join_element_wise(*(part[name].cast(pa.string()) for name in keys), "\0") for part in (table, first)
    )
    at = pc.index_in(key_of_all, value_set=key_of_first.combine_chunks())
    differs = np.asarray(pc.not_equal(table[value], first[value].take(at)).to_numpy(zero_copy_only=False), bool)
    kept = quarantine.sift(
        source, table, [(differs, f"another {value} than an earlier row of this {' and '.join(keys)}")]
    )
    return Read(_first_rows(kept, *keys).select(list(names)), rows)


def _first_rows(table: pa.Table, *keys: str) -> pa.Table:
    ordered = in_input_order(table)
    numbered = ordered.select(list(keys)).append_column("_row", pa.array(np.arange(len(ordered))))
    first = numbered.group_by(list(keys), use_threads=False).aggregate([("_row", "min")])["_row_min"]
    return ordered.take(pa.array(np.sort(first.to_numpy())))


def _null(column: pa.ChunkedArray) -> Any:
    return np.asarray(pc.is_null(column).to_numpy(zero_copy_only=False), dtype=bool)


def _lines(storage: Storage, files: Sequence[FileInfo]) -> Iterator[tuple[FileInfo, int, bytes]]:
    for file in files:
        for offset, line in text_files.lines(storage, file, 0, file.size):
            yield file, offset, line


def _json(line: bytes, file: FileInfo, offset: int, quarantine: Quarantine) -> dict[str, Any] | None:
    try:
        return text_files.parse_line("jsonl", "queries", line)
    except text_files.BadLineError as error:
        quarantine.add(str(error), file.url, offset, 0, raw=line)
        return None
