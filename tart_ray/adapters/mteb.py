"""A Scorer as a cross-encoder of MTEB, for its reranking tasks and those with instructions."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tart_ray.scoring.ranking import Document, RanksDocuments

try:
    from mteb.models import ModelMeta
except ImportError as error:
    raise ImportError("mteb is not installed: pip install 'tart-ray[mteb]'") from error

PAIRS_AT_ONCE = 8_192  # whose texts are held


class MTEBCrossEncoder:
    """What ``mteb.evaluate`` takes as a model (``CrossEncoderProtocol``): it ranks a task's candidates by margin.

    The instruction of a pair is its query's own, where the task has some (the column ``instruction``); else the one
    given here; else the prompt of the task. A blank one stands for none.

    Args:
        scorer: what scores.
        name: under which MTEB files the results, ``owner/model``.
        revision: of the model, for the same purpose.
        instruction: for every task, or by the name of the task.
    """

    def __init__(
        self,
        scorer: RanksDocuments,
        *,
        name: str,
        revision: str | None = None,
        instruction: Mapping[str, str] | str | None = None,
    ) -> None:
        self.scorer = scorer
        self.instruction = instruction
        about: dict[str, Any] = {"name": name, "revision": revision, "model_type": ["cross-encoder"]}
        if instruction is not None:  # results of other instructions are others
            about["experiment_kwargs"] = {"instruction": instruction}
        self.mteb_model_meta = ModelMeta.create_empty(about)

    def predict(
        self,
        inputs1: Iterable[Mapping[str, Any]],
        inputs2: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        **options: Any,
    ) -> npt.NDArray[np.float32]:
        """The margin of each pair, float32 (n,).

        Args:
            inputs1: batches of queries: ``query`` and perhaps ``instruction``, or ``text`` alone.
            inputs2: batches of the documents of the same pairs: ``body`` and perhaps ``title``, or ``text`` alone.
            task_metadata: whose prompt and name count.
            options: of the protocol, such as the split and the size of a batch; none changes a score.
        """
        told = self._of_task(task_metadata)
        pairs = zip(_queries(inputs1, told), _documents(inputs2), strict=True)
        margins = [np.zeros(0, np.float32)]
        while block := [*itertools.islice(pairs, PAIRS_AT_ONCE)]:
            queries, documents = [query for (query, _), _ in block], [document for _, document in block]
            margins.append(self.scorer.score(queries, documents, [instruction for (_, instruction), _ in block]).margin)
        return np.concatenate(margins)

    def _of_task(self, metadata: Any) -> str | None:
        given = self.instruction
        if isinstance(given, Mapping):
            given = given.get(metadata.name)
        if given is None:
            prompt = metadata.prompt
            given = prompt.get("query") if isinstance(prompt, Mapping) else prompt
        return given or None


def _queries(batches: Iterable[Mapping[str, Any]], told: str | None) -> Iterator[tuple[str, str | None]]:
    """Each query with its instruction; MTEB's ``text`` would have both in one."""
    for batch in batches:
        queries = batch["query"] if "query" in batch else batch["text"]
        for query, own in zip(queries, batch.get("instruction", [None] * len(queries)), strict=True):
            yield query, own or told


def _documents(batches: Iterable[Mapping[str, Any]]) -> Iterator[Document]:
    for batch in batches:
        if "body" not in batch:
            yield from batch["text"]
            continue
        bodies = batch["body"]
        for title, text in zip(batch.get("title", [None] * len(bodies)), bodies, strict=True):
            yield {"title": title, "text": text}
