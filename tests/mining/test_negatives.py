"""Mining by hand: every policy, and what users of other miners complain of; then properties on random tables."""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tart_ray.config import MiningConfig, MiningPolicy
from tart_ray.config.keys import validate
from tart_ray.errors import ConfigurationError
from tart_ray.mining.mined import (
    JUDGED,
    LEFT_OUT,
    NO_POSITIVE,
    NOTHING_PASSES,
    POSITIVE_NOT_SCORED,
    QUERY_ITSELF,
    SHORTFALLS,
    TOO_FEW,
    Mined,
)
from tart_ray.mining.negatives import mine
from tart_ray.mining.positives import judgements_from_labels, positives_from_qrels, without_candidates
from tart_ray.tables.keys import TEXT_KEY, gumbel, normalise, random_keys, text_keys
from tart_ray.tables.schemas import SCORES

SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("doc_id", pa.string()),
        ("margin", pa.float32()),
        ("score", pa.float32()),
        ("first_stage_rank", pa.int32()),
        ("text", pa.large_string()),
    ]
)


def scored(rows: dict[str, dict[str, float]], **columns: list[Any]) -> pa.Table:
    """{query: {document: margin}}; the first stage ranks as written; the probability is that of the margin."""
    pairs = [
        (query, doc, margin, rank) for query, docs in rows.items() for rank, (doc, margin) in enumerate(docs.items(), 1)
    ]
    table = pa.table(
        [
            [pair[0] for pair in pairs],
            [pair[1] for pair in pairs],
            [pair[2] for pair in pairs],
            [1 / (1 + math.exp(-pair[2])) for pair in pairs],
            [pair[3] for pair in pairs],
            [f"text of {pair[1]}" for pair in pairs],
        ],
        schema=SCHEMA,
    )
    for name, values in columns.items():
        column = pa.array(values, SCHEMA.field(name).type) if name in SCHEMA.names else pa.array(values)
        at = table.schema.get_field_index(name)
        table = table.append_column(name, column) if at < 0 else table.set_column(at, name, column)
    return table


def judged(**positives: str) -> pa.Table:
    """query="d1 d2"."""
    pairs = [(query, doc) for query, docs in positives.items() for doc in docs.split()]
    return pa.table(
        {
            "query_id": pa.array([q for q, _ in pairs], pa.string()),
            "doc_id": pa.array([d for _, d in pairs], pa.string()),
        }
    )


def chosen(mined: Mined, query: str = "q", policy: str | None = None) -> str:
    rows = mined.negatives.to_pylist()
    return " ".join(r["doc_id"] for r in rows if r["query_id"] == query and policy in (None, r["policy"]))


def left_out(mined: Mined) -> dict[str, str]:
    """Of whole queries."""
    return {row["query_id"]: row["reason"] for row in mined.left_out.to_pylist() if row["doc_id"] is None}


def shortfalls(mined: Mined) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in mined.shortfalls.to_pylist()]


# p is the positive; margins are such that float32 holds them exactly
ONE = scored({"q": {"a": 4.0, "p": 2.0, "b": 1.5, "c": 1.0, "d": 0.5, "e": 0.0, "f": -1.0}})
P = judged(q="p")
MANY = 99


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, "a b c d e f"),
        ({"num_negatives": 2}, "a b"),
        # ranks of the first stage: a 1, p 2, b 3, c 4, d 5, e 6, f 7
        ({"range_min": 1}, "b c d e f"),
        ({"range_max": 4}, "a b c"),
        ({"range_min": 3, "range_max": 5}, "c d"),
        ({"range_min": 3, "range_max": 5, "num_negatives": 5}, "c d"),
        # among what remains: a 1, b 2, c 3, d 4, e 5, f 6; with a gone: b 1, c 2 …
        ({"range_min": 3, "range_max": 5, "rank_by": "remaining"}, "d e"),
        ({"range_min": 1, "range_max": 3, "rank_by": "remaining", "absolute_margin": 0.5}, "c d"),
        ({"max_score": 1.0}, "c d e f"),
        ({"min_score": 0.5}, "a b c d"),
        ({"min_score": 0.5, "max_score": 1.0}, "c d"),
        # P = 2
        ({"absolute_margin": 0.0}, "b c d e f"),
        ({"absolute_margin": 1.0}, "c d e f"),
        ({"absolute_margin": 1.25}, "d e f"),
        ({"absolute_margin": -2.0}, "a b c d e f"),
        ({"relative_margin": 0.0}, "b c d e f"),
        ({"relative_margin": 0.25}, "b c d e f"),  # s <= 1.5
        ({"relative_margin": 0.5}, "c d e f"),  # s <= 1
        ({"relative_margin": 1.5}, "f"),  # s <= -1
        ({"positive_percentage": 1.0}, "b c d e f"),  # s < 2
        ({"positive_percentage": 0.75}, "c d e f"),  # s < 1.5, strictly
        ({"positive_percentage": 0.5}, "d e f"),  # s < 1
        ({"negative_below": 0.5}, "e f"),  # strictly
        ({"absolute_margin": 0.5, "max_score": 1.0, "range_max": 5, "num_negatives": 1}, "c"),
    ],
)
def test_a_policy_by_hand(parameters: dict[str, Any], expected: str) -> None:
    mined = mine(ONE, P, MiningPolicy(**{"num_negatives": MANY} | parameters))
    assert chosen(mined) == expected
    assert mined.left_out.num_rows == 0


def test_the_probability_may_be_the_number() -> None:
    # of the margins 4, 2, 1.5, 1, 0.5, 0, -1: 0.98, 0.88, 0.82, 0.73, 0.62, 0.5, 0.27
    assert chosen(mine(ONE, P, MiningPolicy(score="score", max_score=0.75, min_score=0.3))) == "c d e"
    assert chosen(mine(ONE, P, MiningPolicy(score="score", positive_percentage=0.95))) == "b c d e f"  # < 0.837
    assert chosen(mine(ONE, P, MiningPolicy(score="score", positive_percentage=0.9))) == "c d e f"  # < 0.793
    assert chosen(mine(ONE, P, MiningPolicy(score="score", absolute_margin=0.25))) == "d e f"  # <= 0.631


def test_the_rank_of_a_window_may_be_the_models() -> None:
    table = scored({"q": {"a": 1.0, "p": 5.0, "b": 4.0, "c": 3.0}})  # the model's order: p b c a
    assert chosen(mine(table, P, MiningPolicy(range_min=1, range_max=3, rank_by="margin"))) == "b c"
    assert chosen(mine(table, P, MiningPolicy(range_min=1, range_max=3, rank_by="first_stage_rank"))) == "b"


def test_without_a_first_stage_rank_no_window_is_passed_but_a_negative_can_be_mined() -> None:
    table = scored({"q": {"a": 1.0, "p": 5.0, "b": 4.0}}, first_stage_rank=[None, 1, 2])
    assert chosen(mine(table, P, MiningPolicy(range_max=10))) == "b"
    assert chosen(mine(table, P, MiningPolicy())) == "b a"


def test_ties_go_to_the_better_first_stage_rank_and_then_the_smaller_id() -> None:
    table = scored({"q": {"z": 1.0, "p": 5.0, "b": 1.0, "a": 1.0, "c": 1.0}}, first_stage_rank=[2, 1, 3, 3, None])
    assert chosen(mine(table, P, MiningPolicy())) == "z a b c"


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        # P is the lowest of 3, 1 and -2
        ({"absolute_margin": 0.5}, "c"),
        ({"relative_margin": 0.25}, "c"),  # s <= -2 - 0.5; -2 * 0.75 = -1.5 would have let b through, above P
        ({"relative_margin": 1.0}, "c"),  # s <= -4
        ({"relative_margin": 1.5}, ""),  # s <= -5
        ({"positive_percentage": 0.75}, "c"),  # s < -2.5
        ({"positive_percentage": 1.0}, "b c"),  # s < -2
    ],
)
def test_with_several_positives_the_lowest_counts_and_negative_margins_keep_their_sense(
    parameters: dict[str, Any], expected: str
) -> None:
    table = scored({"q": {"p1": 3.0, "a": 2.0, "p2": 1.0, "p3": -2.0, "b": -2.25, "c": -4.0}})
    assert chosen(mine(table, judged(q="p1 p2 p3"), MiningPolicy(**parameters))) == expected


def test_every_negative_carries_ids_ranks_numbers_policy_and_the_other_columns() -> None:
    table = scored({"q": {"a": 1.0, "p": 5.0, "b": 4.0}}, language=["en", "de", "fr"], rank=[9, 9, 9])
    mined = mine(table, pa.table({"query_id": ["q"], "doc_id": ["p"], "relevance": [2]}), MiningPolicy(name="top"))
    assert mined.negatives.drop_columns(["score", "text"]).to_pylist() == [
        {
            "query_id": "q",
            "doc_id": "b",
            "margin": 4.0,
            "first_stage_rank": 3,
            "language": "fr",
            "rank": 2,
            "policy": "top",
        },
        {
            "query_id": "q",
            "doc_id": "a",
            "margin": 1.0,
            "first_stage_rank": 1,
            "language": "en",
            "rank": 3,
            "policy": "top",
        },
    ]
    assert mined.positives.drop_columns(["score", "text"]).to_pylist() == [
        {
            "query_id": "q", "doc_id": "p", "margin": 5.0, "first_stage_rank": 2, "language": "de", "rank": 1,
            "relevance": 2, "positive_by": JUDGED,
        },
    ]  # fmt: skip
    assert mined.negatives.schema.field("rank").type == pa.int32()
    assert mined.positives.schema.field("relevance").type == pa.int64()


def test_a_positive_and_its_copies_are_never_negatives_not_even_as_filler() -> None:
    texts = ["Café\u00a0 Au  LAIT\n", "cafe\u0301 au lait", "CAFÉ AU LAIT ", "cafe au lait", "café", "ﬁn"]
    table = scored({"q": {"p": 1.0, "twin1": 9.0, "twin2": 8.0, "a": 7.0, "b": 6.0, "c": 5.0}}, text=texts)
    for sampling in ("top", "random", "simans"):
        policies = [
            MiningPolicy(num_negatives=1),
            MiningPolicy(name="filler", num_negatives=9, fill=True, sampling=sampling),
        ]
        mined = mine(table, P, policies)
        assert set(chosen(mined).split()) == {"a", "b", "c"}
        assert mined.counts["twins"] == 2
        assert shortfalls(mined) == [("q", "filler", 8, 2, TOO_FEW)]
    assert chosen(mine(table, P, MiningPolicy(), twins=False)) == "twin1 twin2 a b c"  # ids alone


def test_a_copy_is_a_copy_of_its_querys_positive_only() -> None:
    rows = {"q": {"p": 1.0, "copy": 0.0, "x": -1.0}, "r": {"x": 1.0, "copy": 0.0, "p": -1.0}}
    table = scored(rows, text=["same", "Same", "x", "x", "Same", "same"])
    mined = mine(table, judged(q="p", r="x"), MiningPolicy())
    assert chosen(mined, "q") == "x"  # one document under two queries: negative of one, positive of the other
    assert chosen(mined, "r") == "copy p"


def test_a_copy_of_a_positive_that_was_not_scored_is_found_by_the_text_that_comes_with_the_positive() -> None:
    table = scored({"q": {"p": 1.0, "copy": 0.0, "x": -1.0}}, text=["the positive", "Elsewhere ", "x"])
    positives = judged(q="p far")
    assert chosen(mine(table, positives, MiningPolicy())) == "copy x"
    positives = positives.append_column("text", pa.array([None, "elsewhere"]))
    assert chosen(mine(table, positives, MiningPolicy())) == "x"


def test_copies_are_found_by_keys_that_were_made_of_the_corpus() -> None:
    table = scored({"q": {"p": 1.0, "copy": 0.0, "x": -1.0}}, text=["one", " ONE", "two"])
    by_key = table.append_column("text_key", text_keys(table)).drop_columns(["text"])
    assert chosen(mine(by_key, P, MiningPolicy())) == "x"
    with pytest.raises(ValueError, match="neither text nor text_key"):
        mine(table.drop_columns(["text"]), P, MiningPolicy())
    wrong = by_key.set_column(by_key.schema.get_field_index("text_key"), "text_key", pa.array([1, 1, 2]))
    with pytest.raises(ValueError, match="text_key is int64, expected fixed_size_binary"):
        mine(wrong, P, MiningPolicy())


def test_text_keys() -> None:
    table = pa.table({"text": ["A b", "a  B", "", None, " ", "t", None], "title": ["x", "y", "T", "t", "T ", "u", " "]})
    keys = text_keys(table)
    assert keys.type == TEXT_KEY
    values = keys.to_pylist()
    assert values[0] == values[1]  # titles do not count …
    assert values[2] == values[3] == values[4] == values[5] != values[0]  # … unless there is no text
    assert values[6] is None
    assert text_keys(table.slice(3, 2)).to_pylist() == values[3:5]
    assert len(text_keys(table.slice(0, 0))) == 0
    assert normalise(" ﬁve\u3000\uff33\uff29\uff38\tStraße ") == "five six strasse"
    assert normalise("\u0390x") == normalise("\u0390x".upper())  # folding takes this letter apart
    with pytest.raises(ValueError, match=r"got columns \['title'\]"):
        text_keys(table.select(["title"]))


def test_documents_without_any_text_are_not_copies_of_each_other() -> None:
    table = scored({"q": {"p": 1.0, "a": 0.0}}, text=["", None])
    assert chosen(mine(table, P, MiningPolicy())) == "a"


# the candidates of q, whose text is "How do I fly?": id or text of the first six is the query's own
ITSELF = scored(
    {"q": {"q": 9.0, "same": 8.0, "caps": 7.0, "split": 6.0, "titled": 5.0, "copy": 4.0, "p": 3.0, "a": 2.0, "t": 1.0}},
    query=["How do I fly?"] * 9,
    text=[
        "body",
        "How do I fly?",
        "how  do I\nFLY?",
        "do I fly?",
        "",
        "Body",
        "wings",
        "How do I fly? No.",
        "wings too",
    ],
    title=[None, "", " ", "How", "How do I fly?", "", "How do I fly?", "", "How do I fly?"],
)


@pytest.mark.parametrize(
    "parameters",
    [{}, {"sampling": "random"}, {"sampling": "simans"}, {"max_score": 10.0}, {"rank_by": "remaining", "range_max": 9}],
    ids=str,
)
def test_the_query_itself_is_never_its_negative(parameters: dict[str, Any]) -> None:
    mined = mine(
        ITSELF, P, [MiningPolicy(num_negatives=1, **parameters), MiningPolicy(name="fill", num_negatives=MANY)]
    )
    assert {row["doc_id"] for row in mined.negatives.to_pylist()} == {"a", "t"}  # a title alone is no document
    itself = [("q", doc, QUERY_ITSELF) for doc in ("caps", "copy", "q", "same", "split", "titled")]
    assert [tuple(row.values()) for row in mined.left_out.to_pylist()] == itself
    assert mined.counts["query itself"] == mined.counts["fill: query itself"] == 6
    # trusting the ids, a copy of the document with the query's id is a document like any other
    mined = mine(ITSELF, P, MiningPolicy(num_negatives=MANY, **parameters), twins=False)
    assert {row["doc_id"] for row in mined.negatives.to_pylist()} == {"copy", "a", "t"}
    # keys made beforehand stand for texts; without titles, texts and keys the ids tell
    keyed = ITSELF.append_column("text_key", text_keys(ITSELF)).drop_columns(["text", "title"])
    mined = mine(keyed, P, MiningPolicy(num_negatives=MANY, **parameters))
    assert {row["doc_id"] for row in mined.negatives.to_pylist()} == {"split", "a", "t"}
    bare = ITSELF.drop_columns(["text", "title", "query"])
    mined = mine(bare, P, MiningPolicy(num_negatives=MANY, **parameters), twins=False)
    assert "q" not in mined.negatives["doc_id"].to_pylist()
    assert mined.counts["query itself"] == 1


def test_the_query_itself_is_no_new_positive_but_a_judged_one_stays() -> None:
    mined = mine(ITSELF, judged(q="p same"), MiningPolicy(num_negatives=MANY, negative_below=2.0, positive_above=3.5))
    assert [(row["doc_id"], row["positive_by"]) for row in mined.positives.to_pylist()] == [
        ("p", JUDGED),
        ("same", JUDGED),
    ]
    assert chosen(mined) == "t"
    assert "same" not in mined.left_out["doc_id"].to_pylist()


def test_the_query_itself_is_no_negative_of_another_task_or_instruction() -> None:
    table = scored(
        {"q": {"p": 2.0, "other": 1.0, "same": 3.0}},
        text=["p", "o", "why?"],
        query=["Why?"] * 3,
        query_task=["wiki"] * 3,
        document_task=["wiki", "code", "code"],
    )
    assert chosen(mine(table, P, MiningPolicy(source="other_task"))) == "other"
    table = scored(
        {"q-a": {"d1": -3.0, "same": -3.0, "p": 2.0}, "q-b": {"d1": 3.0, "same": 3.0}},
        text=["one", "why?", "p", "one", "why?"],
        query=["Why?"] * 5,
        instruction=["A"] * 3 + ["B"] * 2,
    )
    policy = MiningPolicy(source="contrast", contrast_low=-2.0, contrast_high=2.0)
    mined = mine(table, judged(**{"q-a": "p"}), policy)
    assert chosen(mined, "q-a") == "d1"
    assert ("q-b", "same", QUERY_ITSELF) in [tuple(row.values()) for row in mined.left_out.to_pylist()]


def test_queries_without_a_positive_or_a_negative_are_listed_with_the_reason() -> None:
    table = scored(
        {
            "bare": {"a": 1.0},  # nothing is known to be relevant
            "only": {"p": 1.0},  # nothing but the positive
            "unscored": {"a": 1.0, "b": 0.0},  # its positive is not among the candidates
            "high": {"p": 1.0, "a": 2.0},  # no candidate is below the positive
            "good": {"p": 1.0, "a": 0.0},
        }
    )
    positives = judged(only="p", unscored="elsewhere", high="p", good="p", nowhere="p")
    mined = mine(table, positives, MiningPolicy(num_negatives=1, absolute_margin=0.5))
    assert left_out(mined) == {
        "bare": NO_POSITIVE,
        "only": NOTHING_PASSES,
        "unscored": POSITIVE_NOT_SCORED,
        "high": NOTHING_PASSES,
    }
    assert mined.left_out.schema == LEFT_OUT
    assert mined.left_out["doc_id"].null_count == 4  # the whole query
    assert mined.negatives["query_id"].to_pylist() == mined.positives["query_id"].to_pylist() == ["good"]
    assert mined.shortfalls.schema == SHORTFALLS
    assert shortfalls(mined) == [
        ("high", "hard", 1, 0, NOTHING_PASSES),
        ("only", "hard", 1, 0, NOTHING_PASSES),
        ("unscored", "hard", 1, 0, POSITIVE_NOT_SCORED),
    ]
    counts = mined.counts
    assert counts["queries"] == 5 == counts["kept"] + mined.left_out.num_rows
    assert (counts["pairs"], counts["positives"], counts["positives not scored"]) == (8, 4, 1)
    drops = {name.removeprefix("hard: "): n for name, n in counts.items() if name.startswith("hard: ") and n}
    assert drops == {
        "query without a positive": 1, "positive": 3, "positive not scored": 2, "absolute_margin": 1, "chosen": 1,
    }  # fmt: skip
    assert sum(drops.values()) == 8  # every pair is accounted for, as no more than all were asked for
    assert without_candidates(positives, table["query_id"]).to_pylist() == [
        {"query_id": "nowhere", "doc_id": None, "reason": "no scored candidate"}
    ]


def test_a_positive_without_a_score_hinders_only_the_policies_that_need_it() -> None:
    table = scored({"q": {"a": 1.0, "b": 0.0}})
    positives = judged(q="far").append_column("text", pa.array(["far away"])).append_column("relevance", pa.array([1]))
    for policy in (
        MiningPolicy(relative_margin=0.1),
        MiningPolicy(positive_percentage=0.9),
        MiningPolicy(sampling="simans"),
    ):
        assert left_out(mine(table, positives, policy)) == {"q": POSITIVE_NOT_SCORED}
    policies = [MiningPolicy(absolute_margin=0.5), MiningPolicy(name="first", range_max=1)]
    mined = mine(table, positives, policies)
    assert chosen(mined) == chosen(mined, policy="first") == "a"
    assert shortfalls(mined) == [("q", "first", 7, 1, TOO_FEW), ("q", "hard", 7, 0, POSITIVE_NOT_SCORED)]
    (positive,) = mined.positives.to_pylist()
    assert (positive["doc_id"], positive["text"], positive["relevance"]) == ("far", "far away", 1)
    assert positive["margin"] is positive["score"] is positive["rank"] is positive["first_stage_rank"] is None


def test_of_several_positives_the_scored_ones_count() -> None:
    table = scored({"q": {"a": 1.0, "p": 2.0, "b": 0.0}})
    mined = mine(table, judged(q="p far"), MiningPolicy(absolute_margin=1.5))
    assert chosen(mined) == "b"
    assert mined.positives["doc_id"].to_pylist() == ["far", "p"]
    assert mined.positives["margin"].to_pylist() == [None, 2.0]


def test_a_window_smaller_than_what_is_asked_for_gives_fewer() -> None:
    mined = mine(ONE, P, MiningPolicy(range_min=4, range_max=6, num_negatives=5, sampling="random"))
    assert set(chosen(mined).split()) == {"d", "e"}
    assert shortfalls(mined) == [("q", "hard", 5, 2, TOO_FEW)]


def test_policies_add_up_and_a_filler_fills_up() -> None:
    policies = [
        MiningPolicy(name="hard", num_negatives=2, absolute_margin=0.5),
        MiningPolicy(name="more", num_negatives=2, absolute_margin=0.5),
        MiningPolicy(name="filler", num_negatives=5, fill=True, sampling="random"),
    ]
    mined = mine(ONE, P, policies)
    assert chosen(mined, policy="hard") == "b c"
    assert chosen(mined, policy="more") == "d e"
    assert chosen(mined, policy="filler") in ("a", "f")
    assert mined.negatives["policy"].to_pylist() == ["hard", "hard", "more", "more", "filler"]
    assert mined.shortfalls.num_rows == 0


def test_bands_of_tart_denoising() -> None:
    table = scored(
        {
            "q": {"a": 4.0, "twin": 3.0, "copy of a": 3.0, "p": 2.5, "b": 2.0, "c": 0.0, "d": -3.0, "e": -4.0},
            "r": {"x": 3.0, "y": -3.0},
        },
        text=["a", "p", "A", "p", "b", "c", "d", "e", "x", "y"],
    )
    policy = MiningPolicy(name="denoised", score="score", negative_below=0.1, positive_above=0.9)
    mined = mine(table, P, policy)  # probabilities: 0.982 0.953 0.953 0.924 0.881 0.5 0.047 0.018; 0.953 0.047
    assert chosen(mined) == "d e"
    found = [(row["query_id"], row["doc_id"], row["positive_by"]) for row in mined.positives.to_pylist()]
    assert found == [
        ("q", "p", JUDGED), ("q", "a", "denoised"), ("q", "copy of a", "denoised"), ("r", "x", "denoised"),
    ]  # fmt: skip
    assert chosen(mined, "r") == "y"  # a query without a judgement has what the model found
    assert mined.counts["new positives"] == 3
    # a new positive and its copies are no negatives of any policy, and do not count for P
    policies = [policy, MiningPolicy(name="all", num_negatives=MANY)]
    assert chosen(mine(table, P, policies), policy="all") == "b c"
    policies = [policy, MiningPolicy(name="all", num_negatives=MANY, absolute_margin=0.0)]
    mined = mine(table, P, policies)
    assert chosen(mined, "q", "all") == "b c"
    assert chosen(mined, "r", "all") == ""  # P is not known


def test_a_copy_of_a_new_positive_is_not_a_negative() -> None:
    table = scored({"q": {"p": 1.0, "a": 3.0, "copy of a": -3.0, "b": -3.0}}, text=["p", "a", "A ", "b"])
    mined = mine(table, P, MiningPolicy(score="score", negative_below=0.1, positive_above=0.9))
    assert chosen(mined) == "b"
    assert mined.counts["twins"] == 1


def test_documents_of_another_tasks_corpus() -> None:
    table = scored(
        {"q": {"p": 2.0, "own": 1.0, "other1": 3.0, "other2": 0.5, "unknown": 0.0, "other copy": 4.0}},
        text=["p", "own", "o1", "o2", "u", "P"],
        query_task=["wiki"] * 6,
        document_task=["wiki", "wiki", "code", "argument", None, "code"],
    )
    policy = MiningPolicy(name="unfollowing", source="other_task", num_negatives=5)
    mined = mine(table, P, policy)
    assert chosen(mined) == "other1 other2"
    assert mined.negatives["policy"].to_pylist() == ["unfollowing"] * 2
    # what was scored under another task's instruction
    names = {"query_task": "own_instruction", "document_task": "instruction"}
    table = table.rename_columns([names.get(name, name) for name in table.schema.names])
    policy = MiningPolicy(name="unfollowing", source="other_task", num_negatives=1, max_score=1.0, **names)
    assert chosen(mine(table, P, policy)) == "other2"


def test_the_same_pair_under_two_instructions() -> None:
    table = scored(
        {
            "q-a": {"d1": 3.0, "d2": 3.0, "d3": 0.0, "d4": -3.0, "d5": 3.0, "d6": 3.0},
            "q-b": {"d1": -3.0, "d2": 3.0, "d3": -3.0, "d4": 3.0, "d6": -3.0, "d7": -3.0},
            "r": {"d1": -3.0, "p": 2.0},
        },
        query=["How?"] * 12 + ["Why?"] * 2,
        instruction=["A"] * 6 + ["B"] * 6 + ["B"] * 2,
    )
    policy = MiningPolicy(source="contrast", contrast_low=-2.0, contrast_high=2.0)
    mined = mine(table, judged(**{"q-a": "d1", "q-b": "d2 d6", "r": "p"}), policy)
    assert (
        chosen(mined, "q-b") == "d1"
    )  # relevant under A; d3 is not high there, d5, d7 have no counterpart, d6 is a positive
    assert chosen(mined, "q-a") == "d4"  # the other way round
    assert left_out(mined) == {"r": NOTHING_PASSES}
    # the same instruction twice is no contrast, and neither are queries whose text is not known
    same = table.set_column(table.schema.get_field_index("instruction"), "instruction", pa.array(["A"] * 14))
    assert mine(same, judged(**{"q-a": "d1", "q-b": "d2"}), policy).negatives.num_rows == 0
    unknown = table.set_column(table.schema.get_field_index("query"), "query", pa.nulls(14, pa.string()))
    assert mine(unknown, judged(**{"q-a": "d1", "q-b": "d2"}), policy).negatives.num_rows == 0
    # a query is what it shares, wherever in its rows that stands: null beside a value is the value
    topics = [None, *["t"] * 5, *["t"] * 7, None]
    for order in (range(14), reversed(range(14))):
        by_topic = table.append_column("topic", pa.array(topics)).take([*order])
        shared = policy.model_copy(update={"same_query": "topic"})
        assert chosen(mine(by_topic, judged(**{"q-a": "d1", "q-b": "d2 d6"}), shared), "q-b") == "d1"
    lists = table.append_column("topics", pa.array([["t"]] * 14))
    with pytest.raises(ValueError, match=r"topics of the scores is list.*, expected text or a number"):
        mine(lists, judged(**{"q-a": "d1"}), policy.model_copy(update={"same_query": "topics"}))
    # no instruction is an instruction of its own
    bare = table.set_column(
        table.schema.get_field_index("instruction"), "instruction", pa.array([None] * 6 + ["B"] * 8)
    )
    assert chosen(mine(bare, judged(**{"q-b": "d2 d6"}), policy), "q-b") == "d1"


def test_positives_of_qrels_and_of_labels() -> None:
    qrels = pa.table({"query_id": ["q", "q", "q"], "doc_id": ["a", "b", "c"], "relevance": [0, 1, 2]})
    assert positives_from_qrels(qrels)["doc_id"].to_pylist() == ["b", "c"]
    assert positives_from_qrels(qrels, 2)["doc_id"].to_pylist() == ["c"]
    table = scored({"q": {"a": 3.0, "b": 2.0, "c": 1.0}}, label=[2, None, 0], clicked=[False, True, None])
    assert judgements_from_labels(table, "label").to_pylist() == [
        {"query_id": "q", "doc_id": "a", "relevance": 2},
        {"query_id": "q", "doc_id": "c", "relevance": 0},
    ]
    written = scored({"q": {"a": 3.0, "b": 2.0, "c": 1.0}}, label=[2.0, math.nan, 0.0], half=[0.5, None, 1.0])
    assert judgements_from_labels(written, "label").to_pylist() == judgements_from_labels(table, "label").to_pylist()
    with pytest.raises(ValueError, match=r"half of the candidates: expected integers: .*0\.5"):
        judgements_from_labels(written, "half")
    clicked = positives_from_qrels(judgements_from_labels(table, "clicked"))
    assert clicked["doc_id"].to_pylist() == ["b"]
    assert chosen(mine(table, clicked, MiningPolicy())) == "a c"
    with pytest.raises(ValueError, match="is missing"):
        judgements_from_labels(table, "relevance")
    with pytest.raises(ValueError, match="margin of the candidates is float, expected an integer or a boolean"):
        judgements_from_labels(table, "margin")
    with pytest.raises(ValueError, match="relevance of the qrels is double"):
        positives_from_qrels(qrels.set_column(2, "relevance", pa.array([0.0, 1.0, 2.0])))


def test_judgements_that_repeat_themselves_count_once() -> None:
    mined = mine(ONE, judged(q="p p p"), MiningPolicy(num_negatives=1))
    assert mined.positives["doc_id"].to_pylist() == ["p"]
    assert mined.counts["positives"] == 1


def test_nothing_is_mined_from_nothing() -> None:
    for scores, positives in ((ONE.slice(0, 0), P), (ONE, P.slice(0, 0)), (ONE.slice(0, 0), P.slice(0, 0))):
        for parameters in ({}, {"sampling": "simans"}, {"range_min": 1}, {"positive_above": 9.0}):
            mined = mine(scores, positives, MiningPolicy(**parameters))
            assert mined.negatives.num_rows == mined.positives.num_rows == 0
            assert left_out(mined) == ({"q": NO_POSITIVE} if len(scores) else {})
            full = mine(ONE, P, MiningPolicy(**parameters))
            assert mined.negatives.schema == full.negatives.schema
            assert mined.positives.schema == full.positives.schema


def test_the_score_store_as_it_is() -> None:
    rows = [
        {"query_id": "q", "doc_id": doc, "score": 0.5, "margin": margin, "first_stage_rank": 1, "tokens": 9}
        for doc, margin in (("p", 1.0), ("a", 0.0))
    ]
    mined = mine(pa.Table.from_pylist(rows, SCORES), P, MiningPolicy(), twins=False)
    assert mined.negatives.schema.names == [*SCORES.names, "rank", "policy"]
    assert chosen(mined) == "a"


def test_a_null_number_is_no_negative() -> None:
    table = scored({"q": {"p": 1.0, "a": 0.0, "b": 0.0}}, margin=[1.0, None, 0.0])
    mined = mine(table, P, MiningPolicy())
    assert chosen(mined) == "b"
    assert mined.counts["hard: no number"] == 1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"nam": "x"}, "got an unknown key 'nam' in policies[0]; did you mean 'name'?\navailable: policies[0].name, "),
        ({"name": ""}, "name: got ''"),
        ({"name": "a: b"}, "name: got 'a: b': String should match pattern"),
        ({"num_negatives": 0}, "num_negatives: got 0, expected greater than 0"),
        ({"range_min": -1}, "range_min: got -1"),
        ({"range_min": 5, "range_max": 5}, "range_max: got 5, expected more than range_min"),
        ({"relative_margin": -0.1}, "relative_margin: got -0.1"),
        ({"positive_percentage": 95.0}, "positive_percentage: got 95.0, expected less than or equal to 1"),
        ({"max_score": math.nan}, "max_score: got nan, expected a finite number"),
        ({"absolute_margin": math.inf}, "absolute_margin: got inf"),
        ({"sampling": "best"}, "sampling: got 'best', expected 'top', 'random' or 'simans'"),
        ({"score": "logit"}, "score: got 'logit', expected 'margin' or 'score'"),
        ({"simans_a": 0.0}, "simans_a"),
        ({"seed": -1}, "seed: got -1"),
        ({"negative_below": 0.9, "positive_above": 0.1}, "negative_below: got 0.9, expected at most positive_above"),
        ({"source": "contrast"}, "contrast_low: got None, expected a number"),
        ({"source": "contrast", "contrast_low": 0.1}, "contrast_high: got None"),
        ({"contrast_low": 0.9, "contrast_high": 0.1}, "contrast_high: got 0.1, expected more than contrast_low"),
    ],
)
def test_parameters_are_validated(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError):
        MiningPolicy(**parameters)
    with pytest.raises(ConfigurationError) as told:
        validate(MiningConfig, {"policies": [parameters]})
    assert "policies[0]" in str(told.value)
    assert message in str(told.value)


def test_each_policy_has_a_name_of_its_own() -> None:
    with pytest.raises(ConfigurationError, match=r"got policies named \['hard', 'hard'\], expected each name once"):
        validate(MiningConfig, {"policies": [{}, {"num_negatives": 1}]})
    with pytest.raises(ConfigurationError, match=r"policies: got \[\]: .* at least 1 item"):
        validate(MiningConfig, {"policies": []})


def test_tables_are_validated() -> None:
    with pytest.raises(ValueError, match="document_task, query_task is missing"):
        mine(ONE, P, MiningPolicy(source="other_task"))
    with pytest.raises(ValueError, match="first_stage_rank is missing"):
        mine(ONE.drop_columns(["first_stage_rank"]), P, MiningPolicy(range_min=1))
    assert chosen(mine(ONE.drop_columns(["first_stage_rank"]), P, MiningPolicy(num_negatives=1))) == "a"
    with pytest.raises(ValueError, match="doc_id of the scores is null in 7 rows"):
        mine(ONE.set_column(1, "doc_id", pa.nulls(7, pa.string())), P, MiningPolicy())
    with pytest.raises(ValueError, match=r"query_id 'q' has doc_id 'a' more than once \(1 such rows\)"):
        mine(pa.concat_tables([ONE, ONE.slice(0, 1)]), P, MiningPolicy())
    with pytest.raises(ValueError, match=r"policies named \['hard', 'hard'\]"):
        mine(ONE, P, [MiningPolicy(), MiningPolicy(num_negatives=1)])
    with pytest.raises(ValueError, match=r"policies named \[\]"):
        mine(ONE, P, [])


# Sampling


def many(queries: int, documents: int, margin: Any = lambda query, document: 0.0) -> tuple[pa.Table, pa.Table]:
    """Queries with documents d0, d1 …; p is the positive, of margin 0."""
    rows = {
        f"q{query}": {"p": 0.0, **{f"d{document}": margin(query, document) for document in range(documents)}}
        for query in range(queries)
    }
    return scored(rows), judged(**dict.fromkeys(rows, "p"))


def test_random_keys_are_a_function_of_seed_and_ids() -> None:
    queries, documents = pa.chunked_array([["q1", "q1"], ["q2"]]), pa.chunked_array([["d1", "d2", "d1"]])
    keys = random_keys(7, queries, documents)
    assert random_keys(7, queries.take([2, 0]), documents.take([2, 0])).tolist() == [keys[2], keys[0]]
    assert len({*keys, *random_keys(8, queries, documents)}) == 6
    assert random_keys(0, queries.slice(0, 0), documents.slice(0, 0)).tolist() == []

    def digest(text: str) -> int:
        return int.from_bytes(
            hashlib.blake2b(text.encode(), digest_size=8, key=(7).to_bytes(8, "little")).digest(), "little"
        )

    def mix(z: int) -> int:
        z = (z + 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    # the definition in integers; and the same on every machine and in every version, so that samples stay as they are
    assert keys[0] == ((mix(digest("q1") ^ mix(digest("d1"))) >> 11) + 0.5) / 2**53
    assert random_keys(0, pa.chunked_array([["q"]]), pa.chunked_array([["d"]])).tolist() == [0.38900245514181847]


def test_random_sampling_is_uniform() -> None:
    scores, positives = many(3000, 10)
    mined = mine(scores, positives, MiningPolicy(sampling="random", num_negatives=3, seed=1))
    drawn = Counter(mined.negatives["doc_id"].to_pylist())
    assert sum(drawn.values()) == 9000
    # 900 each, standard deviation 25
    assert all(abs(count - 900) < 100 for count in drawn.values())
    assert len(drawn) == 10
    other = mine(scores, positives, MiningPolicy(sampling="random", num_negatives=3, seed=2))
    agreeing = pc.sum(pc.is_in(pair_ids(other.negatives), value_set=pair_ids(mined.negatives))).as_py()
    assert abs(agreeing - 2700) < 200


def pair_ids(table: pa.Table) -> pa.Array:
    return pc.binary_join_element_wise(table["query_id"], table["doc_id"], " ").combine_chunks()


def test_a_larger_sample_holds_the_smaller() -> None:
    scores, positives = many(20, 30)
    for sampling in ("random", "simans"):
        small, large = (
            set(
                pair_ids(
                    mine(scores, positives, MiningPolicy(sampling=sampling, num_negatives=n)).negatives
                ).to_pylist()
            )
            for n in (3, 10)
        )
        assert len(small) == 60
        assert small < large


def test_simans_draws_by_its_weights() -> None:
    # margins 0, 1, 2 from the positive's 0, b = 1, a = 0.5: weights exp(-0.5), 1, exp(-0.5); one is drawn
    scores, positives = many(4000, 3, lambda query, document: float(document))
    policy = MiningPolicy(sampling="simans", num_negatives=1, simans_a=0.5, simans_b=1.0, seed=3)
    drawn = Counter(mine(scores, positives, policy).negatives["doc_id"].to_pylist())
    weights = {"d0": math.exp(-0.5), "d1": 1.0, "d2": math.exp(-0.5)}
    for document, weight in weights.items():
        assert abs(drawn[document] / 4000 - weight / sum(weights.values())) < 0.03
    # far away weights underflow, their logarithms do not
    scores, positives = many(50, 3, lambda query, document: 1000.0 + document)
    drawn = Counter(mine(scores, positives, policy).negatives["doc_id"].to_pylist())
    assert drawn == {"d0": 50}


def test_gumbel_noise() -> None:
    assert gumbel(np.array([math.exp(-1.0), math.exp(-math.e)])) == pytest.approx([0.0, -1.0])


# Properties

POLICIES = st.builds(
    MiningPolicy,
    num_negatives=st.integers(1, 4),
    score=st.sampled_from(["margin", "score"]),
    rank_by=st.sampled_from(["first_stage_rank", "margin", "remaining"]),
    range_min=st.integers(0, 3),
    range_max=st.none() | st.integers(4, 8),
    max_score=st.none() | st.sampled_from([-0.5, 0.5, 1.0]),
    min_score=st.none() | st.sampled_from([-1.0, 0.25]),
    absolute_margin=st.none() | st.sampled_from([0.0, 0.5]),
    relative_margin=st.none() | st.sampled_from([0.0, 0.25]),
    positive_percentage=st.none() | st.sampled_from([0.5, 1.0]),
    negative_below=st.none() | st.sampled_from([0.5]),
    positive_above=st.none() | st.sampled_from([0.5, 1.5]),
    sampling=st.sampled_from(["top", "random", "simans"]),
    seed=st.integers(0, 3),
)
PAIR = st.tuples(
    st.sampled_from(["q1", "q2", "q3"]),
    st.sampled_from([f"d{i}" for i in range(8)]),
    st.integers(-4, 4),
    st.none() | st.integers(1, 9),
)


@st.composite
def problems(draw: Any) -> tuple[pa.Table, pa.Table]:
    """Scored pairs without repeats, whose texts come from few, and judgements, of which some are not scored."""
    pairs = draw(st.lists(PAIR, max_size=24, unique_by=lambda pair: pair[:2]))
    texts = draw(st.lists(st.sampled_from(["one", "One ", "two", "three", "four", None]), min_size=8, max_size=8))
    asked = draw(st.fixed_dictionaries({q: st.sampled_from(["ONE", "four", "five"]) for q in ("q1", "q2", "q3")}))
    known = draw(st.lists(st.tuples(st.sampled_from(["q1", "q2", "q3", "q4"]), st.integers(0, 9)), max_size=8))
    scores = pa.table(
        [
            [pair[0] for pair in pairs],
            [pair[1] for pair in pairs],
            [pair[2] / 2 for pair in pairs],
            [(pair[2] + 4) / 8 for pair in pairs],
            [pair[3] for pair in pairs],
            [texts[int(pair[1][1:])] for pair in pairs],
            [asked[pair[0]] for pair in pairs],
        ],
        schema=SCHEMA.append(pa.field("query", pa.string())),
    )
    positives = pa.table(
        {
            "query_id": pa.array([q for q, _ in known], pa.string()),
            "doc_id": pa.array([f"d{d}" for _, d in known], pa.string()),
        }
    )
    return scores, positives


def by_hand(scores: pa.Table, positives: pa.Table, policies: list[MiningPolicy]) -> dict[tuple[str, str], str]:
    """The definition, a pair at a time: (query, document) -> policy."""
    rows = {(row["query_id"], row["doc_id"]): row for row in scores.to_pylist()}
    known = {tuple(row.values()) for row in positives.to_pylist()}
    result: dict[tuple[str, str], str] = {}
    for query in {query for query, _ in rows}:
        docs = {doc: row for (of, doc), row in rows.items() if of == query}
        mine_of = {doc for of, doc in known if of == query}
        texts = {normalise(docs[doc]["text"] or "") for doc in mine_of if doc in docs} - {""}
        itself = {doc for doc, row in docs.items() if normalise(row["text"] or "") == normalise(row["query"])}
        new = {
            doc
            for policy in policies
            for doc, row in docs.items()
            if policy.positive_above is not None and row[policy.score] > policy.positive_above
            if doc not in mine_of | itself and normalise(row["text"] or "") not in texts
        }
        texts |= {normalise(docs[doc]["text"] or "") for doc in new} - {""}
        barred = mine_of | new | itself | {doc for doc, row in docs.items() if normalise(row["text"] or "") in texts}
        if not mine_of | new:
            continue
        for policy in policies:
            number = {doc: row[policy.score] for doc, row in docs.items()}
            lowest = min((number[doc] for doc in mine_of if doc in docs), default=None)
            if policy.needs_positive_score and lowest is None:
                continue

            def place(doc: str, number: dict[str, float] = number, docs: dict[str, Any] = docs) -> tuple[Any, ...]:
                return -number[doc], docs[doc]["first_stage_rank"] or math.inf, doc

            def passes(s: float, policy: MiningPolicy = policy, lowest: float | None = lowest) -> bool:
                conditions = [
                    policy.max_score is None or s <= policy.max_score,
                    policy.min_score is None or s >= policy.min_score,
                    policy.negative_below is None or s < policy.negative_below,
                ]
                if lowest is not None:
                    m, r, p = policy.absolute_margin, policy.relative_margin, policy.positive_percentage
                    conditions += [m is None or s <= lowest - m, r is None or s <= lowest - abs(lowest) * r]
                    conditions += [p is None or s < lowest - abs(lowest) * (1 - p)]
                return all(conditions)

            remaining = sorted((doc for doc in docs if doc not in barred and passes(number[doc])), key=place)
            if policy.range_min or policy.range_max:
                by_margin = sorted(docs, key=lambda doc: (-docs[doc]["margin"], *place(doc)[1:]))
                rank = {
                    "first_stage_rank": {doc: row["first_stage_rank"] for doc, row in docs.items()},
                    "margin": {doc: i for i, doc in enumerate(by_margin, 1)},
                    "remaining": {doc: i for i, doc in enumerate(remaining, 1)},
                }[policy.rank_by]
                highest = policy.range_max or math.inf
                remaining = [doc for doc in remaining if rank[doc] and policy.range_min < rank[doc] <= highest]
            remaining = [doc for doc in remaining if (query, doc) not in result]
            if policy.sampling != "top" and remaining:
                uniform = random_keys(
                    policy.seed, pa.chunked_array([[query] * len(remaining)]), pa.chunked_array([remaining])
                ).tolist()
                key = dict(zip(remaining, uniform, strict=True))
                if policy.sampling == "simans":
                    assert lowest is not None
                    key = {
                        doc: policy.simans_a * (number[doc] - lowest - policy.simans_b) ** 2 + math.log(-math.log(u))
                        for doc, u in key.items()
                    }
                remaining.sort(key=lambda doc: (key[doc], doc))
            taken = sum(of == query for of, _ in result) if policy.fill else 0
            result |= {(query, doc): policy.name for doc in remaining[: max(policy.num_negatives - taken, 0)]}
    return result


def results(mined: Mined) -> dict[str, list[dict[str, Any]]]:
    tables = {name: getattr(mined, name) for name in ("negatives", "positives", "left_out", "shortfalls")}
    return {name: table.to_pylist() for name, table in tables.items()}


@settings(deadline=None, max_examples=200)
@given(problems(), POLICIES, POLICIES, st.booleans(), st.randoms())
def test_properties(
    problem: tuple[pa.Table, pa.Table], first: MiningPolicy, second: MiningPolicy, fill: bool, shuffle: random.Random
) -> None:
    scores, positives = problem
    second = second.model_copy(update={"name": "second", "fill": fill})
    mined = mine(scores, positives, [first, second])
    found = {(row["query_id"], row["doc_id"]): row["policy"] for row in mined.negatives.to_pylist()}
    assert len(found) == mined.negatives.num_rows  # no document twice
    assert found == by_hand(scores, positives, [first, second])

    # no positive, judged or new, and no copy of one is a negative
    text = {(row["query_id"], row["doc_id"]): normalise(row["text"] or "") for row in scores.to_pylist()}
    all_positives = {(row["query_id"], row["doc_id"]) for row in mined.positives.to_pylist()}
    all_positives |= {tuple(row.values()) for row in positives.to_pylist()}
    assert not all_positives & found.keys()
    copies = {(pair[0], text[pair]) for pair in all_positives if text.get(pair)}
    assert not copies & {(pair[0], text[pair]) for pair in found}

    # no more than asked for, and what is missing is listed
    asked = Counter(
        {
            row["query_id"]: row["wanted"] - row["chosen"]
            for row in mined.shortfalls.to_pylist()
            if row["policy"] == "hard"
        }
    )
    per_query = Counter(query for (query, _), policy in found.items() if policy == "hard")
    queries = set(scores["query_id"].to_pylist())
    kept = queries - set(left_out(mined))
    assert kept == {query for query, _ in found}
    for query in kept:
        assert per_query[query] + asked[query] == first.num_negatives
    assert set(mined.positives["query_id"].to_pylist()) == kept
    assert mined.counts["queries"] == len(queries) == mined.counts["kept"] + len(left_out(mined))

    # neither the order of rows nor their division over workers changes anything
    order = list(range(len(scores)))
    shuffle.shuffle(order)
    rows = list(range(len(positives)))
    shuffle.shuffle(rows)
    shuffled = mine(
        scores.take(pa.array(order, pa.int64())), positives.take(pa.array(rows, pa.int64())), [first, second]
    )
    assert results(shuffled) == results(mined)
    parts = [
        mine(scores.filter(pc.equal(scores["query_id"], query)), positives, [first, second])
        for query in ("q1", "q2", "q3")
    ]
    together = {name: [row for part in parts for row in results(part)[name]] for name in results(mined)}
    assert together == results(mined)
    total = Counter(dict.fromkeys(mined.counts, 0))
    for part in parts:
        total.update(part.counts)
    assert dict(total) == mined.counts


# Against sentence-transformers

MARGINS = {
    "a": 0.9375,
    "p1": 0.875,
    "b": 0.84375,
    "p2": 0.75,
    "c": 0.703125,
    "d": 0.625,
    "e": 0.5,
    "f": 0.25,
    "g": -0.125,
}


@pytest.mark.parametrize(
    ("parameters", "theirs"),
    [
        ({"num_negatives": 3}, "a b c"),
        ({"num_negatives": 2, "range_min": 2, "range_max": 6}, "c d"),
        ({"num_negatives": 7, "max_score": 0.703125}, "c d e f g"),
        ({"num_negatives": 7, "min_score": 0.5}, "a b c d e"),
        ({"num_negatives": 7, "absolute_margin": 0.0}, "c d e f g"),
        ({"num_negatives": 7, "absolute_margin": 0.125}, "d e f g"),
        ({"num_negatives": 7, "relative_margin": 0.0625}, "c d e f g"),
        ({"num_negatives": 7, "relative_margin": 0.25}, "e f g"),
        ({"num_negatives": 2, "range_min": 1, "range_max": 8, "absolute_margin": 0.0625, "min_score": 0.0}, "e f"),
    ],
)
def test_the_negatives_of_sentence_transformers(parameters: dict[str, Any], theirs: str) -> None:
    """``theirs``: what its ``mine_hard_negatives``, version 6.2.0, gave for these numbers as similarities."""
    mined = mine(scored({"q": MARGINS}), judged(q="p1 p2"), MiningPolicy(rank_by="remaining", **parameters))
    assert chosen(mined) == theirs
