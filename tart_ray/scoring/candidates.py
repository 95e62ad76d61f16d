"""What could encode for a model on its device, by name."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from tart_ray.model.enct5 import EncT5ForSequenceClassification
from tart_ray.scoring.choice import REFERENCE
from tart_ray.scoring.cuda import CompiledEncoder, FlashPackedAttention, PackedAttention, PaddedAttention
from tart_ray.scoring.encoder import PackedEncoder, has_gated_gelu
from tart_ray.scoring.projections import TorchProjection, has_onednn
from tart_ray.scoring.reference import Encoder, ReferenceEncoder

Maker = Callable[[], Encoder]


def candidates(
    model: EncT5ForSequenceClassification, *, max_length: int, max_tokens: int, consume: bool = False
) -> dict[str, Maker]:
    """What could encode for this model on its device, the reference first; nothing is made or compiled yet.

    Args:
        model: on its device, in its dtype, in evaluation mode.
        max_length: tokens of the longest pair there can be.
        max_tokens: the most padded tokens of a batch.
        consume: for an encoder with which nothing else is tried; see `PackedEncoder`.
    """
    reference: dict[str, Maker] = {REFERENCE: partial(ReferenceEncoder, model)}
    if not has_gated_gelu(model):
        return reference
    if model.device.type == "cuda":
        return reference | compiled_candidates(model, max_length=max_length, max_tokens=max_tokens)
    packed = partial(PackedEncoder, model, consume=consume)
    with_torch: dict[str, Maker] = {"packed-torch": partial(packed, projection=TorchProjection)}
    with_onednn: dict[str, Maker] = {"packed": packed} if has_onednn(model.shared.weight) else {}
    return reference | with_onednn | with_torch


def compiled_candidates(
    model: EncT5ForSequenceClassification, *, max_length: int, max_tokens: int, **options: Any
) -> dict[str, Maker]:
    """Those for CUDA, which run on CPUs too where ``compile_layer`` leaves the layer as it is.

    Args:
        options: of `CompiledEncoder`.
    """
    compiled = partial(CompiledEncoder, model, max_length=max_length, max_tokens=max_tokens, **options)
    makers: dict[str, Maker] = {
        "padded": partial(compiled, attention=PaddedAttention),
        "packed": partial(compiled, attention=PackedAttention),
    }
    if importlib.util.find_spec("flash_attn") and importlib.util.find_spec("flash_attn.cute"):
        makers["packed-flash"] = partial(compiled, attention=FlashPackedAttention)
    return makers


def named(makers: dict[str, Maker], name: str) -> str:
    """The candidate that a configuration means: ``packed`` is the fastest way to pack that there is on the CPU.

    Raises:
        ValueError: there is none.
    """
    found = next((maker for maker in (name, f"{name}-torch") if maker in makers), None)
    if found is None:
        raise ValueError(f"got the encoder {name!r}, expected one of {', '.join(makers)}, which this model has there")
    return found


def device_name(device: torch.device) -> str:
    """What the device is, for people and for comparing."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{device.type} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
