"""Presets are the paper's, word for word; templates put instruction and query together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tart_ray.errors import InputError
from tart_ray.evaluation.instructions import (
    BEIR,
    FLAN_T5_XL,
    LOTTE,
    PRESETS,
    PUBLISHED,
    T0_3B,
    X2,
    instructed,
    make_variant,
    published,
)


def test_presets_and_figures_are_those_of_the_shared_file(shared_data: Path) -> None:
    given = json.loads((shared_data / "tart_instructions.json").read_text())
    assert given["beir"] == BEIR
    assert given["x2"] == X2
    assert given["lotte"]["template"] == f"{LOTTE} [SEP] {{query}}"
    figures = given["published"]
    assert PUBLISHED[FLAN_T5_XL] == {
        "beir average": ("nDCG@10", figures["beir_average_flan_t5_xl"]),
        "beir/scifact": ("nDCG@10", figures["scifact_flan_t5_xl"]),
        "beir/climate-fever": ("nDCG@10", figures["climate_fever_flan_t5_xl"]),
        "beir/fiqa": ("nDCG@10", figures["fiqa_flan_t5_xl"]),
    }
    assert PUBLISHED[T0_3B] == {"beir/webis-touche2020": ("nDCG@10", figures["touche_t0_3b"])}


def test_nine_tasks_of_beir_and_six_of_x2() -> None:
    assert len(BEIR) == 9
    assert len(X2) == 6
    assert len(PRESETS) == 16


def test_published_figures_belong_to_a_checkpoint_and_a_preset() -> None:
    assert published("facebook/tart-full-flan-t5-xl", "beir/scifact") == ("nDCG@10", 0.777)
    assert published("facebook/tart-full-flan-t5-xl", "beir/nfcorpus") is None
    assert published("facebook/tart-full-flan-t5-xl", "lotte") is None
    assert published("some/other", "beir/scifact") is None


def test_variants() -> None:
    assert make_variant(0, "Find it").instruction == "Find it"
    assert make_variant(1, {"preset": "x2/scifact"}).instruction == "Retrieve scientific evidence to verify this claim"
    lotte = make_variant(2, {"preset": "lotte", "prompt": "Find an answer", "category": "pets"})
    assert lotte.instruction == "Find an answer from StackExchange pets forum"
    assert (lotte.name, lotte.preset) == ("reranked-3", "lotte")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"preset": "beir/nq"}, r"got preset 'beir/nq', available: beir/trec-covid, "),
        ({}, "got preset None"),
        ({"preset": "lotte", "prompt": "Find"}, r"got \['prompt'\] beside it, expected \['category', 'prompt'\]"),
        ({"preset": "beir/fiqa", "promt": "Find"}, "expected nothing"),
    ],
)
def test_bad_presets_are_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make_variant(0, given)


def test_the_reversed_template_is_one_query() -> None:
    assert instructed("instruction_first", "Find", "who") == ("Find", "who")
    assert instructed("query_first", "Find", "who") == (None, "who [SEP] Find")
    assert instructed("query_first", None, "who") == (None, "who")
