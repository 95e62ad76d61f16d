"""Groups of a query with its positives and negatives, from what was mined."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa

from tart_ray.config import MiningPolicy
from tart_ray.mining.format_options import FormatOptions
from tart_ray.mining.groups import GROUPS, group
from tart_ray.mining.negatives import mine
from tart_ray.mining.rows_sentence_transformers import triplet
from tart_ray.mining.unrolled import Formatted


def mined(scores: list[dict[str, Any]], positives: list[tuple[str, str]], **parameters: Any) -> Any:
    schema = [("query_id", pa.string()), ("doc_id", pa.string()), ("instruction", pa.large_string())]
    table = pa.Table.from_pylist(scores, pa.schema([*schema, ("margin", pa.float32()), ("score", pa.float32())]))
    known = pa.table({"query_id": [query for query, _ in positives], "doc_id": [doc for _, doc in positives]})
    return mine(table, known, MiningPolicy(**parameters), twins=False)


def pair(query: str, doc: str, margin: float, instruction: str | None = "I") -> dict[str, Any]:
    return {"query_id": query, "doc_id": doc, "margin": margin, "score": 0.5, "instruction": instruction}


DOCUMENTS = pa.table(
    {
        "doc_id": ["a", "b", "c", "title only", "blank", "null"],
        "text": ["text a", "text b", "text c", " ", "", None],
        "title": ["A", None, "", "only", " ", None],
    }
)
QUERIES = pa.table({"query_id": ["r", "q", "s"], "query": ["query r", "query q", None]})


def test_groups_are_made_of_what_was_mined() -> None:
    found = mined([pair("q", "c", 1.0), pair("q", "a", 3.0), pair("q", "b", 2.0), pair("r", "a", 0.0)], [("q", "a")])
    grouped = group(found, QUERIES, DOCUMENTS)
    assert grouped.rows.schema == GROUPS
    expected = {
        "query_id": "q",
        "query": "query q",
        "instruction": "I",
        "positives": [
            {"doc_id": "a", "title": "A", "text": "text a", "score": 0.5, "margin": 3.0, "policy": None},
        ],
        "negatives": [
            {"doc_id": "b", "title": "", "text": "text b", "score": 0.5, "margin": 2.0, "policy": "hard"},
            {"doc_id": "c", "title": "", "text": "text c", "score": 0.5, "margin": 1.0, "policy": "hard"},
        ],
    }
    assert grouped.rows.to_pylist() == [expected]
    assert grouped.left_out.num_rows == 0
    # texts may come with the scores
    with_texts = replace(
        found,
        positives=found.positives.append_column("text", pa.array(["text a"])).append_column("title", pa.array(["A"])),
        negatives=found.negatives.append_column("text", pa.array(["text b", "text c"])),
    )
    assert group(with_texts, QUERIES).rows.to_pylist() == [expected]
    assert triplet(grouped.rows, FormatOptions()).rows.to_pylist()[0] == {
        "anchor": "query q", "positive": "A text a", "negative": "text b"
    }  # fmt: skip


def test_documents_and_queries_without_text_are_listed() -> None:
    rows = [pair("q", doc, float(i)) for i, doc in enumerate(["a", "title only", "blank", "null", "nowhere"])]
    rows += [pair("r", "a", 1.0), pair("r", "blank", 0.0), pair("s", "a", 1.0), pair("s", "b", 0.0)]
    positives = [("q", "a"), ("q", "missing"), ("r", "a"), ("s", "a")]
    grouped = group(mined(rows, positives), QUERIES, DOCUMENTS)
    (row,) = grouped.rows.to_pylist()
    assert [document["doc_id"] for document in row["positives"]] == ["a"]
    assert [(document["title"], document["text"]) for document in row["negatives"]] == [("only", " ")]
    assert triplet(grouped.rows, FormatOptions()).rows.to_pylist()[0]["negative"] == "only"
    reason = "the document has no text"
    assert [tuple(row.values()) for row in grouped.left_out.to_pylist()] == [
        ("q", "blank", reason),
        ("q", "missing", reason),
        ("q", "nowhere", reason),
        ("q", "null", reason),
        ("r", "blank", reason),
        ("r", None, f"no negative is left: {reason}"),
        ("s", None, "the query has no text"),
    ]


def test_the_instruction_is_that_of_the_positives() -> None:
    rows = [pair("q", "a", 1.0, "own"), pair("q", "b", 0.0, "other"), pair("r", "b", 0.0, "of r")]
    rows += [pair("r", "c", 0.0, "of r")]
    known = [("q", "a"), ("r", "a")]
    grouped = group(mined(rows, known), QUERIES, DOCUMENTS, of_other_instructions=["hard"])
    assert grouped.rows["instruction"].to_pylist() == ["own", "of r"]  # of r no positive was scored
    grouped = group(mined(rows, known), QUERIES, DOCUMENTS)  # b was no candidate of q under q's instruction
    assert grouped.rows["query_id"].to_pylist() == ["r"]
    assert grouped.left_out["reason"].to_pylist() == ["the query was scored under several instructions"]
    texts = pa.concat_tables([QUERIES, QUERIES, pa.table({"query_id": ["r"], "query": ["other r"]})])
    grouped = group(mined(rows[2:], known), texts, DOCUMENTS)
    assert grouped.left_out["reason"].to_pylist() == ["the query_id has several texts"]
    given = QUERIES.append_column("instruction", pa.array(["given r", None, "s"]))
    grouped = group(mined(rows, [("q", "a"), ("r", "a")]), given, DOCUMENTS)
    assert grouped.rows["instruction"].to_pylist() == [None, "given r"]
    for instructions in (("one", "two"), ("one", None)):
        rows = [pair("q", "a", 1.0, instructions[0]), pair("q", "b", 1.0, instructions[1]), pair("q", "c", 0.0)]
        grouped = group(mined(rows, [("q", "a"), ("q", "b")]), QUERIES, DOCUMENTS)
        assert grouped.rows.num_rows == 0
        assert grouped.left_out["reason"].to_pylist() == ["the query was scored under several instructions"]


def test_groups_of_nothing() -> None:
    grouped = group(mined([pair("q", "a", 1.0)], [("q", "a")]), QUERIES, DOCUMENTS)
    assert isinstance(grouped, Formatted)
    assert grouped.rows.schema == GROUPS
    assert grouped.rows.num_rows == grouped.left_out.num_rows == 0
