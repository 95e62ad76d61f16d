"""One run in one directory."""

from __future__ import annotations

import datetime as dt
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tart_ray.errors import RunConflictError, RunLostError
from tart_ray.input.quarantine import Quarantine
from tart_ray.runs.run import Run, differences
from tart_ray.runs.stage import Record, Stage
from tart_ray.storage import Storage, join_url

IDENTITY = {"model": {"path": "m", "fingerprint": "abc"}, "input": {"files": [["a", 1, "v1"], ("b", 2, "v2")]}}


class Noted(Record):
    """What units say here."""

    rows: int = 0
    name: str | None = None


def stage(name: str) -> Stage[Noted]:
    return Stage(name, Noted)


@pytest.fixture
def run(place: Any) -> Run:
    return Run.at(place.storage, place.at("run") + "/", max_attempts=2)


def test_a_new_run_begins_and_a_rerun_resumes(run: Run) -> None:
    assert run.check(IDENTITY) is False
    run.begin(IDENTITY, {"tart_ray": "1.0"})
    manifest = json.loads(run.storage.read(run.url("manifest.json")))
    assert manifest["identity"] == json.loads(json.dumps(IDENTITY))
    assert manifest["tart_ray"] == "1.0"
    assert abs(manifest["created"] - time.time()) < 60
    again = Run.at(run.storage, run.path, max_attempts=2)
    assert again.check(IDENTITY) is True
    again.begin(IDENTITY, {"tart_ray": "2.0"})
    assert json.loads(run.storage.read(run.url("manifest.json"))) == manifest


def test_another_run_is_refused_with_the_differences(run: Run) -> None:
    run.begin(IDENTITY, {})
    other = {"model": {"path": "m", "fingerprint": "xyz"}, "input": {"files": [["a", 1, "v1"], ["b", 3, "v2"]]}}
    with pytest.raises(RunConflictError) as caught:
        run.check(other)
    assert str(caught.value).splitlines() == [
        f"output.path {run.path}: holds another run; repeat that one or choose another path. Differences:",
        "  input.files[1][1]: 2 → 3",
        '  model.fingerprint: "abc" → "xyz"',
    ]
    with pytest.raises(RunConflictError, match="holds another run"):
        run.begin(other, {})


def test_a_directory_of_others_is_refused(place: Any, run: Run) -> None:
    place.put("run/data.csv", b"1")
    place.put("run/sub/data.csv", b"1")
    with pytest.raises(RunConflictError, match=r"holds \['data.csv', 'sub'\], which no run of this project wrote"):
        run.check(IDENTITY)


@pytest.mark.parametrize("content", [b"{}", b"[]", b"<html>", b'"x"', b"\xff"])
def test_a_manifest_of_others_is_refused(place: Any, run: Run, content: bytes) -> None:
    place.put("run/manifest.json", content)
    with pytest.raises(RunConflictError, match=r"manifest\.json: no manifest of this project"):
        run.check(IDENTITY)


def test_an_empty_directory_is_a_place_for_a_run(place: Any, run: Run) -> None:
    place.put("run/sub/gone", b"1")  # on SeaweedFS, run/sub/ stays
    place.storage.remove_tree(place.at("run"))
    assert run.check(IDENTITY) is False


def test_of_concurrent_runs_exactly_one_begins(place: Any) -> None:
    def begin(i: int) -> bool:
        try:
            Run.at(place.storage, place.at("run"), max_attempts=2).begin({"seed": i}, {})
        except RunConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        began = list(pool.map(begin, range(8)))
    assert began.count(True) == 1
    assert json.loads(place.storage.read(place.at("run/manifest.json")))["identity"] == {"seed": began.index(True)}


def test_commits_come_back(run: Run) -> None:
    assert run.committed(stage("score")) == {}
    records = {"00000-00001": Noted(rows=3, name="zwölf"), "00000-00000": Noted(rows=0)}
    for unit, record in records.items():
        assert run.commit(stage("score"), unit, record) == record
    run.commit(stage("rank"), "00000", Noted(rows=9))
    run.commit(stage("score"), "00000-00000", Noted(rows=1))
    assert run.committed(stage("score")) == {"00000-00000": Noted(rows=1), "00000-00001": records["00000-00001"]}
    assert run.committed(stage("rank")) == {"00000": Noted(rows=9)}


def test_of_several_first_commits_one_is_believed(run: Run) -> None:
    run = run.begin(IDENTITY, {})
    assert run.record(stage("choice"), "u") is None
    with ThreadPoolExecutor(4) as pool:
        said = pool.map(lambda name: run.commit_first(stage("choice"), "u", Noted(name=name)).name, "abcdefgh")
    (first,) = {*said}
    assert run.record(stage("choice"), "u") == Noted(name=first)
    assert run.commit_first(stage("choice"), "u", Noted(name="late")).name == first


def test_a_first_commit_takes_the_place_of_another_runs(run: Run) -> None:
    run.commit(stage("choice"), "u", Noted(name="of no run"))
    run = run.begin(IDENTITY, {})
    assert run.record(stage("choice"), "u") is None
    assert run.commit_first(stage("choice"), "u", Noted(name="of this one")).name == "of this one"
    assert run.record(stage("choice"), "u") == Noted(name="of this one")


def test_bad_rows_of_an_attempt_that_did_not_commit_are_replaced(run: Run) -> None:
    bad = Quarantine("score")
    bad.add("NaN", "a.jsonl", 0, 0, {"query_id": "q"})
    assert run.write_quarantine(bad, "score", "a") == 1
    assert run.storage.names(run.url("quarantine")) == ["score-a.parquet"]
    assert run.write_quarantine(Quarantine("score"), "score", "a") == 0
    assert run.storage.names(run.url("quarantine")) == []


def test_quarantine_is_written_where_there_is_any(run: Run) -> None:
    quarantine = Quarantine("read")
    assert run.write_quarantine(quarantine, "read", "00000") == 0
    quarantine.add("a reason", "s3://b/file", 7, 2, {"query_id": "q", "doc_id": 1, "when": dt.timedelta(1)})
    quarantine.add("another", "s3://b/file", 8, 0, raw=b"\xff")
    assert run.write_quarantine(quarantine, "read", "00001") == 2
    assert run.storage.names(run.url("quarantine")) == ["read-00001.parquet"]
    reader = pa.BufferReader(run.storage.read(run.url("quarantine", "read-00001.parquet")))
    first, second = pa.parquet.read_table(reader).to_pylist()
    assert (first["query_id"], first["doc_id"], first["item"], first["raw"]) == ("q", "1", 2, None)
    assert json.loads(first["row"])["doc_id"] == 1
    assert (second["row"], second["raw"], second["position"]) == (None, b"\xff", 8)


@pytest.mark.parametrize("success", [True, False])
def test_the_end_of_a_run(run: Run, success: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run.begin(IDENTITY, {})
    run.commit(stage("score"), "a", Noted())
    run.write(b"", "_work", "x")
    order: list[str] = []
    create, remove = run.storage.create, run.storage.remove_tree
    monkeypatch.setattr(run.storage, "create", lambda url, data: order.append(url) or create(url, data))
    monkeypatch.setattr(run.storage, "remove_tree", lambda url: order.append(url) or remove(url))
    assert not run.is_complete()
    run.finish({"rows": 1}, "<html>", success=success)
    last = ["_SUCCESS"] if success else []
    work = f"_work/{run.id}"
    assert [url.removeprefix(f"{run.path}/") for url in order] == ["report.json", "report.html", work, *last]
    assert run.is_complete() is success
    assert not run.storage.holds_files(join_url(run.path, "_work"))
    left = {*run.storage.names(run.path)} - {"_work"}  # which SeaweedFS goes on listing
    assert left == {"_commits", "manifest.json", "report.html", "report.json", *last}
    assert run.check(IDENTITY)


def replaced(run: Run, identity: dict[str, Any]) -> Run:
    """Another run, in the directory of one that was removed."""
    run.storage.remove_tree(run.path)
    return Run.at(run.storage, run.path, max_attempts=2).begin(identity, {})


def test_a_run_whose_directory_is_removed_writes_nothing_more(run: Run) -> None:
    run = run.begin(IDENTITY, {})
    run.write(b"1", "scores", "a")
    run.storage.remove_tree(run.path)
    for write in (lambda: run.write(b"2", "scores", "b"), lambda: run.commit(stage("score"), "a", Noted())):
        with pytest.raises(RunLostError, match=r"run: was removed while this run was at work; this one has ended$"):
            write()
    assert not run.storage.holds_files(run.path)


def test_what_a_run_writes_late_does_not_reach_the_one_that_took_its_place(run: Run) -> None:
    old = run.begin(IDENTITY, {})
    new = replaced(old, {"other": 1})
    new.write(b"new", "scores", "a")
    new.commit(stage("score"), "a", Noted(rows=1))
    told = r"run: was removed, and another run began there, while this run was at work"
    for write in (
        lambda: old.write(b"old", "scores", "a"),
        lambda: old.write(b"old", "scores", "b"),
        lambda: old.commit(stage("score"), "a", Noted(rows=2)),
        lambda: old.write_quarantine(Quarantine("score"), "score", "a"),
        lambda: old.finish({}, "", success=True),
    ):
        new.write(b"bad rows", "quarantine", "score-a.parquet")
        with pytest.raises(RunLostError, match=told):
            write()
    assert new.storage.read(new.url("scores", "a")) == b"new"
    assert new.storage.names(new.url("scores")) == ["a"]
    assert new.storage.names(new.url("quarantine")) == ["score-a.parquet"]
    assert new.committed(stage("score")) == {"a": Noted(rows=1)}
    assert not new.is_complete()


def test_a_write_that_was_on_its_way_does_not_replace_a_file_of_the_next_run(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the old run has looked at, the moment before the store does it."""
    for moment in ("create", "replace"):
        old = Run.at(run.storage, run.path + moment, max_attempts=2).begin(IDENTITY, {})
        old.write(b"an attempt that did not commit", "scores", "a")
        really, new = getattr(old.storage, moment), []

        def late(*arguments: Any, really: Any = really, old: Run = old, new: list[Run] = new) -> bool:
            if not new:
                monkeypatch.undo()
                new.append(replaced(old, {"other": 1}))
                new[0].write(b"new", "scores", "a")
            return bool(really(*arguments))

        monkeypatch.setattr(old.storage, moment, late)
        with pytest.raises(RunLostError):
            old.write(b"old", "scores", "a")
        assert old.storage.read(new[0].url("scores", "a")) == b"new"


def test_what_another_run_left_is_replaced_and_never_counted(run: Run) -> None:
    old = run.begin(IDENTITY, {})
    new = replaced(old, {"other": 1})
    late = {"score/a.json": {"rows": 9, "run_id": old.id}, "score/b.json": {"rows": 9, "run_id": old.id}}
    for name, record in late.items():
        run.storage.write(new.url("_commits", name), json.dumps(record).encode())
    run.storage.write(new.url("scores", "a"), b"old")
    run.storage.write(new.url("_SUCCESS"), json.dumps({"run_id": old.id}).encode())
    assert new.committed(stage("score")) == {}
    assert not new.is_complete()
    new.write(b"new", "scores", "a")
    new.commit(stage("score"), "a", Noted(rows=1))
    assert (
        new.committed(stage("score"))
        == Run.at(run.storage, run.path, 2).committed(stage("score"))
        == {"a": Noted(rows=1)}
    )
    assert run.storage.read(new.url("scores", "a")) == b"new"
    new.finish({}, "", success=True)
    assert new.is_complete()


def test_a_run_that_failed_because_of_its_input_makes_room_for_another(run: Run) -> None:
    first = run.begin(IDENTITY, {})
    first.write(b"1", "negatives", "00000.parquet")
    first.write(b"1", "report.json")
    first.commit(stage("mine"), "00000", Noted())
    inner = Run.at(run.storage, first.url("scoring"), 2).begin({"inner": 1}, {})
    inner.write(b"1", "scores", "a")
    inner.commit(stage("score"), "a", Noted(rows=1))
    again = Run.at(run.storage, run.path, max_attempts=2)
    with pytest.raises(RunConflictError, match="holds another run"):
        again.check({"other": 1})
    first.fail("no judgement matches")
    assert again.check(IDENTITY) is True
    assert again.check({"other": 1}) is False
    second = again.begin({"other": 1}, {})
    assert second.id != first.id
    assert {*run.storage.names(run.path)} - {"_work", "_commits", "negatives"} == {"manifest.json", "scoring"}
    assert not any(run.storage.holds_files(second.url(name)) for name in ("_commits", "negatives"))
    assert inner.opened().committed(stage("score")) == {"a": Noted(rows=1)}
    with pytest.raises(RunConflictError, match="holds another run"):  # for this one has not failed
        again.check(IDENTITY)


def test_a_run_with_scores_makes_no_room(run: Run) -> None:
    first = run.begin(IDENTITY, {})
    first.commit(stage("score"), "a", Noted(rows=1))
    first.fail("a file was damaged")
    with pytest.raises(RunConflictError, match="holds another run"):
        run.check({"other": 1})
    assert first.committed(stage("score")) == {"a": Noted(rows=1)}


def test_parts_of_files_that_killed_writers_left_are_removed_when_the_run_goes_on(s3: Any, bucket: str) -> None:
    """Three of them in a run's directory, one beside it."""
    storage, files = Storage(s3.config), s3.filesystem()
    run = Run.at(storage, f"s3://{bucket}/uploads", 2).begin(IDENTITY, {})
    for key in ("uploads/_work/state.pt", "uploads/checkpoint/a", "uploads/checkpoint/b", "uploads-of-others/a"):
        upload = files.call_s3("create_multipart_upload", Bucket=bucket, Key=key)
        part = {"UploadId": upload["UploadId"], "PartNumber": 1, "Body": b"x" * (5 << 20)}
        files.call_s3("upload_part", Bucket=bucket, Key=key, **part)

    def unfinished() -> list[str]:
        found = files.call_s3("list_multipart_uploads", Bucket=bucket, Prefix="uploads").get("Uploads", [])
        return sorted(upload["Key"] for upload in found)

    assert len(unfinished()) == 4
    Run.at(storage, run.path, 2).begin(IDENTITY, {})
    assert unfinished() == ["uploads-of-others/a"]


def test_differences_are_told_by_place() -> None:
    old = {"a": 1, "b": {"c": [1, 2]}, "d": None, "gone": "x", "n": [1]}
    new = {"a": 1.5, "b": {"c": [1, 3]}, "d": None, "new": True, "n": [1, 2]}
    assert differences(old, new) == [
        "a: 1 → 1.5", "b.c[1]: 2 → 3", 'gone: "x" → null', "n: [1] → [1, 2]", "new: null → true",
    ]  # fmt: skip
    assert differences({"a": "x" * 300}, {"a": ""}) == [f'a: "{"x" * 199}… (302 characters) → ""']
    assert differences(old, old) == []


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({"model": {"versions": {"torch": "2.11"}}}, {"model": {"versions": {"torch": "2.13"}}}, "another release"),
        ({"format_version": 1}, {"format_version": 2}, "another release"),
        (
            {"model": {"fingerprint": "a"}},
            {"model": {"fingerprint": "b", "versions": {"scoring": 1}}},
            "another release",
        ),
        ({"versions": {"ranking": 1}, "top_k": 1}, {"versions": {"ranking": 2}, "top_k": 2}, "another run"),
        ({"input": {"columns": "versions"}}, {"input": {"columns": "text"}}, "another run"),
    ],
)
def test_a_run_of_another_release_is_refused_with_how_to_go_on(
    before: dict[str, Any], now: dict[str, Any], told: str, tmp_path: Path
) -> None:
    Run.at(Storage(), str(tmp_path), 3).begin(before, {"tart_ray": "0.0.9"})
    with pytest.raises(RunConflictError, match=told) as caught:
        Run.at(Storage(), str(tmp_path), 3).check(now)
    assert ("(tart-ray 0.0.9); install that release to finish this run" in str(caught.value)) == ("release" in told)
