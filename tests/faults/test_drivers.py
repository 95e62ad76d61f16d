"""Drivers that exclude each other, that are told to stop, and whose configuration changed in between."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from ray.job_submission import JobStatus, JobSubmissionClient
from support.drivers import IN_FLIGHT, Jobs, puts
from support.faulty_s3 import Exchange, call, hold
from support.functions import calling
from support.s3_jobs import ROOT, put

from tart_ray.errors import ExitCode

AUTO = {"gpus_per_replica": 0, "replicas": {"min": 1, "max": 1}}


@pytest.mark.matrix
def test_a_second_driver_is_refused_while_the_first_lives_and_takes_over_once_it_is_dead(
    jobs: Jobs, undisturbed_job: Any, assert_same: Any
) -> None:
    go_on, reached = threading.Event(), threading.Event()
    jobs.proxy.on(puts("/two/scores/"), hold(go_on, reached))
    with jobs.start("two") as first:
        assert reached.wait(120), jobs.said
        assert jobs.finish("two") == ExitCode.BAD_CONFIGURATION, jobs.said
        assert f"another run is at work there: process {first.pid} on " in jobs.said
        assert first.poll() is None
        first.kill()
    jobs.proxy.clear()
    go_on.set()
    assert jobs.finish("two") == ExitCode.DONE, jobs.said
    assert_same(jobs.rows("two"), undisturbed_job)
    assert not jobs.exists("two/_lease/00000001.json")


@pytest.mark.matrix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_driver_that_is_told_to_stop_lets_go_at_once(
    number: signal.Signals, jobs: Jobs, undisturbed_job: Any, assert_same: Any
) -> None:
    run, told = f"stop-{number.name}", []

    def tell(exchange: Exchange) -> None:
        told.append(time.monotonic())
        os.kill(driver.pid, number)
        exchange.answer(exchange.forward())

    jobs.proxy.on(puts(f"/{run}/_commits/score/"), tell, times=1)
    with jobs.start(run) as driver:
        code = driver.wait(300)
    print(f"{time.monotonic() - told[0]:.2f} s from {number.name} to the end of the driver")
    assert code == ExitCode.FAILED, jobs.said
    assert f"stopped by {number.name}; run the same command again to continue" in jobs.said
    assert "Traceback" not in jobs.said
    lease = jobs.proxy.store.filesystem().cat(f"{jobs.bucket}/{run}/_lease/00000001.json")
    assert json.loads(lease)["released"]
    assert jobs.finish(run) == ExitCode.DONE, jobs.said
    assert_same(jobs.rows(run), undisturbed_job)
    again = [chunk for chunk, starts in jobs.starts_of_chunks(run).items() if starts > 1]
    assert len(again) <= IN_FLIGHT


@pytest.mark.matrix
def test_what_changes_no_score_may_change_between_a_kill_and_the_rerun_and_nothing_else(
    jobs: Jobs, undisturbed_job: Any, assert_same: Any
) -> None:
    assert jobs.kill("changed", puts("/_commits/score/"), before=True)
    files = jobs.proxy.store.filesystem()

    def refused(*options: str) -> str:
        assert jobs.finish("changed", *options) == ExitCode.BAD_CONFIGURATION, jobs.said
        assert "holds another run; repeat that one or choose another path. Differences:" in jobs.said
        return jobs.said

    assert "  model.max_length: 32 → 24" in refused("--model.max_length", "24")
    assert '  input.instruction: null → "Find papers"' in refused("--input.instruction", "Find papers")
    for name, difference in {
        "corpus.tsv": "  input.files.corpus[0]",
        "model/config.json": "  model.fingerprint",
    }.items():
        content = files.cat(f"{jobs.bucket}/{name}")
        files.pipe(f"{jobs.bucket}/{name}", content + b"\n")
        assert difference in refused()
        files.pipe(f"{jobs.bucket}/{name}", content)
    allowed = ["--cluster.replicas.max", "2", "--storage.endpoint_url", jobs.proxy.store.endpoint_url]
    assert jobs.finish("changed", *allowed, "--limits.max_attempts_per_chunk", "5") == ExitCode.DONE, jobs.said
    assert_same(jobs.rows("changed"), undisturbed_job)


@pytest.mark.matrix
def test_ray_job_stop_ends_a_run_that_a_rerun_continues(
    jobs: Jobs, undisturbed_job: Any, assert_same: Any, head: str
) -> None:
    config = jobs.config | {"output": {"path": f"s3://{jobs.bucket}/stopped/"}, "cluster": AUTO}
    put(jobs.proxy.store, f"{jobs.bucket}/stopped.yaml", config)
    reached = threading.Event()
    jobs.proxy.on(puts("/stopped/_commits/score/"), call(reached.set, before=False), times=1)
    client = JobSubmissionClient(head)
    environment = {"working_dir": str(ROOT), "env_vars": jobs.proxy.server.environment}
    entrypoint = f"python -m jobs.rerank --config s3://{jobs.bucket}/stopped.yaml"
    job = client.submit_job(entrypoint=entrypoint, runtime_env=environment)
    assert reached.wait(120), client.get_job_logs(job)
    client.stop_job(job)
    while client.get_job_status(job) not in (JobStatus.STOPPED, JobStatus.FAILED):
        time.sleep(0.1)  # between looks at a job that is stopping
    assert "stopped by SIGTERM; run the same command again to continue" in client.get_job_logs(job)
    lease = jobs.proxy.store.filesystem().cat(f"{jobs.bucket}/stopped/_lease/00000001.json")
    assert json.loads(lease)["released"]
    again = client.submit_job(entrypoint=entrypoint, runtime_env=environment)
    while not client.get_job_status(again).is_terminal():
        time.sleep(0.1)  # between looks at a job that is running
    assert client.get_job_status(again) == JobStatus.SUCCEEDED, client.get_job_logs(again)
    assert_same(jobs.rows("stopped"), undisturbed_job)


@pytest.mark.matrix
@pytest.mark.timeout(1800)
def test_a_run_in_the_place_of_one_that_was_removed_has_rows_of_its_own_alone(jobs: Jobs, assert_same: Any) -> None:
    """The first driver lives on, with the scores of its chunks on their way to the store until the second is done."""
    other = ("--input.instruction", "Find papers")
    assert jobs.finish("other", *other) == ExitCode.DONE, jobs.said
    expected = {(row["query_id"], row["doc_id"]): row for row in jobs.rows("other")}
    go_on, reached, removed = threading.Event(), threading.Event(), threading.Event()
    scores = puts("/anew/scores/")
    jobs.proxy.on(lambda request: scores(request) and not removed.is_set(), hold(go_on, reached))
    files = jobs.proxy.store.filesystem()
    with jobs.start("anew") as first:
        log = jobs.log
        assert reached.wait(240), jobs.said
        files.rm(f"{jobs.bucket}/anew", recursive=True)
        removed.set()
        assert jobs.finish("anew", *other) == ExitCode.DONE, jobs.said
        go_on.set()
        assert first.wait(120) == ExitCode.FAILED, log.read_text()
    jobs.proxy.clear()
    said = log.read_text()
    assert "was removed" in said, said
    assert "Traceback" not in said, said
    rows = jobs.rows("anew")
    assert {row["instruction"] for row in rows} == {"Find papers"}
    assert_same(rows, expected)
    files.invalidate_cache()
    for name in files.ls(f"{jobs.bucket}/anew/scores", detail=False):  # none was replaced by one that came late
        for row in pq.read_table(io.BytesIO(files.cat(name))).to_pylist():
            assert row["margin"] == pytest.approx(expected[row["query_id"], row["doc_id"]]["margin"], abs=1e-5)


@pytest.mark.matrix
@pytest.mark.timeout(1800)
def test_a_driver_that_is_suspended_and_comes_back_while_another_goes_on_with_the_run(
    jobs: Jobs, undisturbed_job: Any, assert_same: Any
) -> None:
    """Before its report, which the other has written by then."""
    go_on, reached, over = threading.Event(), threading.Event(), threading.Event()
    report = puts("/suspended/report.json")
    jobs.proxy.on(lambda request: report(request) and not over.is_set(), hold(go_on, reached))
    with jobs.start("suspended") as first:
        log = jobs.log
        assert reached.wait(240), jobs.said
        first.send_signal(signal.SIGSTOP)
        over.set()
        try:
            assert jobs.finish("suspended") == ExitCode.DONE, jobs.said
            written = jobs.proxy.store.filesystem().cat(f"{jobs.bucket}/suspended/report.json")
            go_on.set()
        finally:
            first.send_signal(signal.SIGCONT)
        assert first.wait(120) == ExitCode.FAILED, log.read_text()
    assert "Traceback" not in log.read_text()
    assert jobs.proxy.store.filesystem().cat(f"{jobs.bucket}/suspended/report.json") == written
    assert jobs.exists("suspended/_SUCCESS")
    assert_same(jobs.rows("suspended"), undisturbed_job)


@pytest.mark.matrix
@pytest.mark.parametrize("thread", ["main", "another"])
def test_a_function_whose_run_another_driver_takes_over_raises_and_its_process_lives_on(
    thread: str, jobs: Jobs, undisturbed_job: Any, assert_same: Any, tmp_path: Path
) -> None:
    """Its process is suspended for longer than a lease lasts, with a chunk's commit on its way to the store."""
    run, go_on, reached, over = f"taken-from-{thread}", threading.Event(), threading.Event(), threading.Event()
    commits = puts(f"/{run}/_commits/score/")
    jobs.proxy.on(lambda request: commits(request) and not over.is_set(), hold(go_on, reached))
    with calling(thread, tmp_path, jobs.environment) as caller:
        caller.call(jobs.config_of(run))
        assert reached.wait(120), caller.log.read_text()
        caller.process.send_signal(signal.SIGSTOP)
        over.set()
        try:
            assert jobs.finish(run) == ExitCode.DONE, jobs.said
        finally:
            caller.process.send_signal(signal.SIGCONT)
        go_on.set()
        failed = caller.outcome()
        assert failed["error"] == "RunFailedError", failed
        assert "another driver completed the run there" in failed["message"], failed
        caller.call(jobs.config_of(f"after-{run}"))
        assert caller.outcome()["counts"]["scored"] == len(undisturbed_job)
    for name in (run, f"after-{run}"):
        assert_same(jobs.rows(name), undisturbed_job)
