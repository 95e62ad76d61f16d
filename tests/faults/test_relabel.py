"""Drivers of jobs.relabel that overlap, that are killed while they score, and that are killed before they switch."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from pyarrow.fs import FSSpecHandler, PyFileSystem
from support.drivers import DOCUMENTS, QUERIES, Jobs, is_put, puts
from support.faulty_s3 import faulty, hold
from support.s3_jobs import put

from tart_ray.errors import ExitCode


class Relabelling(Jobs):
    """Runs of jobs.relabel over one input by output path."""

    job = "relabel"

    def current(self, run: str) -> str:
        pointer = self.proxy.store.filesystem().cat(f"{self.bucket}/{run}/current.json")
        found: str = json.loads(pointer)["run"]
        return found

    def table(self, run: str, part: str) -> list[dict[str, Any]]:
        """A part of the current version."""
        filesystem = PyFileSystem(FSSpecHandler(self.proxy.store.filesystem()))
        folder = f"{self.bucket}/{run}/runs/{self.current(run)}/{part}"
        rows: list[dict[str, Any]] = (
            ds.dataset(folder, filesystem=filesystem, partitioning="hive").to_table().to_pylist()
        )
        return rows

    def counts(self, run: str) -> dict[str, int]:
        report = f"{self.bucket}/{run}/runs/{self.current(run)}/report.json"
        found: dict[str, int] = json.loads(self.proxy.store.filesystem().cat(report))["counts"]
        return found

    def scorings(self, run: str) -> Counter[tuple[str, str]]:
        """How often the scores of each chunk were written, by run and chunk."""
        name = re.compile(rf"{self.bucket}/{run}/runs/([\w-]+)/_work/\w+/pending/scores/([\d-]+)\.parquet")
        return Counter(match.groups() for request in self.proxy.requests if (match := is_put(request, name)))  # type: ignore[misc]


@pytest.fixture(scope="module")
def _relabelling(s3: Any, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relabelling]:
    folder = tmp_path_factory.mktemp("relabelling")
    with faulty(s3) as proxy:
        environment = {**os.environ, "TART_RAY_CACHE": str(folder / "cache")}
        found = Relabelling(proxy, folder, tiny_checkpoint, environment)
        found.config["labels"] = {"cuts": [0.0]}
        yield found


@pytest.fixture
def relabelling(_relabelling: Relabelling) -> Iterator[Relabelling]:
    yield _relabelling
    _relabelling.proxy.behave()


@pytest.mark.matrix
@pytest.mark.timeout(1800)
def test_overlapping_runs_a_kill_while_scoring_and_one_before_the_switch(
    relabelling: Relabelling, undisturbed_job: Any
) -> None:
    jobs, pairs = relabelling, QUERIES * DOCUMENTS
    go_on, reached = threading.Event(), threading.Event()
    third_chunk = puts(r"/_work/\w+/pending/scores/00000-00002")
    jobs.proxy.on(third_chunk, hold(go_on, reached))
    with jobs.start("corpus") as first:
        assert reached.wait(240), jobs.said
        assert jobs.finish("corpus") == ExitCode.BAD_CONFIGURATION, jobs.said
        assert f"another run is at work there: process {first.pid} on " in jobs.said
        assert first.poll() is None
        first.kill()
    jobs.proxy.clear()
    go_on.set()
    assert not jobs.exists("corpus/current.json")
    before = jobs.scorings("corpus")

    # the same command continues the same run; it is killed again, all of it done but not switched to
    assert jobs.kill("corpus", puts("/current.json"), before=True)
    assert not jobs.exists("corpus/current.json")
    after = jobs.scorings("corpus")
    assert len({run for run, _ in after}) == 1
    committed = sum(1 for request in jobs.proxy.requests if puts("/corpus/.*/_commits/score/")(request))
    assert committed >= len(after) == len({chunk for _, chunk in after})
    assert sum((after - before).values()) < len(after), "what was committed before the first kill is not scored again"

    assert jobs.finish("corpus") == ExitCode.DONE, jobs.said
    assert jobs.scorings("corpus") == after
    found = {(row["query_id"], row["doc_id"]): row for row in jobs.table("corpus", "labels")}
    assert found.keys() == undisturbed_job.keys()
    for key, row in found.items():
        assert row["margin"] == pytest.approx(undisturbed_job[key]["margin"], abs=1e-5)
        assert row["label"] == int(row["margin"] >= 0)
    assert jobs.counts("corpus")["labelled"] == pairs
    first_run = jobs.current("corpus")

    # the corpus changes by one document, and the run over it is killed while it labels
    corpus = jobs.proxy.store.filesystem().cat(f"{jobs.bucket}/corpus.tsv").decode()
    put(jobs.proxy.store, f"{jobs.bucket}/corpus.tsv", re.sub(r"(?m)^d7\t.*$", "d7\tanother text", corpus))
    assert jobs.kill("corpus", puts("/_commits/label/"), before=True)
    assert jobs.current("corpus") == first_run
    assert jobs.finish("corpus") == ExitCode.DONE, jobs.said
    counts = jobs.counts("corpus")
    assert (counts["scored"], counts["reused"]) == (QUERIES, pairs - QUERIES)
    assert {row["doc_id"] for row in jobs.table("corpus", "scores") if row["scored_by"] != first_run} == {"d7"}

    # a rollback is one command
    assert jobs.finish("corpus", "--output.switch_to", "previous") == ExitCode.DONE, jobs.said
    assert jobs.current("corpus") == first_run


@pytest.mark.matrix
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("moment", ["current/", "current.json"], ids=["before", "after"])
def test_a_driver_that_is_suspended_while_it_switches_sets_no_older_version_current(
    relabelling: Relabelling, moment: str
) -> None:
    """Before it moves the pointer, or once it has and is about to write the copy that readers begin with."""
    jobs, run = relabelling, f"suspended-{moment[7:]}".strip("-/.")
    go_on, reached, over = threading.Event(), threading.Event(), threading.Event()
    switch = puts(f"/{run}/{moment}")
    jobs.proxy.on(lambda request: switch(request) and not over.is_set(), hold(go_on, reached))
    corpus = jobs.proxy.store.filesystem().cat(f"{jobs.bucket}/corpus.tsv").decode()
    with jobs.start(run) as first:
        log = jobs.log
        assert reached.wait(240), jobs.said
        first.send_signal(signal.SIGSTOP)
        over.set()
        try:
            put(jobs.proxy.store, f"{jobs.bucket}/corpus.tsv", re.sub(r"(?m)^d9\t.*$", f"d9\tnot {moment}", corpus))
            assert jobs.finish(run) == ExitCode.DONE, jobs.said
            newer = jobs.current(run)
            assert jobs.counts(run)["scored"] == QUERIES, "what the suspended driver scored is taken over"
            go_on.set()
        finally:
            first.send_signal(signal.SIGCONT)
        code = first.wait(120)
    assert code == ExitCode.FAILED or (moment == "current.json" and code == ExitCode.DONE), log.read_text()
    assert "Traceback" not in log.read_text()
    assert newer.startswith("00002-")
    assert jobs.current(run) == newer
    moves = jobs.proxy.store.filesystem().ls(f"{jobs.bucket}/{run}/current", detail=False)
    assert json.loads(jobs.proxy.store.filesystem().cat(sorted(moves)[-1]))["run"] == newer
