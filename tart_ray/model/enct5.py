"""EncT5: the T5 encoder with a classifier on the hidden state of the leading ``<s>``.

Architecture: Liu et al., *EncT5: A Framework for Fine-tuning T5 as Non-autoregressive Models* (2021), in the
form that *Task-aware Retrieval with Instructions* (Asai et al., 2022) published TART-full in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Self

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import T5Config
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.t5.modeling_t5 import T5PreTrainedModel, T5Stack

from tart_ray.errors import CheckpointError
from tart_ray.model.checkpoint import list_checkpoint, open_checkpoint
from tart_ray.model.place import CheckpointPlace
from tart_ray.model.weights import check_values


class EncT5ForSequenceClassification(T5PreTrainedModel):
    """``logits = classifier(encoder(input_ids)[:, 0])``; label 1 is "relevant".

    The parameter names are those of the published checkpoint. ``shared`` and ``encoder.embed_tokens`` are one
    tensor; a checkpoint may hold either or both.
    """

    config_class = T5Config
    _tied_weights_keys = {"encoder.embed_tokens.weight": "shared.weight"}
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^lm_head\."]

    def __init__(self, config: T5Config) -> None:
        config.use_cache = False
        config.is_encoder_decoder = False
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = T5Stack(config)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.classifier = nn.Linear(config.d_model, config.num_labels)
        self.post_init()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str] | None,
        *model_args: Any,
        revision: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        fingerprint: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load from a hub id, a local directory or ``s3://…``; other arguments as in transformers.

        Weights are read as tensors only, shard by shard, and never through code in the checkpoint. Without a
        ``dtype`` they load in float32, the reference precision.

        Args:
            fingerprint: of the checkpoint that must be there (`tart_ray.model.checkpoint`). The weights are then held
                in memory of their own: those that stay mapped to their file would change with it.

        Raises:
            CheckpointChangedError: another one is there.
            CheckpointError: there is no such checkpoint, weights that scoring needs are not in it, its files cannot
                be read as tensors that fit the configuration, or weights are no numbers.
        """
        if pretrained_model_name_or_path is None or kwargs.get("state_dict") is not None:
            plain: Self = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
            return plain
        given = pretrained_model_name_or_path
        path = given if isinstance(given, str) else Path(given)
        place = CheckpointPlace(path, revision, storage_options, fingerprint)
        return cls.from_place(place, *model_args, **kwargs)

    @classmethod
    def from_place(cls, place: CheckpointPlace, *model_args: Any, **kwargs: Any) -> Self:
        """As `from_pretrained`, of a place."""
        origin = str(place.path)
        want_info = kwargs.pop("output_loading_info", False)
        allow_missing = kwargs.pop("allow_missing_weights", False)
        kwargs.setdefault("dtype", torch.float32)
        kwargs |= {"trust_remote_code": False, "weights_only": True, "local_files_only": True}
        with open_checkpoint(place) as folder:
            model, info = cls._load_folder(origin, folder, model_args, kwargs)
            if place.fingerprint is not None:
                _unmap(model)
            if not {"subfolder", "variant"} & {*kwargs}:
                check_values(origin, *list_checkpoint(CheckpointPlace(folder)))
        if info["missing_keys"] and not allow_missing:
            raise CheckpointError(
                f"{origin}: weights missing for {sorted(info['missing_keys'])}; they would be random. Is it an EncT5 "
                "checkpoint? (allow_missing_weights=True starts from a plain T5)"
            )
        return (model, info) if want_info else model  # type: ignore[return-value]  # transformers' own convention

    @classmethod
    def _load_folder(
        cls, origin: str, folder: Path, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Self, Any]:
        """The model in a directory, and what transformers says of loading it."""
        try:
            loaded: tuple[Self, Any] = super().from_pretrained(folder, *args, output_loading_info=True, **kwargs)
            return loaded
        except torch.OutOfMemoryError:
            raise
        except UnpicklingError as error:
            raise CheckpointError(
                f"{origin}: its .bin weights hold Python objects beside tensors; loading those could run code, so "
                "they are refused. Save the weights as safetensors"
            ) from error
        except (OSError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(
                f"{origin}: no weights that can be read (model.safetensors or pytorch_model.bin, one file or shards); "
                f"found {sorted(file.name for file in folder.iterdir())}: {error}"
            ) from error

    def get_input_embeddings(self) -> nn.Module:
        return self.shared

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.shared = value
        self.encoder.set_input_embeddings(value)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is getattr(self, "shared", None):
            nn.init.normal_(module.weight, std=self.config.initializer_factor)
        elif module is getattr(self, "classifier", None):
            nn.init.normal_(module.weight, std=self.config.initializer_factor * self.config.d_model**-0.5)
            nn.init.zeros_(module.bias)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput | tuple[torch.Tensor, ...]:
        """Score a padded batch.

        Args:
            input_ids: int64 (batch, length), each row starting with ``<s>``.
            attention_mask: (batch, length), 1 where there is a token; None where there is no padding.
            inputs_embeds: (batch, length, d_model), in place of ``input_ids``.
            labels: (batch,), int64 classes, or floats where the model has one label.

        Returns:
            ``logits`` (batch, num_labels), and ``loss`` where labels are given: cross-entropy, or the squared
            error of a one-label model.
        """
        outputs = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs
        )
        logits = self.classifier(self.dropout(outputs.last_hidden_state[:, 0]))
        loss = None
        if labels is not None and self.config.num_labels == 1:
            loss = nn.functional.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))
        elif labels is not None:
            loss = nn.functional.cross_entropy(logits, labels)
        output = SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
        return output.to_tuple() if return_dict is False else output


def _unmap(model: nn.Module) -> None:
    """Copy weights out of the file that they are mapped to, one at a time."""
    for weight in model.parameters():
        weight.data = weight.data.clone()
