"""The vocabulary, the first weights, the examples and the figures, on the documented functions of a few modules."""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from recipes.demo_model.entries import Entry
from recipes.demo_model.evaluate import Interval, code_search, compare, instruction_following, pooled_search
from recipes.demo_model.examples import make_queries
from recipes.demo_model.python_source import read_package
from recipes.demo_model.start import make_start
from recipes.demo_model.tasks import TASKS
from recipes.demo_model.train import balanced, read_queries, write_queries
from recipes.demo_model.vocabulary import train_vocabulary
from tart_ray.model.tokenizer import EncT5Tokenizer
from tart_ray.scoring.scorer import Scorer
from tart_ray.scoring.scores import Scores
from tart_ray.training.examples import Query

MODULES = ("argparse", "configparser", "datetime", "difflib", "inspect", "ipaddress", "statistics", "turtle")


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    """Some hundred functions of the standard library."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    return list(read_package("library", ((f"{name}.py", (folder / f"{name}.py").read_text()) for name in MODULES)))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, entries: list[Entry]) -> EncT5Tokenizer:
    """A vocabulary learned from them."""
    return train_vocabulary(tmp_path_factory.mktemp("vocabulary"), entries, pieces=900)


def test_code_and_prose_share_pieces(tokenizer: EncT5Tokenizer) -> None:
    prose, *code = tokenizer.encode_texts(
        [
            "parse address list",
            "parse_address_list",
            "parseAddressList",
            "PARSE.ADDRESS(list)",
            "parse\n\taddress:list",
        ]
    )
    assert code == [prose] * 4
    saved = EncT5Tokenizer.from_pretrained(tokenizer.vocab_file.parent)
    assert saved.encode_texts(["parseAddress_list"]) == [prose]
    assert (saved.pad_token_id, saved.eos_token_id, saved.unk_token_id) == (0, 1, 2)
    assert saved.bos_token_id == len(saved) - 1


def test_the_first_weights_rank_by_shared_words(tokenizer: EncT5Tokenizer, entries: list[Entry]) -> None:
    scorer = Scorer(make_start(tokenizer, entries).eval(), tokenizer, max_length=112)
    chosen = [entry for entry in entries if "code" in entry.answers][:60]
    instruction = TASKS["python-code"].instructions[0]
    own = scorer.score([e.query for e in chosen], [e.answers["code"] for e in chosen], instruction).margin
    others = [chosen[i - 30].answers["code"] for i in range(len(chosen))]
    assert np.mean(own > scorer.score([e.query for e in chosen], others, instruction).margin) > 0.7


def test_each_kind_of_answer_is_asked_for_with_hard_negatives(entries: list[Entry], tmp_path: Path) -> None:
    queries = list(make_queries(entries))
    assert len(queries) == sum(len(entry.answers) for entry in entries)
    entry = next(entry for entry in entries if len(entry.answers) == 2)
    code, documentation = (query for query in queries if query.text == entry.query)
    assert (code.task, documentation.task) == ("python-code", "python-documentation")
    assert code.positives == (f"{entry.title} {entry.answers['code']}",) == documentation.unfollowing
    assert documentation.positives == (f"{entry.title} {entry.answers['documentation']}",) == code.unfollowing
    for query in (code, documentation):
        assert 1 <= len(query.negatives) <= 12
        assert not {*query.negatives} & {*query.positives, *query.unfollowing}
    write_queries(tmp_path / "queries.parquet", queries)
    assert list(read_queries([tmp_path / "queries.parquet"])) == queries


def test_rare_tasks_are_repeated() -> None:
    def of(task: str, count: int) -> list[Query]:
        return [Query(f"{task} {i}", task, ("find it",), ("answer",)) for i in range(count)]

    tasks = [query.task for query in balanced([*of("common", 90), *of("rare", 6), *of("rarest", 1)])]
    assert (tasks.count("common"), tasks.count("rare"), tasks.count("rarest")) == (90, 12, 5)


class ByInstruction:
    """Scores as a model would that knows the kinds of documents, and nothing else: code has ``def``."""

    def score(self, queries: Sequence[str], documents: Sequence[str], instructions: Sequence[str]) -> Scores:
        asked = [instruction in TASKS["python-code"].instructions for instruction in instructions]
        obeys = [float(code == ("def " in text)) for code, text in zip(asked, documents, strict=True)]
        return Scores(np.array([[0.0, value] for value in obeys], np.float32))


def test_instruction_following_counts_pairs_in_the_order_that_is_asked_for() -> None:
    answers = {"code": "def f(): return 1", "documentation": "Returns one, always."}
    odd = {"code": "lambda: 1", "documentation": "It says def f in its documentation."}
    entries = [Entry("python", "p", f"{i}", "p", f"query {i}", odd if i == 0 else answers) for i in range(4)]
    figures = instruction_following(ByInstruction(), entries, 4)  # type: ignore[arg-type]
    assert {name: (value.mean, value.count) for name, value in figures.items()} == {
        "all tasks": (0.75, 8),
        "python-code": (0.75, 4),
        "python-documentation": (0.75, 4),
    }


def test_intervals_and_differences_are_of_queries() -> None:
    assert Interval.of(np.ones(5)) == Interval(1.0, 1.0, 1.0, 5)
    values = np.arange(20) % 7 / 7
    draw = np.random.default_rng(0)  # the resamples that the figures of the published card come from
    means = [values[draw.integers(20, size=20)].mean() for _ in range(2_000)]
    low, high = np.percentile(means, [2.5, 97.5])
    interval = Interval.of(values)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-12)
    qrels = {"a": {"d1": 1}, "b": {"d2": 1}, "c": {"d9": 1}}
    bm25 = {"a": {"d1": 2.0, "d2": 1.0}, "b": {"d1": 2.0, "d2": 1.0}, "c": {"d1": 1.0}}
    model = {"a": {"d1": 2.0, "d2": 1.0}, "b": {"d1": 1.0, "d2": 2.0}, "c": {"d1": 1.0}}
    figures = compare(bm25, model, qrels)
    second = 1 / np.log2(3)  # the gain of the second place
    assert figures["BM25"].mean == pytest.approx((1 + second + 0) / 3, abs=1e-4)
    assert figures["model"].mean == pytest.approx(2 / 3)
    assert figures["model above BM25"].mean == pytest.approx((1 - second) / 3, abs=1e-4)
    assert figures["BM25's recall@50, no order can be better"].mean == pytest.approx(2 / 3)
    low, high = figures["model above BM25"].low, figures["model above BM25"].high
    assert low == 0 <= high <= 1 - second + 1e-4


def test_search_figures_come_from_a_model_and_a_real_corpus(tokenizer: EncT5Tokenizer, entries: list[Entry]) -> None:
    scorer = Scorer(make_start(tokenizer, entries).eval(), tokenizer, max_length=48)
    code = code_search(scorer, entries, 10)
    assert code["model"].count == code["BM25"].count == 10
    assert 0 < code["BM25"].mean <= code["BM25's recall@50, no order can be better"].mean <= 1
    with pytest.raises(ValueError, match="debian-description"):
        pooled_search(scorer, entries, 10)
