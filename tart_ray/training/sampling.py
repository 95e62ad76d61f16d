"""Which pairs each step sees: a function of the examples, the configuration and the step's number, and nothing else.

So a run that was killed continues with the same pairs, and any number of workers sees the same pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from tart_ray.config import TrainingConfig
from tart_ray.model.texts import join_instruction
from tart_ray.training.examples import Query

Ints = npt.NDArray[np.int64]
TRIES = 20  # draws of a random document that is not one of the query's own documents


@dataclass(frozen=True)
class Group:
    """n pairs of one query: a positive, and then its negatives.

    Attributes:
        queries: of each pair, with the instruction in front.
        documents: of each pair.
        scores: a teacher's margin of each pair, or none at all.
        has_positive: False if all pairs are negatives, which only the loss of single pairs (cross_entropy) can use.
    """

    queries: list[str]
    documents: list[str]
    scores: list[float]
    has_positive: bool = True

    def __len__(self) -> int:
        return len(self.documents)


class Sampler:
    """Draws the groups of every step.

    An epoch has every positive of every query once, in its own order; negatives and instructions are drawn anew.

    Raises:
        ValueError: the examples cannot be trained on as configured.
    """

    def __init__(self, queries: Sequence[Query], config: TrainingConfig) -> None:
        self._queries = queries
        self._config = config
        if not queries:
            raise ValueError("got no query to train on")
        if config.distils and not all(query.has_scores for query in queries):
            raise ValueError(f"loss {config.loss}: got queries without a teacher's scores of their documents")
        self._of_item = np.repeat(np.arange(len(queries)), [len(query.positives) for query in queries])
        self._positive = np.concatenate([np.arange(len(query.positives)) for query in queries])
        self.steps_per_epoch = -(-len(self._of_item) // config.queries_per_step)
        self.steps = config.max_steps or self.steps_per_epoch * config.epochs

    def groups(self, step: int) -> list[Group]:
        """The groups of a step, counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order, unfollowing = self._epoch(epoch)
        start = place * self._config.queries_per_step
        items = order[start : start + self._config.queries_per_step]
        return [self._draw(int(item), int(unfollowing[item]), epoch, step) for item in items]

    @lru_cache(maxsize=2)  # noqa: B019  # samplers live as long as the process
    def _epoch(self, epoch: int) -> tuple[Ints, Ints]:
        """The order of the items (positives), and each one's number of instruction-unfollowing negatives, (items,)."""
        draw = np.random.default_rng((self._config.seed, epoch))
        order = draw.permutation(len(self._of_item))
        given = np.zeros(len(order), np.int64)
        if not self._config.distils and self._config.max_unfollowing and self._config.max_unfollowing_fraction:
            left = 0.0  # the part of a pair that earlier tasks could not use
            for task in draw.permutation(len(self._items_of_tasks)):
                chosen, left = self._spread(self._items_of_tasks[task], left, draw)
                np.add.at(given, chosen, 1)
        return order, given

    def _spread(self, items: Ints, left: float, draw: np.random.Generator) -> tuple[Ints, float]:
        """Choose the items of a task that get an instruction-unfollowing negative.

        No item gets a second one before all items that can have one have their first. An item without another negative
        gets one in any case.

        Returns:
            The chosen items, an item with k such negatives k times; the part of a pair that was left over.
        """
        config = self._config
        of_items = [self._queries[q] for q in self._of_item[items]]
        available = np.array([len(query.unfollowing) for query in of_items])
        others = np.array([len(query.negatives) for query in of_items])
        if config.num_negatives is not None:
            available = np.minimum(available, config.num_negatives)
            others = np.minimum(others, config.num_negatives)
            if max(config.random_negatives):
                others[:] = config.num_negatives  # random ones fill up
        rounds = [draw.permutation(np.flatnonzero(available > k)) for k in range(int(available.max(initial=0)))]
        if not rounds:
            return np.empty(0, np.int64), left
        rounds[0] = rounds[0][np.argsort(others[rounds[0]] > 0, kind="stable")]
        chosen = np.concatenate(rounds)
        number = np.repeat(np.arange(1, len(rounds) + 1), [len(items_of_round) for items_of_round in rounds])
        grows = others[chosen] + number <= (config.num_negatives or np.inf)  # else it replaces another negative
        pairs = len(items) + others.sum() + np.concatenate([[0], np.cumsum(grows)])  # after each number of choices
        spare = config.max_unfollowing_fraction * pairs + left - np.arange(len(pairs))
        count = int((spare[1:] > -1e-9).sum())
        left = min(max(float(spare[count]), 0.0), 1.0)
        count = max(min(count, config.max_unfollowing), int((others[rounds[0]] == 0).sum()))
        return items[chosen[:count]].astype(np.int64), left

    @cached_property
    def _items_of_tasks(self) -> list[Ints]:
        tasks: dict[str, list[int]] = {}
        for item, query in enumerate(self._of_item.tolist()):
            tasks.setdefault(self._queries[query].task, []).append(item)
        return [np.array(items, np.int64) for items in tasks.values()]

    @cached_property
    def _task_of_item(self) -> Ints:
        tasks = np.zeros(len(self._of_item), np.int64)
        for task, items in enumerate(self._items_of_tasks):
            tasks[items] = task
        return tasks

    def _draw(self, item: int, unfollowing: int, epoch: int, step: int) -> Group:
        draw = np.random.default_rng((self._config.seed, epoch, item))
        query = self._queries[self._of_item[item]]
        positive = int(self._positive[item])
        documents, scores = [query.positives[positive]], [*query.positive_scores[positive : positive + 1]]
        documents += [query.unfollowing[i] for i in draw.permutation(len(query.unfollowing))[:unfollowing]]

        wanted = self._config.num_negatives
        room = len(query.negatives) if wanted is None else max(wanted - unfollowing, 0)
        random = 0
        if wanted is not None and max(self._config.random_negatives):
            start, end = self._config.random_negatives
            share = start + (end - start) * min(step / max(self.steps - 1, 1), 1.0)
            random = max(int(draw.binomial(room, share)), room - len(query.negatives))
        order = draw.permutation(len(query.negatives))
        strangers = self._random_documents(item, query, random, draw)
        chosen = order[: room - len(strangers)]
        documents += [query.negatives[i] for i in chosen]
        if query.has_scores:
            scores += [query.negative_scores[i] for i in chosen]
        documents += strangers

        if not query.instructions:
            return Group([query.text] * len(documents), documents, scores)
        count = len(documents) if self._config.loss == "cross_entropy" else 1
        drawn = draw.integers(len(query.instructions), size=count)
        joined = [join_instruction(query.instructions[i], query.text) for i in drawn]
        return Group(joined if count == len(documents) else joined * len(documents), documents, scores)

    def _random_documents(self, item: int, query: Query, count: int, draw: np.random.Generator) -> list[str]:
        """Positives of other queries of the task; fewer than ``count`` if the task has few."""
        items = self._items_of_tasks[self._task_of_item[item]]
        excluded = {*query.positives, *query.unfollowing, *query.negatives}
        strangers: list[str] = []
        for _ in range(count * TRIES):
            if len(strangers) == count:
                break
            other = int(items[draw.integers(len(items))])
            document = self._queries[self._of_item[other]].positives[self._positive[other]]
            if document not in excluded:
                excluded.add(document)
                strangers.append(document)
        return strangers
