"""What the CPU encoder asks of the allocator, counted in page faults of a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = """
import resource
import torch
from support.random_models import make_model
from tart_ray.scoring.encoder import PackedEncoder

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        tensors = [torch.empty(4 << 20, dtype=torch.uint8).fill_(1) for _ in range(8)]  # 32 MB, given back together
        del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

model = make_model()
faults()
by_default = faults()
encoder = PackedEncoder(model)
faults()
print(by_default, faults())
"""
INITIAL = "glibc.malloc.mmap_threshold=131072:glibc.malloc.trim_threshold=131072"  # its first ones, which else adapt


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_an_encoder_uses_freed_memory_again_without_the_kernel() -> None:
    environment = os.environ | {"GLIBC_TUNABLES": INITIAL, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", FAULTS]
    found = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    by_default, kept = map(int, found.stdout.split())
    assert 10 * kept < by_default
