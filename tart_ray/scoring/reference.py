"""The reference encoder: padded batches through transformers' own T5Stack, the classifier in float32.

Plain on purpose. It is what every faster encoder is compared with; an encoder is any callable with this signature.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from tart_ray.model.encoded import EncodedPairs
from tart_ray.model.enct5 import EncT5ForSequenceClassification


class Encoder(Protocol):
    """Logits of some of the encoded pairs."""

    def __call__(self, pairs: EncodedPairs, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        """Return float32 logits (len(rows), num_labels), on any device, in the order of ``rows``."""
        ...


class ReferenceEncoder:
    """Pad, mask, and run the model as transformers would.

    In float32 that is the model's own forward pass. In bfloat16 the classifier alone is computed in float32: logits of
    8 bits would tie where the model does not.
    """

    def __init__(self, model: EncT5ForSequenceClassification) -> None:
        self._model = model

    @torch.inference_mode()
    def __call__(self, pairs: EncodedPairs, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        lengths = pairs.lengths[rows]
        ids_BT = np.full((len(rows), int(lengths.max())), self._model.config.pad_token_id, dtype=np.int64)
        for target, row in zip(ids_BT, rows, strict=True):
            ids = pairs.row(int(row))
            target[: len(ids)] = ids
        mask_BT = np.arange(ids_BT.shape[1]) < lengths[:, None]
        model = self._model
        output = model.encoder(
            input_ids=torch.from_numpy(ids_BT).to(model.device),
            attention_mask=torch.from_numpy(mask_BT.astype(np.int64)).to(model.device),
        )
        hidden_BD = model.dropout(output.last_hidden_state[:, 0].float())
        return F.linear(hidden_BD, model.classifier.weight.float(), model.classifier.bias.float()).float()
