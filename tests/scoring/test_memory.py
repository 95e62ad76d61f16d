"""What the CPU encoder asks of the allocator, counted in page faults of a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from tart_ray.scoring.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        tensors = [torch.empty(4 << 20, dtype=torch.uint8).fill_(1) for _ in range(8)]  # 32 MB, given back together
        del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
by_default = faults()
keep_freed_memory()
faults()
print(by_default, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_is_used_again_without_the_kernel() -> None:
    found = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True)
    by_default, kept = map(int, found.stdout.split())
    assert 10 * kept < by_default
