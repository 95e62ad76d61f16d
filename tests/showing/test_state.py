"""What is said of runs at every point of their life, built by what the jobs themselves use."""

from __future__ import annotations

import importlib
import json
import pkgutil
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tart_ray.errors import ConfigurationError
from tart_ray.runs.lease import Holder, Lease, holder_of
from tart_ray.runs.run import Run
from tart_ray.runs.stage import Stage
from tart_ray.runs.versions import Versions
from tart_ray.showing.state import STAGES, Condition, Told, find, look
from tart_ray.showing.telling import amount, moment, tell
from tart_ray.storage import Storage

MADE = Path(__file__).parents[1] / "ray" / "data" / "interrupted_rerank"
PLAN = {"splits": {"candidates": 2}, "query_buckets": 2, "document_buckets": 0, "pairs_per_chunk": 8}
IDENTITY = {"job": "rerank", "plan": PLAN, "input": {"files": {}}}
REPORT = {
    "counts": {"read": 1_234, "quarantined": 4},
    "seconds": {"prepare": 1.5, "score": 2.0},
    "warnings": ["no instruction"],
}


class Cut(Told):
    chunks: tuple[tuple[str, int], ...]


@pytest.fixture
def run(place: Any) -> Run:
    return Run.at(place.storage, place.at("run"), 1).begin(IDENTITY, {"tart_ray": "0.1.0", "config": {}})


@pytest.fixture
def lease(run: Run) -> Iterator[Lease]:
    lease = Lease(run, print)
    yield lease
    lease.release()


def lines(run: Run) -> list[str]:
    return [*tell(look(run.opened()), {})]


def commit_all_but_one_chunk(run: Run) -> None:
    for unit, rows in (("00000", 10), ("00001", 7)):
        run.commit(Stage("read-candidates", Told), unit, Told(rows=rows, quarantined=1))
    run.commit(Stage("chunk", Cut), "00000", Cut(rows=9, chunks=(("00000-00000", 9),)))
    run.commit(Stage("chunk", Cut), "00001", Cut(rows=6, chunks=(("00001-00000", 4), ("00001-00001", 2))))
    for chunk, rows in (("00000-00000", 9), ("00001-00001", 2)):
        run.commit(Stage("score", Told), chunk, Told(rows=rows))


def test_a_run_that_is_at_work(run: Run, lease: Lease) -> None:
    commit_all_but_one_chunk(run)
    seen = look(run.opened())
    assert seen.condition is Condition.RUNNING
    assert [(s.stage, s.done, s.units, s.rows, s.quarantined) for s in seen.stages] == [
        ("read-candidates", 2, 2, 17, 2),
        ("chunk", 2, 2, 15, 0),
        ("score", 2, 3, 11, 0),
        ("rank", 0, 2, 0, 0),
    ]
    told = lines(run)
    assert told[0] == "jobs.rerank: still running"
    assert "  score            2 of 3  1 missing  11    0" in told
    holder = seen.holder
    assert holder is not None
    assert told[-1] == (
        f"the same command over the same input is refused as long as process {holder.pid} on {holder.host} is at work"
    )


def test_commits_of_a_run_that_was_here_before_are_not_counted(run: Run) -> None:
    url = run.url("_commits", "score", "00000-00000.json")
    run.storage.write(url, json.dumps({"rows": 9, "quarantined": 0, "run_id": "another"}).encode())
    assert [stage.done for stage in look(run.opened()).stages if stage.stage == "score"] == []


def test_a_run_whose_driver_gave_the_lease_back_is_taken_over_at_once(run: Run) -> None:
    Lease(run, print).release()
    assert look(run.opened()).condition is Condition.STOPPED
    assert lines(run)[-1].endswith("takes over at once and does what is missing; what is committed stays")


def test_a_driver_that_is_silent_for_long_is_no_longer_at_work() -> None:
    assert Holder("elsewhere", 7, 29.0, has_ended=False).is_at_work
    assert not Holder("elsewhere", 7, 31.0, has_ended=False).is_at_work
    assert not Holder("here", 7, 1.0, has_ended=True).is_at_work


def test_who_has_a_lease_and_since_when_it_is_silent(run: Run, lease: Lease) -> None:
    holder = holder_of(run)
    assert holder is not None
    assert holder.is_at_work
    assert 0 <= holder.silent < 30
    lease.release()
    assert holder_of(run) is not None
    assert holder_of(run).has_ended  # type: ignore[union-attr]


def test_a_run_that_nobody_has_begun_holds_nobodys_lease(run: Run) -> None:
    assert holder_of(run) is None
    assert look(run.opened()).condition is Condition.STOPPED


@pytest.mark.parametrize("scored", [False, True])
def test_a_run_that_failed_says_why_and_what_may_begin_there(run: Run, scored: bool) -> None:
    if scored:
        run.commit(Stage("score", Told), "00000-00000", Told(rows=9))
    run.fail("input.candidates: all rows are bad")
    told = lines(run)
    assert told[0] == "jobs.rerank: failed because of its input or its configuration"
    assert "  the reason: input.candidates: all rows are bad" in told
    expected = "another configuration needs another output.path" if scored else "so may another begin here"
    assert told[-1].endswith(f"continues once the input or the configuration is mended; {expected}")


@pytest.mark.parametrize("success", [False, True])
def test_a_run_that_ended_tells_its_report(run: Run, success: bool) -> None:
    run.finish(REPORT, "<html>", success=success)
    told = lines(run)
    assert told[0] == f"jobs.rerank: {'finished' if success else 'ended over its limits, without _SUCCESS'}"
    assert "  took 3.5 s in its last session: prepare 1.5, score 2.0" in told
    assert "warning: no instruction" in told
    assert [line for line in told if line.startswith(("  read ", "  quarantined "))] == [
        "  read         1,234",
        "  quarantined      4",
    ]
    assert told[-1].endswith("has nothing to do" if success else "accepts what is there and writes _SUCCESS")


def test_a_run_that_scores_for_another_is_told_with_it_and_has_its_lease(run: Run, lease: Lease) -> None:
    scoring = Run.at(run.storage, run.url("scoring"), 1).begin({**IDENTITY, "job": "score"}, {"config": {}})
    scoring.commit(Stage("read-candidates", Told), "00000", Told(rows=3))
    told = lines(run)
    assert f"scoring, in {scoring.path}: still running" in told
    assert told[told.index(f"scoring, in {scoring.path}: still running") + 3].split()[:4] == [
        "read-candidates", "1", "of", "2",
    ]  # fmt: skip
    assert look(scoring.opened()).condition is Condition.RUNNING


def test_a_run_of_an_older_release_that_was_killed(tmp_path: Path) -> None:
    shutil.copytree(MADE / "run", tmp_path / "run")
    found = find(Storage(), str(tmp_path / "run"))
    assert isinstance(found, Run)
    seen = look(found)
    assert seen.condition is Condition.STOPPED
    done = {stage.stage: (stage.done, stage.units) for stage in seen.stages}
    assert done["chunk"][0] == done["chunk"][1] == 1
    assert 0 < done["score"][0] < done["score"][1]  # type: ignore[operator]
    assert done["rank"] == (0, 1)


def test_a_run_in_a_directory_called_runs_has_its_own_lease(place: Any) -> None:
    run = Run.at(place.storage, place.at("runs", "42"), 1).begin(IDENTITY, {"config": {}})
    lease = Lease(run, print)
    assert look(run.opened()).condition is Condition.RUNNING
    with pytest.raises(ConfigurationError, match=r"no manifest\.json there"):
        find(place.storage, place.url)
    lease.release()


def test_a_version_of_labels_has_the_lease_above_it(place: Any) -> None:
    versions = Versions(Run.at(place.storage, place.at("labels"), 1))
    identity = {"job": "relabel", "scores": {"plan": PLAN}, "base": None}
    run = versions.run(versions.id_of(identity, None)).begin(identity, {"config": {}})
    lease = Lease(versions.place, print)
    assert look(run.opened()).condition is Condition.RUNNING
    assert isinstance(find(place.storage, versions.path), Versions)
    lease.release()
    assert look(run.opened()).condition is Condition.STOPPED


def test_when_a_training_saved_its_state(place: Any) -> None:
    identity = {"job": "train", "input": {"files": {"train": []}}}
    run = Run.at(place.storage, place.at("trained"), 1).begin(identity, {"config": {}})
    assert look(run).saved is None
    run.write(b"state", "_work", "state.pt")
    saved = look(run).saved
    assert saved is not None
    assert f"the state of the training was saved last at {moment(saved)}" in lines(run)


@pytest.mark.parametrize("room", ["reranking", "relabeling", "mining", "evaluation", "training", "scores"])
def test_every_stage_of_a_job_has_its_place_in_the_order(room: str) -> None:
    package = importlib.import_module(f"tart_ray.{room}")
    found = [
        importlib.import_module(f"tart_ray.{room}.{module.name}") for module in pkgutil.iter_modules(package.__path__)
    ]
    stages = {value.name for module in found for value in vars(module).values() if isinstance(value, Stage)}
    assert stages
    assert stages <= {*STAGES}


def test_a_place_without_a_run_is_refused(place: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"no manifest.json there; expected output.path of a job"):
        find(place.storage, place.at("nowhere"))
    lease = Lease(Run.at(place.storage, place.at("begun"), 1), print)
    with pytest.raises(ConfigurationError, match=r"process \d+ on \S+ took the lease and has not begun"):
        find(place.storage, place.at("begun"))
    lease.release()


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (25_240, "25.2 kB"), (3_400_000, "3.4 MB"), (10**15, "1000.0 TB")],
)
def test_amounts(nbytes: int, text: str) -> None:
    assert amount(nbytes) == text
