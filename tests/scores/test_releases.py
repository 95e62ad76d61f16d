"""One run is of one release: versions in identities and keys, and who reads what another release wrote."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest

from tart_ray.config import RelabelConfig, RerankConfig, StorageConfig
from tart_ray.errors import ConfigurationError, OtherReleaseError, RunConflictError
from tart_ray.relabeling import job as relabel
from tart_ray.relabeling.stages import LABEL_PAIRS, Labelled, known_tables
from tart_ray.reranking.job import look
from tart_ray.runs.run import Run
from tart_ray.runs.versions import Versions
from tart_ray.scores.plan import FORMAT_VERSION
from tart_ray.scores.releases import check_releases, library_releases
from tart_ray.scores.replica import load_at
from tart_ray.scores.store import find_run
from tart_ray.storage import Storage

PAIR = {"query_id": "q", "query": "wing", "doc_id": "d", "text": "flow"}


NO_CHUNKS = {
    "chunks": [], "rows": 0, "duplicates": 0, "without_instruction": 0,
    "quarantined": 0, "other_quarantined": 0, "query_duplicates": 0,
}  # fmt: skip


@pytest.fixture
def settings(tiny_checkpoint: Path, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "pairs.jsonl").write_text(json.dumps(PAIR) + "\n")
    return {
        "model": {"path": str(tiny_checkpoint)},
        "input": {"candidates": str(tmp_path / "pairs.jsonl")},
        "cluster": {"gpus_per_replica": 0},
    }


def identity_of(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    config = RerankConfig.model_validate(settings | {"output": {"path": str(folder / "run")}})
    return json.loads(json.dumps(look(config).identity))  # type: ignore[no-any-return]


def install(monkeypatch: pytest.MonkeyPatch, **releases: str) -> None:
    """As if these were installed here."""
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: releases.get(name) or real(name))


def test_releases_count_as_far_as_scores_depend_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, torch="2.13.1+cu130", transformers="5.23.0.dev0", sentencepiece="0.2.1")
    assert library_releases() == {"torch": "2.13", "transformers": "5.23", "sentencepiece": "0.2.1"}


def test_a_runs_identity_names_what_its_rows_are_of(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = identity_of(settings, tmp_path)
    assert {*found["model"]["versions"]} == {"tokenising", "scoring", "torch", "transformers", "sentencepiece"}
    assert found["versions"] == {"ranking": 1}
    assert found["format_version"] == FORMAT_VERSION
    run = Run.at(Storage(), str(tmp_path / "run"), 3)
    run.begin(found, {"tart_ray": "0.0.9"})
    assert run.check(identity_of(settings, tmp_path))
    install(monkeypatch, torch="1.0.0")
    with pytest.raises(RunConflictError, match=r"install that release.*\n  model\.versions\.torch: .* → \"1\.0\""):
        run.check(identity_of(settings, tmp_path))


def test_a_node_of_another_release_is_refused_by_replica_and_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    releases = library_releases()
    check_releases(releases)
    install(monkeypatch, transformers="4.30.2")
    with pytest.raises(OtherReleaseError, match=r"got transformers 4\.30, expected .*on every node"):
        load_at(releases, lambda config: pytest.fail("must not load"), None)  # type: ignore[arg-type]


def test_a_finished_run_that_another_release_prepared_is_not_prepared_again(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    config = RerankConfig.model_validate(settings | {"output": {"path": str(tmp_path / "run")}})
    run = Run.at(Storage(), str(tmp_path / "run"), 3)
    who = identity_of(settings, tmp_path) | {"format_version": FORMAT_VERSION - 1}
    run.begin(who, {"config": config.model_dump(mode="json"), "tart_ray": "0.0.9"})
    Storage().write(
        run.url("_commits", "chunk", "00000.json"), json.dumps(NO_CHUNKS | {"run_id": run.opened().id}).encode()
    )
    Storage().write(run.url("_SUCCESS"), b"")
    with pytest.raises(
        ConfigurationError, match=rf"prepared by another release \(tart-ray 0\.0\.9, format {FORMAT_VERSION - 1}; this"
    ):
        find_run(Storage(), str(tmp_path / "run"), StorageConfig(), 3)


def begin(versions: Versions, id_: str, format_version: int) -> Run:
    run = versions.run(id_)
    run.begin({"job": "relabel", "scores": {"format_version": format_version}, "base": None}, {"tart_ray": "0.0.9"})
    moves = {"unchanged": 0, "changed": 0, "new": 1, "gone": 0}
    run.commit(LABEL_PAIRS, "00000", Labelled(rows=1, given=0, labels={"0": 1}, flips=(), **moves))
    return run


def test_scores_of_another_format_are_not_taken_over(settings: dict[str, Any], tmp_path: Path) -> None:
    versions = Versions(Run.at(Storage(), str(tmp_path / "labels"), 3))
    begin(versions, "00001-other", FORMAT_VERSION - 1)
    begin(versions, "00001-same", FORMAT_VERSION)
    assert [*map(str, known_tables(versions, "00001-new", None))] == ["00001-same.bucket.00000"]
    versions.switch("00001-other", None)
    config = RelabelConfig.model_validate(
        settings | {"output": {"path": str(tmp_path / "labels")}, "labels": {"cuts": [0.0]}}
    )
    with pytest.raises(RunConflictError, match=r"00001-other was written by another release \(tart-ray 0\.0\.9\)"):
        relabel.relabel(config)


def test_content_keys_hold_the_versions_of_scores(settings: dict[str, Any], tmp_path: Path) -> None:
    config = RelabelConfig.model_validate(
        settings | {"output": {"path": str(tmp_path / "labels")}, "labels": {"cuts": [0.0]}}
    )
    task = relabel.look(Storage(), config)
    assert task.identity["scores"]["model"]["versions"] == identity_of(settings, tmp_path)["model"]["versions"]
    assert task.identity["versions"] == {"labelling": 1}
