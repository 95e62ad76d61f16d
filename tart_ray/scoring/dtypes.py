"""The dtypes that models compute in."""

from __future__ import annotations

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def resolve_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype to compute in; ``auto`` and None mean bfloat16 on CUDA, float32 elsewhere.

    Raises:
        ValueError: anything else than float32 and bfloat16 (T5's activations overflow in float16).
    """
    if dtype is None or dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    resolved = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if resolved is None or resolved not in DTYPES.values():
        raise ValueError(f"dtype: got {dtype!r}, expected one of auto, {', '.join(DTYPES)}; T5 overflows in float16")
    return resolved
