"""Work around bad rows: processes that die are real ones where the death is what is tested."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tart_ray.errors import PoisonUnitError
from tart_ray.runs.attempts import LOST_NODE, OUT_OF_MEMORY, Attempt, Process
from tart_ray.runs.run import Run
from tart_ray.scores import isolate as isolate_module
from tart_ray.scores.isolate import Rows, isolate
from tart_ray.storage import Storage

BATCHES = [np.array(rows) for rows in ([5, 1, 9], [0, 2, 3], [8], [4, 6, 7])]
WORKER = """
import ast, dataclasses, os, sys
from tart_ray.runs.attempts import Attempt
from tart_ray.runs.run import Run
from tart_ray.storage import Storage
from tart_ray.scores.isolate import isolate
import numpy as np

folder, bad, max_attempts, fault = ast.literal_eval(sys.argv[1])
run = dataclasses.replace(Run.at(Storage(), folder, 3), session="one driver")
done, seen = set(), set()

def work(rows):
    seen.update(rows.tolist())
    if seen & bad and fault == "broken for good":
        raise RuntimeError("CUDA error: misaligned address")
    if bad & set(rows.tolist()):
        os._exit(9)
    done.update(rows.tolist())

batches = np.array_split(np.arange(1000), 100)
with Attempt.begin(run, "score", "unit") as attempt:
    reasons = isolate(attempt, batches, work, max_attempts=max_attempts, is_usable=lambda: not seen & bad)
assert done | reasons.keys() == set(range(1000))
print(reasons)
"""


def processes(*arguments: object) -> tuple[int, dict[int, str]]:
    """One process after the other at a unit of 1,000 rows: how many died, and what the one that did not made of it."""
    for died in range(20):
        done = subprocess.run(
            [sys.executable, "-c", WORKER, repr(arguments)], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return died, ast.literal_eval(done.stdout)
        assert done.returncode in (1, 9), done.stderr
    raise AssertionError("20 processes died")


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    return Attempt.begin(Run.at(Storage(), str(tmp_path), 3), "score", "unit")


def recorder(done: list[list[int]], bad: Callable[[set[int]], bool]) -> Callable[[Rows], None]:
    def work(rows: Rows) -> None:
        done.append(rows.tolist())
        if bad(set(rows.tolist())):
            raise ValueError("no good")

    return work


def test_a_unit_without_a_fault_is_done_in_one_go(attempt: Attempt) -> None:
    done: list[list[int]] = []
    assert isolate(attempt, BATCHES, recorder(done, lambda _: False), max_attempts=3) == {}
    assert done == [list(range(10))]


def test_rows_that_raise_are_found_and_the_others_stay_in_their_batches(attempt: Attempt) -> None:
    done: list[list[int]] = []
    reasons = isolate(attempt, BATCHES, recorder(done, lambda rows: bool({2, 8} & rows)), max_attempts=3)
    assert reasons == {2: "raised ValueError: no good", 8: "raised ValueError: no good"}
    parts = [[5, 1, 9], [0, 2, 3], [8], [4, 6, 7]]
    assert done == [list(range(10)), *parts, [0], [2], [3]]


def test_a_batch_that_fails_where_none_of_its_rows_does_costs_no_row(attempt: Attempt) -> None:
    done: list[list[int]] = []
    assert isolate(attempt, BATCHES, recorder(done, lambda rows: len(rows) > 1 and 4 in rows), max_attempts=3) == {}
    assert done[-3:] == [[4], [6], [7]]


def test_every_row_may_be_bad(attempt: Attempt) -> None:
    assert isolate(attempt, BATCHES, recorder([], lambda _: True), max_attempts=3).keys() == set(range(10))


def test_parts_are_few_and_hold_whole_batches(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolate_module, "PARTS", 2)
    done: list[list[int]] = []
    isolate(attempt, BATCHES, recorder(done, lambda rows: len(rows) == 10), max_attempts=3)
    assert done[1:] == [[5, 1, 9, 0, 2, 3], [8, 4, 6, 7]]


@pytest.mark.parametrize(("deadly", "max_attempts", "deaths"), [({423}, 3, 4), ({423}, 5, 5), ({3, 423, 977}, 3, 10)])
def test_rows_that_kill_their_process_are_found_by_the_processes_after_it(
    tmp_path: Path, deadly: set[int], max_attempts: int, deaths: int
) -> None:
    died, reasons = processes(str(tmp_path), deadly, max_attempts, "dies")
    assert died == deaths
    assert reasons.keys() == deadly
    assert reasons[423].startswith(f"{max(max_attempts, 4)} processes died with it at work")
    assert list((tmp_path / "_work" / "attempts" / "score-unit").iterdir()) == []


def test_too_many_deaths_are_not_the_rows(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolate_module, "MAX_DEATHS", 2)
    for _ in range(2):
        Attempt.begin(attempt.run, "score", "unit")
    refused = pytest.raises(PoisonUnitError, match=r"^score unit: 3 processes died on it, more than bad rows explain")
    with refused, Attempt.begin(attempt.run, "score", "unit") as again:
        isolate(again, BATCHES, lambda _: None, max_attempts=3)
    with Attempt.begin(attempt.run, "score", "unit") as rerun:
        assert isolate(rerun, BATCHES, lambda _: None, max_attempts=3) == {}


def test_drivers_that_are_killed_with_all_their_processes_cost_no_row_and_no_row_is_done_alone(
    attempt: Attempt,
) -> None:
    for rows in (None, [0, 2, 3], [2], [2], [2], [2]):  # at the whole, at a part, and at one of its rows
        killed = Run.at(Storage(), attempt.run.path, 3)  # a start of the driver of its own
        Attempt.begin(killed, "score", "unit").at(rows)
    done: list[list[int]] = []
    with Attempt.begin(Run.at(Storage(), attempt.run.path, 3), "score", "unit") as again:
        assert len(again.deaths) == 7
        assert isolate(again, BATCHES, recorder(done, lambda _: False), max_attempts=3) == {}
    assert done == [list(range(10))]


@pytest.mark.parametrize(("cause", "rows"), [(LOST_NODE, 60), (OUT_OF_MEMORY, 9)])
def test_lost_nodes_and_kills_for_lack_of_memory_cost_no_row(attempt: Attempt, cause: str, rows: int) -> None:
    process = Process("node", "worker")
    for _ in range(rows):
        Attempt.begin(attempt.run, "score", "unit", process=process).at([2])
    with Attempt.begin(attempt.run, "score", "unit", excuse=lambda _: cause) as again:
        assert isolate(again, BATCHES, lambda _: None, max_attempts=3) == {}


def test_a_unit_whose_nodes_run_out_of_memory_again_and_again_is_refused_by_name(attempt: Attempt) -> None:
    for _ in range(10):
        Attempt.begin(attempt.run, "score", "unit", process=Process("node", "worker")).at([2])
    refused = pytest.raises(PoisonUnitError, match=r"^score unit: Ray's memory monitor ended 10 processes at it")
    with refused, Attempt.begin(attempt.run, "score", "unit", excuse=lambda _: OUT_OF_MEMORY) as again:
        isolate(again, BATCHES, lambda _: None, max_attempts=3)


def test_an_error_of_every_row_is_not_the_rows(attempt: Attempt) -> None:
    batches = np.array_split(np.arange(300), 10)
    with pytest.raises(PoisonUnitError, match=r"^score unit: each of 100 rows raised ValueError: no good; that is not"):
        isolate(attempt, batches, recorder([], lambda _: True), max_attempts=3)


def test_a_process_that_cannot_go_on_ends_and_leaves_its_last_words(tmp_path: Path) -> None:
    died, reasons = processes(str(tmp_path), {423}, 3, "broken for good")
    assert died == 4
    assert reasons == {
        423: "4 processes died with it at work, 2 of them with nothing else; "
        "it said: RuntimeError: CUDA error: misaligned address"
    }
