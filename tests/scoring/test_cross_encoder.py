"""Cross-encoders of sentence-transformers, beside that library's own predictions for the same pairs."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.cross_encoders import make_bert, make_headless_bert, make_modern_bert, make_modular, make_qwen3

from tart_ray import Scorer
from tart_ray.errors import CheckpointChangedError, CheckpointError
from tart_ray.model.checkpoint import fingerprint_checkpoint
from tart_ray.model.checkpoint_files import CROSS_ENCODER_FILES
from tart_ray.model.cross_encoder import CrossEncoderTokenizer, load_cross_encoder
from tart_ray.model.family import family_of
from tart_ray.model.place import CheckpointPlace
from tart_ray.model.template import Template
from tart_ray.scoring.cross_encoder import CrossEncoderScorer

sentence_transformers = pytest.importorskip("sentence_transformers", reason="of the extra cross-encoders")

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "bert": make_bert,
    "two labels": partial(make_bert, labels=2),
    "modern bert": make_modern_bert,
    "qwen3": make_qwen3,
    "modules": make_modular,
}
MAX_LENGTH = 100
NO_HEAD = r"got no weights for classifier\.bias, classifier\.weight of BertFor"
WORDS = "what is the capital of france paris city history question science dog fox document".split()


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILIES[request.param](tmp_path_factory.mktemp("model"))


def some_pairs(count: int) -> tuple[list[str], list[str]]:
    """Queries and documents from one word to more than fit."""
    draw = random.Random(0)
    queries = [" ".join(draw.choices(WORDS, k=draw.randint(1, 8))) for _ in range(count)]
    documents = [" ".join(draw.choices(WORDS, k=draw.choice([1, 5, 20, 40, 200]))) for _ in range(count)]
    return queries, documents


def predicted(checkpoint: Path, queries: list[str], documents: list[str], prompt: str | None = None) -> np.ndarray:
    model = sentence_transformers.CrossEncoder(str(checkpoint), device="cpu", max_length=MAX_LENGTH)
    pairs = list(zip(queries, documents, strict=True))
    raw = model.predict(pairs, prompt=prompt, activation_fn=torch.nn.Identity(), batch_size=1)
    return raw if raw.ndim == 1 else raw[:, 1] - raw[:, 0]


def test_margins_are_the_librarys_in_any_order_and_company(checkpoint: Path) -> None:
    queries, documents = some_pairs(60)
    expected = predicted(checkpoint, queries, documents)
    assert np.ptp(expected) > 0.1
    scorer = CrossEncoderScorer.from_place(CheckpointPlace(checkpoint), max_length=MAX_LENGTH, max_tokens_per_batch=700)
    scores = scorer.score(queries, documents)
    np.testing.assert_allclose(scores.margin, expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(scores.score, 1 / (1 + np.exp(-expected.astype(np.float64))), atol=1e-5)
    order = random.Random(1).sample(range(60), 25)
    some = scorer.score([queries[i] for i in order], [documents[i] for i in order])
    np.testing.assert_allclose(some.margin, expected[order], atol=1e-5, rtol=0)


def test_what_is_tokenised_elsewhere_scores_the_same(checkpoint: Path) -> None:
    queries, documents = some_pairs(20)
    model = load_cross_encoder(CheckpointPlace(checkpoint), device="meta")
    tokenizer = CrossEncoderTokenizer(model, None, MAX_LENGTH)
    assert next(tokenizer.model.parameters()).device.type == "meta"  # no weights
    pairs = tokenizer.encode_pairs(queries, documents, [None] * 20)
    scorer = CrossEncoderScorer.from_place(CheckpointPlace(checkpoint), max_length=MAX_LENGTH)
    np.testing.assert_allclose(
        scorer.score_encoded(pairs).margin, predicted(checkpoint, queries, documents), atol=1e-5, rtol=0
    )


def test_truncated_says_what_was_cut_and_not_what_just_fits(tmp_path: Path) -> None:
    model = load_cross_encoder(CheckpointPlace(make_bert(tmp_path)), device="meta")
    tokenizer = CrossEncoderTokenizer(model, None, 12)
    words = ["what", "the"]  # one token each, beside [CLS] and two [SEP]
    assert tokenizer.without_tokens(["", "what", "\u0000\u0007", "\u0007" * 600 + "what"]) == [0, 2]
    documents = [" ".join(words[:1] * count) for count in (7, 8, 9)]
    pairs = tokenizer.encode_pairs(["what"] * 3, documents, [None] * 3)
    assert pairs.lengths.tolist() == [11, 12, 12]
    assert pairs.truncated.tolist() == [False, False, True]


def test_a_chats_prompt_is_the_instruction(tmp_path: Path) -> None:
    checkpoint = make_qwen3(tmp_path)
    queries, documents = some_pairs(6)
    instructions = ["Retrieve history", None, "Retrieve science", "Retrieve history", "", None]
    scorer = CrossEncoderScorer.from_place(CheckpointPlace(checkpoint), max_length=MAX_LENGTH)
    assert scorer.tokenizer.template == Template(prompt="{instruction}")
    margins = scorer.score(queries, documents, instructions).margin
    for row, instruction in enumerate(instructions):
        one = predicted(checkpoint, queries[row : row + 1], documents[row : row + 1], instruction or None)
        np.testing.assert_allclose(margins[row], one[0], atol=1e-5)
    assert abs(margins[0] - scorer.score(queries[:1], documents[:1]).margin[0]) > 1e-4


def test_a_template_puts_the_instruction_before_the_query(tmp_path: Path) -> None:
    checkpoint = make_bert(tmp_path)
    template = Template(query="{instruction} {query}", document="{text}")
    scorer = CrossEncoderScorer.from_place(CheckpointPlace(checkpoint), max_length=MAX_LENGTH, template=template)
    margins = scorer.score(["what is it"] * 2, ["paris"] * 2, ["Find the city", None]).margin
    expected = predicted(checkpoint, ["Find the city what is it", "what is it"], ["paris"] * 2)
    np.testing.assert_allclose(margins, expected, atol=1e-5)


def test_the_scorer_takes_any_family(tmp_path: Path) -> None:
    scorer = Scorer.from_pretrained(make_bert(tmp_path), max_length=MAX_LENGTH)
    assert isinstance(scorer, CrossEncoderScorer)
    assert scorer.score(["what"], ["paris"]).margin == predicted(tmp_path, ["what"], ["paris"])


def test_a_checkpoint_without_a_head_is_refused_and_not_drawn_at_random(tmp_path: Path) -> None:
    place = CheckpointPlace(make_headless_bert(tmp_path))
    with pytest.raises(CheckpointError, match=NO_HEAD):
        load_cross_encoder(place, device="cpu")
    place = dataclasses.replace(place, fingerprint=fingerprint_checkpoint(place, files=CROSS_ENCODER_FILES))
    with pytest.raises(CheckpointError, match=NO_HEAD):
        load_cross_encoder(place, device="cpu", check_weights=True)


def test_three_labels_and_longer_pairs_than_a_model_reads_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="got num_labels 3, expected 2"):
        load_cross_encoder(CheckpointPlace(make_bert(tmp_path / "three", labels=3)), device="cpu")
    with pytest.raises(CheckpointError, match=r"max_length: got 512, and this checkpoint reads 128 tokens"):
        CrossEncoderScorer.from_place(CheckpointPlace(make_bert(tmp_path / "one")))


@pytest.mark.parametrize("make", [make_bert, make_modular], ids=["bert", "modules"])
def test_margins_in_bfloat16_are_not_rounded_to_8_bits(make: Callable[[Path], Path], tmp_path: Path) -> None:
    queries, documents = some_pairs(60)
    scorer = CrossEncoderScorer.from_place(
        CheckpointPlace(make(tmp_path / "m")), max_length=MAX_LENGTH, dtype="bfloat16"
    )
    margins = torch.from_numpy(scorer.score(queries, documents).margin)
    assert (margins != margins.bfloat16().float()).float().mean() > 0.9
    exact = predicted(tmp_path / "m", queries, documents)
    np.testing.assert_allclose(margins, exact, atol=0.2 * np.ptp(exact))


def test_a_checkpoint_in_a_store_comes_with_the_folders_of_its_modules(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TART_RAY_CACHE", str(tmp_path / "cache"))
    local, bucket = make_modular(tmp_path / "m"), s3.new_bucket()
    for file in (path for path in local.rglob("*") if path.is_file()):
        s3.filesystem().pipe_file(f"{bucket}/m/{file.relative_to(local)}", file.read_bytes())
    place = CheckpointPlace(f"s3://{bucket}/m/", storage_options=s3.storage_options)
    assert family_of(place) == "cross-encoder"
    place = dataclasses.replace(place, fingerprint=fingerprint_checkpoint(place, files=CROSS_ENCODER_FILES))
    scorer = CrossEncoderScorer.from_place(place, max_length=MAX_LENGTH)
    assert scorer.score(["what"], ["paris"]).margin == predicted(local, ["what"], ["paris"])
    head = next(local.glob("2_*/model.safetensors"))
    s3.filesystem().pipe_file(f"{bucket}/m/{head.relative_to(local)}", head.read_bytes()[:-4] + b"\0\0\0\1")
    monkeypatch.setenv("TART_RAY_CACHE", str(tmp_path / "another"))
    with pytest.raises(CheckpointChangedError, match="the manifest names a checkpoint of fingerprint"):
        CrossEncoderScorer.from_place(place, max_length=MAX_LENGTH)
