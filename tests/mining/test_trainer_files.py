"""Each trainer's format, written out by hand from two queries."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from tart_ray.mining.format_options import FormatOptions
from tart_ray.mining.groups import GROUPS
from tart_ray.mining.mined import LEFT_OUT
from tart_ray.mining.trainer_files import FORMATS, contents, lines

# q1 has the positives p1, p2 and the negatives n1, n2; q2 one of each. q2 has no instruction, p3 no score.
GROUP_ROWS: list[dict[str, Any]] = [
    {
        "query_id": "1",
        "query": "who?",
        "instruction": "Find out",
        "positives": [
            {"doc_id": "10", "title": "T", "text": "p1", "score": 0.875, "margin": 2.0, "policy": None},
            {"doc_id": "11", "title": "", "text": "p2", "score": 0.75, "margin": 1.0, "policy": None},
        ],
        "negatives": [
            {"doc_id": "20", "title": "", "text": "n1", "score": 0.5, "margin": 0.0, "policy": "hard"},
            {"doc_id": "21", "title": "N", "text": "n2", "score": 0.25, "margin": -1.0, "policy": "easy"},
        ],
    },
    {
        "query_id": "2",
        "query": "what?",
        "instruction": None,
        "positives": [{"doc_id": "12", "title": "", "text": "p3", "score": None, "margin": None, "policy": None}],
        "negatives": [{"doc_id": "20", "title": "", "text": "n1", "score": 0.5, "margin": 0.0, "policy": "hard"}],
    },
]
TWO = pa.Table.from_pylist(GROUP_ROWS, GROUPS)
PLAIN = FormatOptions()
SCORED = FormatOptions(with_scores=True)
JOINED = FormatOptions(join_instruction=True)
Q1 = "who?"
Q1_JOINED = "Find out [SEP] who?"
NO_MARGIN = [
    {"query_id": "2", "doc_id": "12", "reason": "the document has no margin"},
    {"query_id": "2", "doc_id": None, "reason": "no positive is left: the document has no margin"},
]


def written(name: str, options: FormatOptions = PLAIN, groups: pa.Table = TWO) -> list[dict[str, Any]]:
    formatted = FORMATS[name].rows(groups, options)
    assert formatted.left_out.schema == LEFT_OUT
    return formatted.rows.to_pylist()


def left_out(name: str, options: FormatOptions = PLAIN, groups: pa.Table = TWO) -> list[dict[str, Any]]:
    return FORMATS[name].rows(groups, options).left_out.to_pylist()


def test_triplet() -> None:
    expected = [
        {"anchor": Q1, "positive": "T p1", "negative": "n1"},
        {"anchor": Q1, "positive": "T p1", "negative": "N n2"},
        {"anchor": Q1, "positive": "p2", "negative": "n1"},
        {"anchor": Q1, "positive": "p2", "negative": "N n2"},
        {"anchor": "what?", "positive": "p3", "negative": "n1"},
    ]
    assert written("triplet") == expected
    assert left_out("triplet") == []
    numbers = [[2.0, 0.0], [2.0, -1.0], [1.0, 0.0], [1.0, -1.0]]
    scored = [row | {"scores": scores} for row, scores in zip(expected, numbers, strict=False)]
    assert written("triplet", SCORED) == scored
    assert left_out("triplet", SCORED) == NO_MARGIN


def test_the_probability_may_be_the_score() -> None:
    options = FormatOptions(with_scores=True, score="score")
    assert written("triplet", options)[0]["scores"] == [0.875, 0.5]
    assert left_out("triplet", options)[0]["reason"] == "the document has no score"


def test_n_tuple() -> None:
    options = FormatOptions(num_negatives=2)
    expected = [
        {"anchor": Q1, "positive": "T p1", "negative_1": "n1", "negative_2": "N n2"},
        {"anchor": Q1, "positive": "p2", "negative_1": "n1", "negative_2": "N n2"},
    ]
    assert written("n-tuple", options) == expected
    assert left_out("n-tuple", options) == [{"query_id": "2", "doc_id": None, "reason": "fewer than 2 negatives"}]
    scored = written("n-tuple", replace(options, with_scores=True))
    assert [row["scores"] for row in scored] == [[2.0, 0.0, -1.0], [1.0, 0.0, -1.0]]
    assert [list(row) for row in written("n-tuple", FormatOptions(num_negatives=1))] == [
        ["anchor", "positive", "negative_1"]
    ] * 3
    with pytest.raises(ValueError, match="give num_negatives"):
        written("n-tuple")


def test_labeled_pair() -> None:
    assert written("labeled-pair") == [
        {"anchor": Q1, "document": "T p1", "label": 1},
        {"anchor": Q1, "document": "p2", "label": 1},
        {"anchor": Q1, "document": "n1", "label": 0},
        {"anchor": Q1, "document": "N n2", "label": 0},
        {"anchor": "what?", "document": "p3", "label": 1},
        {"anchor": "what?", "document": "n1", "label": 0},
    ]
    assert written("labeled-pair", SCORED) == [
        {"anchor": Q1, "document": "T p1", "score": 2.0},
        {"anchor": Q1, "document": "p2", "score": 1.0},
        {"anchor": Q1, "document": "n1", "score": 0.0},
        {"anchor": Q1, "document": "N n2", "score": -1.0},
    ]


def test_labeled_list() -> None:
    assert written("labeled-list") == [
        {"query": Q1, "docs": ["T p1", "p2", "n1", "N n2"], "labels": [1, 1, 0, 0]},
        {"query": "what?", "docs": ["p3", "n1"], "labels": [1, 0]},
    ]
    assert written("labeled-list", SCORED) == [
        {"query": Q1, "docs": ["T p1", "p2", "n1", "N n2"], "scores": [2.0, 1.0, 0.0, -1.0]}
    ]


def test_flagembedding() -> None:
    expected = [
        {"query": "who?", "pos": ["T p1", "p2"], "neg": ["n1", "N n2"], "prompt": "Find out"},
        {"query": "what?", "pos": ["p3"], "neg": ["n1"], "prompt": ""},
    ]
    assert written("flagembedding") == expected
    (row,) = written("flagembedding", SCORED)
    assert row == expected[0] | {"pos_scores": [2.0, 1.0], "neg_scores": [0.0, -1.0]}
    first = {"query": "who?", "pos": ["T p1", "p2"], "neg": ["n1", "N n2"], "query_prompt": "Find out"}
    options = FormatOptions(passage_prompt="Passage: ")
    assert written("flagembedding-reranker", options)[0] == first | {"passage_prompt": "Passage: "}


def test_tevatron() -> None:
    assert written("tevatron", SCORED)[0] == {
        "query_id": "1",
        "query": Q1,
        "positive_passages": [
            {"docid": "10", "title": "T", "text": "p1"},
            {"docid": "11", "title": "", "text": "p2"},
        ],
        "negative_passages": [
            {"docid": "20", "title": "", "text": "n1"},
            {"docid": "21", "title": "N", "text": "n2"},
        ],
    }
    assert len(written("tevatron", SCORED)) == 2


def test_tart_full() -> None:
    rows = written("tart-full", FormatOptions(join_instruction=False))
    assert rows == [
        {"query": Q1_JOINED, "document": "T p1", "label": 1},
        {"query": Q1_JOINED, "document": "p2", "label": 1},
        {"query": Q1_JOINED, "document": "n1", "label": 0},
        {"query": Q1_JOINED, "document": "N n2", "label": 0},
        {"query": "what?", "document": "p3", "label": 1},
        {"query": "what?", "document": "n1", "label": 0},
    ]
    assert FORMATS["tart-full"].rows(TWO, PLAIN).rows.schema.field("label").type == pa.int64()


@pytest.mark.parametrize(
    ("name", "question"), [("tart-dual", Q1_JOINED), ("dpr", Q1), ("dpr-jsonl", Q1)], ids=lambda value: value
)
def test_tart_dual_and_dpr(name: str, question: str) -> None:
    p1, p2 = {"title": "T", "text": "p1", "passage_id": "10"}, {"title": "", "text": "p2", "passage_id": "11"}
    n1, n2 = {"title": "", "text": "n1", "passage_id": "20"}, {"title": "N", "text": "n2", "passage_id": "21"}
    everything = [n1, n2] if name == "tart-dual" else []  # its trainer draws from negative_ctxs alone, unless told
    assert written(name)[0] == {
        "question": question, "positive_ctxs": [p1, p2], "negative_ctxs": everything, "hard_negative_ctxs": [n1, n2]
    }  # fmt: skip
    rows = written(name, FormatOptions(easy_policies=("easy",)))
    of_the_second = [n1] if name == "tart-dual" else []
    assert [(row["negative_ctxs"], row["hard_negative_ctxs"]) for row in rows] == [
        ([n2], [n1]),
        (of_the_second, [n1]),
    ]
    rows = written(name, FormatOptions(easy_policies=("easy", "hard")))
    assert [(row["negative_ctxs"], row["hard_negative_ctxs"]) for row in rows] == [([n1, n2], []), ([n1], [])]
    assert written(name, SCORED)[0]["hard_negative_ctxs"] == [n1 | {"score": 0.0}, n2 | {"score": -1.0}]


QUERY_FIELD = {
    "triplet": "anchor",
    "n-tuple": "anchor",
    "labeled-pair": "anchor",
    "dpr": "question",
    "dpr-jsonl": "question",
}


@pytest.mark.parametrize("name", ["triplet", "n-tuple", "labeled-pair", "labeled-list", "tevatron", "dpr", "dpr-jsonl"])
def test_the_instruction_is_in_front_of_the_query_if_that_is_asked_for(name: str) -> None:
    field = QUERY_FIELD.get(name, "query")
    options = FormatOptions(num_negatives=1)
    assert {row[field] for row in written(name, options)} == {"who?", "what?"}
    assert written(name, replace(options, join_instruction=False)) == written(name, options)
    joined = written(name, replace(options, join_instruction=True))
    assert {row[field] for row in joined} == {"Find out [SEP] who?", "what?"}
    kind = FORMATS[name]
    assert kind.where_instruction_is(options) == "queries without their instruction"
    assert kind.where_instruction_is(JOINED) == 'queries as "instruction [SEP] query"'


def test_where_the_instruction_is() -> None:
    told = {name: kind.where_instruction_is(PLAIN) for name, kind in FORMATS.items()}
    assert told["tart-full"] == told["tart-dual"] == 'queries as "instruction [SEP] query"'
    assert told["flagembedding"] == "instructions in prompt"
    assert told["colbert"] == told["margin-mse"] == "ids alone"
    apart = FormatOptions(join_instruction=False)
    assert FORMATS["tart-full"].where_instruction_is(apart) == told["tart-full"]
    assert FORMATS["tart-dual"].where_instruction_is(apart) == "queries without their instruction"
    assert written("tart-dual", apart)[0]["question"] == "who?"


def test_negatives_beyond_the_number_that_is_asked_for_are_listed() -> None:
    for name in ("n-tuple", "colbert"):
        beyond = {"query_id": "1", "doc_id": "21", "reason": "beyond the first 1 negatives"}
        assert left_out(name, FormatOptions(num_negatives=1)) == [beyond]


@pytest.mark.parametrize("name", FORMATS)
def test_every_query_is_written_or_left_out(name: str) -> None:
    for options in (FormatOptions(num_negatives=2), FormatOptions(num_negatives=1, with_scores=True)):
        formatted = FORMATS[name].rows(TWO, options)
        assert formatted.queries + formatted.left_out["doc_id"].null_count == 2


def test_colbert() -> None:
    rows = FORMATS["colbert"].rows(TWO, PLAIN).rows
    assert list(lines("colbert", rows)) == ["[1, 10, 20]", "[1, 10, 21]", "[1, 11, 20]", "[1, 11, 21]", "[2, 12, 20]"]
    rows = FORMATS["colbert"].rows(TWO, replace(SCORED, num_negatives=2)).rows
    assert list(lines("colbert", rows)) == [
        "[1, [10, 2.0], [20, 0.0], [21, -1.0]]",
        "[1, [11, 1.0], [20, 0.0], [21, -1.0]]",
    ]
    assert left_out("colbert", FormatOptions(num_negatives=2))[0]["reason"] == "fewer than 2 negatives"
    for wrong in ("d1", "01", "-1", "", "1" * 19):
        named = pa.Table.from_pylist([GROUP_ROWS[0] | {"query_id": wrong}], GROUPS)
        assert written("colbert", groups=named) == []
        assert left_out("colbert", groups=named) == [
            {"query_id": wrong, "doc_id": None, "reason": "the query_id is not an integer"}
        ]
    others = [document | {"doc_id": "d"} for document in GROUP_ROWS[0]["negatives"]]
    named = pa.Table.from_pylist([GROUP_ROWS[0] | {"negatives": others}], GROUPS)
    assert sorted(row["reason"] for row in left_out("colbert", groups=named)) == [
        "no negative is left: the doc_id is not an integer",
        "the doc_id is not an integer",
        "the doc_id is not an integer",
    ]


def test_margin_mse() -> None:
    expected = [
        {"query_id": "1", "positive_id": "10", "negative_id": "20", "margin": 2.0},
        {"query_id": "1", "positive_id": "10", "negative_id": "21", "margin": 3.0},
        {"query_id": "1", "positive_id": "11", "negative_id": "20", "margin": 1.0},
        {"query_id": "1", "positive_id": "11", "negative_id": "21", "margin": 2.0},
    ]
    assert written("margin-mse") == expected
    assert left_out("margin-mse") == NO_MARGIN
    rows = FORMATS["margin-mse"].rows(TWO, PLAIN).rows
    assert list(lines("margin-mse", rows))[1] == "1\t10\t21\t3.0"
    for wrong in ("a\tb", "a\nb", "a\r", "a\u2028b"):
        named = pa.Table.from_pylist([GROUP_ROWS[0] | {"query_id": wrong}], GROUPS)
        assert written("margin-mse", groups=named) == []
        (row,) = left_out("margin-mse", groups=named)
        assert row["reason"] == "the query_id has a tab or a line end in it"
    named = pa.Table.from_pylist([GROUP_ROWS[0] | {"query_id": " 1"}], GROUPS)
    assert left_out("margin-mse", groups=named)[0]["reason"] == "the query_id begins with white space"


def test_json_lines_are_one_object_a_line_in_the_order_of_the_columns() -> None:
    groups = pa.Table.from_pylist([GROUP_ROWS[1] | {"query": "où\n?\u2028"}], GROUPS)
    (line,) = lines("tart-dual", FORMATS["tart-dual"].rows(groups, PLAIN).rows)
    assert "\n" not in line
    assert "où" in line
    assert json.loads(line)["question"] == "où\n?\u2028"
    assert list(json.loads(line)) == ["question", "positive_ctxs", "negative_ctxs", "hard_negative_ctxs"]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_one_schema_whatever_there_is_to_write(name: str) -> None:
    for options in (FormatOptions(num_negatives=1), FormatOptions(num_negatives=1, with_scores=True)):
        full = FORMATS[name].rows(TWO, options)
        assert full.rows.num_rows
        for nothing in (TWO.slice(0, 0), GROUPS.empty_table(), TWO.slice(2)):
            empty = FORMATS[name].rows(nothing, options)
            assert empty.rows.schema == full.rows.schema
            assert empty.rows.num_rows == empty.left_out.num_rows == 0
            assert list(lines(name, empty.rows)) == []
        # a group at a time gives the same rows as all at once
        parts = [FORMATS[name].rows(TWO.slice(i, 1), options) for i in range(2)]
        assert pa.concat_tables([part.rows for part in parts]).to_pylist() == full.rows.to_pylist()
        assert [row for part in parts for row in part.left_out.to_pylist()] == full.left_out.to_pylist()
        assert all(value is not None for row in full.rows.to_pylist() for value in row.values())


def test_a_file_of_one_array_and_a_file_of_lines() -> None:
    rows = FORMATS["dpr"].rows(TWO, PLAIN).rows
    array, text = contents("dpr", rows), contents("dpr-jsonl", rows)
    assert array is not None
    assert text is not None
    assert json.loads(array) == [json.loads(line) for line in text.splitlines()] == rows.to_pylist()
    assert contents("dpr", rows.slice(0, 0)) is contents("dpr-jsonl", rows.slice(0, 0)) is None
    assert FORMATS["dpr"].file_name("00000") == "00000.json"
    assert FORMATS["dpr-jsonl"].file_name("00000") == "00000.jsonl"


def test_options_are_validated() -> None:
    with pytest.raises(ValueError, match="num_negatives: got 0, expected 1 or more"):
        FormatOptions(num_negatives=0)
