"""Matrix products with what follows them: oneDNN's fused kernels on CPUs, plain torch elsewhere.

Two implementations of one signature. A `Projection` is ``x @ weight.T`` and may end in the gate, the product or the sum
that EncT5 needs there; oneDNN applies these to the accumulator, before it is rounded to the dtype, at next to no cost.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch.nn import functional as F


class Projection(Protocol):
    """``x @ weight.T`` for ``x`` (…, in), with one of four endings; results (…, out) in the dtype of ``x``."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...

    def gelu(self, x: torch.Tensor) -> torch.Tensor:
        """``gelu_tanh(x @ weight.T)``."""
        ...

    def times(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """``(x @ weight.T) * other``."""
        ...

    def plus(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """``x @ weight.T + other``."""
        ...


class TorchProjection:
    """By torch's public operators, on any device.

    Args:
        weight: (out, in); shared, not copied.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        self._weight = weight

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self._weight)

    def gelu(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(self(x), approximate="tanh")

    def times(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return self(x) * other

    def plus(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return self(x) + other


class OneDnnProjection:
    """By the oneDNN operators that torch.compile itself emits for CPUs, called directly: no compilation, any shape.

    Args:
        weight: (out, in), on the CPU; copied into the blocked layout that oneDNN wants.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return _pointwise(x, self._weight, None, "none", [], "")

    def gelu(self, x: torch.Tensor) -> torch.Tensor:
        return _pointwise(x, self._weight, None, "gelu", [], "tanh")

    def times(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return _pointwise_binary(x, other, self._weight, None, "mul")

    def plus(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return _pointwise_binary(x, other, self._weight, None, "add")


def _pointwise(*arguments: object) -> torch.Tensor:
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise.default(*arguments)
    return result


def _pointwise_binary(*arguments: object) -> torch.Tensor:
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(*arguments)
    return result


def make_projection(weight: torch.Tensor) -> Projection:
    """The fastest implementation for the weight's device and dtype."""
    return OneDnnProjection(weight) if has_onednn(weight) else TorchProjection(weight)


def has_onednn(weight: torch.Tensor) -> bool:
    """Whether oneDNN has kernels for the weight's device and dtype."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if hasattr(torch.ops.mkldnn, "_is_mkldnn_acl_supported") and torch.ops.mkldnn._is_mkldnn_acl_supported():
        return False  # on aarch64 with Arm's library, where torch.compile does not emit them either
    return weight.dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
