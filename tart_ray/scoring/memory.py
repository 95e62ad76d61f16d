"""Memory of the process that scores."""

from __future__ import annotations

import ctypes
import sys

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
LARGEST_KEPT = 1 << 25  # bytes of a block; the most that every glibc takes on 64 bits
KEPT = 1 << 28  # bytes at the end of the heap, more than a batch of the default size frees at once


def keep_freed_memory() -> None:
    """Let glibc keep what a layer frees for the next one; elsewhere, do nothing.

    By default it may give tensors of some megabytes back to the kernel, which hands them out again page by page,
    zeroed. With this, blocks of up to 32 MB come from the heap, and up to 256 MB that are free at its end stay there
    (what lies free before a block that is in use stays in any case). The setting is the whole process's.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None and mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT):
        mallopt(M_TRIM_THRESHOLD, KEPT)


def free_unused_memory() -> None:
    """Give back what torch keeps of a GPU's memory; what an exception holds is in use still."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
