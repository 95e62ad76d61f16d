"""The evaluators of sentence-transformers over a Scorer, beside our own figures of the same rankings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from tart_ray import Scorer
from tart_ray.retrieval.measures import per_query

pytest.importorskip("sentence_transformers", reason="of the extra cross-encoders")

from sentence_transformers.cross_encoder.evaluation import (
    CrossEncoderNanoBEIREvaluator,
    CrossEncoderRerankingEvaluator,
)

from tart_ray.adapters.sentence_transformers import EvaluatedScorer

DOCUMENTS = 30
QUERIES = {"wing flow": [3, 17], "heat of a plate": [0], "jet": [5, 8, 21, 29]}


@pytest.fixture(scope="module")
def scorer(tiny_checkpoint: Path) -> Scorer:
    return Scorer.from_pretrained(tiny_checkpoint, device="cpu")


@pytest.fixture
def ours(scorer: Scorer, sentences: list[str]) -> Callable[[str | None], dict[str, float]]:
    """Figures as jobs.evaluate computes them, under an instruction."""

    def measure(instruction: str | None) -> dict[str, float]:
        qrels = {query: {str(i): 1 for i in positive} for query, positive in QUERIES.items()}
        run = {
            query: {str(i): float(margin) for i, margin in enumerate(margins)}
            for query in QUERIES
            for margins in [scorer.score([query] * DOCUMENTS, sentences[:DOCUMENTS], instruction).margin]
        }
        names = {"nDCG@10": "ndcg@10", "RR": "mrr@10", "AP": "map"}
        figures = per_query([*names], qrels, run)
        figures["RR"] = {query: value if value >= 1 / 10 else 0.0 for query, value in figures["RR"].items()}  # at 10
        return {names[name]: mean(values.values()) for name, values in figures.items()}

    return measure


@pytest.fixture
def evaluator(sentences: list[str]) -> Callable[..., Any]:
    documents = sentences[:DOCUMENTS]
    samples = [{"query": query, "positive": [documents[i] for i in positive],
                "negative": [text for i, text in enumerate(documents) if i not in positive]}
               for query, positive in QUERIES.items()]  # fmt: skip
    assert len({*documents}) == DOCUMENTS  # it finds positives by their text

    def make(**options: Any) -> Any:
        return CrossEncoderRerankingEvaluator(samples, write_csv=False, **options)

    return make


def test_a_reranking_evaluator_s_figures_are_ours(
    scorer: Scorer, evaluator: Callable[..., Any], ours: Callable[[str | None], dict[str, float]]
) -> None:
    model = EvaluatedScorer(scorer, "Find it", prompts={"other": "Find another"})
    found, expected = evaluator()(model), ours("Find it")
    assert found == pytest.approx(expected, abs=1e-9)
    assert all(0 < value < 1 for value in expected.values())
    (kept,) = model.model_card_data.eval_results_dict.values()
    assert kept == found
    assert evaluator(prompt_name="other")(model) == pytest.approx(ours("Find another"), abs=1e-9)
    assert ours("Find another") != expected
    with pytest.raises(ValueError, match=r"prompt_name: got 'none', expected one of \['other'\]"):
        evaluator(prompt_name="none")(model)


def test_the_evaluator_of_nanobeir_takes_it_too(
    scorer: Scorer, sentences: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NanoBEIR's files, of one small collection, from a local directory."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    texts = {f"d{i}": sentence for i, sentence in enumerate(sentences[:DOCUMENTS])}
    rows: dict[str, list[dict[str, Any]]] = {
        "corpus": [{"_id": doc_id, "text": text} for doc_id, text in texts.items()],
        "queries": [{"_id": query, "text": query} for query in QUERIES],
        "qrels": [{"query-id": query, "corpus-id": f"d{i}"} for query, found in QUERIES.items() for i in found],
        "bm25": [{"query-id": query, "corpus-ids": [*texts]} for query in QUERIES],
    }
    for name, of_file in rows.items():
        path = tmp_path / "nano" / name / "NanoSciFact.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(f"{json.dumps(row)}\n" for row in of_file))
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - {{split: NanoSciFact, path: {name}/NanoSciFact.jsonl}}\n"
        for name in rows
    )
    (tmp_path / "nano" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    evaluator = CrossEncoderNanoBEIREvaluator(["scifact"], dataset_id=str(tmp_path / "nano"), write_csv=False)
    found = evaluator(EvaluatedScorer(scorer, "Find it"))
    margins = {
        query: scorer.score([query] * DOCUMENTS, [*texts.values()], "Find it").margin.tolist() for query in QUERIES
    }
    run = {query: dict(zip(texts, values, strict=True)) for query, values in margins.items()}
    qrels = {query: {f"d{i}": 1 for i in positive} for query, positive in QUERIES.items()}
    expected = mean(per_query(["nDCG@10"], qrels, run)["nDCG@10"].values())
    assert found["NanoBEIR_R100_mean_ndcg@10"] == pytest.approx(expected, abs=1e-9)
