"""A reranking task of MTEB's own classes, made here and evaluated by MTEB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tart_ray import Scorer
from tart_ray.retrieval.measures import per_query

mteb = pytest.importorskip("mteb", reason="of the extra mteb; `make ecosystem` installs it")

from datasets import Dataset  # noqa: E402 - comes with mteb
from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.models.models_protocols import CrossEncoderProtocol  # noqa: E402

from tart_ray.adapters.mteb import MTEBCrossEncoder  # noqa: E402

QUERIES = {"q1": "wing flow", "q2": "heat of a plate", "q3": "jet"}
OWN = {"q1": "Find what is about wings", "q2": "Find what is not", "q3": "Find a sentence"}
PROMPT = "Retrieve a sentence on aerodynamics"
QRELS = {"q1": {"d0": 1, "d7": 1}, "q2": {"d3": 2, "d5": 1}, "q3": {"d11": 1}}


class Reranking(AbsTaskRetrieval):  # type: ignore[misc]
    """Every query's candidates are all twelve documents."""

    metadata = TaskMetadata(
        dataset={"path": "none", "revision": "none"},
        name="Reranking",
        description="Sentences.",
        prompt={"query": PROMPT},
        type="Reranking",
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
    )
    with_instructions = False

    def __init__(self, documents: list[dict[str, str]]) -> None:
        super().__init__()
        self._documents = documents

    def load_data(self, *_: Any, **__: Any) -> None:
        queries = {"id": [*QUERIES], "text": [*QUERIES.values()]}
        if self.with_instructions:
            queries["instruction"] = [OWN[query] for query in QUERIES]
        split = {
            "corpus": Dataset.from_list(self._documents),
            "queries": Dataset.from_dict(queries),
            "relevant_docs": QRELS,
            "top_ranked": {query: [row["id"] for row in self._documents] for query in QUERIES},
        }
        self.dataset, self.data_loaded = {"default": {"test": split}}, True


class WithInstructions(Reranking):
    """Each query has an instruction of its own."""

    metadata = Reranking.metadata.model_copy(update={"name": "WithInstructions", "type": "InstructionReranking"})
    with_instructions = True


@pytest.fixture(scope="module")
def scorer(tiny_checkpoint: Path) -> Scorer:
    return Scorer.from_pretrained(tiny_checkpoint, device="cpu")


@pytest.fixture(params=[True, False], ids=["titles", "no titles"])
def documents(request: pytest.FixtureRequest, sentences: list[str]) -> list[dict[str, str]]:
    rows = [{"id": f"d{i}", "text": sentence} for i, sentence in enumerate(sentences[:12])]
    return [row | {"title": f"part {i}" if i % 2 else ""} for i, row in enumerate(rows)] if request.param else rows


def expected(scorer: Scorer, documents: list[dict[str, str]], instructions: dict[str, str]) -> dict[str, float]:
    """Our own figures of the task, as jobs.evaluate computes them."""
    run = {
        query: {documents[i]["id"]: float(margin) for i, margin in enumerate(margins)}
        for query, text in QUERIES.items()
        for margins in [scorer.score([text] * 12, documents, instructions[query]).margin]
    }
    figures = per_query(["nDCG@10", "AP@10"], QRELS, run)
    return {name: sum(values.values()) / len(values) for name, values in figures.items()}


@pytest.mark.parametrize(
    ("task", "given", "instructions"),
    [
        (Reranking, None, dict.fromkeys(QUERIES, PROMPT)),
        (Reranking, "Find it", dict.fromkeys(QUERIES, "Find it")),
        (Reranking, {"Reranking": "Find that"}, dict.fromkeys(QUERIES, "Find that")),
        (Reranking, {"Another": "Find that"}, dict.fromkeys(QUERIES, PROMPT)),
        (WithInstructions, "Find it", OWN),
    ],
    ids=["of the task", "given", "given for the task", "given for another task", "of the query"],
)
def test_mteb_s_figures_are_ours(
    scorer: Scorer, documents: list[dict[str, str]], task: type[Reranking], given: Any, instructions: dict[str, str]
) -> None:
    model = MTEBCrossEncoder(scorer, name="tests/tiny", revision="1", instruction=given)
    assert isinstance(model, CrossEncoderProtocol)
    results = mteb.evaluate(model, task(documents), cache=None, co2_tracker=False, show_progress_bar=False)
    (found,) = results.task_results[0].scores["test"]
    ours = expected(scorer, documents, instructions)
    assert found["ndcg_at_10"] == pytest.approx(ours["nDCG@10"], abs=1e-5)  # MTEB rounds to five digits
    assert found["map_at_10"] == pytest.approx(ours["AP@10"], abs=1e-5)
    assert 0 < ours["nDCG@10"] < 1
    assert (results.model_name, results.model_revision) == ("tests/tiny", "1")


def test_pairs_that_are_scored_in_blocks_keep_their_order(
    scorer: Scorer, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MTEBCrossEncoder(scorer, name="tests/tiny")
    queries, texts = ["wing"] * 7, sentences[:7]
    batches = [{"text": queries[:4]}, {"text": queries[4:]}], [{"text": texts[:4]}, {"text": texts[4:]}]
    monkeypatch.setattr("tart_ray.adapters.mteb.PAIRS_AT_ONCE", 3)
    margins = model.predict(*batches, task_metadata=Reranking.metadata, hf_split="test", hf_subset="default")
    assert margins.tolist() == pytest.approx(scorer.score(queries, texts, PROMPT).margin.tolist(), abs=1e-5)
    assert model.predict([], [], task_metadata=Reranking.metadata).shape == (0,)


def test_results_of_two_instructions_are_filed_apart(scorer: Scorer) -> None:
    about = [
        MTEBCrossEncoder(scorer, name="tests/tiny", instruction=given).mteb_model_meta.experiment_kwargs
        for given in (None, "Find it", "Find that")
    ]
    assert about == [None, {"instruction": "Find it"}, {"instruction": "Find that"}]
