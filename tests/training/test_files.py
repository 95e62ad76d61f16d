"""Files of examples: every format that mining writes, merged by query; bad records are kept with their place."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.job_files import write_jsonl

from tart_ray.errors import InputError
from tart_ray.input.listing import Listing
from tart_ray.mining.format_options import FormatOptions
from tart_ray.mining.groups import GROUPS
from tart_ray.mining.trainer_files import FORMATS, lines
from tart_ray.storage import Storage
from tart_ray.training.examples import Query
from tart_ray.training.files import check_fields, read_examples, read_instructions
from tart_ray.training.query_files import decode_queries, encode_queries


def fields_of(url: str, columns: dict[str, str] | None = None) -> Listing:
    return check_fields(Storage(), {"train": url}, columns)["train"]


def document(name: str, margin: float) -> dict[str, Any]:
    return {"doc_id": name, "title": "", "text": f"text {name}", "score": 0.5, "margin": margin, "policy": None}


MINED = pa.Table.from_pylist(
    [
        {
            "query_id": "1", "query": "flutter", "instruction": "Find a paper",
            "positives": [document("a", 4.0), document("b", 3.0)],
            "negatives": [document("c", 1.0), document("d", -2.0)],
        },
        {
            "query_id": "2", "query": "shock", "instruction": None,
            "positives": [document("e", 2.0)], "negatives": [document("c", 0.0), document("a", 0.5)],
        },
    ],
    schema=GROUPS,
)  # fmt: skip
WITHOUT_SCORES = [
    Query("flutter", "Find a paper", ("Find a paper",), ("text a", "text b"), ("text c", "text d")),
    Query("shock", "", (), ("text e",), ("text c", "text a")),
]
WITH_SCORES = [
    Query(
        "flutter", "Find a paper", ("Find a paper",), ("text a", "text b"), ("text c", "text d"), (),
        (4.0, 3.0), (1.0, -2.0),
    ),
    Query("shock", "", (), ("text e",), ("text c", "text a"), (), (2.0,), (0.0, 0.5)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "with_scores"),
    [
        ("tart-full", False),
        ("labeled-pair", False),
        ("labeled-list", False),
        ("triplet", False),
        ("triplet", True),
        ("n-tuple", False),
        ("n-tuple", True),
        ("flagembedding", False),
        ("flagembedding", True),
        ("flagembedding-reranker", True),
    ],
)
def test_what_mining_writes_is_read_back(name: str, with_scores: bool, tmp_path: Path) -> None:
    options = FormatOptions(with_scores=with_scores, num_negatives=2, join_instruction=True)
    rows = FORMATS[name].rows(MINED, options).rows
    if FORMATS[name].file == "parquet":
        pq.write_table(rows, tmp_path / "part.parquet")
    else:
        (tmp_path / FORMATS[name].file_name("part")).write_text("".join(f"{line}\n" for line in lines(name, rows)))
    fields_of(str(tmp_path))
    examples = read_examples(Storage(), str(tmp_path), needs_scores=with_scores)
    assert examples.queries == (WITH_SCORES if with_scores else WITHOUT_SCORES)
    known = 1 if name == "triplet" else 0  # the last of the crossed pairs says nothing new
    assert examples.counts == {"read": len(rows), "used": len(rows) - known, "duplicates": known, "quarantined": 0}
    assert decode_queries(encode_queries(examples.queries)) == examples.queries


def test_scores_without_labels_are_refused_with_what_to_write(tmp_path: Path) -> None:
    rows = FORMATS["labeled-pair"].rows(MINED, FormatOptions(with_scores=True)).rows
    pq.write_table(rows, tmp_path / "part.parquet")
    with pytest.raises(InputError, match=r"part\.parquet: .*scores without labels.*triplet"):
        fields_of(str(tmp_path))


def test_bad_records_are_kept_with_reason_and_place(tmp_path: Path) -> None:
    good = {"query": "Find it [SEP] q", "document": "p", "label": 1}
    rows: list[Any] = [
        good,
        {"query": "Find it [SEP] q", "document": "n", "label": 0},
        good,
        "{broken",
        {"query": "nan [SEP] q", "document": "n", "label": 0},
        {"query": " [SEP] bare", "document": "p", "label": 1},
        {"query": " [SEP] bare", "document": "n", "label": 0},
        {"query": "Find it [SEP] q", "document": "p", "label": 0},
        {"query": "Find it [SEP] q", "document": " ", "label": 0},
        {"query": "Find it [SEP] q", "document": "m", "label": 2},
        {"query": "Find it [SEP] lonely", "document": "m", "label": 0},
        {"query": "Find it [SEP] easy", "document": "m", "label": 1},
        {"query": "q", "document": "m"},
        {"query": "q", "document": "m", "label": 1, "instruction": 3},
        {"query": "q", "positives": [], "negatives": []},
        {"query": "r", "docs": ["m", "m", "n"], "labels": [1, 0, 0]},
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    examples = read_examples(Storage(), str(tmp_path / "rows.jsonl"))
    assert examples.queries == [
        Query("q", "Find it", ("Find it",), ("p",), ("n",)),
        Query("bare", "", (), ("p",), ("n",)),
    ]
    assert examples.counts == {"read": 16, "used": 4, "duplicates": 2, "quarantined": 10}
    assert examples.blank_instructions == 3
    content = (tmp_path / "rows.jsonl").read_bytes()
    reasons = {content[row["position"] :].split(b"\n")[0].decode(): row["reason"] for row in examples.quarantine.rows}
    assert all(row["source"].endswith("rows.jsonl") for row in examples.quarantine.rows)
    expected = [
        "undecodable line", "the document is positive in an earlier record",
        "document is empty", "label is 2, expected 0 or 1", "the query has no positive", "the query has no negative",
        "got fields ['document', 'query'], expected", "instruction is 3, expected text",
        "no document in it", "the document is positive and negative in one record",
    ]  # fmt: skip
    places = [3, 7, 8, 9, 10, 11, 12, 13, 14, 15]
    for place, reason in zip(places, expected, strict=True):
        line = content.splitlines()[place].decode()
        assert reasons[line].startswith(reason), line
    assert not any("nan" in " ".join(query.instructions) for query in examples.queries)


def test_sets_of_instructions_replace_those_of_the_records(tmp_path: Path) -> None:
    (tmp_path / "sets.json").write_text('{"code": ["Find code", "Get code"], "docs": ["Find docs"]}')
    sets = read_instructions(Storage(), str(tmp_path / "sets.json"))
    rows = [
        {"query": "Find code [SEP] sort", "document": "def sort", "label": 1},
        {"query": "Get code [SEP] sort", "document": "Sorts.", "label": 0, "unfollowing": True},
        {"query": "sort", "task": "docs", "pos": ["Sorts."], "neg": ["Opens."], "unfollowing": ["def sort"]},
        {"query": "Find a joke [SEP] sort", "positives": ["Ha"], "negatives": ["Sorts."]},
    ]  # fmt: skip
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_examples(Storage(), str(tmp_path / "rows.jsonl"), sets).queries == [
        Query("sort", "code", ("Find code", "Get code"), ("def sort",), (), ("Sorts.",)),
        Query("sort", "docs", ("Find docs",), ("Sorts.",), ("Opens.",), ("def sort",)),
        Query("sort", "Find a joke", ("Find a joke",), ("Ha",), ("Sorts.",)),
    ]


def test_rows_of_tarts_own_script_are_one_query_under_the_set_of_their_task(tmp_path: Path) -> None:
    rows = [
        {"query": "Find it </s> q", "document": "p", "label": 1},
        {"query": "Get it </s> q", "document": "n", "label": 0},
        {"query": "Find it </s> q", "document": "m", "label": 0},
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    (tmp_path / "sets.json").write_text('{"t": [" Find it", "Get it "]}')
    sets = read_instructions(Storage(), str(tmp_path / "sets.json"))
    examples = read_examples(Storage(), str(tmp_path / "rows.jsonl"), sets)
    assert examples.queries == [Query("q", "t", ("Find it", "Get it"), ("p",), ("n", "m"))]
    without = read_examples(Storage(), str(tmp_path / "rows.jsonl"))
    assert [row["reason"] for row in without.quarantine.rows] == [
        "the query has no positive under this instruction; records under several instructions are put together where "
        "they name their task, or input.instructions has its set"
    ]


def test_a_query_without_a_negative_needs_others_to_draw_one_from(tmp_path: Path) -> None:
    rows = [
        {"query": name, "task": task, "positives": [f"p{name}"]}
        for name, task in (("a1", "a"), ("b1", "b"), ("b2", "b"))
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    examples = read_examples(Storage(), str(tmp_path / "rows.jsonl"), negatives="random")
    assert [query.text for query in examples.queries] == ["b1", "b2"]
    assert [row["reason"] for row in examples.quarantine.rows] == [
        "the query has no negative, and its task no other query to draw one from"
    ]
    examples = read_examples(Storage(), str(tmp_path / "rows.jsonl"), negatives="optional")
    assert [query.text for query in examples.queries] == ["a1", "b1", "b2"]


def test_a_blank_instruction_is_that_of_its_querys_task(tmp_path: Path) -> None:
    rows = [
        {"query": "Find it </s> q", "document": "p", "label": 1},
        {"query": "nan </s> q", "document": "n", "label": 0},
        {"query": " </s> q", "document": "m", "label": 0},
        {"query": "nan </s> bare", "document": "p", "label": 1},
        {"query": "nan </s> bare", "document": "n", "label": 0},
        {"query": "q", "instruction": "Get it", "document": "x", "label": 1},
        {"query": "q", "instruction": "Get it", "document": "y", "label": 0},
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows[:5])
    sets = {"t": ["Find it", "Seek it"]}
    examples = read_examples(Storage(), str(tmp_path / "rows.jsonl"), sets)
    assert examples.queries == [
        Query("q", "t", ("Find it", "Seek it"), ("p",), ("n", "m")),
        Query("bare", "", (), ("p",), ("n",)),
    ]
    assert (examples.blank_instructions, examples.counts["quarantined"]) == (4, 0)
    write_jsonl(tmp_path / "rows.jsonl", rows)
    reasons = [row["reason"] for row in read_examples(Storage(), str(tmp_path / "rows.jsonl"), sets).quarantine.rows]
    assert reasons == ["the instruction is blank, and its query is of 2 tasks"] * 2 + [
        "the query has no negative under this instruction; records under several instructions are put together where "
        "they name their task, or input.instructions has its set"
    ]


def test_files_without_examples_are_skipped_by_name(tmp_path: Path) -> None:
    rows = [{"query": "q", "document": "p", "label": 1}, {"query": "q", "document": "n", "label": 0}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    write_jsonl(tmp_path / "rows", [{"query": "r", "positives": ["p"], "negatives": ["n"]}])
    (tmp_path / "README.md").write_text("# What these are\n")
    (tmp_path / "LICENSE").write_text("CC-BY-NC-4.0\n")
    files = fields_of(str(tmp_path)).files
    assert [file.url.rsplit("/")[-1] for file in files] == ["rows", "rows.jsonl"]
    read = read_examples(Storage(), str(tmp_path))
    assert [query.text for query in read.queries] == ["r", "q"]
    assert [url.rsplit("/")[-1] for url in read.skipped] == ["LICENSE", "README.md"]
    with pytest.raises(InputError, match=r"README\.md: no JSONL or Parquet in it"):
        fields_of(str(tmp_path / "README.md"))


def test_many_instructions_are_kept(tmp_path: Path) -> None:
    queries = [Query(f"q{i}", f"t{i}", (f"{i} " + "x" * 12_000,), ("p",), ("n",)) for i in range(9_000)]
    assert decode_queries(encode_queries(queries)) == queries


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ('{"a": ["x", "NaN "]}', "'a': expected"),
        ('{"a": ["x", ""]}', "'a': expected"),
        ('{"a": ["x"], "b": ["x"]}', "'x' is an instruction of 'a' and of 'b'"),
    ],
)
def test_bad_sets_of_instructions_are_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "sets.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_instructions(Storage(), str(tmp_path / "sets.json"))


def test_fields_that_are_called_otherwise_are_mapped(tmp_path: Path) -> None:
    rows = [{"question": "sort", "answer": "def sort", "relevant": 1, "lang": "en"}, {"question": "sort"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    columns = {"query": "question", "document": "answer", "label": "relevant"}
    url = str(tmp_path / "rows.jsonl")
    with pytest.raises(InputError, match=r"rows\.jsonl: .*; input\.columns maps other names"):
        fields_of(url)
    fields_of(url, columns)
    with pytest.raises(InputError, match=r"got \['tasks'\], which no first record has; available: \['answer'"):
        fields_of(url, columns | {"task": "tasks"})
    write_jsonl(tmp_path / "others.jsonl", [{**rows[0], "tasks": "code"}])
    both = {"train": url, "evaluation": str(tmp_path / "others.jsonl")}
    listings = check_fields(Storage(), both, columns | {"task": "tasks"})  # a field that one role has will do
    assert {role: listing.files[0].url for role, listing in listings.items()} == {
        r: f"file://{u}" for r, u in both.items()
    }
    examples = read_examples(Storage(), url, columns=columns, negatives="optional")
    assert [(query.text, query.positives) for query in examples.queries] == [("sort", ("def sort",))]
    (bad,) = examples.quarantine.rows
    assert json.loads(bad["raw"]) == {"question": "sort"}  # as it was


def test_parquet_is_read_as_other_jobs_read_it(tmp_path: Path) -> None:
    rows = [{"query": f"q{i}", "positives": ["p"], "negatives": ["n"], "day": date(2020, 1, i + 1)} for i in range(6)]
    rows[3]["positives"] = [""]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "no suffix", row_group_size=2)
    fields_of(str(tmp_path))
    examples = read_examples(Storage(), str(tmp_path))
    assert [query.text for query in examples.queries] == ["q0", "q1", "q2", "q4", "q5"]
    (bad,) = examples.quarantine.rows
    assert (bad["position"], bad["reason"]) == (3, "document is empty")
    assert json.loads(bad["row"])["day"] == "2020-01-04"


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    rows = [{"query": f"q{i}", "positives": ["p"], "negatives": ["n"]} for i in range(100)]
    pq.write_table(pa.Table.from_pylist(rows), path, write_page_checksum=True, row_group_size=50)
    content = bytearray(path.read_bytes())
    offset = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    content[offset + 30 : offset + 40] = b"\xff" * 10
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"part\.parquet: row group 1 cannot be read"):
        read_examples(Storage(), str(tmp_path))
    not_utf8 = pa.array([b"\xff"]).view(pa.string())
    pq.write_table(pa.table({"query": not_utf8, "positives": [["p"]], "negatives": [["n"]]}), path)
    with pytest.raises(InputError, match=r"part\.parquet: row group 0 is not valid: .*UTF8"):
        read_examples(Storage(), str(tmp_path))
    path.write_bytes(content[:-8])
    with pytest.raises(InputError, match=r"part\.parquet: not a complete Parquet file"):
        fields_of(str(tmp_path))
