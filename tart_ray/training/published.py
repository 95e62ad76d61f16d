"""The parts of TART-full's published recipe that are not settings: how pairs are drawn, and how a T5 starts.

They follow the authors' code (facebookresearch/tart: ``BERRI/create_tart_full_train_data.py``,
``TART/finetuning_tart_full.py``, ``TART/src/modeling_enc_t5.py``) and the defaults of transformers' ``Trainer``, which
runs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tart_ray.config import TrainingConfig
from tart_ray.model.enct5 import EncT5ForSequenceClassification
from tart_ray.model.texts import join_instruction
from tart_ray.training.examples import Query
from tart_ray.training.sampling import Group

PAIRS_PER_STEP = 64
MAX_PAIRS = 3_000_000
ALL_UNFOLLOWING_UP_TO = 7_500  # queries of a task; a sample is drawn if there are more

Ints = npt.NDArray[np.int64]
POSITIVE, NEGATIVE, UNFOLLOWING = 0, 1, 2


class PairSampler:
    """Draws the pairs of every step; each pair is a group.

    All pairs are drawn once: one positive and at most ``num_negatives`` negatives of each query, with an instruction
    drawn for each of them. To these a task adds one instruction-unfollowing document, as a negative, for each query
    that has any. If more than 7,500 queries of a task have some, a sample of them is drawn: 16 % of the task's pairs,
    10,000 at most. Every epoch has all pairs, in its own order, 64 in a step.

    Raises:
        ValueError: there is no query.
    """

    def __init__(self, queries: Sequence[Query], config: TrainingConfig) -> None:
        if not queries:
            raise ValueError("got no query to train on")
        self._queries, self._config = queries, config
        draw = np.random.default_rng(config.seed)
        drawn = np.array([pair for task in _by_task(queries) for pair in self._draw(task, draw)], np.int64)
        self._pairs = drawn[draw.permutation(len(drawn))[:MAX_PAIRS]]
        self.steps_per_epoch = -(-len(self._pairs) // PAIRS_PER_STEP)
        self.steps = config.max_steps or self.steps_per_epoch * config.epochs

    def groups(self, step: int) -> list[Group]:
        """The pairs of a step, counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng((self._config.seed, epoch)).permutation(len(self._pairs))
        rows = order[place * PAIRS_PER_STEP : (place + 1) * PAIRS_PER_STEP]
        return [self._group(*pair) for pair in self._pairs[rows].tolist()]

    def _draw(self, task: list[int], draw: np.random.Generator) -> Iterator[tuple[int, int, int, int]]:
        """For each pair of a task: the number of the query, the kind of document, its number, and the instruction's."""
        most, pairs = self._config.num_negatives or 0, 0
        for number in task:
            query = self._queries[number]
            chosen = [(POSITIVE, int(draw.integers(len(query.positives))))]
            chosen += [(NEGATIVE, int(i)) for i in draw.permutation(len(query.negatives))[:most]]
            pairs += len(chosen)
            for kind, document in chosen:
                yield number, kind, document, self._instruction(query, draw)
        unfollowing = [number for number in task if self._queries[number].unfollowing]
        if len(unfollowing) > ALL_UNFOLLOWING_UP_TO:
            config = self._config
            count = min(int(config.max_unfollowing_fraction * pairs), config.max_unfollowing, len(unfollowing))
            unfollowing = [unfollowing[i] for i in draw.permutation(len(unfollowing))[:count].tolist()]
        for number in unfollowing:
            query = self._queries[number]
            yield number, UNFOLLOWING, int(draw.integers(len(query.unfollowing))), self._instruction(query, draw)

    @staticmethod
    def _instruction(query: Query, draw: np.random.Generator) -> int:
        return int(draw.integers(len(query.instructions))) if query.instructions else 0

    def _group(self, number: int, kind: int, document: int, instruction: int) -> Group:
        query = self._queries[number]
        text = join_instruction(query.instructions[instruction], query.text) if query.instructions else query.text
        documents = (query.positives, query.negatives, query.unfollowing)[kind]
        return Group([text], [documents[document]], [], has_positive=kind == POSITIVE)


@torch.no_grad()
def start_as_published(model: EncT5ForSequenceClassification) -> None:
    """Give the model a new head with torch's own initialisation: weights and bias uniform within ±1/√d_model.

    The row of ``<s>`` stays as it is in the T5.
    """
    nn.Linear.reset_parameters(model.classifier)


def _by_task(queries: Sequence[Query]) -> list[list[int]]:
    tasks: dict[str, list[int]] = {}
    for number, query in enumerate(queries):
        tasks.setdefault(query.task, []).append(number)
    return [*tasks.values()]
