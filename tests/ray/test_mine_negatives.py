"""jobs.mine_negatives on a two-node cluster: from scores and from candidates, resumed, refused, in many buckets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from support.cheap import load_cheap_scorer
from support.job_files import WORDS, read_output, report_of, write_jsonl
from support.shown import shown

from tart_ray.config import MineConfig, MiningPolicy, RerankConfig
from tart_ray.errors import ConfigurationError, ExitCode, InputError, RunConflictError, RunFailedError, StorageError
from tart_ray.mining.job import describe, mine_negatives
from tart_ray.mining.mined import NO_POSITIVE, NOTHING_PASSES, POSITIVE_NOT_SCORED, QUERY_ITSELF, TOO_FEW
from tart_ray.mining.negatives import mine
from tart_ray.model.tokenizer import EncT5Tokenizer
from tart_ray.reranking.job import rerank

pytestmark = pytest.mark.usefixtures("cluster")

Make = Callable[..., MineConfig]


class LengthScorer:
    """In place of a Scorer: the longer a pair, the better; so a test's author can rank documents by hand."""

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
    """Configurations of small mining jobs."""

    def make_config(**sections: Any) -> MineConfig:
        base: dict[str, Any] = {
            "input": {"candidates": str(tmp_path / "candidates.jsonl")},
            "positives": {"qrels": str(tmp_path / "qrels.tsv")},
            "output": {"path": str(tmp_path / "mined")},
            "model": {"path": str(tiny_checkpoint), "max_length": 64},
            "cluster": {"gpus_per_replica": 0, "replicas": {"min": 1, "max": 2}},
        }
        return MineConfig.model_validate(base | sections)

    return make_config


def candidates(query: str, *documents: str, **more: Any) -> list[dict[str, Any]]:
    """Pairs in the first stage's order. "d7" is seven words; "t7" the same text as d7, in capitals."""
    return [
        {
            "query_id": query,
            "query": f"flow {query}",
            "doc_id": name,
            "text": (" ".join(["wing"] * int(name[1:]))).upper()
            if name[0] == "t"
            else " ".join(["wing"] * int(name[1:])),
            "score": float(-place),
            **more,
        }
        for place, name in enumerate(documents)
    ]


def chosen(run: Path) -> dict[tuple[str, str], str]:
    """{(query, policy): documents in their order}."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in read_output(run, "negatives"):
        found.setdefault((row["query_id"], row["policy"]), []).append(row["doc_id"])
    return {key: " ".join(documents) for key, documents in found.items()}


def left_out(run: Path) -> set[tuple[Any, ...]]:
    return {tuple(row.values()) for row in read_output(run, "left_out")}


QRELS = "query-id\tcorpus-id\tscore\nq0\td5\t1\nq2\td50\t2\nq3\td1\t1\nq4\td1\t0\nq0\td8\n"
POLICIES = [
    {"name": "hard", "num_negatives": 2},
    {"name": "below", "num_negatives": 2, "absolute_margin": 0.5},
    {"name": "window", "num_negatives": 9, "range_min": 3, "range_max": 6},
]


def write_small_collection(folder: Path) -> None:
    rows = [
        *candidates("q0", "d8", "d3", "d5", "d1", "d7", "d2", "d6", "d4", "t5"),
        *candidates("q1", "d1", "d2"),
        *candidates("q2", "d1", "d2", "d3"),
        *candidates("q4", "d1", "d2"),
    ]
    write_jsonl(folder / "candidates.jsonl", rows)
    (folder / "qrels.tsv").write_text(QRELS)


def test_negatives_of_a_finished_run_by_hand(
    tmp_path: Path,
    make: Make,
    make_config: Callable[..., RerankConfig],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_small_collection(tmp_path)
    monkeypatch.chdir(tmp_path)  # a run that was given relative paths can be mined from anywhere
    assert rerank(make_config(input={"candidates": "candidates.jsonl"}), load=by_length) == ExitCode.DONE
    monkeypatch.chdir("/")
    config = make(
        input={"run": str(tmp_path / "run")},
        mining={"policies": POLICIES},
        trainer={"formats": ["tevatron", "triplet", "margin-mse"], "with_scores": True},
        limits={"max_quarantined_fraction": 0.5},
    )
    assert "scores: 16 pairs in 1 buckets" in "\n".join(describe(config))
    assert mine_negatives(config, load=never) == ExitCode.DONE
    mined = tmp_path / "mined"
    assert chosen(mined) == {
        ("q0", "hard"): "d8 d7",  # the longest; t5 is a copy of the positive d5
        ("q0", "below"): "d4 d3",  # shorter than d5
        ("q0", "window"): "d2 d1",  # ranks 4 to 6 of the first stage are d1, d7, d2
        ("q2", "hard"): "d3 d2",  # its positive is no candidate: the other policies find nothing to compare with
    }
    assert {(r["query_id"], r["doc_id"], r["relevance"], r["text"]) for r in read_output(mined, "positives")} == {
        ("q0", "d5", 1, " ".join(["wing"] * 5)),
        ("q2", "d50", 2, None),
    }
    (bad,) = read_output(mined, "quarantine")
    assert bad["reason"].startswith("undecodable line: got 2 columns, expected 4")
    assert (bad["source"].rsplit("/", 1)[-1], bad["position"], bad["raw"]) == (
        "qrels.tsv",
        QRELS.index("q0\td8"),
        b"q0\td8",
    )
    assert left_out(mined) == {
        ("q1", None, NO_POSITIVE, "negatives"),
        ("q3", None, "no scored candidate", "negatives"),
        ("q4", None, NO_POSITIVE, "negatives"),
        ("q2", "d50", "the document has no text", "trainer"),
        ("q2", None, "no positive is left: the document has no text", "trainer"),
    }
    assert [tuple(row.values()) for row in read_output(mined, "shortfalls")] == [
        ("q0", "window", 9, 2, TOO_FEW),
        ("q2", "below", 2, 0, POSITIVE_NOT_SCORED),
        ("q2", "window", 9, 0, NOTHING_PASSES),
    ]
    report = report_of(mined)
    expected = {
        "read": 5, "positives": 3, "judged lower": 1, "quarantined": 1, "pairs": 16, "negatives": 8,
        "queries with candidates": 4, "queries with negatives": 2, "queries left out": 2,
        "queries without candidates": 1,
    }  # fmt: skip
    assert {name: report["counts"][name] for name in expected} == expected
    assert {name: policy["chosen"] for name, policy in report["policies"].items()} == {
        "hard": 4,
        "below": 2,
        "window": 2,
    }
    assert report["left_out"] == {
        f"negatives: {NO_POSITIVE}": 2,
        "negatives: no scored candidate": 1,
        "trainer: the document has no text": 1,
        "trainer: no positive is left: the document has no text": 1,
    }
    assert "queries with candidates 4 = with negatives 2 + left out 2" in (mined / "report.html").read_text()
    dropped, *drawn = report["figures"]["Policies"]
    assert ["hard", "chosen", report["policies"]["hard"]["chosen"]] in dropped["rows"]
    counts = {figure["title"]: sum(figure["counts"]["negatives"]) for figure in drawn}
    assert counts == {f"Policy {name}": found["chosen"] for name, found in report["policies"].items()}
    assert not (mined / "_work").exists()

    assert shown(capsys, "show", mined)[0] == "jobs.mine_negatives: finished"
    query, header, *told = shown(capsys, "show", mined, "--query", "q0")
    assert query == "query q0: flow q0"
    at = header.index("document")
    assert [" ".join(line[at:].split()[:2]) for line in told[:7]] == [
        *(f"{name} wing" for name in ("d5", "d8", "d7", "d4", "d3", "d2", "d1"))
    ]
    assert told[0].startswith("positive (judged)")
    assert told[7:] == [f"policy window: 2 of 9 negatives: {TOO_FEW}"]
    told = shown(capsys, "show", mined, "--query", "q2")
    assert "left out of trainer: document d50: the document has no text" in told
    assert shown(capsys, "show", mined, "--quarantine")[2].endswith(f"qrels.tsv line {QRELS.count(chr(10))}")

    # the files of trainers, as plain readers of such files see them
    (line,) = map(json.loads, (mined / "trainer/tevatron/00000.jsonl").read_text().splitlines())
    assert (line["query_id"], line["query"]) == ("q0", "flow q0")
    assert [passage["docid"] for passage in line["positive_passages"]] == ["d5"]
    assert [passage["docid"] for passage in line["negative_passages"]] == ["d8", "d7", "d4", "d3", "d2", "d1"]
    triplets = pq.read_table(mined / "trainer/triplet").to_pylist()
    assert [len(row["negative"].split()) for row in triplets] == [8, 7, 4, 3, 2, 1]
    assert all(row["scores"][0] == triplets[0]["scores"][0] for row in triplets)
    margins = [line.split("\t") for line in (mined / "trainer/margin-mse/00000.tsv").read_text().splitlines()]
    assert [(row[0], row[1], row[2], float(row[3]) < 0) for row in margins[1:3]] == [
        ("q0", "d5", "d7", True),
        ("q0", "d5", "d4", False),
    ]


def test_candidates_are_scored_first_and_a_killed_run_resumes(tmp_path: Path, make: Make) -> None:
    rows = [
        {**row, "language": "en", "clicked": clicked.get(row["doc_id"])}
        for query, clicked in {"q0": {"d5": 1, "d8": 0}, "q1": {}}.items()
        for row in candidates(query, "d8", "d3", "d5", "d1", "d7")
    ]
    write_jsonl(tmp_path / "candidates.jsonl", rows)
    config = make(
        positives={"label_column": "clicked"},
        mining={"policies": [{"name": "hard", "num_negatives": 2}]},
        trainer={"formats": ["n-tuple"], "num_negatives": 2},
    )
    described = "\n".join(describe(config))
    assert "scores first" in described
    assert "pairs: about 10" in described
    assert "policy hard: 2 negatives a query" in described
    assert not (tmp_path / "mined").exists()
    assert mine_negatives(config, load=by_length) == ExitCode.DONE
    mined = tmp_path / "mined"
    assert chosen(mined) == {("q0", "hard"): "d8 d7"}
    assert {row["language"] for row in read_output(mined, "negatives")} == {"en"}
    (row,) = pq.read_table(mined / "trainer/n-tuple").to_pylist()
    assert [len(row[name].split()) for name in ("positive", "negative_1", "negative_2")] == [5, 8, 7]
    counts = report_of(mined)["counts"]
    assert (counts["read"], counts["positives"], counts["judged lower"]) == (2, 1, 1)

    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in mined.rglob("*") if path.is_file()}

    before = written()
    assert mine_negatives(config, load=never) == ExitCode.DONE
    assert written() == before

    shutil.copytree(mined, tmp_path / "whole")
    (mined / "_SUCCESS").unlink()  # as if killed before the bucket was committed
    (mined / "_commits/mine/00000.json").unlink()
    shutil.rmtree(mined / "negatives")
    (mined / "scoring/report.json").unlink()  # commits tell what it told
    assert mine_negatives(config, load=never) == ExitCode.DONE
    (warning,) = report_of(mined)["warnings"]
    assert warning.startswith("10 of 10 pairs have no instruction")
    assert report_of(tmp_path / "whole")["warnings"] == [warning]
    for part in ("negatives", "positives", "left_out", "shortfalls"):
        assert read_output(mined, part) == read_output(tmp_path / "whole", part)

    (mined / "_SUCCESS").unlink()  # as if killed while scoring
    shutil.rmtree(mined / "_commits/mine")
    (mined / "scoring/_SUCCESS").unlink()
    for stage in ("read-candidates", "chunk", "score"):
        shutil.rmtree(mined / "scoring/_commits" / stage)
    assert mine_negatives(config, load=by_length) == ExitCode.DONE
    assert read_output(mined, "negatives") == read_output(tmp_path / "whole", "negatives")

    with pytest.raises(RunConflictError, match=r"mining\.policies\[0\]\.num_negatives: 2 → 3"):
        mine_negatives(
            config.model_copy(
                update={"mining": config.mining.model_copy(update={"policies": (MiningPolicy(num_negatives=3),)})}
            )
        )
    write_jsonl(tmp_path / "candidates.jsonl", [*rows, *candidates("q9", "d1")])
    with pytest.raises(RunConflictError, match=r"scored\.input\.files"):
        mine_negatives(config)
    other = make(
        input={"run": str(mined / "scoring")},
        positives={"label_column": "clicked"},
        output={"path": str(tmp_path / "other")},
    )
    with pytest.raises(
        ConfigurationError, match=r"input has changed since it was scored(.|\n)*input\.files\.candidates"
    ):
        mine_negatives(other)


@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        ({"mining": {"policies": [{"source": "other_task"}]}}, ConfigurationError, r"columns .*query_task is missing"),
        ({"trainer": {"formats": ["triple"]}}, ConfigurationError, r"got \['triple'\], available.*'triplet'"),
        ({"trainer": {"formats": ["n-tuple"]}}, ConfigurationError, r"give num_negatives"),
        ({"trainer": {"easy_policies": ["easy"]}}, ConfigurationError, r"got \['easy'\], available: \['hard'\]"),
        (
            {"positives": {"label_column": "clicked"}},
            ConfigurationError,
            r"candidates have columns .*clicked is missing",
        ),
        ({"positives": {"qrels": "/nowhere.tsv"}}, StorageError, r"/nowhere\.tsv: no file there"),
        ({"input": {"run": "/nowhere"}}, ConfigurationError, r"input\.run /nowhere: no manifest\.json there"),
        (
            {"positives": {"qrels": "/"}},
            ConfigurationError,
            r"output\.path: got .*, which positives\.qrels / takes in:",
        ),
    ],
)
def test_bad_configuration_is_refused_before_any_work(
    sections: Any, error: type[Exception], message: str, tmp_path: Path, make: Make
) -> None:
    write_small_collection(tmp_path)
    with pytest.raises(error, match=message):
        mine_negatives(make(**sections))
    assert not (tmp_path / "mined").exists()


def test_many_buckets_give_the_negatives_of_one_pass(
    tmp_path: Path, make: Make, make_config: Callable[..., RerankConfig]
) -> None:
    queries, documents, depth = 700, 900, 50
    draw = np.random.default_rng(0)
    text = [f"{WORDS[d % 19]} {WORDS[d // 19 % 19]} {d}" for d in range(800)]
    text += text[: documents - 800]  # copies
    lists = [draw.choice(documents, depth, replace=False).tolist() for _ in range(queries)]
    lines = [f"q{q} Q0 d{d} {i} {-i} bm25" for q, found in enumerate(lists) for i, d in enumerate(found)]
    (tmp_path / "run.trec").write_text("\n".join(lines))
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": f"d{d}", "title": "", "text": text[d]} for d in range(documents)])
    write_jsonl(
        tmp_path / "queries.jsonl", [{"_id": f"q{q}", "text": f"{WORDS[q % 19]} {q}"} for q in range(queries + 9)]
    )
    judged = [
        (f"q{q}", f"d{d}", int(r))
        for q in range(queries + 9)
        for d, r in zip(draw.choice(documents, 2, replace=False), (1, 0), strict=True)
    ]
    judged += [(f"q{q}", f"d{lists[q][7]}", 2) for q in range(0, queries, 2)]
    qrels = pa.table(
        {
            "query-id": [j[0] for j in judged],
            "corpus-id": [j[1] for j in judged],
            "score": pa.array([j[2] for j in judged]),
        }
    )
    pq.write_table(qrels, tmp_path / "qrels.parquet")
    read = {name: str(tmp_path / f"{name}.jsonl") for name in ("queries", "corpus")}
    rerank_config = make_config(input={"candidates": str(tmp_path / "run.trec"), "instruction": "Find it", **read})
    assert rerank(rerank_config, load=load_cheap_scorer) == ExitCode.DONE
    policies = [
        {"name": "below", "num_negatives": 3, "relative_margin": 0.1, "score": "score"},
        {"name": "random", "num_negatives": 4, "sampling": "random", "range_min": 5},
        {"name": "fill", "num_negatives": 9, "fill": True},
    ]
    config = make(
        input={"run": str(tmp_path / "run")},
        positives={"qrels": str(tmp_path / "qrels.parquet")},
        mining={"policies": policies},
        trainer={"formats": ["labeled-pair"]},
    )
    assert mine_negatives(config, load=never) == ExitCode.DONE
    mined = tmp_path / "mined"
    assert len(list((mined / "negatives").iterdir())) > 1

    scores = ds.dataset(tmp_path / "run/scores").to_table()
    scores = scores.append_column("text", pa.array([text[int(d[1:])] for d in scores["doc_id"].to_pylist()]))
    positive = sorted((j for j in judged if j[2]), key=lambda j: -j[2])  # the highest of repeated ones counts
    positives = pa.table(
        {
            "query_id": [j[0] for j in positive],
            "doc_id": [j[1] for j in positive],
            "relevance": pa.array([j[2] for j in positive], pa.int32()),
            "text": [text[int(j[1][1:])] for j in positive],
        }
    )
    whole = mine(scores, positives, [MiningPolicy(**policy) for policy in policies])
    for part, expected in (
        ("negatives", whole.negatives),
        ("positives", whole.positives),
        ("shortfalls", whole.shortfalls),
    ):
        order = [
            (name, "ascending") for name in ("query_id", "policy", "rank", "doc_id") if name in expected.schema.names
        ]
        found = ds.dataset(mined / part).to_table().select(expected.schema.names)
        assert found.sort_by(order).to_pylist() == expected.sort_by(order).to_pylist(), part
    report = report_of(mined)
    assert report["counts"]["queries without candidates"] == 9
    assert report["counts"]["twins"] == whole.counts["twins"] > 0
    assert report["counts"]["positives not scored"] > 500
    # positives that no first stage found are there with their texts, so trainers have them
    rows = read_output(mined, "positives")
    assert all(row["text"] for row in rows)
    assert report["trainer_rows"]["labeled-pair"] == len(rows) + report["counts"]["negatives"]
    assert {row["left_out_of"] for row in read_output(mined, "left_out")} == {"negatives"}


def test_a_query_under_two_instructions_is_mined_as_one_over_all_buckets(
    tmp_path: Path, make: Make, make_config: Callable[..., RerankConfig]
) -> None:
    texts = [f"{WORDS[q % 19]} {WORDS[q // 19]}" for q in range(350)]
    rows = [
        {"query_id": f"{way}{q}", "query": text, "doc_id": f"d{d}", "text": f"{WORDS[d % 19]} {d}", "instruction": way}
        for q, text in enumerate(texts)
        for way in ("same", "opposite")
        for d in range(q, q + 50)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "candidates.parquet")
    judged = [(f"{way}{q}", f"d{q + 3}") for q in range(360) for way in ("same", "opposite")]
    (tmp_path / "qrels.trec").write_text("".join(f"{query} 0 {document} 1\n" for query, document in judged))
    read = {"candidates": str(tmp_path / "candidates.parquet")}
    assert rerank(make_config(input=read), load=load_cheap_scorer) == ExitCode.DONE
    policy = {"name": "contrast", "source": "contrast", "contrast_low": -2.0, "contrast_high": 2.0}
    config = make(
        input={"run": str(tmp_path / "run")},
        positives={"qrels": str(tmp_path / "qrels.trec")},
        mining={"policies": [policy], "twins": False},
    )
    assert mine_negatives(config, load=never) == ExitCode.DONE
    mined = tmp_path / "mined"
    assert len(list((mined / "_commits/mine").iterdir())) > 1
    scores = ds.dataset(tmp_path / "run/scores").to_table()
    query = [texts[int(q.removeprefix("same").removeprefix("opposite"))] for q in scores["query_id"].to_pylist()]
    positives = pa.table({"query_id": [q for q, _ in judged], "doc_id": [d for _, d in judged]})
    scores = scores.append_column("query", pa.array(query))
    expected = mine(scores, positives, MiningPolicy(**policy), twins=False).negatives.to_pylist()
    assert len(expected) > 1_000
    found = read_output(mined, "negatives")
    assert {(r["query_id"], r["doc_id"], r["rank"]) for r in found} == {
        (r["query_id"], r["doc_id"], r["rank"]) for r in expected
    }
    assert report_of(mined)["left_out"]["negatives: no scored candidate"] == 20


def test_too_many_bad_judgements_and_ids_that_a_format_cannot_hold(
    tmp_path: Path, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    write_small_collection(tmp_path)
    config = make(trainer={"formats": ["colbert"]}, limits={"max_quarantined_fraction": 0.1})
    assert mine_negatives(config, load=by_length) == ExitCode.TOO_MANY_QUARANTINED  # one of five judgements
    assert not (tmp_path / "mined/_SUCCESS").exists()
    config = config.model_copy(update={"limits": config.limits.model_copy(update={"max_quarantined_fraction": 0.3})})
    assert mine_negatives(config, load=never) == ExitCode.DONE
    report = report_of(tmp_path / "mined")
    assert report["trainer_rows"] == {"colbert": 0}
    (told,) = {(said.levelname, said.getMessage()) for said in caplog.records if "trainer/" in said.getMessage()}
    assert told[0] == "WARNING"
    assert told[1].startswith("trainer/colbert: 0 rows of 0 queries: ids alone; left out: {")
    assert report["left_out"]["colbert: no positive is left: the doc_id is not an integer"] == 1


class FailingScorer(LengthScorer):
    """As LengthScorer, but without a number for pairs of one length."""

    def __init__(self, length: int) -> None:
        self.length = length

    def score_encoded(self, pairs: Any) -> Any:
        scores = super().score_encoded(pairs)
        scores.logits[pairs.lengths == self.length] = np.nan
        return scores


def test_what_was_quarantined_while_it_was_scored_is_still_a_positive_and_has_a_twin(
    tmp_path: Path, make: Make, tiny_checkpoint: Path
) -> None:
    rows = [
        *({**row, "clicked": int(row["doc_id"] in ("d9", "d1"))} for row in candidates("q", "d9", "t9", "d1", "d2")),
        *({**row, "clicked": int(row["doc_id"] == "d9")} for row in candidates("r", "d9", "d2")),
    ]
    write_jsonl(tmp_path / "candidates.jsonl", rows)
    config = make(
        positives={"label_column": "clicked"},
        trainer={"formats": ["labeled-pair"]},
        limits={"max_quarantined_fraction": 0.5},
    )
    tokenizer = EncT5Tokenizer.from_pretrained(str(tiny_checkpoint))
    length = len(tokenizer("flow q", rows[0]["text"])["input_ids"])
    assert length not in [len(tokenizer("flow q", row["text"])["input_ids"]) for row in rows[1:4]]
    assert mine_negatives(config, load=lambda _: FailingScorer(length)) == ExitCode.DONE
    mined = tmp_path / "mined"
    scored = {(row["query_id"], row["doc_id"]) for row in read_output(mined / "scoring", "scores")}
    assert ("q", "d9") not in scored
    assert ("r", "d9") not in scored
    assert chosen(mined) == {("q", "hard"): "d2", ("r", "hard"): "d2"}
    positives = {(row["query_id"], row["doc_id"], row["text"]) for row in read_output(mined, "positives")}
    assert positives == {("q", "d9", "wing " * 8 + "wing"), ("q", "d1", "wing"), ("r", "d9", "wing " * 8 + "wing")}
    counts = report_of(mined)["counts"]
    assert (counts["read"], counts["positives"], counts["judged lower"]) == (6, 3, 3)


def test_a_corpus_beside_candidates_with_texts_is_that_of_positives_that_are_no_candidates(
    tmp_path: Path, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    itself = {"query_id": "q", "query": "flow q", "doc_id": "duplicate", "text": "Flow  Q", "score": 9.0}
    write_jsonl(tmp_path / "candidates.jsonl", [*candidates("q", "t5", "d1", "d2"), itself])
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "d5", "text": "wing wing wing wing wing"}])
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\td5\t1\nq\td5\t0\nq\td5\t2\n")
    config = make(
        input={
            "candidates": str(tmp_path / "candidates.jsonl"),
            "corpus": str(tmp_path / "corpus.jsonl"),
            "instruction": "Find it",
        },
        trainer={"formats": ["triplet", "dpr", "tart-full"]},
    )
    with caplog.at_level("INFO"):
        assert mine_negatives(config, load=by_length) == ExitCode.DONE
    assert chosen(tmp_path / "mined") == {("q", "hard"): "d2 d1"}  # t5 is a copy of d5
    (positive,) = read_output(tmp_path / "mined", "positives")
    assert (positive["text"], positive["relevance"]) == ("wing wing wing wing wing", 2)  # the highest of its judgements
    report = report_of(tmp_path / "mined")
    assert (report["counts"]["read"], report["counts"]["positives"], report["counts"]["repeated"]) == (3, 1, 2)
    assert report["trainer_rows"] == {"triplet": 2, "dpr": 1, "tart-full": 3}
    assert report["trainer_queries"] == {"triplet": 1, "dpr": 1, "tart-full": 1}
    assert report["instructions"] == ["Find it"]
    assert report["trainer_instructions"] == {
        "triplet": "queries without their instruction",
        "dpr": "queries without their instruction",
        "tart-full": 'queries as "instruction [SEP] query"',
    }
    told = [said.getMessage() for said in caplog.records if "trainer" in said.getMessage()]
    assert told[0] == "trainer/triplet: 2 rows of 1 queries: queries without their instruction"
    assert told[3].startswith("trainer files without instructions: ['triplet', 'dpr']. Queries were scored under")
    folder = tmp_path / "mined/trainer"
    assert {row["anchor"] for row in pq.read_table(folder / "triplet").to_pylist()} == {"flow q"}
    ((example,),) = [json.loads(path.read_text()) for path in (folder / "dpr").glob("*.json")]
    assert (example["question"], len(example["hard_negative_ctxs"])) == ("flow q", 2)
    rows = [json.loads(line) for line in (folder / "tart-full/00000.json").read_text().splitlines()]
    assert [row["query"] for row in rows] == ["Find it [SEP] flow q"] * 3
    assert left_out(tmp_path / "mined") == {("q", "duplicate", QUERY_ITSELF, "negatives")}
    assert report["left_out"] == {f"negatives: {QUERY_ITSELF}": 1}
    assert report["counts"]["query itself"] == report["policies"]["hard"]["dropped by query itself"] == 1


def test_qrels_of_another_collection_are_refused_before_any_work(tmp_path: Path, make: Make) -> None:
    write_jsonl(tmp_path / "candidates.jsonl", candidates("q", "d1", "d2"))
    (tmp_path / "qrels.tsv").write_text("Q1 0 d1 1\n")
    with pytest.raises(InputError, match=r"positives\.qrels .*none of the 1 queries .*judged \['Q1'\].*\['q'\]"):
        mine_negatives(make(), load=never)
    assert not (tmp_path / "mined").exists()


def test_a_run_that_can_mine_nothing_makes_room_for_one_that_can(tmp_path: Path, make: Make) -> None:
    write_jsonl(tmp_path / "candidates.jsonl", candidates("q", "d1", "d2"))
    (tmp_path / "qrels.tsv").write_text("q 0 d1 1\n")
    beyond_the_last = {"policies": [{"name": "window", "range_min": 5}]}
    with pytest.raises(RunFailedError, match="no query has a negative") as failed:
        mine_negatives(make(mining=beyond_the_last), load=by_length)
    assert "the same output.path will do" in failed.value.advice
    assert not (tmp_path / "mined/_SUCCESS").exists()
    # mended, in the same place: what was scored is not scored again
    assert mine_negatives(make(), load=never) == ExitCode.DONE
    assert [(row["query_id"], row["doc_id"]) for row in read_output(tmp_path / "mined", "negatives")] == [("q", "d2")]


def test_a_window_of_retrieval_ranks_needs_retrieval_ranks(tmp_path: Path, make: Make) -> None:
    rows = [
        {name: row[name] for name in ("query_id", "query", "doc_id", "text")} for row in candidates("q", "d1", "d2")
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "candidates.parquet")
    (tmp_path / "qrels.tsv").write_text("q 0 d1 1\n")
    config = make(
        input={"candidates": str(tmp_path / "candidates.parquet")},
        mining={"policies": [{"name": "window", "range_min": 1}]},
    )
    with pytest.raises(ConfigurationError, match=r"\['window'\] have a window .* no score of a first stage"):
        mine_negatives(config)
    write_jsonl(tmp_path / "candidates.jsonl", rows)  # where a later line might have a score
    config = config.model_copy(update={"input": config.input.model_copy(update={"candidates": f"{tmp_path}/*.jsonl"})})
    with pytest.raises(RunFailedError, match=r"no query has a negative.*\['window'\] have a window .* no score of a"):
        mine_negatives(config, load=by_length)
