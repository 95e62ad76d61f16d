"""Measures the model against BM25 on packages that it was not trained on, with confidence intervals."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recipes.demo_model.entries import Entry
from recipes.demo_model.examples import collect
from recipes.demo_model.tasks import TASKS, Task
from tart_ray.demo.corpus import Collection, first_stage
from tart_ray.evaluation.metrics import Floats, interval
from tart_ray.retrieval.measures import NDCG_AT_10, Qrels, Run, per_query
from tart_ray.scoring.scorer import Scorer
from tart_ray.tables.texts import document_text

RERANKED = 50  # documents of BM25 that the model reorders
CONFIDENCE = 0.95
RESAMPLES = 2_000
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Interval:
    """The mean of a figure over ``count`` queries, and its 95 % bootstrap interval from ``low`` to ``high``."""

    mean: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Floats, *, seed: int = 0) -> Interval:
        """The interval of ``values``, float64 (n,), one per query; ``seed`` fixes how queries are resampled."""
        low, high = interval(values, CONFIDENCE, RESAMPLES, seed)
        return cls(float(values.mean()), low, high, len(values))

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}], {self.count:,} queries"


def evaluate(
    scorer: Scorer, entries: Sequence[Entry], *, queries_per_task: int = 150, code_queries: int = 600, seed: int = 0
) -> dict[str, Interval]:
    """All figures of the model card.

    Args:
        entries: the entries of one split.
        queries_per_task: the most queries of a task, in the pooled corpus and in the pairs of answers.
        code_queries: the most queries for which code is searched by docstring.
    """
    measured = {f"code: {name}": value for name, value in code_search(scorer, entries, code_queries, seed).items()}
    measured |= {
        f"pooled: {name}": value for name, value in pooled_search(scorer, entries, queries_per_task, seed).items()
    }
    for wording in ("instructions", "unseen"):
        figures = instruction_following(scorer, entries, queries_per_task, seed, wording)
        measured |= {f"following ({wording}): {name}": value for name, value in figures.items()}
    for name, value in measured.items():
        log.info("%s: %s", name, value)
    return measured


def code_search(scorer: Scorer, entries: Sequence[Entry], size: int, seed: int = 0) -> dict[str, Interval]:
    """Search all functions by docstring: nDCG@10 of BM25's first 50, and of the same 50 in the model's order."""
    entries = [
        Entry(e.family, e.package, e.name, e.title, e.query, {"code": e.answers["code"]})
        for e in entries
        if e.family == "python" and "code" in e.answers
    ]
    collection = collect(entries)
    chosen = random.Random(seed).sample(sorted(collection.queries), min(size, len(entries)))  # noqa: S311
    task = TASKS["python-code"]
    qrels = {query_id: {f"{query_id}/python/code": 1} for query_id in chosen}
    bm25 = first_stage(collection, {i: collection.queries[i] for i in chosen}, k=RERANKED)
    reranked = rerank(scorer, collection, bm25, dict.fromkeys(chosen, task.instructions[0]))
    return compare(bm25, reranked, qrels)


def pooled_search(scorer: Scorer, entries: Sequence[Entry], size: int, seed: int = 0) -> dict[str, Interval]:
    """Search one corpus, of all answers of all kinds, with the queries of every task, as X²-Retrieval does.

    BM25 is run with the query, and with the instruction before it; the model reorders the first 50 of the former.
    Every task has the same number of queries, so the mean over queries is also the mean over tasks.

    Raises:
        ValueError: a task has no query in these entries.
    """
    collection = collect(entries)
    draw = random.Random(seed)  # noqa: S311
    per_task = {name: [i for i, e in enumerate(entries) if _has(e, task)] for name, task in TASKS.items()}
    if empty := [name for name, numbers in per_task.items() if not numbers]:
        raise ValueError(f"got no entry for the tasks {empty}, expected some for each of {list(TASKS)}")
    size = min(size, *map(len, per_task.values()))
    figures: dict[str, list[Floats]] = {}
    for name, task in TASKS.items():
        chosen = [f"{i}" for i in draw.sample(per_task[name], size)]
        qrels = {query_id: {f"{query_id}/{task.family}/{task.kind}": 1} for query_id in chosen}
        queries = {query_id: collection.queries[query_id] for query_id in chosen}
        bm25 = first_stage(collection, queries, k=RERANKED)
        instruction = task.instructions[0]
        instructed = first_stage(collection, {i: f"{instruction} {query}" for i, query in queries.items()}, k=RERANKED)
        reranked = rerank(scorer, collection, bm25, dict.fromkeys(chosen, instruction))
        for run_name, run in (("BM25", bm25), ("BM25 with the instruction", instructed), ("model", reranked)):
            values = ndcg_at_10(run, qrels)
            figures.setdefault(run_name, []).append(values)
            log.info("pooled, %s, %s: %.3f", name, run_name, values.mean())
    means = {name: np.concatenate(values) for name, values in figures.items()}
    better = np.maximum(means["BM25"].mean(), means["BM25 with the instruction"].mean())
    best = "BM25" if better == means["BM25"].mean() else "BM25 with the instruction"
    return {name: Interval.of(values) for name, values in means.items()} | {
        "model above the better BM25": Interval.of(means["model"] - means[best])
    }


def instruction_following(
    scorer: Scorer, entries: Sequence[Entry], size: int, seed: int = 0, wording: str = "instructions"
) -> dict[str, Interval]:
    """How often the model prefers, of two answers of different kinds to a query, the kind the instruction asks for.

    Args:
        size: the most queries of a task.
        wording: ``instructions`` for the wordings used in training, or ``unseen`` for others.
    """
    draw = random.Random(seed)  # noqa: S311
    figures = {}
    for name, task in TASKS.items():
        with_choice = [entry for entry in entries if _has(entry, task) and len(entry.answers) > 1]
        if not with_choice:
            continue
        chosen = draw.sample(with_choice, min(size, len(with_choice)))
        queries, documents, instructions = [], [], []
        for entry in chosen:
            other = draw.choice([kind for kind in entry.answers if kind != task.kind])
            queries += [entry.query] * 2
            instructions += [draw.choice(getattr(task, wording))] * 2
            documents += [document_text(entry.title, entry.answers[kind]) for kind in (task.kind, other)]
        margins = scorer.score(queries, documents, instructions).margin.reshape(-1, 2)
        figures[name] = (margins[:, 0] > margins[:, 1]).astype(float)
    return {"all tasks": Interval.of(np.concatenate([*figures.values()]))} | {
        name: Interval.of(values) for name, values in figures.items()
    }


def rerank(scorer: Scorer, collection: Collection, run: Run, instructions: Mapping[str, str]) -> Run:
    """The same documents of each query, scored by the model's margin."""
    pairs = [(query_id, doc_id) for query_id, hits in run.items() for doc_id in hits]
    margins = scorer.score(
        [collection.queries[query_id] for query_id, _ in pairs],
        [document_text(*collection.documents[doc_id]) for _, doc_id in pairs],
        [instructions[query_id] for query_id, _ in pairs],
    ).margin.tolist()
    reranked: dict[str, dict[str, float]] = {query_id: {} for query_id in run}
    for (query_id, doc_id), margin in zip(pairs, margins, strict=True):
        reranked[query_id][doc_id] = margin
    return reranked


def compare(first: Run, second: Run, qrels: Qrels) -> dict[str, Interval]:
    """nDCG@10 of BM25 and of the model on the same queries, and their difference."""
    bm25, model = ndcg_at_10(first, qrels), ndcg_at_10(second, qrels)
    recall = np.array([float(doc_id in first[query_id]) for query_id in qrels for doc_id in qrels[query_id]])
    return {
        "BM25": Interval.of(bm25),
        "model": Interval.of(model),
        "model above BM25": Interval.of(model - bm25),
        f"BM25's recall@{RERANKED}, no order can be better": Interval.of(recall),
    }


def ndcg_at_10(run: Run, qrels: Qrels) -> Floats:
    """nDCG@10 of each query, in the order of ``qrels``; a query without documents has 0."""
    return np.array([*per_query([NDCG_AT_10], qrels, run)[NDCG_AT_10].values()])


def _has(entry: Entry, task: Task) -> bool:
    return entry.family == task.family and task.kind in entry.answers
