"""A replica of a cross-encoder of sentence-transformers: its model and modules, our batches.

Each batch is what `CrossEncoder.predict` would give the model for these pairs alone, so that a pair's score depends
neither on the order of the rows nor on their company, beyond rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from tart_ray.model.cross_encoder import CrossEncoderTokenizer, load_cross_encoder
from tart_ray.model.encoded import EncodedPairs
from tart_ray.model.place import CheckpointPlace
from tart_ray.model.template import Template
from tart_ray.model.texts import check_pairs
from tart_ray.model.truncation import DEFAULT_MAX_LENGTH
from tart_ray.scoring.batched import BatchedScorer
from tart_ray.scoring.batching import default_max_tokens
from tart_ray.scoring.dtypes import resolve_dtype
from tart_ray.scoring.ranking import Document, Instructions, RanksDocuments, split_titles
from tart_ray.scoring.scores import Scores

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


class CrossEncoderScorer(BatchedScorer, RanksDocuments):
    """Score pairs with a model of sentence-transformers, as `Scorer` does with an EncT5.

    Args:
        tokenizer: with the model and its weights, on its device.
        max_tokens_per_batch: padded tokens that go through the model at once.
    """

    def __init__(self, tokenizer: CrossEncoderTokenizer, *, max_tokens_per_batch: int | None = None) -> None:
        model = tokenizer.model
        budget = max_tokens_per_batch or default_max_tokens(model.device.type)
        super().__init__(LibraryEncoder(model, tokenizer.constants), model.num_labels, budget)
        self.model = model
        self.tokenizer = tokenizer

    @classmethod
    def from_place(
        cls,
        place: CheckpointPlace,
        *,
        template: Template | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        max_length: int = DEFAULT_MAX_LENGTH,
        max_tokens_per_batch: int | None = None,
    ) -> CrossEncoderScorer:
        """Load a checkpoint.

        Args:
            template: how a pair is written; by default the one that suits the kind of model.
            device, dtype: as of `Scorer.from_pretrained`.

        Raises:
            CheckpointError: the checkpoint cannot be found or used.
            ConfigurationError: the package sentence-transformers is missing.
        """
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        model = load_cross_encoder(place, device=str(device), dtype=resolve_dtype(dtype, device))
        tokenizer = CrossEncoderTokenizer(model, template, max_length)
        scorer = cls(tokenizer, max_tokens_per_batch=max_tokens_per_batch)
        if device.type == "cuda":
            scorer.calibrate(max_length, model.tokenizer.pad_token_id)
        return scorer

    def score(self, queries: Sequence[str], documents: Sequence[Document], instructions: Instructions = None) -> Scores:
        """Score ``documents[i]`` for ``queries[i]`` under ``instructions[i]``, or under one instruction for all.

        Instructions are read where the template has a place for them. Documents are texts, or mappings of ``text`` and,
        if need be, ``title``, which the template puts together.

        Raises:
            TypeError, ValueError: as `Scorer.score`.
        """
        texts, titles = split_titles(documents)
        instructions = check_pairs(queries, texts, instructions)
        template = self.tokenizer.template
        pairs = self.tokenizer.encode_pairs(
            template.queries(queries, instructions),
            template.documents(texts, titles or [None] * len(texts)),
            template.prompts(instructions),
        )
        return self.score_encoded(pairs)


class LibraryEncoder:
    """Pad, and run the modules of the library, without the function it would put on top of the logits.

    Args:
        constants: what the library gives the model beside the tensors of a batch.
    """

    def __init__(self, model: CrossEncoder, constants: Mapping[str, Any]) -> None:
        self._model, self._constants = model, constants
        self._pads_left = model.tokenizer.padding_side == "left"

    @torch.inference_mode()
    def __call__(self, pairs: EncodedPairs, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        """Float32 logits (len(rows), labels); of a model that answers yes or no their difference, (len(rows), 1)."""
        taken = pairs.take(rows)
        lengths = taken.lengths
        columns = np.arange(int(lengths.max()))
        mask_BT = columns >= (len(columns) - lengths)[:, None] if self._pads_left else columns < lengths[:, None]
        ids_BT = _padded(taken.input_ids, mask_BT, self._model.tokenizer.pad_token_id)
        features: dict[str, Any] = {"input_ids": ids_BT, "attention_mask": mask_BT.astype(np.int64)}
        if taken.token_types is not None:
            features["token_type_ids"] = _padded(taken.token_types, mask_BT, 0)
        if self._pads_left:  # else a row's positions would depend on the longest of its company
            features["position_ids"] = np.maximum(mask_BT.cumsum(axis=1) - 1, 0)
        tensors = {name: torch.from_numpy(array).to(self._model.device) for name, array in features.items()}
        scores: torch.Tensor = self._model({**tensors, **self._constants})["scores"].float()
        return scores if scores.ndim == 2 else scores.unsqueeze(1)


def _padded(flat: npt.NDArray[Any], mask_BT: npt.NDArray[np.bool_], fill: int) -> npt.NDArray[np.int64]:
    """Values of the tokens of pairs, one pair behind the other, where the mask has them."""
    padded_BT = np.full(mask_BT.shape, fill, np.int64)
    padded_BT[mask_BT] = flat
    return padded_BT
