"""sentence-transformers reads the trainer files, and its miner chooses the same negatives from the same scores."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tart_ray.config import MiningPolicy
from tart_ray.mining.format_options import FormatOptions
from tart_ray.mining.groups import group
from tart_ray.mining.mined import Mined
from tart_ray.mining.negatives import mine
from tart_ray.mining.trainer_files import FORMATS

pytest.importorskip("sentence_transformers", reason="a development dependency")
pytest.importorskip("datasets", reason="a development dependency")

# what other libraries warn of while they are imported and used is theirs
pytestmark = pytest.mark.filterwarnings("ignore")

Scored = dict[str, dict[str, float]]  # {query: {document: number}}
Pairs = list[tuple[str, str]]

# more in it than one query: several positives with different scores, a positive below negatives, negative numbers
SCORES: Scored = {
    "q1": {"a": 0.9375, "p1": 0.875, "b": 0.84375, "p2": 0.75, "c": 0.703125, "d": 0.625, "e": 0.5, "f": -0.125},
    "q2": {"p3": -0.25, "a": -0.375, "b": -0.5, "c": -0.75},
}
POSITIVES: Pairs = [("q1", "p1"), ("q1", "p2"), ("q2", "p3")]


def mined_from(scores: Scored, positives: Pairs, policy: MiningPolicy) -> Mined:
    pairs = [(query, document, number) for query, found in scores.items() for document, number in found.items()]
    columns = [*zip(*pairs, strict=True)]
    names = dict(zip(("query_id", "doc_id", "margin"), columns, strict=True))
    table = pa.table({**names, "text": names["doc_id"]})
    return mine(table, pa.table(dict(zip(("query_id", "doc_id"), zip(*positives, strict=True), strict=True))), policy)


class Given:
    """A model whose similarity of a query and a document is what a table says: a dimension for each query."""

    device = "cpu"
    model_card_data = SimpleNamespace(base_model="given")

    def __init__(self, scores: Scored) -> None:
        self.scores = scores
        self.queries = [*scores]

    def encode_query(self, texts: list[str], **_: Any) -> Any:
        return np.eye(len(self.queries), dtype=np.float32)[[self.queries.index(text) for text in texts]]

    def encode_document(self, texts: list[str], **_: Any) -> Any:
        return np.array([[self.scores[query][text] for query in self.queries] for text in texts], np.float32)

    def similarity(self, left: Any, right: Any) -> Any:
        import torch

        return torch.as_tensor(left) @ torch.as_tensor(right).T

    def similarity_pairwise(self, left: Any, right: Any) -> Any:
        import torch

        return (torch.as_tensor(left) * torch.as_tensor(right)).sum(1)


def mined_by_sentence_transformers(scores: Scored, positives: Pairs, **options: Any) -> Pairs:
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    columns = dict(zip(("query", "answer"), map(list, zip(*positives, strict=True)), strict=True))
    found = mine_hard_negatives(
        Dataset.from_dict(columns),
        Given(scores),  # type: ignore[arg-type]
        corpus=sorted({document for documents in scores.values() for document in documents}),
        output_format="labeled-pair",
        output_scores=False,
        **options,
    )
    return [(row["query"], row["answer"]) for row in found if row["label"] == 0]


OPTIONS: list[dict[str, Any]] = [
    {"num_negatives": 3},
    {"num_negatives": 2, "range_min": 2, "range_max": 6},
    {"num_negatives": 7, "max_score": 0.625},
    {"num_negatives": 7, "min_score": 0.5},
    {"num_negatives": 7, "absolute_margin": 0.125},
    {"num_negatives": 7, "relative_margin": 0.0625},
    {"num_negatives": 2, "range_min": 1, "range_max": 8, "absolute_margin": 0.0625, "min_score": 0.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_same_negatives_from_the_same_scores(options: dict[str, Any]) -> None:
    draw = random.Random(0)
    same = 0
    for _ in range(8):
        documents = [f"d{i}" for i in range(12)]
        numbers = [n / 64 for n in range(-64, 65)]
        scores = {f"q{i}": dict(zip(documents, draw.sample(numbers, len(documents)), strict=True)) for i in range(4)}
        positives = sorted({(query, draw.choice(documents)) for query in scores for _ in range(draw.randint(1, 3))})
        policy = MiningPolicy(rank_by="remaining", **options)
        ours = mined_from(scores, positives, policy).negatives.select(["query_id", "doc_id"]).to_pylist()
        # theirs looks no further than range_max texts: all of them, where no window was asked for
        theirs = mined_by_sentence_transformers(scores, positives, **{"range_max": len(documents), **options})
        assert sorted(tuple(row.values()) for row in ours) == sorted(theirs)
        same += len(theirs)
    assert same  # something was compared


@pytest.fixture(scope="module")
def groups() -> pa.Table:
    mined = mined_from(SCORES, POSITIVES, MiningPolicy(num_negatives=3))
    queries = pa.table(
        {"query_id": ["q1", "q2"], "query": ["wing flow", "heat"], "instruction": ["Find a letter", None]}
    )
    documents = pa.table({"doc_id": [*"abcdef", "p1", "p2", "p3"]}).append_column(
        "text", pa.array([f"text of {name}" for name in [*"abcdef", "p1", "p2", "p3"]])
    )
    return group(mined, queries, documents).rows


def bi_encoder(_: Path) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "wing": 1, "text": 2, "a": 3, "b": 4}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")


def cross_encoder(folder: Path) -> Any:
    from sentence_transformers import CrossEncoder
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "wing", "text", "a"]))
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertForSequenceClassification(BertConfig(vocab_size=8, num_labels=1, **shape)).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return CrossEncoder(str(folder), num_labels=1, device="cpu")


@pytest.mark.parametrize(
    ("name", "options", "model", "loss"),
    [
        ("triplet", FormatOptions(), bi_encoder, "MultipleNegativesRankingLoss"),
        ("triplet", FormatOptions(with_scores=True), bi_encoder, "MarginMSELoss"),
        ("n-tuple", FormatOptions(num_negatives=2), bi_encoder, "MultipleNegativesRankingLoss"),
        ("n-tuple", FormatOptions(num_negatives=2, with_scores=True), bi_encoder, "MarginMSELoss"),
        ("labeled-pair", FormatOptions(), cross_encoder, "BinaryCrossEntropyLoss"),
        ("labeled-pair", FormatOptions(with_scores=True), cross_encoder, "MSELoss"),
        ("labeled-list", FormatOptions(), cross_encoder, "LambdaLoss"),
        ("labeled-list", FormatOptions(with_scores=True), cross_encoder, "ListNetLoss"),
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value) if isinstance(value, str) else None,
)
def test_a_loss_takes_one_step(
    name: str, options: FormatOptions, model: Callable[[Path], Any], loss: str, groups: pa.Table, tmp_path: Path
) -> None:
    from datasets import load_dataset
    from sentence_transformers import (
        CrossEncoderTrainer,
        CrossEncoderTrainingArguments,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.cross_encoder import losses as of_cross_encoders
    from sentence_transformers.sentence_transformer import losses as of_bi_encoders

    rows = FORMATS[name].rows(groups, options).rows
    pq.write_table(rows, tmp_path / "rows.parquet")
    (tmp_path / "model").mkdir()
    trained = model(tmp_path / "model")
    before = [parameter.detach().clone() for parameter in trained.parameters()]
    trainer, arguments, losses = (
        (SentenceTransformerTrainer, SentenceTransformerTrainingArguments, of_bi_encoders)
        if model is bi_encoder
        else (CrossEncoderTrainer, CrossEncoderTrainingArguments, of_cross_encoders)
    )
    data = load_dataset("parquet", data_files=str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "cache"))
    settings = arguments(str(tmp_path / "out"), max_steps=1, use_cpu=True, report_to="none", learning_rate=0.1)
    result = trainer(trained, settings, data["train"], loss=getattr(losses, loss)(trained)).train()
    assert result.global_step == 1
    assert np.isfinite(result.training_loss)
    assert any((now != then).any() for now, then in zip(trained.parameters(), before, strict=True))
