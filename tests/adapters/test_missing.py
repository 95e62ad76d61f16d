"""What an adapter says where its library is not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("adapter", "module", "extra"),
    [
        ("mteb", "mteb", "mteb"),
        ("pyterrier", "pyterrier", "pyterrier"),
        ("sentence_transformers", "sentence_transformers", "cross-encoders"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(adapter: str, module: str, extra: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; import tart_ray.adapters.{adapter}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(f"pip install 'tart-ray[{extra}]'")
