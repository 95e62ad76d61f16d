"""Collections as they are distributed: found by the configuration, read by their kind.

BEIR's and CQADupStack's layout is in `tart_ray.evaluation.beir`, LoTTE's in `lotte`, FollowIR's in `followir`, and how
corpora are pooled in `pools`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from tart_ray.config import EvaluateInputConfig, TaskConfig
from tart_ray.config.paths import BM25
from tart_ray.errors import InputError
from tart_ray.evaluation import beir, followir, lotte
from tart_ray.evaluation.instructions import Variant, make_variant
from tart_ray.evaluation.layout import Layout, find_file, inspect_file, inspect_qrels, inspect_run
from tart_ray.evaluation.metrics import check_measures
from tart_ray.evaluation.pools import with_full_ids
from tart_ray.evaluation.reading import DOCUMENTS, Read
from tart_ray.evaluation.tasks import Task
from tart_ray.input.columns import check_used
from tart_ray.input.listing import list_files
from tart_ray.input.quarantine import READ, Quarantine
from tart_ray.input.readers import read_split
from tart_ray.input.sources import Source
from tart_ray.storage import Storage, join_url


def find_tasks(storage: Storage, config: EvaluateInputConfig) -> list[Task]:
    """The tasks of a configuration; forums become tasks of their own.

    Raises:
        StorageError, InputError: files are missing or not as expected, with what is there.
    """
    pool_of = {name: pool for pool, members in config.pools.items() for name in members}
    tasks: list[Task] = []
    for given in config.tasks:
        if given.kind == "cqadupstack":
            tasks += _find_forums(storage, given)
        else:
            tasks.append(_find_task(storage, given, pool=pool_of.get(given.name)))
    return tasks


def _find_forums(storage: Storage, config: TaskConfig) -> Iterator[Task]:
    """The forums of CQADupStack, each with its own file of the runs that the configuration names by directory."""
    forums, missing = beir.find_forums(storage, config.path)
    notes = (f"forums of CQADupStack that are missing: {', '.join(missing)}",) if missing else ()
    for forum in forums:
        of_forum = {"name": f"{config.name}-{forum}", "path": join_url(config.path, forum)}
        for key in ("first_stage", "compare_with"):
            folder = getattr(config, key)
            if folder not in (None, BM25):
                of_forum[key] = find_file(storage, folder, f"{forum}.trec")
        yield _find_task(storage, config.model_copy(update=of_forum), group=config.name, notes=notes)


def _find_task(
    storage: Storage,
    config: TaskConfig,
    *,
    pool: str | None = None,
    group: str | None = None,
    notes: tuple[str, ...] = (),
) -> Task:
    layout = _layout_of(config)
    measures = config.measures or layout.measures
    check_measures(config.name, measures)
    ignored = config.ignore_identical_ids
    qrels = layout.qrels or {}
    task = Task(
        name=config.name,
        kind=config.kind,
        group=group,
        queries=inspect_file(storage, config, layout.queries, "queries"),
        corpus=inspect_file(storage, config, layout.corpus, "corpus"),
        qrels={name: inspect_qrels(storage, config, folder) for name, folder in qrels.items()},
        answers=list_files(storage, find_file(storage, config.path, layout.answers)).files if layout.answers else (),
        variants=_variants_of(config),
        template=config.template,
        first_stage=_find_run(storage, config, config.first_stage),
        pool=pool,
        pooled_first_stage=_find_run(storage, config, config.pooled_first_stage),
        scores=config.scores,
        has_own_first_stage=config.first_stage is not None or not config.scores,
        compare_with=_find_run(storage, config, config.compare_with),
        top_k=config.top_k,
        measures=measures,
        protocol=config.protocol,
        ignore_identical_ids=layout.ignores_identical_ids if ignored is None else ignored,
        notes=notes,
    )
    available = {name: (source.columns, source.names) for name, source in task.sources.items()}
    check_used(f"input.tasks: {config.name}: columns", config.columns, available)
    return task


def _layout_of(config: TaskConfig) -> Layout:
    if config.kind == "lotte":
        return lotte.layout(config.questions)
    return followir.LAYOUT if config.kind == "followir" else beir.LAYOUT


def _variants_of(config: TaskConfig) -> tuple[Variant, ...]:
    """What the queries are asked under.

    Raises:
        InputError: an instruction is given twice, or not as expected.
    """
    if config.kind == "followir":
        return followir.VARIANTS
    if config.scores:
        return tuple(Variant(f"scores-{index + 1}", None) for index in range(len(config.scores)))
    if not config.instructions:
        return (Variant("reranked", None),)
    try:
        variants = tuple(make_variant(index, given) for index, given in enumerate(config.instructions))
    except InputError as error:
        raise InputError(f"input.tasks: {config.name}: {error}") from None
    if len({variant.instruction for variant in variants}) < len(variants):
        raise InputError(f"input.tasks: {config.name}: instructions: one is given twice")
    return variants


def _find_run(storage: Storage, config: TaskConfig, url: str | None) -> Source | None:
    return None if url is None or url == BM25 else inspect_run(storage, config, url)


def read_queries(storage: Storage, task: Task, quarantine: Quarantine) -> Read:
    """The queries: `QUERIES`, of FollowIR also the columns of its instructions. The first of each id."""
    if task.kind == "followir":
        return followir.read_queries(storage, task, quarantine)
    return beir.read_queries(storage, task, quarantine)


def read_judgements(storage: Storage, task: Task, quarantine: Quarantine) -> dict[str, Read]:
    """Judgements of each set: `JUDGEMENTS`, with full ids, in the order of the input.

    A judged query without any relevant document, as LoTTE's may be, has one row, whose ``doc_id`` and
    ``relevance`` are null.

    Raises:
        InputError: a relevance is beyond `tart_ray.evaluation.beir.MAX_RELEVANCE`.
    """
    if task.answers:
        return lotte.read_judgements(storage, task, quarantine)
    return beir.read_judgements(storage, task, quarantine)


def read_documents(storage: Storage, task: Task, quarantine: Quarantine | None = None) -> Iterator[pa.Table]:
    """The corpus in parts: `DOCUMENTS`, with full ids. Bad rows are kept in ``quarantine``, if it is given."""
    for split in task.corpus.splits:
        for table in read_split(storage, task.corpus, split, Quarantine(READ) if quarantine is None else quarantine):
            if "title" not in table.schema.names:
                table = table.append_column("title", pa.nulls(len(table), pa.large_string()))
            yield with_full_ids(table.select(DOCUMENTS.names), task.name)
