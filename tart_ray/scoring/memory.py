"""Memory of the process that scores on a CPU."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
KEPT_BYTES = 1 << 28  # more than a batch of the default size frees at once


def keep_freed_memory() -> None:
    """Let glibc keep what a layer frees for the next one, up to `KEPT_BYTES`; elsewhere, do nothing.

    By default it gives tensors of some megabytes back to the kernel, which hands them out again page by page, zeroed:
    a tenth of the time of a bfloat16 layer. The setting is the process's own, and stays.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
