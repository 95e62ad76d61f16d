"""Drivers killed with SIGKILL, between any two requests to the store; each time a rerun goes on."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from support.drivers import CHUNKS, IN_FLIGHT, Jobs, changes, puts

BEFORE, AFTER = True, False
POINTS = [
    ("the lease", puts("/_lease/"), BEFORE),
    ("the manifest", puts("/manifest.json"), BEFORE),
    ("the manifest", puts("/manifest.json"), AFTER),
    ("a commit of reading", puts("/_commits/read-candidates/"), BEFORE),
    ("a fragment of the join", puts(r"/_work/\w+/join/"), AFTER),
    ("the commit of a join", puts("/_commits/join/"), AFTER),
    ("a chunk's texts", puts(r"/_work/\w+/chunks/"), AFTER),
    ("the commit of chunks", puts("/_commits/chunk/"), BEFORE),
    ("an attempt", puts(r"/_work/\w+/attempts/score-"), AFTER),
    ("the scores of a chunk", puts("/scores/"), BEFORE),
    ("the commit of a chunk, its files being there", puts("/_commits/score/"), BEFORE),
    ("the commit of a chunk", puts("/_commits/score/"), AFTER),
    ("a ranked file", puts("/reranked/"), BEFORE),
    ("a ranked file", puts("/reranked/"), AFTER),
    ("the commit of a ranking", puts("/_commits/rank/"), BEFORE),
    ("the report", puts("/report.json"), AFTER),
    ("the removal of what the stages needed", changes("_work"), BEFORE),
    ("_SUCCESS", puts("/_SUCCESS"), BEFORE),
    ("_SUCCESS", puts("/_SUCCESS"), AFTER),
]
QUICK = POINTS[10:11]


@pytest.mark.parametrize("points", [QUICK, pytest.param(POINTS, marks=pytest.mark.matrix)], ids=["some", "all"])
@pytest.mark.parametrize("family", ["enct5", pytest.param("cross-encoder", marks=pytest.mark.matrix)], indirect=True)
@pytest.mark.timeout(1800)
def test_named_moments(points: list[Any], jobs: Jobs, undisturbed_job: Any, assert_same: Any) -> None:
    run = f"named-{len(points)}"
    for name, predicate, before in points:
        assert jobs.kill(run, predicate, before=before, machine=True), f"no request for {name}"
    assert jobs.finish(run) == 0, jobs.said
    assert_same(jobs.rows(run), undisturbed_job)
    assert jobs.exists(f"{run}/_SUCCESS")
    rescored = jobs.starts_of_chunks(run).total() - CHUNKS
    print(f"{len(points)} kills, {rescored} of {CHUNKS} chunks rescored")
    assert 0 <= rescored <= IN_FLIGHT * len(points)


@pytest.mark.matrix
@pytest.mark.timeout(3600)
def test_random_moments(jobs: Jobs, undisturbed_job: Any, assert_same: Any) -> None:
    """Every run is killed at a request that changes something, drawn between the 1st and the 40th."""
    draw = random.Random(20261123)
    kills, rescored = 0, 0
    for attempt in itertools.count():
        run = f"random-{attempt}"
        while True:
            wanted, before = draw.randint(1, 40), draw.random() < 0.5
            seen = itertools.count(1)
            changing = changes(run)
            if not jobs.kill(run, lambda request: changing(request) and next(seen) == wanted, before=before):  # noqa: B023
                break
            kills += 1
        assert jobs.exists(f"{run}/_SUCCESS"), jobs.said
        assert_same(jobs.rows(run), undisturbed_job)
        rescored += jobs.starts_of_chunks(run).total() - CHUNKS
        if kills >= 20:
            break
    print(f"{kills} kills in {attempt + 1} runs, {rescored} chunks rescored")
    assert rescored <= IN_FLIGHT * kills
