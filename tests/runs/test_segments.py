"""Commits of many units in one object: they say what the single commits say, and nothing is lost where they do not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.drivers import puts
from support.faulty_s3 import Proxy, call, faulty
from support.s3_server import S3Server

from tart_ray.config import StorageConfig
from tart_ray.errors import LeaseHeldError, RunLostError, StorageError
from tart_ray.runs import directory, segments
from tart_ray.runs.lease import Lease
from tart_ray.runs.run import Run
from tart_ray.runs.segments import SegmentWriter
from tart_ray.runs.stage import Record, Stage
from tart_ray.storage import Storage

UNITS = [f"{number:05d}" for number in range(7)]


class Noted(Record):
    """What units say here."""

    rows: int = 0


STAGE = Stage("score", Noted)
RECORDS = {unit: Noted(rows=int(unit)) for unit in UNITS}


@pytest.fixture(autouse=True)
def three_in_a_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (directory, segments):
        monkeypatch.setattr(module, "SEGMENT_UNITS", 3)
    monkeypatch.setattr(directory, "SEGMENTS_AT_ONCE", 2)


@pytest.fixture
def run(place: Any) -> Run:
    return Run.at(place.storage, place.at("run"), max_attempts=2).begin({"first": 1}, {})


def again(run: Run) -> Run:
    """The same directory, for a driver that starts now."""
    return Run.at(Storage(run.storage.config), run.path, max_attempts=2).opened()


def still_held() -> None:
    """The lease of a driver that has it."""


def commit(run: Run, *units: str) -> dict[str, Noted]:
    return {unit: run.commit(STAGE, unit, RECORDS[unit]) for unit in units}


def write_segments(run: Run, *units: str) -> None:
    """What a driver does that sees these units committed."""
    SegmentWriter(run, STAGE, UNITS, {unit: RECORDS[unit] for unit in units}, still_held)


def segment_names(run: Run) -> list[str]:
    return run.storage.names(run.url("_commits", "score", "_segments"))


def remove_commits(run: Run, *units: str) -> None:
    """So that nothing but segments can tell of these units."""
    run.storage.remove(*(run.url("_commits", "score", f"{unit}.json") for unit in units))


def test_the_segment_of_a_slice_is_written_when_its_last_unit_is_done(run: Run) -> None:
    done = commit(run, "00001")
    writer = SegmentWriter(run, STAGE, UNITS, done, still_held)
    seen = {}
    for unit in ("00003", "00000", "00005", "00002", "00006", "00004"):
        done |= commit(run, unit)
        writer.add(unit)
        seen[unit] = [int(name.split("-")[0]) for name in segment_names(run)]
    assert seen == {
        "00003": [],
        "00000": [],
        "00005": [],
        "00002": [0],
        "00006": [0, 2],  # the last slice is a short one
        "00004": [0, 1, 2],
    }
    url = run.url("_commits", "score", "_segments", f"000000-{run.id}.json")
    assert json.loads(run.storage.read(url)) == {"00000": {"rows": 0}, "00001": {"rows": 1}, "00002": {"rows": 2}}
    singles = [f"{unit}.json" for unit in UNITS]
    assert run.storage.names(run.url("_commits", "score")) == [*singles, "_segments"]  # for earlier releases


def test_what_segments_say_is_not_read_one_by_one(run: Run) -> None:
    commit(run, *UNITS)
    write_segments(run, *UNITS)
    remove_commits(run, *UNITS)
    assert again(run).committed(STAGE) == again(run).committed(STAGE, UNITS) == RECORDS
    assert [*again(run).records(STAGE, UNITS[::-1]).items()] == [*RECORDS.items()][::-1]


def test_what_no_segment_says_is_read_one_by_one(run: Run) -> None:
    commit(run, *UNITS[:5])
    write_segments(run, *UNITS[:3])
    remove_commits(run, "00001")
    assert again(run).committed(STAGE) == again(run).committed(STAGE, UNITS) == {u: RECORDS[u] for u in UNITS[:5]}
    assert again(run).records(STAGE, UNITS[:5]) == {unit: RECORDS[unit] for unit in UNITS[:5]}
    with pytest.raises(StorageError, match=r"_commits/score/00003\.json and 3 more: cannot read"):
        again(run).records(STAGE, UNITS)


def test_a_driver_that_was_killed_before_it_wrote_a_segment_leaves_it_to_the_next(run: Run) -> None:
    commit(run, *UNITS[:5])
    resumed = again(run)
    SegmentWriter(resumed, STAGE, UNITS, resumed.committed(STAGE, UNITS), still_held)
    assert segment_names(run) == [f"000000-{run.id}.json"]


def test_a_segment_that_was_written_before_a_kill_is_written_no_more(run: Run) -> None:
    commit(run, *UNITS[:3])
    write_segments(run, *UNITS[:3])
    url = run.url("_commits", "score", "_segments", f"000000-{run.id}.json")
    run.storage.write(url, b"{}")  # to be told from what would be written
    resumed = again(run)
    assert resumed.committed(STAGE, UNITS) == {unit: RECORDS[unit] for unit in UNITS[:3]}
    SegmentWriter(resumed, STAGE, UNITS, resumed.committed(STAGE, UNITS), still_held)
    assert run.storage.read(url) == b"{}"


def test_a_stage_of_few_units_has_no_segments(run: Run) -> None:
    done = commit(run, *UNITS[:3])
    SegmentWriter(run, STAGE, UNITS[:3], done, still_held)
    assert segment_names(run) == []
    assert run.committed(STAGE, UNITS[:3]) == run.records(STAGE, UNITS[:3]) == done


def test_a_driver_that_lost_its_lease_writes_no_segment(run: Run) -> None:
    lease = Lease(run, lambda message: None)
    done = commit(run, *UNITS[:2])
    writer = SegmentWriter(run, STAGE, UNITS, done, lease.confirm)
    taken = {"owner": {"pid": 1, "host": "other", "session": "s"}, "nonce": "n", "released": False}
    assert run.storage.create(run.url("_lease", "00000002.json"), json.dumps(taken).encode())
    done |= commit(run, "00002")
    with pytest.raises(LeaseHeldError, match="process 1 on other"):
        writer.add("00002")
    assert segment_names(run) == []
    lease.release()


def test_of_two_drivers_that_write_a_segment_the_first_is_believed(run: Run) -> None:
    """One is late by the moment after it looked at its lease; both tell of commits that are there."""
    commit(run, *UNITS[:3])
    write_segments(run, *UNITS[:3])
    again(run).write_segment(STAGE, 0, {unit: Noted(rows=9) for unit in UNITS[:3]}, still_held)
    assert again(run).records(STAGE, UNITS[:3]) == {unit: RECORDS[unit] for unit in UNITS[:3]}
    assert again(run).committed(STAGE) == {unit: RECORDS[unit] for unit in UNITS[:3]}


def test_segments_of_a_run_that_was_here_before_do_not_count(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor those that it writes late, the moment before the store does it."""
    commit(run, *UNITS)
    write_segments(run, *UNITS[:3])
    left = run.storage.read(run.url("_commits", "score", "_segments", f"000000-{run.id}.json"))
    create, new = run.storage.create, []

    def late(url: str, data: bytes) -> bool:
        monkeypatch.undo()
        run.storage.remove_tree(run.path)
        new.append(Run.at(run.storage, run.path, max_attempts=2).begin({"second": 1}, {}))
        return create(url, data)

    monkeypatch.setattr(run.storage, "create", late)
    run.write_segment(STAGE, 1, {unit: RECORDS[unit] for unit in UNITS[3:6]}, still_held)
    (other,) = new
    run.storage.write(other.url("_commits", "score", "_segments", f"000000-{run.id}.json"), left)
    assert segment_names(other) == [f"000000-{run.id}.json", f"000001-{run.id}.json"]
    assert other.committed(STAGE) == other.committed(STAGE, UNITS) == {}
    with pytest.raises(RunLostError):
        run.write_segment(STAGE, 2, RECORDS, still_held)


def drive(endpoint_url: str, key: str, secret: str, path: str) -> None:
    """A driver in a process of its own, which does one unit after the other."""
    directory.SEGMENT_UNITS = segments.SEGMENT_UNITS = 3
    storage = Storage(StorageConfig(endpoint_url=endpoint_url, key=key, secret=secret))
    run = Run.at(storage, path, max_attempts=2).begin({}, {})
    done: dict[str, Noted] = {}
    writer = SegmentWriter(run, STAGE, UNITS, done, still_held)
    for unit in UNITS:
        done |= commit(run, unit)
        writer.add(unit)


@pytest.mark.parametrize("before", [True, False])
def test_a_driver_that_is_killed_at_a_segment_loses_nothing(before: bool, s3: S3Server, bucket: str) -> None:
    """The moment before the store has the second one, and the moment after."""
    path = f"s3://{bucket}/killed-{before}"
    with faulty(s3) as proxy:
        arguments = [proxy.server.endpoint_url, proxy.server.key, proxy.server.secret, path]
        started, driver = threading.Event(), []

        def kill() -> None:
            started.wait()
            driver[0].kill()

        proxy.on(puts(r"/_segments/000001-"), call(kill, before=before))
        code = "import sys, test_segments; test_segments.drive(*sys.argv[1:])"
        environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parent}:{os.environ['PYTHONPATH']}"}
        driver.append(subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment))
        started.set()
        assert driver[0].wait(60) == -signal.SIGKILL
    run = Run.at(Storage(s3.config), path, max_attempts=2).opened()
    done = {unit: RECORDS[unit] for unit in UNITS[:6]}
    assert len(segment_names(run)) == (1 if before else 2)
    assert run.committed(STAGE, UNITS) == run.records(STAGE, UNITS[:6]) == done
    SegmentWriter(run, STAGE, UNITS, run.committed(STAGE, UNITS), still_held)
    assert segment_names(run) == [f"00000{number}-{run.id}.json" for number in (0, 1)]


@pytest.fixture
def lagging(s3: S3Server) -> Iterator[Proxy]:
    with faulty(s3) as proxy:
        proxy.lag_listings(3600)
        yield proxy


def test_a_listing_that_lags_hides_no_unit_from_those_who_read_what_a_stage_wrote(lagging: Proxy, bucket: str) -> None:
    run = Run.at(Storage(lagging.server.config), f"s3://{bucket}/lagging", max_attempts=2).begin({}, {})
    commit(run, *UNITS)
    write_segments(run, *UNITS)
    assert again(run).committed(STAGE, UNITS) == {}  # which means that they are done again, to the same files
    assert again(run).records(STAGE, UNITS) == RECORDS
    write_segments(run, *UNITS)  # as such a driver does, which does not see that they are there
    lagging.behave()
    assert again(run).committed(STAGE) == RECORDS


@pytest.mark.parametrize("seen", [0, 1, 2])
def test_segments_that_are_gone_cost_requests_and_no_unit(seen: int, run: Run) -> None:
    commit(run, *UNITS)
    write_segments(run, *UNITS)
    run.storage.remove(*(url for _, url in run.segments(STAGE)[seen:]))
    assert again(run).records(STAGE, UNITS) == again(run).committed(STAGE, UNITS) == RECORDS
