"""jobs.relabel on a two-node cluster: three runs with exact counts, held back, switched back, resumed, calibrated."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from support.job_files import WORDS, read_output, report_of, write_jsonl
from support.shown import shown

from tart_ray.config import RelabelConfig, RerankConfig
from tart_ray.errors import ConfigurationError, ExitCode, InputError, RunConflictError, RunFailedError, StorageError
from tart_ray.jobs_command import main
from tart_ray.relabeling.job import describe, relabel
from tart_ray.reranking.job import rerank

pytestmark = pytest.mark.usefixtures("cluster")

Make = Callable[..., RelabelConfig]
Rows = list[dict[str, Any]]


class LengthScorer:
    """In place of a Scorer: a margin is the number of tokens, so that labels can be worked out by hand."""

    max_tokens_per_batch = 1 << 20

    def score_encoded(self, pairs: Any) -> Any:
        from tart_ray.scoring.scores import Scores

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


def test_three_runs_score_exactly_what_changed(tmp_path: Path, make: Make, capsys: pytest.CaptureFixture[str]) -> None:
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

    versions = [line.split() for line in shown(capsys, "versions", root)[1:]]
    assert [(line[0], line[2]) for line in versions] == [
        (first.name, "2,400"),
        (second.name, "2,400"),
        (third.name, "current"),
    ]
    assert versions[2][3:8] == [
        "2,345",
        f"{affected + 5:,}",
        *(f"{n:,}" for n in counts(third, "changed", "new", "gone")),
    ]
    told = shown(capsys, "diff", root)
    assert told == shown(capsys, "show", root, "--diff") == shown(capsys, "diff", root, second.name, third.name)
    unchanged, moved = counts(third, "unchanged", "changed")
    assert told[1] == f"  unchanged {unchanged:,}, changed {moved:,}, new 5, gone 60"
    pairs = {line.split(": ")[0]: line.split()[3] for line in told if line.endswith(" pairs")}
    assert pairs == {f"{a} → {b}": f"{n:,}" for (a, b), n in flips.items() if a != b}
    assert shown(capsys, "diff", root, first.name, second.name)[1] == "  unchanged 2,400, changed 0, new 0, gone 0"
    (moved_document,) = [
        line for line in shown(capsys, "show", root, "--query", "q3", "--top", "60") if " d16 " in line
    ]
    assert " 2 → 0 " in moved_document
    assert moved_document.endswith(" wing")

    # back to the run before, which the same command leaves alone
    assert relabel(make(**switch(config, "previous"))) == ExitCode.DONE
    assert current(root) == second
    assert relabel(config, load=never) == ExitCode.DONE
    assert current(root) == second
    assert relabel(make(**switch(config, third.name))) == ExitCode.DONE
    assert current(root) == third
    with pytest.raises(ConfigurationError, match=f"got 'nowhere'; finished runs at .*{first.name}"):
        relabel(make(**switch(config, "nowhere")))
    assert main(["diff", str(root), first.name]) == 2
    assert f"got ['{first.name}'] to compare, expected two versions" in capsys.readouterr().err
    assert shown(capsys, "prune", root, "--keep", "1") == [f"removes {first}", "1 versions removed, 2 left"]
    assert labels(current(root)) == new
    assert relabel(config, load=never) == ExitCode.DONE


def switch(config: RelabelConfig, target: str) -> dict[str, Any]:
    dumped = config.model_dump()
    return {name: dumped[name] for name in ("input", "labels")} | {"output": dumped["output"] | {"switch_to": target}}


def test_a_finished_run_is_labelled_by_quantiles_held_back_accepted_and_built_upon(
    tmp_path: Path, make: Make, make_config: Callable[..., RerankConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """600 scored pairs under three instructions with labels of their own; nothing is ever scored again."""
    monkeypatch.setattr("tart_ray.scores.plan.PAIRS_PER_BUCKET", 150)  # several buckets, and later more of them
    rows = [
        pair(q, d, instruction=["Find it", "Find all", None][q % 3], label=d % 2 if d else None)
        for q in range(12)
        for d in range(50)
    ]
    write_jsonl(tmp_path / "candidates.jsonl", rows)
    scoring = make_config(input={"candidates": str(tmp_path / "candidates.jsonl")})
    assert rerank(scoring, load=by_length) == ExitCode.DONE
    root = tmp_path / "labelled"
    sections: dict[str, Any] = {
        "input": {"run": str(tmp_path / "run")},
        "labels": {"by": "quantiles", "cuts": [0.5, 0.9], "old_column": "label"},
    }
    assert "scores: 600 pairs, none is scored again" in "\n".join(describe(make(**sections)))
    held = make(**sections, limits={"max_changed_fraction": 0.1})
    assert relabel(held, load=never) == ExitCode.TOO_MANY_CHANGED
    (kept,) = (root / "runs").iterdir()
    assert not (root / "current.json").exists()
    assert not (kept / "_SUCCESS").exists()
    assert (kept / "diff").exists()
    assert not (kept / "_work").exists()
    before = files_of(kept / "labels")
    assert relabel(held, load=never) == ExitCode.TOO_MANY_CHANGED  # as long as nobody decides otherwise
    assert relabel(make(**sections), load=never) == ExitCode.DONE
    assert current(root) == kept
    assert files_of(kept / "labels") == before

    output: Rows = ds.dataset(kept / "labels").to_table().to_pylist()
    assert len(output) == 600
    for instruction in ("Find it", "Find all", None):
        margins = sorted(row["margin"] for row in output if row["instruction"] == instruction)
        assert len(margins) == 200
        for row in output:
            if row["instruction"] == instruction:  # x_101 and x_181 of 200
                assert row["label"] == (row["margin"] >= margins[100]) + (row["margin"] >= margins[180])
                assert row["threshold"] == [None, margins[100], margins[180]][row["label"]]
    given = {(row["query_id"], row["doc_id"]): row["label"] for row in rows}
    assert {(row["query_id"], row["doc_id"]): row["old_label"] for row in output} == given
    flips = Counter((row["old_label"], row["label"]) for row in output if row["old_label"] is not None)
    assert report_of(kept)["flips"] == sorted([a, b, n] for (a, b), n in flips.items())
    assert counts(kept, "new", "gone", "scored", "reused") == [12, 0, 0, 600]
    assert {row["scored_by"] for row in output} == {str(tmp_path / "run")}
    assert pq.read_table(kept / "thresholds.parquet")["pairs"].to_pylist() == [200] * 3

    # the same candidates without the run, by other labels: its scores were taken over, and are known by content
    other = make(labels={"cuts": [40]} | {"old_column": "label"})
    assert relabel(other, load=never) == ExitCode.DONE
    assert counts(current(root), "scored", "reused", "new", "gone") == [0, 600, 0, 0]
    assert report_of(current(root))["base"] == kept.name
    monkeypatch.setattr("tart_ray.scores.plan.PAIRS_PER_BUCKET", 75)
    # other thresholds alone, too many changes: the current labels stay, and a bad row more is no reason to score
    write_jsonl(tmp_path / "candidates.jsonl", [*rows, "{broken"])
    config = make(labels={"cuts": [25], "old_column": "label"}, limits={"max_changed_fraction": 0.0})
    now = current(root)
    assert relabel(config, load=never) == ExitCode.TOO_MANY_CHANGED
    assert current(root) == now


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_labels_by_calibrated_probability_and_labels_that_none_can_be_fitted_to(
    method: str, tmp_path: Path, make: Make
) -> None:
    rows = [pair(q, d, text=" ".join(["wing"] * (d + 1))) for q in range(40) for d in range(17)]
    write_jsonl(tmp_path / "candidates.jsonl", rows)
    root = tmp_path / "labelled"
    qrels = tmp_path / "qrels.tsv"
    judged = [(row["query_id"], row["doc_id"], len(row["text"].split())) for row in rows if row["doc_id"] != "d3"]
    calibrated = {"by": "calibrated", "cuts": [0.5]}

    def judge(relevant: Callable[[int], bool]) -> RelabelConfig:
        lines = [f"{query}\t{document}\t{int(relevant(words))}\n" for query, document, words in judged]
        qrels.write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
        labels = calibrated | {"calibration": {"method": method, "qrels": str(qrels)}}
        return make(labels=labels, model={"max_length": 128})

    # what no scores can mend is found before any work
    with pytest.raises(InputError, match=r"calibration\.qrels .*: none of its 640 judgements is at least 1"):
        relabel(judge(lambda _: False), load=never)
    with pytest.raises(InputError, match=r"got 640 relevant and 0 irrelevant judgements, expected 20 or more of each"):
        relabel(judge(lambda _: True), load=never)
    of_others = judge(lambda words: words > 9)
    qrels.write_text(qrels.read_text().replace("\nq", "\nQ"))
    with pytest.raises(InputError, match=r"none of the 40 queries .*judged \['Q0', .*, in the candidates \['q0', "):
        relabel(of_others, load=never)
    assert not root.exists()
    with pytest.raises(RunFailedError, match="relevance does not rise with the margin"):
        relabel(judge(lambda words: words < 6), load=by_length)
    assert not (root / "current.json").exists()
    assert relabel(judge(lambda words: words > 9), load=never) == ExitCode.DONE
    run = current(root)
    assert counts(run, "read", "labelled", "scored", "reused") == [680, 680, 0, 680]
    output: Rows = ds.dataset(run / "labels").to_table().to_pylist()
    assert {row["doc_id"] for row in output if row["label"]} == {f"d{d}" for d in range(9, 17)}
    assert all(row["label"] == (row["probability"] >= 0.5) for row in output)
    found = report_of(run)["calibration"]
    assert found["calibration"]["method"] == method
    assert found["fitted"]["pairs"] + found["held_out"]["pairs"] == 640
    assert found["held_out"]["pairs"] % 16 == 0  # whole queries
    assert found["held_out"]["brier"] < found["held_out_uncalibrated"]["brier"]
    assert sum(bin_["pairs"] for bin_ in found["held_out"]["reliability"]) == found["held_out"]["pairs"]
    page = (run / "report.html").read_text()
    assert "Brier score" in page
    assert "Reliability on held-out queries" in page


@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        (
            {"labels": {"old_column": "colour"}},
            ConfigurationError,
            r"old_column: got 'colour', .* available: .*'grade'",
        ),
        ({"labels": {"old_column": "kind"}}, ConfigurationError, r"old_column: got 'kind', expected an integer"),
        ({"output": {"partition_by": ["size"]}}, ConfigurationError, r"got \['size'\], available, once each:"),
        ({"output": {"switch_to": "previous"}}, ConfigurationError, r"no run before the current one; finished .*\[\]"),
        ({"input": {"run": "/nowhere"}}, ConfigurationError, r"input\.run /nowhere: no manifest\.json there"),
        (
            {"labels": {"by": "calibrated", "cuts": [0.5], "calibration": {"qrels": "/nowhere.tsv"}}},
            StorageError,
            r"/nowhere\.tsv: no file there",
        ),
    ],
)
def test_bad_configuration_is_refused_before_any_work(
    sections: Any, error: type[Exception], message: str, tmp_path: Path, make: Make
) -> None:
    write_jsonl(tmp_path / "candidates.jsonl", [pair(0, 1, grade=1, kind="x")])
    with pytest.raises(error, match=message):
        relabel(make(**sections))
    assert not (tmp_path / "labelled").exists()


def test_a_column_that_the_output_has_and_another_runs_directory_are_refused(tmp_path: Path, make: Make) -> None:
    write_jsonl(tmp_path / "candidates.jsonl", [pair(0, 1, label=1)])
    with pytest.raises(ConfigurationError, match=r"columns \['label'\] have a name .* or name the one .*old_column"):
        relabel(make())
    (tmp_path / "labelled" / "reranked").mkdir(parents=True)
    (tmp_path / "labelled" / "reranked" / "00000.parquet").write_text("precious")
    with pytest.raises(RunConflictError, match=r"holds \['reranked'\], which jobs\.relabel does not write"):
        relabel(make(labels={"cuts": [20], "old_column": "label"}))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"cuts": []}, "expected one or more finite numbers, rising"),
        ({"cuts": [2, 1]}, "rising"),
        ({"cuts": [float("nan")]}, "finite"),
        ({"by": "quantiles", "cuts": [0.5, 1.0]}, r"expected numbers between 0 and 1 with labels.by: quantiles"),
        ({"by": "calibrated", "cuts": [0.5]}, r"got \[\], expected one of qrels, label_column"),
        ({"cuts": [0.5], "calibration": {"qrels": "a"}}, r"got \['qrels'\], expected neither"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused(labels: Any, message: str, make: Make) -> None:
    with pytest.raises(ValueError, match=message):
        make(labels=labels)


def test_pairs_without_a_score_are_quarantined_and_their_labels_go(tmp_path: Path, make: Make) -> None:
    """And a run that was killed anywhere, its commits gone, gives the same again without another score."""
    rows = [pair(q, d) for q in range(3) for d in range(30)]
    write_jsonl(tmp_path / "candidates.jsonl", rows)
    assert relabel(make(), load=by_length) == ExitCode.DONE
    root = tmp_path / "labelled"
    for row in rows[:2]:
        row["text"] = "edge"
    rows[5]["text"] = "wing"
    write_jsonl(tmp_path / "candidates.jsonl", rows)
    config = make(limits={"max_quarantined_fraction": 0.5})
    assert relabel(config, load=shy_of_short_pairs) == ExitCode.DONE
    second = current(root)
    names = ("read", "labelled", "scored", "reused", "quarantined", "gone")
    assert counts(second, *names) == [90, 87, 0, 87, 3, 3]
    bad = read_output(second, "quarantine")
    assert sorted((row["query_id"], row["doc_id"]) for row in bad) == [("q0", "d0"), ("q0", "d1"), ("q0", "d5")]
    assert {row["status"] for row in read_output(second, "diff")} == {"gone"}

    shutil.copytree(second, tmp_path / "whole")
    (second / "_SUCCESS").unlink()  # as if killed after the labels of one bucket were written
    shutil.rmtree(second / "labels")
    (second / "_commits/label/00000.json").unlink()
    for stage in ("read-candidates", "chunk", "known", "match", "collect"):
        shutil.rmtree(second / "_commits" / stage)
    (root / "current/00000002.json").unlink()
    assert relabel(config, load=shy_of_short_pairs) == ExitCode.DONE
    assert current(root) == second
    for part in ("labels", "scores", "diff"):
        assert read_output(second, part) == read_output(tmp_path / "whole", part)


class ShyScorer(LengthScorer):
    """Has no number for short pairs, but for the one that a replica begins with."""

    def score_encoded(self, pairs: Any) -> Any:
        found = super().score_encoded(pairs)
        if len(pairs) > 1 or pairs.lengths[0] > 1:
            found.logits[pairs.lengths < 40] = np.nan
        return found


def shy_of_short_pairs(_: Any) -> ShyScorer:
    return ShyScorer()
