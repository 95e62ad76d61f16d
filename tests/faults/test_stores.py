"""Stores that misbehave, refuse, or are full."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray._common.utils import get_default_ray_temp_dir
from support.drivers import Jobs, changes, puts
from support.faulty_s3 import Faults, reject
from support.job_files import read_output, write_jsonl

from tart_ray.errors import ExitCode, RunFailedError, StorageError
from tart_ray.reranking.job import rerank
from tart_ray.storage import Storage


@pytest.mark.parametrize("rate", [0.05, pytest.param(0.15, marks=pytest.mark.matrix)])
def test_faults_that_pass(rate: float, jobs: Jobs, undisturbed_job: Any, assert_same: Any) -> None:
    run = f"faults-{rate}"
    requests, failed = len(jobs.proxy.requests), jobs.proxy.injected
    jobs.proxy.misbehave(Faults(seed=5, rate=rate, delay=0.5))
    jobs.proxy.lag_listings(3)
    assert jobs.finish(run) == 0, jobs.said
    assert_same(jobs.rows(run), undisturbed_job)
    failed = jobs.proxy.injected - failed
    print(f"{failed.total()} of {len(jobs.proxy.requests) - requests} requests failed: {dict(failed)}")
    assert failed.total() >= 100 * rate


@pytest.mark.parametrize(
    ("options", "refused", "message"),
    [
        ([], puts("/refused/"), "refused/_lease/00000001.json: cannot write it: .*check the credentials"),
        ([], lambda request: "corpus.tsv" in request.query + request.key, "corpus.tsv: cannot .*check the credentials"),
        (["--input.candidates", "s3://no-such-bucket-here/a/"], None, "s3://no-such-bucket-here/a/: .*no .*"),
        (["--storage.key", "nobody", "--storage.secret", "x"], None, "cannot .*; check the credentials"),
    ],
    ids=["output", "input", "bucket", "key"],
)
def test_a_store_that_refuses_ends_the_job_at_once(options: list[str], refused: Any, message: str, jobs: Jobs) -> None:
    if refused:
        jobs.proxy.on(refused, reject(403, "AccessDenied", "Access Denied"))
    before = len(jobs.proxy.requests)
    assert jobs.finish("refused", *options) == ExitCode.BAD_CONFIGURATION, jobs.said
    (error,) = [line for line in jobs.said.splitlines() if line.startswith("configuration error: ")]
    assert re.search(message, error), error
    assert "Traceback" not in jobs.said
    asked = Counter((request.method, request.key, request.query) for request in jobs.proxy.requests[before:])
    assert max(asked.values()) < 10, asked.most_common(3)  # nothing was tried again and again: a retried request is 25
    assert not jobs.exists("refused/manifest.json")


def test_exclusive_creations_that_overlap_are_repeated(jobs: Jobs) -> None:
    storage, url = Storage(jobs.proxy.server.config), f"s3://{jobs.bucket}/created"
    jobs.proxy.on(puts("/created"), reject(409, "ConditionalRequestConflict"), times=2)
    assert storage.create(url, b"mine")
    assert not storage.create(url, b"another's")
    jobs.proxy.on(puts("/created"), reject(409, "ConditionalRequestConflict"))
    with pytest.raises(StorageError, match="ConditionalRequestConflict, 5 times"):
        storage.create(url, b"mine")


@pytest.mark.matrix
def test_a_store_that_is_full_and_has_room_again(jobs: Jobs, undisturbed_job: Any, assert_same: Any) -> None:
    jobs.proxy.on(puts("/full/scores/"), reject(507, "XMinioStorageFull", "Storage backend has reached its limit."))
    assert jobs.finish("full") == ExitCode.FAILED
    (error,) = [line for line in jobs.said.splitlines() if line.startswith("the job failed: ")]
    assert "/full/scores/" in error
    assert "make space there and run the same command again" in error
    assert "Traceback" not in jobs.said
    jobs.proxy.clear()
    assert jobs.finish("full") == ExitCode.DONE, jobs.said
    assert_same(jobs.rows("full"), undisturbed_job)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.matrix
@pytest.mark.usefixtures("cluster")
def test_a_disk_that_is_full_and_has_room_again(
    small_disk: Path, pairs: Any, undisturbed: Any, assert_same: Any, tmp_path: Path, make_config: Any
) -> None:
    write_jsonl(tmp_path / "candidates" / "a.jsonl", pairs)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * 900_000)
    config = make_config(output={"path": str(small_disk / "run")})
    with pytest.raises(RunFailedError, match=r"No space left on device.*make space there and run the same command"):
        rerank(config)
    ballast.unlink()
    assert rerank(config) == ExitCode.DONE
    assert_same(read_output(small_disk / "run"), undisturbed)
    assert not [name for _, _, names in os.walk(small_disk) for name in names if name.endswith(".partial")]


@pytest.mark.matrix
def test_a_store_that_goes_away_and_comes_back(jobs: Jobs, undisturbed_job: Any, assert_same: Any) -> None:
    jobs.proxy.on(changes("gone"), reject(500, "InternalError", "down"))
    jobs.proxy.on(puts(r"/gone/_work/\w+/chunks/"), reject(500, "InternalError", "down"))
    assert jobs.finish("gone") == ExitCode.BAD_CONFIGURATION, jobs.said  # nothing could begin
    assert "Traceback" not in jobs.said
    jobs.proxy.clear()
    jobs.proxy.on(puts("/gone/scores/"), reject(500, "InternalError", "down"))
    assert jobs.finish("gone") == ExitCode.FAILED
    assert "/gone/scores/" in jobs.said
    assert "Traceback" not in jobs.said
    jobs.proxy.clear()
    assert jobs.finish("gone") == ExitCode.DONE
    assert_same(jobs.rows("gone"), undisturbed_job)


@pytest.mark.matrix
def test_credentials_are_told_to_nobody(jobs: Jobs) -> None:
    server = jobs.proxy.server
    secrets = ["--storage.key", server.key, "--storage.secret", server.secret]
    jobs.proxy.on(puts("/_commits/rank/"), reject(403, "AccessDenied", "Access Denied"))
    codes = [jobs.finish("secrets", *secrets)]
    said = jobs.said
    jobs.proxy.clear()
    codes.append(jobs.finish("secrets", *secrets))
    assert codes == [ExitCode.FAILED, ExitCode.DONE], said + jobs.said
    files = server.filesystem()
    written = b"".join(files.cat_file(name) for name in files.find(f"{jobs.bucket}/secrets"))
    sessions = sorted(Path(get_default_ray_temp_dir()).glob("session_2*"))[-2:]
    logs = [path for session in sessions for path in (session / "logs").rglob("*") if path.is_file()]
    assert len(written) > 10_000
    assert len(logs) > 10
    everything = [said.encode(), jobs.said.encode(), written, *(path.read_bytes() for path in logs)]
    for secret in (server.key, server.secret):
        assert not [text[-500:] for text in everything if secret.encode() in text]
