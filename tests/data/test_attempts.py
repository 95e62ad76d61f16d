"""What a process that dies leaves behind."""

from __future__ import annotations

from typing import Any

from tart_ray.data.attempts import Attempt, Death
from tart_ray.data.run import Run


def test_the_next_process_finds_what_the_dead_ones_were_at(place: Any) -> None:
    run = Run.at(place.storage, place.at("run"), max_attempts=3)
    first = Attempt.begin(run, "score", "00000-00000")
    assert first.deaths == ()
    second = Attempt.begin(Run.at(run.storage, run.path, 3), "score", "00000-00000")  # after another driver's start
    assert second.deaths == (Death(None, None),)
    second.at([4, 7])
    second.at([7], "CUDA error")
    third = Attempt.begin(run, "score", "00000-00000")
    assert sorted(third.deaths, key=str) == [Death((7,), "CUDA error"), Death(None, None)]
    assert Attempt.begin(run, "encode", "00000-00000").deaths == ()
    third.end()
    assert Attempt.begin(run, "score", "00000-00000").deaths == ()
