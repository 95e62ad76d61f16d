"""One driver at a time: a real file or object, threads and processes that hold the lease or die with it."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tart_ray.errors import LeaseHeldError, RunLostError
from tart_ray.runs import lease as lease_module
from tart_ray.runs.lease import Lease, confirm_driver
from tart_ray.runs.run import Run

HOLD = """
import sys
from tart_ray.runs.lease import Lease
from tart_ray.runs.run import Run
from tart_ray.storage import Storage
lease = Lease(Run.at(Storage(), sys.argv[1], 1), print)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds become tenths."""
    for name in ("RENEW_SECONDS", "EXPIRE_SECONDS", "POLL_SECONDS"):
        monkeypatch.setattr(lease_module, name, getattr(lease_module, name) / 10)


@pytest.fixture
def losses() -> queue.Queue[str]:
    return queue.Queue()


@pytest.fixture
def take(place: Any, losses: queue.Queue[str]) -> Iterator[Any]:
    """Takes the lease of one place, for another driver every time."""
    taken: list[Lease] = []

    def take_it() -> Lease:
        taken.append(Lease(Run.at(place.storage, place.at("run"), 1), losses.put))
        return taken[-1]

    yield take_it
    for held in taken:
        held.release()


def forget_this_machine(place: Any, term: int, **changes: Any) -> None:
    """Make the owner of a term one of another machine, whose processes cannot be seen."""
    url = place.at("run", "_lease", f"{term:08d}.json")
    content = json.loads(place.storage.read(url))
    content["owner"] |= {"space": "elsewhere", "host": "far-away"}
    place.storage.write(url, json.dumps(content | changes).encode())


def test_the_second_is_refused_while_the_first_lives_and_told_who_it_is(take: Any, place: Any) -> None:
    first = take()
    with pytest.raises(LeaseHeldError, match=r"run: another run is at work there: process \d+ on .*Wait for its end"):
        take()
    first.confirm()
    first.release()
    second = take()
    second.confirm()
    with pytest.raises(LeaseHeldError):
        first.confirm()


def test_a_lease_that_nobody_renews_is_taken_over_and_its_owner_told_when_it_comes_back(
    take: Any, place: Any, losses: queue.Queue[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as slow:
        slow.setattr(lease_module, "RENEW_SECONDS", 8.0)  # suspended, while the other's patience lasts 3 s
        take()
        forget_this_machine(place, 1)
    second = take()
    assert "another run is at work there" in losses.get(timeout=30)
    second.confirm()
    assert losses.empty()


def test_a_lease_of_a_process_of_this_machine_that_died_is_free_at_once(
    local: Any, monkeypatch: pytest.MonkeyPatch, losses: queue.Queue[str]
) -> None:
    monkeypatch.setattr(lease_module, "EXPIRE_SECONDS", 3600.0)
    command = [sys.executable, "-c", HOLD, local.at("run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LeaseHeldError, match=f"process {holder.pid} "):
            Lease(Run.at(local.storage, local.at("run"), 1), losses.put)
        holder.kill()
        holder.wait()
        Lease(Run.at(local.storage, local.at("run"), 1), losses.put).release()


def test_of_many_that_want_it_one_gets_it(place: Any, losses: queue.Queue[str]) -> None:
    def try_it(_: int) -> Lease | None:
        try:
            return Lease(Run.at(place.storage, place.at("run"), 1), losses.put)
        except LeaseHeldError:
            return None

    with ThreadPoolExecutor(8) as pool:
        (owner,) = filter(None, pool.map(try_it, range(8)))
    owner.confirm()
    owner.release()
    assert losses.empty()


def test_an_owner_that_comes_back_after_the_run_was_completed_is_told(take: Any, place: Any) -> None:
    held = take()
    place.storage.remove_tree(place.at("run", "_lease"))
    with pytest.raises(RunLostError, match="another driver completed the run there, or somebody removed it"):
        held.confirm()


def test_an_owner_whose_directory_was_removed_is_told_and_touches_nothing_of_the_next_one(
    take: Any, place: Any, losses: queue.Queue[str]
) -> None:
    first = take()
    place.storage.remove_tree(place.at("run"))
    second = take()
    term = place.storage.read(place.at("run/_lease/00000001.json"))
    assert losses.get(timeout=30)  # whether it looked before or after the other began
    with pytest.raises(RunLostError, match=r"was removed .* and holds another run: process \d+ on .*give it another"):
        first.confirm()
    first.release()
    assert place.storage.read(place.at("run/_lease/00000001.json")) == term
    second.confirm()
    with pytest.raises(LeaseHeldError):
        take()
    assert losses.empty()


def test_a_beat_that_comes_late_makes_no_term(take: Any, place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory is removed right after the owner looked, and before its beat is written."""
    write, reached = place.storage.write, threading.Event()

    def remove_and_write(url: str, data: bytes) -> None:
        place.storage.remove_tree(place.at("run"))
        write(url, data)
        reached.set()

    take()
    monkeypatch.setattr(place.storage, "write", remove_and_write)
    assert reached.wait(30)
    monkeypatch.undo()
    assert not place.storage.exists(place.at("run/_lease/00000001.json"))
    take().confirm()


def test_a_run_that_is_completed_while_another_driver_watches_is_no_error(
    take: Any, place: Any, losses: queue.Queue[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 3600.0)
    take()
    forget_this_machine(place, 1)
    read = Lease._read

    def read_and_complete(lease: Lease, term: int) -> Any:
        found = read(lease, term)
        place.storage.remove_tree(place.at("run", "_lease"))
        monkeypatch.setattr(Lease, "_read", read)
        return found

    monkeypatch.setattr(Lease, "_read", read_and_complete)
    take().confirm()


def test_nothing_is_left_of_it_behind_a_complete_run(take: Any, place: Any) -> None:
    held = take()
    place.put("run/_SUCCESS", b"")
    held.release()
    assert not place.storage.holds_files(place.at("run", "_lease"))


def test_a_place_where_a_run_begins_is_a_place_for_a_run(take: Any, place: Any) -> None:
    take()
    assert Run.at(place.storage, place.at("run"), 1).check({}) is False


def test_workers_of_a_driver_that_was_replaced_are_told(take: Any, place: Any, losses: queue.Queue[str]) -> None:
    run = Run.at(place.storage, place.at("run"), 1).begin({}, {})
    lease = Lease(run, losses.put)
    confirm_driver(run)
    lease.release()
    take()
    with pytest.raises(LeaseHeldError):
        confirm_driver(run)
