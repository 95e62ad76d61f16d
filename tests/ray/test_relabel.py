"""jobs.relabel on a two-node cluster: three runs with exact counts, held back, switched back, resumed, calibrated."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.dataset as ds
import pytest
from support.job_files import WORDS, read_output, report_of, write_jsonl

from tart_ray.command_line import ConfigurationError, ExitCode
from tart_ray.config import RelabelConfig
from tart_ray.pipeline.relabel import describe, relabel

pytestmark = pytest.mark.usefixtures("cluster")

Make = Callable[..., RelabelConfig]
Rows = list[dict[str, Any]]


class LengthScorer:
    """In place of a Scorer: a margin is the number of tokens, so that labels can be worked out by hand."""

    max_tokens_per_batch = 1 << 20

    def score_encoded(self, pairs: Any) -> Any:
        from tart_ray.scoring.scorer import Scores

        margin = pairs.lengths.astype(np.float32)
        return Scores(np.stack([np.zeros_like(margin), margin], axis=1))


def by_length(_: Any) -> LengthScorer:
    return LengthScorer()


def never(_: Any) -> Any:
    raise AssertionError("what is scored must not be scored again")


@pytest.fixture
def make(tmp_path: Path, tiny_checkpoint: Path) -> Make:
    """Configurations of small relabelling jobs."""

    def make_config(**sections: Any) -> RelabelConfig:
        base: dict[str, Any] = {
            "input": {"candidates": str(tmp_path / "candidates.jsonl")},
            "labels": {"cuts": [20]},
            "output": {"path": str(tmp_path / "labelled")},
            "model": {"path": str(tiny_checkpoint), "max_length": 64},
            "cluster": {"gpus_per_replica": 0, "replicas": {"min": 1, "max": 2}},
        }
        for name, section in sections.items():
            merged = base.get(name, {}) | section
            base[name] = section if "run" in section else merged
        return RelabelConfig.model_validate(base)

    return make_config


def pair(query: int, document: int, **more: Any) -> dict[str, Any]:
    text = " ".join([WORDS[document % len(WORDS)]] * (document % 17 + 1)) + f" {document}"
    return {"query_id": f"q{query}", "query": f"flow {query}", "doc_id": f"d{document}", "text": text} | more


def current(folder: Path) -> Path:
    """The directory of the current run."""
    return folder / json.loads((folder / "current.json").read_text())["path"]


def labels(run: Path) -> dict[tuple[str, str], int]:
    """{(query, document): label}."""
    rows: Rows = ds.dataset(run / "labels", partitioning="hive").to_table().to_pylist()
    found = {(row["query_id"], row["doc_id"]): row["label"] for row in rows}
    assert len(found) == len(rows), "rows were written twice"
    return found


def counts(run: Path, *names: str) -> list[int]:
    found = report_of(run)["counts"]
    return [found[name] for name in names]


def files_of(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


MOVES = ("read", "labelled", "scored", "reused", "unchanged", "changed", "new", "gone")


def test_three_runs_score_exactly_what_changed(tmp_path: Path, make: Make) -> None:
    """40 queries of 60 documents: all; nothing; what one document, one wording and two queries touch."""
    root = tmp_path / "labelled"

    def write(rows: Rows) -> None:
        for language in ("en", "de"):
            found = [{k: v for k, v in row.items() if k != "language"} for row in rows if row["language"] == language]
            write_jsonl(tmp_path / "candidates" / f"language={language}" / "a.jsonl", found)

    def corpus(**changes: Any) -> Rows:
        return [
            pair(q, d, language=["en", "de"][q % 2], instruction=f"Find {q % 4}", title=None) | changes.get(f"q{q}", {})
            for q in range(40)
            for d in range(60)
        ]

    config = make(input={"candidates": str(tmp_path / "candidates")}, labels={"cuts": [30, 50]})
    write(corpus())
    assert relabel(config, load=by_length) == ExitCode.DONE
    first = current(root)
    assert counts(first, *MOVES) == [2400, 2400, 2400, 0, 0, 0, 2400, 0]
    rows: Rows = ds.dataset(first / "labels", partitioning="hive").to_table().to_pylist()
    assert len(rows) == 2400
    assert all(row["label"] == (row["margin"] >= 30) + (row["margin"] >= 50) for row in rows)
    assert all(row["threshold"] == [None, 30.0, 50.0][row["label"]] for row in rows)
    assert {row["label"] for row in rows} == {0, 1, 2}
    assert {(row["query_id"], row["language"]) for row in rows} == {(f"q{q}", ["en", "de"][q % 2]) for q in range(40)}
    assert {row["scored_by"] for row in rows} == {first.name}
    assert {row["instruction"] for row in rows} == {f"Find {i}" for i in range(4)}
    manifest = json.loads((first / "manifest.json").read_text())
    assert all(row["scored_at"].timestamp() == pytest.approx(manifest["created"], abs=0.001) for row in rows)
    assert manifest["identity"]["scores"]["model"] == report_of(first)["model"]
    sql = f"select label, count(*) from read_parquet('{first}/labels/*/*.parquet') group by 1 order by 1"
    told = {int(name): pairs for name, pairs in report_of(first)["labels"].items()}
    assert dict(duckdb.sql(sql).fetchall()) == told == Counter(row["label"] for row in rows)

    # nothing has changed: nothing is written
    before = files_of(root)
    assert relabel(config, load=never) == ExitCode.DONE
    assert "nothing to do" in list(describe(config))
    assert files_of(root) == before

    # the same rows in other files: another version, an empty diff, no model
    write(corpus()[::-1])
    assert relabel(config, load=never) == ExitCode.DONE
    second = current(root)
    assert second != first
    assert counts(second, *MOVES) == [2400, 2400, 0, 2400, 2400, 0, 0, 0]
    assert labels(second) == labels(first)
    assert not (second / "diff").exists()

    # a document of every query, the wording of q1's kind, two queries; a query goes, one comes
    changed = corpus(q2={"query": "wing of a kind"}, q7={"query": "tail of a kind"})
    for row in changed:
        if row["doc_id"] == "d16":
            row["text"] = "wing"
        if row["instruction"] == "Find 1":
            row["instruction"] = "Find the one that I have in mind"
    changed = [row for row in changed if row["query_id"] != "q11"]
    changed += [pair(99, d, language="en", instruction="Find 0") for d in range(5)]
    write(changed)
    of_wording, of_queries, of_document = 10 * 60, 2 * 60, 40 - 10 - 2 - 1  # q1, q5, … and q2, q7, d16 elsewhere
    assert relabel(config, load=by_length) == ExitCode.DONE
    third = current(root)
    affected = of_wording + of_queries + of_document
    assert counts(third, "read", "labelled", "scored", "reused") == [2345, 2345, affected + 5, 2340 - affected]
    assert counts(third, "new", "gone") == [5, 60]
    old, new = labels(second), labels(third)
    flips = Counter((old[key], new[key]) for key in old.keys() & new.keys())
    assert report_of(third)["flips"] == sorted([a, b, n] for (a, b), n in flips.items())
    differences = {(row["query_id"], row["doc_id"]): row for row in read_output(third, "diff")}
    expected = {key: "changed" for key in old.keys() & new.keys() if old[key] != new[key]}
    expected |= dict.fromkeys(old.keys() - new.keys(), "gone") | dict.fromkeys(new.keys() - old.keys(), "new")
    assert {key: row["status"] for key, row in differences.items()} == expected
    assert {row["content_changed"] for row in differences.values() if row["status"] == "changed"} == {True}
    assert differences["q3", "d16"]["old_label"] == 2
    assert differences["q3", "d16"]["new_label"] == 0
    provenance = Counter(row["scored_by"] for row in read_output(third, "scores"))
    assert provenance == {first.name: 2340 - affected, third.name: affected + 5}

    # back to the run before, which the same command leaves alone
    assert relabel(make(**switch(config, "previous"))) == ExitCode.DONE
    assert current(root) == second
    assert relabel(config, load=never) == ExitCode.DONE
    assert current(root) == second
    assert relabel(make(**switch(config, third.name))) == ExitCode.DONE
    assert current(root) == third
    with pytest.raises(ConfigurationError, match=f"got 'nowhere'; finished runs at .*{first.name}"):
        relabel(make(**switch(config, "nowhere")))


def switch(config: RelabelConfig, target: str) -> dict[str, Any]:
    dumped = config.model_dump()
    return {name: dumped[name] for name in ("input", "labels")} | {"output": dumped["output"] | {"switch_to": target}}
