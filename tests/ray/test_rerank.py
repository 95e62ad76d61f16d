"""jobs.rerank on a two-node cluster: every input form, bad rows, duplicates, ranking, conflicts, resume."""

from __future__ import annotations

import functools
import gzip
import hashlib
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.deadly import die
from support.job_files import WORDS, read_output, report_of, write_jsonl
from support.shown import shown

from tart_ray import Scorer
from tart_ray.config import StorageConfig
from tart_ray.errors import (
    CheckpointError,
    ConfigurationError,
    ExitCode,
    InputError,
    RunConflictError,
    RunFailedError,
    StorageError,
)
from tart_ray.input import inspect_text, splits
from tart_ray.reranking.job import rerank
from tart_ray.scores.prepare import prepare
from tart_ray.scores.replica import load_scorer
from tart_ray.scores.store import find_run
from tart_ray.storage import Storage

pytestmark = pytest.mark.usefixtures("cluster")


def pair(query: int, document: int, **more: Any) -> dict[str, Any]:
    text = f"{WORDS[document % len(WORDS)]} {WORDS[document // 7 % len(WORDS)]} {document}"
    return {"query_id": f"q{query}", "query": f"{WORDS[query]} flow", "doc_id": f"d{document}", "text": text, **more}


def reference_margins(checkpoint: Path, rows: list[dict[str, Any]], instruction: str | None) -> dict[Any, float]:
    scorer = Scorer.from_pretrained(checkpoint, device="cpu", max_length=64)
    documents = [f"{row.get('title', '')} {row['text']}".strip() for row in rows]
    instructions = [row.get("instruction", instruction) for row in rows]
    margins = scorer.score([row["query"] for row in rows], documents, instructions).margin
    return {(row["query_id"], row["doc_id"]): margin for row, margin in zip(rows, margins.tolist(), strict=True)}


def assert_ranked_by(margins: dict[Any, float], output: list[dict[str, Any]]) -> None:
    """Every pair once, with its margin, in the order of the margins within its query."""
    assert sorted((row["query_id"], row["doc_id"]) for row in output) == sorted(margins)
    for row in output:
        assert row["margin"] == pytest.approx(margins[row["query_id"], row["doc_id"]], abs=1e-5)
        assert row["score"] == pytest.approx(1 / (1 + np.exp(-row["margin"])), abs=1e-6)
    for query in {row["query_id"] for row in output}:
        rows = sorted((row for row in output if row["query_id"] == query), key=lambda row: row["rank"])
        assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
        assert all(a["margin"] >= b["margin"] for a, b in itertools.pairwise(rows))


def assert_the_report_shows(run: Path, rows: list[dict[str, Any]], output: list[dict[str, Any]]) -> None:
    """Figures of 27 pairs of 3 queries with a first stage, in report.json and on the page."""
    figures = report_of(run)["figures"]
    (margins,), (lengths,), (speed, replicas) = (figures[name] for name in ("Margins", "Lengths", "Speed"))
    assert sum(margins["counts"][""]) == sum(lengths["counts"][""]) == 27
    assert margins["edges"][-1] == pytest.approx(max(row["margin"] for row in output))
    assert len(speed["lines"][""]) == 60
    assert sum(row[2] for row in replicas["rows"]) == 27
    moves, top, *queries = figures["Before and after"]
    assert sum(moves["counts"][""]) == 27
    assert [row[1] for row in top["rows"]] == [3, 9, 27]
    assert {table["title"] for table in queries} == {f"{row['query_id']}: {row['query']}" for row in rows}
    texts = {row["doc_id"]: f"{row['title']} {row['text']}" for row in rows}
    first = {row["query_id"]: row["doc_id"] for row in output if row["rank"] == 1}
    for table in queries:
        best = first[table["title"].partition(":")[0]]
        assert table["rows"][0][2].startswith(f"{best} (margin ")
        assert table["rows"][0][2].endswith(texts[best])
    page = (run / "report.html").read_text()
    assert "It scored 27 pairs of 3 queries with " in page
    assert "under the instruction “Find it”" in page
    assert page.count("<svg") == 4


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_an_input_that_is_replaced_under_the_job_ends_it(
    form: str, tmp_path: Path, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / f"candidates/a.{form}"
    file.parent.mkdir()

    def put(word: str) -> None:
        rows = [pair(q, d) | {"text": f"{word} {d}"} for q in range(3) for d in range(9)]
        if form == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), file)
        else:
            write_jsonl(file, rows)

    def replace_and_prepare(*args: Any) -> Any:
        put("jet")
        return prepare(*args)

    put("lift")
    kept = shutil.copy2(file, tmp_path / "kept")
    config = make_config()
    with monkeypatch.context() as patched:
        patched.setattr("tart_ray.reranking.job.prepare", replace_and_prepare)
        with pytest.raises(RunFailedError, match=rf"a.{form}: changed while the run reads it: listed with") as caught:
            rerank(config)
    assert "the same output.path will do" in caught.value.advice  # no row was scored yet
    assert not (tmp_path / "run/_SUCCESS").exists()
    assert rerank(config) == ExitCode.DONE  # over the input as it is now
    assert report_of(tmp_path / "run")["counts"]["scored"] == 27
    (listed,) = json.loads((tmp_path / "run/manifest.json").read_text())["identity"]["input"]["files"]["candidates"]
    assert listed[1] == file.stat().st_size
    shutil.copy2(kept, file)
    with pytest.raises(RunConflictError, match="Differences"):
        rerank(config)


@pytest.mark.parametrize("form", ["parquet", "jsonl", "jsonl.gz", "lists.parquet", "lists.jsonl"])
def test_every_form_of_candidates_gives_the_reference_scores(
    form: str, tmp_path: Path, make_config: Any, tiny_checkpoint: Path
) -> None:
    rows = [pair(q, d, title=f"title {d}", score=float(-d)) for q in range(3) for d in range(q, q + 9)]
    folder = tmp_path / "candidates"
    folder.mkdir()
    lists = [
        {
            "query_id": f"q{q}",
            "query": rows[q * 9]["query"],
            "candidates": [
                {k: row[k] for k in ("doc_id", "text", "title", "score")} for row in rows[q * 9 : q * 9 + 9]
            ],
        }
        for q in range(3)
    ]
    if form == "parquet":  # the rows of a query lie in both files
        pq.write_table(pa.Table.from_pylist(rows[::2]), folder / "a.parquet")
        pq.write_table(pa.Table.from_pylist(rows[1::2]), folder / "b.parquet")
    elif form == "lists.parquet":
        pq.write_table(pa.Table.from_pylist(lists), folder / "a.parquet")
    elif form == "lists.jsonl":
        write_jsonl(folder / "a.jsonl", lists)
    else:
        write_jsonl(folder / "a.jsonl", rows)
    if form == "jsonl.gz":
        (folder / "a.jsonl.gz").write_bytes(gzip.compress((folder / "a.jsonl").read_bytes()))
        (folder / "a.jsonl").unlink()
    assert rerank(make_config(input={"candidates": str(folder), "instruction": "Find it"})) == ExitCode.DONE
    output = read_output(tmp_path / "run")
    assert_ranked_by(reference_margins(tiny_checkpoint, rows, "Find it"), output)
    assert {(r["doc_id"], r["first_stage_rank"]) for r in output if r["query_id"] == "q0"} == {
        (f"d{d}", d + 1) for d in range(9)
    }
    assert {row["instruction"] for row in output} == {"Find it"}
    assert (tmp_path / "run" / "_SUCCESS").exists()
    assert_the_report_shows(tmp_path / "run", rows, output)


def test_bad_rows_are_quarantined_and_counts_reconcile(
    tmp_path: Path, make_config: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [pair(0, d) for d in range(20)]
    bad = [
        ({**pair(0, 90), "query_id": None}, "query_id is null"),
        ({**pair(0, 91), "doc_id": 7.5}, "doc_id: got float, expected string or integer"),
        ({**pair(0, 92), "text": "  "}, "empty document"),
        ({**pair(0, 93), "text": None}, "text is null"),
    ]
    broken = '{"query_id": "q0", "doc_id": "d94", '
    again = {**pair(0, 3), "text": "another text of the same document"}
    invisible = {**pair(0, 95), "text": "\u200b\x01"}
    write_jsonl(tmp_path / "candidates" / "a.jsonl", [*good, *(row for row, _ in bad), broken, again, invisible])
    code = rerank(make_config(limits={"max_quarantined_fraction": 0.5}))
    assert code == ExitCode.DONE
    counts = report_of(tmp_path / "run")["counts"]
    assert {name: counts[name] for name in ("read", "scored", "duplicates", "quarantined", "written")} == {
        "read": 27,
        "scored": 20,
        "duplicates": 1,
        "quarantined": 6,
        "written": 20,
    }
    found = {row["position"]: row for row in read_output(tmp_path / "run", "quarantine")}
    lines = (tmp_path / "candidates" / "a.jsonl").read_bytes().splitlines(keepends=True)
    offsets = np.cumsum([0, *map(len, lines)]).tolist()
    for i, (row, reason) in enumerate(bad):
        kept = found[offsets[20 + i]]
        assert kept["reason"] == reason
        assert {k: v for k, v in json.loads(kept["row"]).items() if v is not None} == {
            k: v for k, v in row.items() if v is not None
        }
    assert found[offsets[24]]["raw"].decode() == broken
    assert found[offsets[26]]["reason"].startswith("the document encodes to no token")
    assert all(row["source"].endswith("candidates/a.jsonl") for row in found.values())
    ranked = {row["doc_id"]: row for row in read_output(tmp_path / "run")}
    assert len(ranked) == 20

    state = shown(capsys, "show", tmp_path / "run")
    assert state[0] == "jobs.rerank: finished"
    assert ["read", "27"] in [line.split() for line in state]
    assert state[-1] == "the same command over the same input has nothing to do"
    _, *told = shown(capsys, "show", tmp_path / "run", "--query", "q0", "--top", "7")
    texts = {row["doc_id"]: row["text"] for row in good}
    expected = sorted((row["rank"], name, *texts[name].split()) for name, row in ranked.items() if row["rank"] <= 7)
    assert [(int(rank), *rest) for rank, _, _, *rest in map(str.split, told[1:])] == expected
    places = shown(capsys, "show", tmp_path / "run", "--quarantine")
    assert places[0] == "quarantine: 6 rows"
    at = places.index("1 row: query_id is null (read)")
    assert places[at + 1].endswith("candidates/a.jsonl line 21")


def test_more_bad_rows_than_allowed_end_with_3_and_a_higher_limit_accepts_them(
    tmp_path: Path, make_config: Any
) -> None:
    write_jsonl(tmp_path / "candidates" / "a.jsonl", [pair(0, 1), pair(0, 2), "{broken", "{broken"])
    assert rerank(make_config()) == ExitCode.TOO_MANY_QUARANTINED
    assert not (tmp_path / "run" / "_SUCCESS").exists()
    assert len(read_output(tmp_path / "run")) == 2
    assert rerank(make_config(limits={"max_quarantined_fraction": 0.5})) == ExitCode.DONE
    assert (tmp_path / "run" / "_SUCCESS").exists()


def test_a_trec_run_is_joined_and_what_is_missing_is_quarantined(
    tmp_path: Path, make_config: Any, tiny_checkpoint: Path
) -> None:
    rows = [pair(q, d) for q in (0, 1) for d in range(5)]
    lines = [f"{r['query_id']} Q0 {r['doc_id']} {i + 1} {9.5 - i} bm25" for i, r in enumerate(rows)]
    lines += ["q0 Q0 nowhere 9 1.0 bm25", "q7 Q0 d1 1 1.0 bm25", "q0 Q0 d2 too short"]
    (tmp_path / "run.trec").write_text("\n".join(lines))
    queries = [{"_id": f"q{q}", "text": pair(q, 0)["query"]} for q in (0, 1)]
    documents = [{"_id": f"d{d}", "title": "", "text": pair(0, d)["text"]} for d in range(5)]
    again = [{"_id": "q1", "text": "another question"}, {"_id": "d1", "title": "", "text": "another text"}]
    write_jsonl(tmp_path / "queries.jsonl", [*queries, again[0], queries[0]])
    write_jsonl(tmp_path / "corpus.jsonl", [*documents, again[1], documents[0], documents[2]])
    source = {name: str(tmp_path / f"{name}.jsonl") for name in ("queries", "corpus")}
    config = make_config(
        input={"candidates": str(tmp_path / "run.trec"), **source}, limits={"max_quarantined_fraction": 0.3}
    )
    assert rerank(config) == ExitCode.DONE
    assert_ranked_by(reference_margins(tiny_checkpoint, rows, None), read_output(tmp_path / "run"))
    reasons = {(row["query_id"], row["reason"].split(":")[0]) for row in read_output(tmp_path / "run", "quarantine")}
    assert reasons == {
        ("q0", "doc_id is not in the corpus"),
        ("q7", "query_id is not in the queries"),
        (None, "undecodable line"),
        ("q1", "another query than an earlier row of this query_id"),
        (None, "another text than an earlier row of this doc_id"),
    }
    counts = report_of(tmp_path / "run")["counts"]
    assert (counts["read"], counts["quarantined"], counts["quarantined_queries_and_documents"]) == (13, 3, 2)
    assert (counts["duplicate_queries"], counts["duplicate_documents_in_corpus"]) == (1, 2)

    second = make_config(
        input={"candidates": str(tmp_path / "run" / "reranked"), **source, "instruction": "Find a duplicate"},
        output={"path": str(tmp_path / "second")},
    )
    assert rerank(second) == ExitCode.DONE
    output = read_output(tmp_path / "second")
    assert_ranked_by(reference_margins(tiny_checkpoint, rows, "Find a duplicate"), output)
    ranks = {(row["query_id"], row["doc_id"]): (row["rank"], row["margin"]) for row in read_output(tmp_path / "run")}
    assert ranks == {
        (row["query_id"], row["doc_id"]): (row["first_stage_rank"], row["first_stage_score"]) for row in output
    }


def test_own_instructions_win_top_k_cuts_and_partitions_read_back(
    tmp_path: Path, make_config: Any, tiny_checkpoint: Path
) -> None:
    rows = [pair(q, d, language=["en", "a/b=c\n"][q % 2]) for q in range(4) for d in range(6)]
    for row in rows[:6]:
        row["instruction"] = "Find a duplicate"
    write_jsonl(tmp_path / "candidates" / "a.jsonl", rows)
    config = make_config(
        input={"instruction": "Find it"},
        output={"top_k": 2, "partition_by": ["language"], "path": str(tmp_path / "run")},
    )
    assert rerank(config) == ExitCode.DONE
    margins = reference_margins(tiny_checkpoint, rows, "Find it")
    expected = {
        (f"q{q}", document)
        for q in range(4)
        for document in sorted((f"d{d}" for d in range(6)), key=lambda d, q=q: -margins[f"q{q}", d])[:2]
    }
    output = read_output(tmp_path / "run")
    assert {(row["query_id"], row["doc_id"]) for row in output} == expected
    assert {(row["query_id"], row["language"]) for row in output} == {
        (f"q{q}", ["en", "a/b=c\n"][q % 2]) for q in range(4)
    }
    scored = read_output(tmp_path / "run", "scores")
    assert len(scored) == 24
    assert {row["instruction"] for row in scored if row["query_id"] == "q0"} == {"Find a duplicate"}
    read = (
        f"select language, count(*) from read_parquet('{tmp_path}/run/reranked/*/*.parquet', hive_partitioning = true)"
    )
    assert duckdb.sql(f"{read} group by 1 order by 1").fetchall() == [("a/b=c\n", 4), ("en", 4)]


@pytest.mark.parametrize("titles", [True, False], ids=["titles", "no titles"])
def test_included_texts_are_read_without_a_join_and_again_by_a_second_run(
    titles: bool, tmp_path: Path, make_config: Any, tiny_checkpoint: Path
) -> None:
    """A TREC run whose texts are in other files; documents are shared by queries, and some have no title."""
    rows = [pair(q, d) for q in range(3) for d in range(6)]
    (tmp_path / "run.trec").write_text("\n".join(f"{r['query_id']} Q0 {r['doc_id']} 1 1.0 bm25" for r in rows))
    headlines = {f"d{d}": f"title {d}" if d % 2 else None for d in range(6)} if titles else {}
    write_jsonl(tmp_path / "queries.jsonl", [{"_id": f"q{q}", "text": pair(q, 0)["query"]} for q in range(3)])
    write_jsonl(
        tmp_path / "corpus.jsonl",
        [
            {"_id": f"d{d}", "text": pair(0, d)["text"]} | ({"title": headlines[f"d{d}"]} if titles else {})
            for d in range(6)
        ],
    )
    source = {name: str(tmp_path / f"{name}.jsonl") for name in ("queries", "corpus")}
    include = ["title", "query", "text"] if titles else ["text"]
    output = {"path": str(tmp_path / "run"), "top_k": 4, "include": include, "partition_by": ["query_id"]}
    config = make_config(input={"candidates": str(tmp_path / "run.trec"), **source}, output=output)
    assert rerank(config) == ExitCode.DONE
    ranked = read_output(tmp_path / "run")
    assert len(ranked) == 12
    assert all([*row][-len(include) - 1 : -1] == include for row in ranked)  # the partition is read behind the columns
    told = {(row["query_id"], row["doc_id"]): row for row in rows}
    for row in ranked:
        of_input = told[row["query_id"], row["doc_id"]] | {"title": headlines.get(row["doc_id"])}
        assert {name: row[name] for name in include} == {name: of_input[name] for name in include}
    texts = duckdb.sql(f"select text from read_parquet('{tmp_path}/run/reranked/*/*.parquet')").fetchall()
    assert sorted(text for (text,) in texts) == sorted(row["text"] for row in ranked)

    with pytest.raises(RunConflictError, match=r"output\.include"):
        rerank(make_config(input={"candidates": str(tmp_path / "run.trec"), **source}, output=output | {"include": []}))
    again = {} if titles else {"queries": source["queries"]}
    second = make_config(
        input={"candidates": str(tmp_path / "run" / "reranked"), **again}, output={"path": str(tmp_path / "second")}
    )
    assert rerank(second) == ExitCode.DONE
    margins = {(row["query_id"], row["doc_id"]): pytest.approx(row["margin"], abs=1e-5) for row in ranked}
    assert {(row["query_id"], row["doc_id"]): row["margin"] for row in read_output(tmp_path / "second")} == margins


def test_included_texts_of_a_query_in_several_chunks_and_none_of_rows_without_a_score(
    tmp_path: Path, make_config: Any
) -> None:
    rows = [pair(0, d) for d in range(1_200)]
    rows[7]["text"] = "\u200b"  # encodes to no token: quarantined when it is tokenised
    lists = [{"query_id": "q0", "query": rows[0]["query"],
              "candidates": [{"doc_id": row["doc_id"], "text": row["text"], "title": ""} for row in rows]}]  # fmt: skip
    write_jsonl(tmp_path / "candidates" / "a.jsonl", lists)
    assert rerank(make_config(output={"path": str(tmp_path / "run"), "include": ["text", "title"]})) == ExitCode.DONE
    output = read_output(tmp_path / "run")
    assert report_of(tmp_path / "run")["counts"]["chunks"] == 3
    assert {row["doc_id"]: (row["text"], row["title"]) for row in output} == {
        row["doc_id"]: (row["text"], "") for row in rows[:7] + rows[8:]
    }


def test_pairs_without_ids_are_ranked_by_query_and_read_with_their_texts(
    tmp_path: Path, make_config: Any, tiny_checkpoint: Path
) -> None:
    """Two queries; documents are shared, one pair comes twice, and one query is asked under two instructions."""
    rows = [pair(q, d) for q in range(2) for d in range(5)]
    given = [{"query": row["query"], "document": row["text"], "rank": i} for i, row in enumerate(rows)]
    told = [given[i] | {"instruction": "Find a duplicate"} for i in range(5)]
    write_jsonl(tmp_path / "candidates" / "a.jsonl", [*given, given[3], *told])
    with pytest.raises(InputError, match=r"missing column query_id, doc_id; .*input\.ids: from_text"):
        rerank(make_config())
    output = {"path": str(tmp_path / "run"), "include": ["query", "text"]}
    assert rerank(make_config(input={"ids": "from_text"}, output=output)) == ExitCode.DONE
    counts = report_of(tmp_path / "run")["counts"]
    assert (counts["scored"], counts["duplicates"], counts["quarantined"]) == (15, 1, 0)
    asked = [(row, None) for row in given] + [(row, "Find a duplicate") for row in told]
    scorer = Scorer.from_pretrained(tiny_checkpoint, device="cpu", max_length=64)
    expected = scorer.score(
        [row["query"] for row, _ in asked], [row["document"] for row, _ in asked], [own for _, own in asked]
    ).margin.tolist()
    margins = {(row["query"], row["document"], own): m for (row, own), m in zip(asked, expected, strict=True)}
    ranked = read_output(tmp_path / "run")
    found = {(row["query"], row["text"], row["instruction"]): row["margin"] for row in ranked}
    assert found == {key: pytest.approx(margin, abs=1e-5) for key, margin in margins.items()}
    for row in ranked:
        asked_of = row["query"] if row["instruction"] is None else f"{row['instruction']}\n{row['query']}"
        for name, text in (("query_id", asked_of), ("doc_id", row["text"])):
            assert row[name] == hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    of_queries = [[row for row in ranked if row["query_id"] == query] for query in {row["query_id"] for row in ranked}]
    assert sorted(sorted(row["rank"] for row in of_one) for of_one in of_queries) == [[1, 2, 3, 4, 5]] * 3
    assert find_run(Storage({}), str(tmp_path / "run"), StorageConfig(), 3).plan.candidates.made_ids


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_hive_partitioned_candidates_keep_their_keys(form: str, tmp_path: Path, make_config: Any) -> None:
    for q, language in enumerate(["en", "pt%2FBR", "__HIVE_DEFAULT_PARTITION__"]):
        rows = [{k: v for k, v in pair(q, d).items() if k != "query_id"} for d in range(3)]
        folder = tmp_path / "candidates" / f"language={language}" / f"query_id=q{q}"
        folder.mkdir(parents=True)
        if form == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), folder / "part-0.parquet")
        else:
            write_jsonl(folder / "part-0.jsonl", rows)
    (tmp_path / "candidates" / "_SUCCESS").write_text("not data")
    assert rerank(make_config()) == ExitCode.DONE
    report = report_of(tmp_path / "run")
    assert report["skipped_files"] == {"candidates": 1}
    assert report["notes"] == {"candidates": ["skipped 1 hidden (names that begin with _ or .): _SUCCESS"]}
    found = {(row["query_id"], row["language"]) for row in read_output(tmp_path / "run")}
    assert found == {("q0", "en"), ("q1", "pt/BR"), ("q2", None)}
    assert len(read_output(tmp_path / "run")) == 9


def test_a_query_larger_than_a_chunk_is_ranked_over_all_its_chunks(
    tmp_path: Path, make_config: Any, tiny_checkpoint: Path
) -> None:
    rows = [pair(0, d) for d in range(17_000)] + [pair(1, d) for d in range(10)]
    folder = tmp_path / "candidates"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows[::2]), folder / "a.parquet", row_group_size=3_000)
    pq.write_table(pa.Table.from_pylist(rows[1::2]), folder / "b.parquet")
    assert rerank(make_config()) == ExitCode.DONE
    assert report_of(tmp_path / "run")["counts"]["chunks"] >= 16
    assert_ranked_by(reference_margins(tiny_checkpoint, rows, None), read_output(tmp_path / "run"))


def test_a_rerun_of_a_complete_run_does_nothing_and_another_config_is_refused(tmp_path: Path, make_config: Any) -> None:
    write_jsonl(tmp_path / "candidates" / "a.jsonl", [pair(0, d) for d in range(4)])
    assert rerank(make_config()) == ExitCode.DONE
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert rerank(make_config(cluster={"gpus_per_replica": 0, "replicas": {"max": 1}})) == ExitCode.DONE
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    with pytest.raises(RunConflictError, match=r"model\.max_length: 64 → 128"):
        rerank(make_config(model={"path": make_config().model.path, "max_length": 128}))
    write_jsonl(tmp_path / "candidates" / "b.jsonl", [pair(0, 9)])
    with pytest.raises(RunConflictError, match=r"input\.files\.candidates"):
        rerank(make_config())


def test_a_rerun_scores_only_what_is_not_committed(tmp_path: Path, make_config: Any) -> None:
    write_jsonl(tmp_path / "candidates" / "a.jsonl", [pair(q, d) for q in range(15) for d in range(1_200)])
    assert rerank(make_config()) == ExitCode.DONE
    run, expected = tmp_path / "run", read_output(tmp_path / "run")
    shutil.copytree(run, tmp_path / "whole")
    commits = sorted((run / "_commits" / "score").iterdir())
    assert len(commits) >= 10
    # as if the driver had died before it committed one chunk, and its scores were never written
    (run / "_SUCCESS").unlink()
    commits[1].unlink()
    (run / "scores" / f"{commits[1].stem}.parquet").unlink()
    shutil.rmtree(run / "_commits" / "rank")
    shutil.rmtree(run / "_commits" / "chunk")
    for stage in run.glob("_commits/read-*"):
        shutil.rmtree(stage)
    untouched = {path: path.stat().st_mtime_ns for path in (*commits[:1], *commits[2:])}
    assert rerank(make_config()) == ExitCode.DONE
    assert {path: path.stat().st_mtime_ns for path in untouched} == untouched
    assert read_output(run) == expected
    assert report_of(run)["counts"] == report_of(tmp_path / "whole")["counts"]


@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        ({"input": {"candidates": "/nowhere/at/all"}}, StorageError, "no file there"),
        ({"input": {"columns": {"text": "body"}}}, InputError, "body.*available"),
        ({"output": {"partition_by": ["colour"]}}, ConfigurationError, "colour.*available"),
        (
            {"output": {"include": ["title"]}},
            ConfigurationError,
            r"include: got \['title'\], available, once each: .*text'\]",
        ),
        ({"output": {"include": ["text", "text"]}}, ConfigurationError, "include.*once each"),
        ({"model": {"path": "/no/such/model"}}, CheckpointError, "/no/such/model"),
    ],
)
def test_bad_configuration_fails_before_any_work(
    sections: Any, error: type[Exception], message: str, tmp_path: Path, make_config: Any
) -> None:
    write_jsonl(tmp_path / "candidates" / "a.jsonl", [pair(0, 1)])
    base = make_config().model_dump()
    merged = {name: {**base[name], **section} for name, section in sections.items()}
    with pytest.raises(error, match=message):
        rerank(make_config(**merged))
    assert not (tmp_path / "run").exists()


def test_ids_without_texts_and_no_place_to_join_them_from_are_refused(tmp_path: Path, make_config: Any) -> None:
    write_jsonl(tmp_path / "candidates" / "a.jsonl", [{"query_id": "q", "doc_id": "d", "query": "wing"}])
    with pytest.raises(ConfigurationError, match=r"no column 'text' and input\.corpus is not set"):
        rerank(make_config())


def test_an_output_path_with_other_files_is_refused(tmp_path: Path, make_config: Any) -> None:
    write_jsonl(tmp_path / "candidates" / "a.jsonl", [pair(0, 1)])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.doc").write_text("precious")
    with pytest.raises(RunConflictError, match=r"thesis\.doc"):
        rerank(make_config())


def test_a_model_that_kills_its_process_ends_the_job_instead_of_repeating(tmp_path: Path, make_config: Any) -> None:
    write_jsonl(tmp_path / "candidates" / "a.jsonl", [pair(0, d) for d in range(4)])
    config = make_config(limits={"max_attempts_per_chunk": 2}, cluster={"replicas": {"max": 1}})
    with pytest.raises(RunFailedError, match=r"^load model: 2 processes died on it .* A rerun resumes with it$"):
        rerank(config, load=die)
    assert not (tmp_path / "run" / "_SUCCESS").exists()
    assert rerank(make_config()) == ExitCode.DONE  # the run continues once the cause is gone
    assert len(read_output(tmp_path / "run")) == 4


def replace_then_load(model: Path, config: Any) -> Any:
    """A replica that starts after somebody has put another checkpoint in the place of the manifest's."""
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 64
    (model / "model.safetensors").write_bytes(weights)
    return load_scorer(config)


def test_a_checkpoint_that_is_replaced_ends_the_job_and_put_back_it_continues(
    tmp_path: Path, make_config: Any, tiny_checkpoint: Path
) -> None:
    write_jsonl(tmp_path / "candidates" / "a.jsonl", [pair(0, d) for d in range(4)])
    model = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    config = make_config(model={"path": str(model)}, cluster={"replicas": {"max": 1}})
    with pytest.raises(RunFailedError, match="the manifest names a checkpoint of fingerprint") as caught:
        rerank(config, load=functools.partial(replace_then_load, model))
    assert "\n" not in str(caught.value)
    assert caught.value.advice == "what is done stays"
    with pytest.raises(RunConflictError, match=r"model\.fingerprint: "):
        rerank(config)  # the new one is another run's
    shutil.copy(tiny_checkpoint / "model.safetensors", model)
    assert rerank(config) == ExitCode.DONE
    assert len(read_output(tmp_path / "run")) == 4


def test_a_repeated_pair_under_another_instruction_is_kept_in_quarantine(tmp_path: Path, make_config: Any) -> None:
    rows = [pair(0, 1), pair(0, 2), {**pair(0, 1), "instruction": "Find the opposite"}, pair(0, 2)]
    write_jsonl(tmp_path / "candidates" / "a.jsonl", rows)
    assert rerank(make_config(limits={"max_quarantined_fraction": 0.5})) == ExitCode.DONE
    counts = report_of(tmp_path / "run")["counts"]
    assert (counts["scored"], counts["duplicates"], counts["quarantined"]) == (2, 1, 1)
    (kept,) = read_output(tmp_path / "run", "quarantine")
    assert kept["reason"] == "another instruction than an earlier row of this query_id and doc_id"


def test_columns_of_json_lines_that_the_sample_does_not_show(
    tmp_path: Path, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect_text, "SAMPLE_BYTES", 1)  # the first line
    monkeypatch.setattr(splits, "SPLIT_BYTES", 500)
    late = [{"price": 3.5, "lang": "en", "label": 1.0}, {"price": float("nan"), "score": float("-inf")}]
    rows = [pair(0, d, price=d, code=d, score=float(-d)) for d in range(20)] + [
        pair(0, 20 + i, **late[i]) for i in (0, 1)
    ]
    write_jsonl(tmp_path / "candidates" / "a.jsonl", rows)
    config = make_config()
    assert rerank(config) == ExitCode.DONE
    output = {row["doc_id"]: row for row in read_output(tmp_path / "run")}
    assert {doc: row["price"] for doc, row in output.items()} == {
        **{f"d{d}": float(d) for d in range(20)}, "d20": 3.5, "d21": None,
    }  # fmt: skip
    assert [output["d20"][name] for name in ("lang", "label", "code")] == ["en", 1.0, None]
    assert output["d0"]["lang"] is None
    assert [output[doc]["first_stage_rank"] for doc in ("d19", "d20", "d21")] == [20, None, None]
    assert report_of(tmp_path / "run")["columns"] == [
        "price: int64 in the sample, double as read",
        "label: not in the sample, double as read",
        "lang: not in the sample, large_string as read",
    ]
    found = find_run(Storage(), str(tmp_path / "run"), config.storage, 3)
    assert found.plan.candidates.extras.names == ["code", "price", "label", "lang"]  # to mine from, or label
    for name, error, message in (
        (
            "price",
            RunFailedError,
            r"output.partition_by: got \['price'\], .*price: int64 in the sample, double as read",
        ),
        ("lang", ConfigurationError, r"\['lang'\], available.*columns are those in a sample of the files"),
    ):
        output_to = {"path": str(tmp_path / f"by-{name}"), "partition_by": [name]}
        with pytest.raises(error, match=message):
            rerank(make_config(output=output_to))
