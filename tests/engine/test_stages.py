"""How the units of a stage are dealt out to actors."""

from __future__ import annotations

import pytest

from tart_ray.engine.stages import shares


@pytest.mark.parametrize(
    ("units", "workers", "sizes"),
    [
        (0, 2, []),
        (3, 8, [1, 1, 1]),  # fewer than workers: one each
        (16, 1, [4, 3, 2, 1, 1, 1, 1, 1, 1, 1]),  # a quarter of 16, of 12, of 9, of 7 …
        (16, 2, [2] + [1] * 14),
        (200, 1, [32, 32, 32, 26, 19, 14, 11, 8, 6, 5, 3, 3, 2, 1, 1, 1, 1, 1, 1, 1]),  # at most 32
    ],
)
def test_lists_get_shorter(units: int, workers: int, sizes: list[int]) -> None:
    names = [str(unit) for unit in range(units)]
    found = shares(names, workers)
    assert [len(share) for share in found] == sizes
    assert [name for share in found for name in share] == names
