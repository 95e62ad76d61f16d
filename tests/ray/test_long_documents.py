"""jobs.rerank under `long_documents: maxp`: the best windows and their places, resume, refusal, mining, the dry run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.job_files import WORDS, read_output, report_of, write_jsonl

from tart_ray import Scorer
from tart_ray.config import MineConfig, RerankConfig
from tart_ray.errors import ExitCode, RunConflictError
from tart_ray.mining.job import mine_negatives
from tart_ray.reranking.job import describe, rerank

QUERIES, DOCUMENTS = 3, 12
MAX_LENGTH = 64
TITLES = [None, "", "  heat plate ", "shock layer 漢字", " ".join(WORDS)]


def row(query: int, document: int) -> dict[str, Any]:
    """A third of the documents fits into one window; others begin with white space, or have letters beyond ASCII."""
    draw = np.random.default_rng(document)
    words = draw.choice([*WORDS, "é🌊"], 4 if document % 3 == 0 else 20 * document).tolist()
    text = [" \n", ""][document % 2] + " ".join(words)
    title = TITLES[document % len(TITLES)]
    place = {"query_id": f"q{query}", "doc_id": f"d{document}", "score": float(-document)}
    return {**place, "query": f"{WORDS[query]} flow", "text": text, "title": title, "label": document == 1}


ROWS = [row(query, document) for query in range(QUERIES) for document in range(DOCUMENTS)]


@pytest.fixture(scope="module")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "candidates.jsonl"
    write_jsonl(path, ROWS)
    return path


def config(candidates: Path, checkpoint: Path, run: Path, **model: Any) -> RerankConfig:
    return RerankConfig.model_validate(
        {
            "model": {"path": str(checkpoint), "max_length": MAX_LENGTH, "long_documents": "maxp", **model},
            "input": {"candidates": str(candidates), "instruction": "Find it"},
            "output": {"path": str(run)},
            "cluster": {"gpus_per_replica": 0, "replicas": {"min": 1, "max": 2}},
        }
    )


@pytest.fixture(scope="module")
def finished(cluster: str, candidates: Path, tiny_checkpoint: Path) -> Path:
    """A run under maxp; not to be changed."""
    run = candidates.parent / "run"
    assert rerank(config(candidates, tiny_checkpoint, run)) == ExitCode.DONE
    return run


def by_pair(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["query_id"], row["doc_id"]): row for row in rows}


def test_the_best_window_is_that_of_the_windows_scored_one_by_one(finished: Path, tiny_checkpoint: Path) -> None:
    scorer = Scorer.from_pretrained(tiny_checkpoint, device="cpu", max_length=MAX_LENGTH)
    found, seen = by_pair(read_output(finished, "scores")), 0
    assert len(found) == len(ROWS)
    for row in ROWS:
        front = f"{row['title'] or ''} "
        whole = (front + row["text"]).strip()
        head = max(len(front.lstrip()) - 1, 0)
        queries = [f"Find it [SEP] {row['query']}"]
        windows = scorer.tokenizer.encode_windows(queries, [whole], heads=[head], max_length=MAX_LENGTH)
        margins = [scorer.score_encoded(windows.rows.take(np.array([i]))).margin[0] for i in range(len(windows.rows))]
        scored = found[row["query_id"], row["doc_id"]]
        assert scored["margin"] == pytest.approx(max(margins), abs=1e-5)
        assert (scored["best_window"], scored["num_windows"]) == (np.argmax(margins), len(margins))
        assert (scored["tokens"], scored["truncated"]) == (windows.lengths[0], False)
        covered = row["text"][scored["window_start"] : scored["window_end"]]
        start, end = windows.spans[np.argmax(margins)]
        begins_within_text = start >= len(whole) - len(row["text"].strip())
        if len(margins) > 1 and begins_within_text:  # others begin in a title that is too long to be repeated
            assert covered == whole[start:end]
            seen += scored["best_window"] > 0
        else:
            assert row["text"].strip().startswith(covered.strip())
    assert seen > 5
    assert report_of(finished)["windows"] == sum(row["num_windows"] for row in found.values())
    assert report_of(finished)["counts"]["truncated"] == 0


def test_truncated_pairs_are_told_of_and_documents_that_fit_score_the_same(
    finished: Path, candidates: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    assert rerank(config(candidates, tiny_checkpoint, tmp_path, long_documents="truncate")) == ExitCode.DONE
    cut, read = by_pair(read_output(tmp_path, "scores")), by_pair(read_output(finished, "scores"))
    assert "best_window" not in next(iter(cut.values()))
    assert {pair for pair in cut if cut[pair]["truncated"]} == {pair for pair in read if read[pair]["num_windows"] > 1}
    assert 0 < report_of(tmp_path)["counts"]["truncated"] < len(ROWS)
    for pair, row in read.items():
        if row["num_windows"] == 1:
            assert row["tokens"] == cut[pair]["tokens"]
            assert row["margin"] == pytest.approx(cut[pair]["margin"], abs=1e-5)  # beside others in its batch
        else:
            assert row["margin"] > cut[pair]["margin"] - 1e-5  # what is cut is the first window


def test_a_run_under_maxp_continues_and_is_not_continued_otherwise(
    finished: Path, candidates: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "_SUCCESS").unlink()  # as if the driver had died before a chunk was committed
    for path in [*(run / "_commits" / "score").iterdir(), *(run / "scores").iterdir()]:
        path.unlink()
    for stage in ("rank", "chunk", "read-candidates"):
        shutil.rmtree(run / "_commits" / stage)
    with pytest.raises(RunConflictError, match=r'model\.long_documents: "maxp" → "truncate"'):
        rerank(config(candidates, tiny_checkpoint, run, long_documents="truncate"))
    assert rerank(config(candidates, tiny_checkpoint, run)) == ExitCode.DONE
    assert read_output(run, "scores") == read_output(finished, "scores")
    assert read_output(run) == read_output(finished)


def test_a_score_store_of_windows_is_mined(finished: Path, tmp_path: Path) -> None:
    sections = {
        "input": {"run": str(finished)},
        "positives": {"label_column": "label"},
        "output": {"path": str(tmp_path)},
    }
    assert mine_negatives(MineConfig.model_validate(sections)) == ExitCode.DONE
    scores = by_pair(read_output(finished, "scores"))
    mined = read_output(tmp_path, "negatives")
    assert {row["query_id"] for row in mined} == {f"q{query}" for query in range(QUERIES)}
    for row in mined:
        scored = scores[row["query_id"], row["doc_id"]]
        assert all(row[name] == scored[name] for name in ("margin", "best_window", "window_start", "window_end"))


def test_the_dry_run_counts_windows(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """64 less 3 and one token of the query are 60; 330 are 270 beyond it, 6 steps of 45: 7 windows, 70 for 10 pairs."""
    texts = "<extra_id_5> " * 330
    rows = [{"query_id": "q", "query": "<pad>", "doc_id": f"d{d}", "text": texts} for d in range(10)]
    write_jsonl(tmp_path / "candidates.jsonl", rows)

    def plan(**model: Any) -> dict[str, str]:
        sections = config(tmp_path / "candidates.jsonl", tiny_checkpoint, tmp_path / "run", **model).model_dump()
        sections["input"]["instruction"] = None
        sections["cluster"]["replicas"] = {"min": 1, "max": 1}
        sections["plan"] = {"pairs_per_second": 2}
        return dict(line.split(": ", 1) for line in describe(RerankConfig.model_validate(sections)))

    read, cut = plan(), plan(long_documents="truncate")
    assert read["windows"] == "7.00 a pair, about 70 in all"
    assert read["time"] == "35.0s with 1 replicas at 2 pairs/s each"
    assert "448 a pair" in read["tokens"]
    assert "0.0% truncated" in read["tokens"]
    assert "windows" not in cut
    assert cut["time"] == "5.0s with 1 replicas at 2 pairs/s each"
    assert "100.0% truncated" in cut["tokens"]
