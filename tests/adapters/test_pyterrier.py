"""Pipelines of PyTerrier whose last stage is a Scorer. None of it needs Java."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tart_ray import Scorer

pt = pytest.importorskip("pyterrier", reason="of the extra pyterrier; `make ecosystem` installs it")

from tart_ray.adapters.pyterrier import Reranker  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")  # of PyTerrier's own calls
QUERIES = pd.DataFrame({"qid": ["1", "2"], "query": ["wing flow", "heat of a plate"]})


@pytest.fixture(scope="module")
def scorer(tiny_checkpoint: Path) -> Scorer:
    return Scorer.from_pretrained(tiny_checkpoint, device="cpu")


@pytest.fixture
def retrieved(sentences: list[str]) -> pd.DataFrame:
    """Six documents of each query, as a first stage leaves them."""
    rows = [
        {"qid": qid, "query": query, "docno": f"d{i}", "text": sentences[i], "score": -float(i), "rank": i, "kept": i}
        for qid, query in QUERIES.itertuples(index=False)
        for i in range(6)
    ]
    return pd.DataFrame(rows)


def margins(scorer: Scorer, frame: pd.DataFrame, instruction: str | None) -> list[float]:
    documents = frame["text"].tolist()
    return scorer.score(frame["query"].tolist(), documents, instruction).margin.tolist()


def test_a_pipeline_ranks_by_margin(scorer: Scorer, retrieved: pd.DataFrame) -> None:
    pipeline = pt.Transformer.from_df(retrieved) >> Reranker(scorer, "Find it")
    ranked = pipeline(QUERIES).sort_values(["qid", "docno"], ignore_index=True)
    assert ranked["score"].tolist() == pytest.approx(margins(scorer, retrieved, "Find it"), abs=1e-5)
    assert ranked["kept"].tolist() == retrieved["kept"].tolist()
    for _, found in ranked.groupby("qid"):
        by_rank = found.sort_values("rank")
        assert by_rank["rank"].tolist() == list(range(6))
        assert by_rank["score"].is_monotonic_decreasing


def test_a_row_s_instruction_wins_and_its_title_is_read(scorer: Scorer, retrieved: pd.DataFrame) -> None:
    rows = retrieved.assign(
        title=["part", None, float("nan"), "", "jet", "mach"] * 2,
        instruction=["Find a wing", None, "Find a jet", float("nan"), "", "Find it"] * 2,
    )
    ranked = Reranker(scorer, "Find it").transform(rows)
    told = ["Find a wing", "Find it", "Find a jet", "Find it", "Find it", "Find it"] * 2
    titles = ["part", None, None, None, "jet", "mach"] * 2
    documents = [{"title": title, "text": text} for title, text in zip(titles, rows["text"], strict=True)]
    expected = scorer.score(rows["query"].tolist(), documents, told).margin
    assert ranked["score"].tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_cutoff_and_an_experiment_follow(scorer: Scorer, retrieved: pd.DataFrame) -> None:
    pipeline = pt.Transformer.from_df(retrieved) >> Reranker(scorer) % 2
    assert pipeline(QUERIES).groupby("qid").size().tolist() == [2, 2]
    best = pipeline(QUERIES).query("rank == 0")
    qrels = best[["qid", "docno"]].assign(label=1)
    measured = pt.Experiment([pipeline], QUERIES, qrels, ["recip_rank"], names=["tart"])
    assert measured["recip_rank"].tolist() == [1.0]


def test_no_rows_and_missing_columns(scorer: Scorer, retrieved: pd.DataFrame) -> None:
    reranker = Reranker(scorer)
    empty = reranker.transform(retrieved.head(0))
    assert (len(empty), {"score", "rank"} <= {*empty.columns}) == (0, True)
    assert pt.inspect.transformer_outputs(reranker, ["qid", "query", "docno", "text"])[-2:] == ["score", "rank"]
    with pytest.raises(pt.validate.InputValidationError, match="text"):
        reranker.transform(retrieved.drop(columns="text"))
    with pytest.raises(TypeError, match=r"documents\[0\]: got None"):
        reranker.transform(retrieved.assign(text=None))
