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

from tart_ray.data.quarantine import Quarantine
from tart_ray.data.run import Run, RunConflictError, differences
from tart_ray.data.storage import Storage

IDENTITY = {"model": {"path": "m", "fingerprint": "abc"}, "input": {"files": [["a", 1, "v1"], ("b", 2, "v2")]}}


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
    assert run.committed("score") == {}
    records: dict[str, Any] = {"00000-00001": {"rows": 3, "name": "zwölf"}, "00000-00000": {"rows": 0}}
    for unit, record in records.items():
        assert run.commit("score", unit, record) == record
    run.commit("rank", "00000", {"rows": 9})
    run.commit("score", "00000-00000", {"rows": 1})
    assert run.committed("score") == {"00000-00000": {"rows": 1}, "00000-00001": records["00000-00001"]}
    assert run.committed("rank") == {"00000": {"rows": 9}}


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
    run.begin(IDENTITY, {})
    run.commit("score", "a", {})
    run.storage.write(run.url("_work", "x"), b"")
    order: list[str] = []
    write, remove = run.storage.write, run.storage.remove_tree
    monkeypatch.setattr(run.storage, "write", lambda url, data: (write(url, data), order.append(url)))
    monkeypatch.setattr(run.storage, "remove_tree", lambda url: (remove(url), order.append(url)))
    assert not run.is_complete()
    run.finish({"rows": 1}, "<html>", success=success)
    last = ["_SUCCESS"] if success else []
    assert [url.rsplit("/", 1)[-1] for url in order] == ["report.json", "report.html", "_work", *last]
    assert run.is_complete() is success
    assert not run.storage.holds_files(run.url("_work"))
    left = {*run.storage.names(run.path)} - {"_work"}  # which SeaweedFS goes on listing
    assert left == {"_commits", "manifest.json", "report.html", "report.json", *last}
    assert run.check(IDENTITY)


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
