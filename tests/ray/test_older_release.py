"""A run that an older release began, interrupted while it scored, is finished by this one.

`data/interrupted_rerank/make.py` made the run at commit f9f1c34, when modules lay elsewhere than today. When a version
in the identity of runs goes up, those from before are refused on purpose: then the last release that continues this one
is to make another.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import tart_ray
from tart_ray.config import RerankConfig
from tart_ray.reranking.job import look
from tart_ray.scores.releases import library_releases

pytestmark = pytest.mark.usefixtures("cluster")

MADE = Path(__file__).parent / "data" / "interrupted_rerank"
PAIRS = 1_100


@pytest.fixture
def began(tmp_path: Path) -> Path:
    """The run, its input and its checkpoint."""
    return Path(shutil.copytree(MADE, tmp_path / "began", ignore=shutil.ignore_patterns("make.py")))


def config_of(folder: Path, output: str) -> dict[str, Any]:
    return {
        "model": {"path": str(folder / "model"), "max_length": 32},
        "input": {"candidates": str(folder / "candidates.jsonl.gz"), "instruction": "Find it"},
        "output": {"path": str(folder / output)},
        "cluster": {"gpus_per_replica": 0, "replicas": {"max": 1}},
    }


def put_in_its_place(folder: Path) -> None:
    """Let the manifest name this machine, where it names the one that the run began on.

    A run is of the files at one path, of one modification time, and of the libraries that it began with; neither a
    copy nor an installation of today's libraries is that. All else of the identity must be what this release says.
    """
    manifest_json = folder / "run" / "manifest.json"
    manifest = json.loads(manifest_json.read_text())
    identity = manifest["identity"]
    for file, (url, _, version) in zip(
        identity["input"]["files"]["candidates"],
        look(RerankConfig.model_validate(config_of(folder, "run"))).identity["input"]["files"]["candidates"],
        strict=True,
    ):
        file[0], file[2] = url, version
    identity["model"]["versions"] |= library_releases()
    manifest_json.write_text(json.dumps(manifest))


def files_of(*folders: Path) -> dict[Path, tuple[bytes, int]]:
    """Content and modification time of each file."""
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    return {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def rows_of(run: tart_ray.RunResult, table: str) -> list[dict[str, Any]]:
    rows = run.read(table).to_table().to_pylist()
    return sorted(rows, key=lambda row: (row["query_id"], row["doc_id"]))


def about(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Equal to rows that are scored on another machine, which may round otherwise."""
    return [row | {name: pytest.approx(row[name], abs=1e-5) for name in ("score", "margin")} for row in rows]


def test_a_run_that_an_older_release_began_is_finished_without_scoring_again(began: Path) -> None:
    put_in_its_place(began)
    run = began / "run"
    committed = files_of(run / "_commits", run / "scores", run / "quarantine")
    assert {str(file.relative_to(run)) for file in committed} == {
        "_commits/chunk/00000.json",
        "_commits/read-candidates/00000.json",
        "_commits/score/00000-00000.json",
        "quarantine/read-candidates-00000.parquet",
        "scores/00000-00000.parquet",
    }
    finished = tart_ray.rerank(config_of(began, "run"))
    assert finished.complete
    assert {name: finished.counts[name] for name in ("read", "scored", "duplicates", "quarantined")} == {
        "read": PAIRS + 2,
        "scored": PAIRS,
        "duplicates": 1,
        "quarantined": 1,
    }
    assert committed.items() <= files_of(run).items()
    assert len(files_of(run / "_commits" / "score")) == 3

    anew = tart_ray.rerank(config_of(began, "anew"))
    assert finished.counts == anew.counts
    for table in ("reranked", "scores"):
        assert rows_of(finished, table) == about(rows_of(anew, table))
    (bad,), (expected,) = (run.read("quarantine").to_table().to_pylist() for run in (finished, anew))
    assert (bad["reason"], bad["row"]) == (expected["reason"], expected["row"])


def test_it_is_refused_where_its_input_is_another(began: Path) -> None:
    with pytest.raises(tart_ray.errors.RunConflictError, match=r"holds another run.*\n  input\.files\.candidates"):
        tart_ray.rerank(config_of(began, "run"))
