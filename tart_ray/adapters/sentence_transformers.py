"""A Scorer where sentence-transformers' evaluators expect a ``CrossEncoder``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tart_ray.scoring.ranking import RanksDocuments

try:
    from sentence_transformers.cross_encoder.model_card import CrossEncoderModelCardData
except ImportError as error:
    raise ImportError("sentence-transformers is not installed: pip install 'tart-ray[cross-encoders]'") from error


class EvaluatedScorer:
    """What an evaluator calls of a model: ``predict``, and the card data to which it adds its figures.

    Args:
        scorer: what scores.
        instruction: for all pairs.
        prompts: instructions by name, for an evaluator that has a ``prompt_name``.
    """

    num_labels = 1

    def __init__(
        self, scorer: RanksDocuments, instruction: str | None = None, *, prompts: Mapping[str, str] | None = None
    ) -> None:
        self.scorer = scorer
        self.instruction = instruction
        self.prompts = dict(prompts or {})
        self.model_card_data = CrossEncoderModelCardData()

    def predict(
        self, inputs: Sequence[Any], *, prompt_name: str | None = None, prompt: str | None = None, **options: Any
    ) -> npt.NDArray[np.float32]:
        """The margin of each pair, float32 (n,): evaluators rank by it, and probabilities would tie.

        Args:
            inputs: (query, document) of each pair.
            prompt_name, prompt: which instruction; by default the one given here.
            options: of ``CrossEncoder.predict``, such as the size of a batch; none changes a score.

        Raises:
            ValueError: an unknown ``prompt_name``.
        """
        if prompt is None and prompt_name is not None:
            if prompt_name not in self.prompts:
                raise ValueError(f"prompt_name: got {prompt_name!r}, expected one of {[*self.prompts]}")
            prompt = self.prompts[prompt_name]
        queries, documents = [query for query, _ in inputs], [document for _, document in inputs]
        return self.scorer.score(queries, documents, self.instruction if prompt is None else prompt).margin
