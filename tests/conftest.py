"""Fixtures: the shared data, a small checkpoint made on the spot, a real S3 server."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads gain small models nothing, and wait on a busy machine
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
os.environ["AWS_REQUEST_CHECKSUM_CALCULATION"] = "when_required"  # newer checksums are refused by some stores
os.environ["AWS_RESPONSE_CHECKSUM_VALIDATION"] = "when_required"

from support.job_files import WORDS
from support.s3_server import S3Server, serve

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The golden pairs, T5's vocabulary, a checkpoint in the published layout, and Cranfield."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED.parent.name}/{SHARED.name} is not beside the project")
    return SHARED


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    """A few hundred made-up sentences."""
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=draw.randint(3, 30))) + f" {i}." for i in range(400)]


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> Path:
    """A small random EncT5 with a vocabulary of its own, in the published layout."""
    import torch
    from sentencepiece import SentencePieceTrainer
    from transformers import T5Config

    from tart_ray import EncT5ForSequenceClassification, EncT5Tokenizer

    folder = tmp_path_factory.mktemp("tiny")
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_prefix=str(folder / "vocabulary"), vocab_size=80, minloglevel=2, **ids
    )
    tokenizer = EncT5Tokenizer(folder / "vocabulary.model")
    config = T5Config(
        vocab_size=256, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = EncT5ForSequenceClassification(config)
        torch.nn.init.normal_(model.classifier.weight)  # margins that differ well beyond rounding
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server."""
    with serve(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    """Every device that this machine has."""
    import torch

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return str(request.param)
