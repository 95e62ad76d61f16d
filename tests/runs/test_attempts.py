"""What a process that dies leaves behind, and one that lives does not."""

from __future__ import annotations

from typing import Any

import pytest

from tart_ray.errors import PoisonUnitError
from tart_ray.runs.attempts import LOST_NODE, OTHER_DRIVER, OUT_OF_MEMORY, Attempt, Death, Process
from tart_ray.runs.run import Run


@pytest.fixture
def run(place: Any) -> Run:
    return Run.at(place.storage, place.at("run"), max_attempts=2)


def test_the_next_process_finds_what_the_dead_ones_were_at(run: Run) -> None:
    assert Attempt.begin(run, "score", "a").deaths == ()
    later = Run.at(run.storage, run.path, max_attempts=2)  # another start of the driver
    second = Attempt.begin(later, "score", "a")
    assert second.deaths == (Death(run.session, None, None, OTHER_DRIVER),)
    assert second.evidence == ()
    second.at([4, 7])
    second.at([7], "CUDA error")
    with Attempt.begin(run, "score", "a") as third:
        expected = {Death(later.session, (7,), "CUDA error", OTHER_DRIVER), Death(run.session, None, None)}
        assert {*third.deaths} == expected
        assert third.evidence == (Death(run.session, None, None),)
        assert Attempt.begin(run, "encode", "a").deaths == ()
    assert Attempt.begin(run, "score", "a").deaths == ()


def test_an_exception_is_no_death(run: Run) -> None:
    Attempt.begin(run, "score", "a")
    with pytest.raises(ZeroDivisionError), Attempt.begin(run, "score", "a"):
        raise ZeroDivisionError
    with Attempt.begin(run, "score", "a") as after:
        assert len(after.deaths) == 1


def test_a_unit_is_refused_after_too_many_deaths_under_one_driver_and_a_rerun_begins_anew(run: Run) -> None:
    for _ in range(2):
        with Attempt.begin(run, "join", "a") as fine:
            fine.check()
    for _ in range(2):
        Attempt.begin(run, "join", "a").check()
    told = r"^join a: 2 processes died on it \(limits.max_attempts_per_chunk: 2\)"
    with pytest.raises(PoisonUnitError, match=told), Attempt.begin(run, "join", "a") as refused:
        refused.check()
    Attempt.begin(run, "join", "a").check()
    later = Run.at(run.storage, run.path, max_attempts=2)
    for _ in range(6):
        Attempt.begin(later, "load", "model").check(tries=3)
    with pytest.raises(PoisonUnitError, match=r"^load model: 6 processes"):
        Attempt.begin(later, "load", "model").check(tries=3)


def test_an_attempt_that_ends_while_it_is_listed_is_no_death(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Attempt.begin(run, "score", "a")
    names = run.storage.names

    def names_and_end(url: str) -> list[str]:
        found = names(url)
        other.__exit__(None, None, None)
        return found

    monkeypatch.setattr(run.storage, "names", names_and_end)
    assert Attempt.begin(run, "score", "a").deaths == ()


def test_deaths_that_something_else_explains_are_no_evidence(run: Run) -> None:
    causes = {"lost": LOST_NODE, "killed": OUT_OF_MEMORY, "alone": None}
    for row, node in enumerate(causes):
        Attempt.begin(run, "score", "a", process=Process(node, "w")).at([row])
    with Attempt.begin(run, "score", "a", excuse=lambda process: causes[process.node]) as attempt:
        assert {death.rows: death.excuse for death in attempt.deaths} == {
            (0,): LOST_NODE, (1,): OUT_OF_MEMORY, (2,): None,
        }  # fmt: skip
        assert attempt.evidence == (Death(run.session, (2,), None),)
        assert attempt.killed_for_memory == 1


def test_a_unit_that_cannot_be_taken_apart_is_refused_for_lack_of_memory_too_and_not_for_lost_nodes(run: Run) -> None:
    causes = {"lost": LOST_NODE, "killed": OUT_OF_MEMORY}

    def begin(node: str) -> Attempt:
        return Attempt.begin(run, "join", "a", process=Process(node, "w"), excuse=lambda process: causes[process.node])

    for _ in range(5):
        begin("lost").check()
    for _ in range(2):
        begin("killed").check()
    with pytest.raises(PoisonUnitError, match="2 processes died on it"):
        begin("killed").check()
