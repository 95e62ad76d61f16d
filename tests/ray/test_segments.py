"""A stage whose driver writes segments: interrupted, continued, read by a driver without a lease."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tart_ray.engine.cluster import chunkwise_execution
from tart_ray.engine.stages import run_stage
from tart_ray.engine.stopping import Stop, held_lease, leased
from tart_ray.runs import directory, segments
from tart_ray.runs.run import Run
from tart_ray.runs.stage import Record, Stage
from tart_ray.storage import Storage

pytestmark = pytest.mark.usefixtures("cluster")

UNITS = [f"{number:05d}" for number in range(7)]


class Noted(Record):
    """What units say here."""

    rows: int


STAGE = Stage("count", Noted)
RECORDS = {unit: Noted(rows=int(unit)) for unit in UNITS}


@pytest.fixture(autouse=True)
def three_in_a_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (directory, segments):
        monkeypatch.setattr(module, "SEGMENT_UNITS", 3)


def start(path: Path, fails_at: str | None = None) -> dict[str, Noted]:
    """One start of a driver, whose units leave a line each time they are done; it ends at one of them, if named."""
    run = Run.at(Storage(), str(path / "run"), max_attempts=2)

    def count(unit: str) -> Noted:
        if unit == fails_at:
            while len([*path.glob("run/_commits/count/*.json")]) < len(UNITS) - 1:
                time.sleep(0.1)  # between polls: nothing else is under way when the driver ends
            raise RuntimeError("the store is full")
        with (path / unit).open("a") as log:
            log.write("done\n")
        return Noted(rows=int(unit))

    with chunkwise_execution(), leased(run, Stop(ends_process=False)):
        return run_stage(run.begin({}, {}), STAGE, UNITS, count)


def segment_numbers(path: Path) -> list[int]:
    return sorted(int(file.name.split("-")[0]) for file in path.glob("run/_commits/count/_segments/*"))


def times_done(path: Path) -> dict[str, int]:
    return {unit: (path / unit).read_text().count("done") for unit in UNITS}


def test_an_interrupted_stage_is_continued_and_no_unit_is_done_twice(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="the store is full"):
        start(tmp_path, fails_at="00004")
    assert {*segment_numbers(tmp_path)} <= {0, 2}  # those that the driver had seen the end of
    assert start(tmp_path) == RECORDS
    assert segment_numbers(tmp_path) == [0, 1, 2]
    assert times_done(tmp_path) == dict.fromkeys(UNITS, 1)
    assert {file.stem for file in tmp_path.glob("run/_commits/count/*.json")} == {*UNITS}


def test_a_run_without_segments_gets_them_when_it_goes_on(tmp_path: Path) -> None:
    run = Run.at(Storage(), str(tmp_path / "run"), max_attempts=2).begin({}, {})
    for unit in UNITS[:5]:
        run.commit(STAGE, unit, RECORDS[unit])
    assert start(tmp_path) == RECORDS
    assert segment_numbers(tmp_path) == [0, 1, 2]
    assert {unit for unit in UNITS if (tmp_path / unit).exists()} == {"00005", "00006"}


def test_without_a_lease_no_segment_is_written(tmp_path: Path) -> None:
    assert held_lease() is None
    run = Run.at(Storage(), str(tmp_path / "run"), max_attempts=2).begin({}, {})
    with chunkwise_execution():
        assert run_stage(run, STAGE, UNITS, lambda unit: RECORDS[unit]) == RECORDS
    assert segment_numbers(tmp_path) == []
    with leased(run, Stop(ends_process=False)) as lease:
        assert held_lease() is lease
    assert held_lease() is None
