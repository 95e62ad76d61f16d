"""A small EncT5 checkpoint for trying things out where the published one cannot be had. It is not trained."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import sentencepiece
import torch
from transformers import T5Config

from tart_ray.model.enct5 import EncT5ForSequenceClassification
from tart_ray.model.tokenizer import VOCAB_FILE, EncT5Tokenizer

MAX_PIECES = 4_000
MAX_LINES = 20_000  # enough for so few pieces


def make_untrained_checkpoint(folder: Path, texts: Iterable[str], *, seed: int = 0) -> None:
    """Write a small EncT5 with random weights, and a vocabulary made of ``texts``, in the published layout.

    It is **untrained**: the scores it gives are noise. It shows the path that data takes, not quality. The model has
    two layers of width 64; the vocabulary has 4,000 pieces, or as many as the texts yield. The same texts and seed
    give the same files; torch's global random state is left alone.

    Raises:
        ValueError: no text has anything but white space in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / VOCAB_FILE).write_bytes(_train_vocabulary(texts))
    tokenizer = EncT5Tokenizer(folder / VOCAB_FILE)
    config = T5Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        d_model=64,
        d_kv=16,
        num_heads=4,
        num_layers=2,
        d_ff=128,
        feed_forward_proj="gated-gelu",
        num_labels=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = EncT5ForSequenceClassification(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _train_vocabulary(texts: Iterable[str]) -> bytes:
    """A sentencepiece model in T5's layout, from lines taken evenly from the texts."""
    lines = list(dict.fromkeys(line.strip() for text in texts for line in text.splitlines() if line.strip()))
    if not lines:
        raise ValueError("texts: got nothing to make a vocabulary of, expected some words")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines[:: -(-len(lines) // MAX_LINES)]),
        model_writer=model,
        model_type="unigram",
        vocab_size=MAX_PIECES,
        hard_vocab_limit=False,  # few texts make a smaller vocabulary, not an error
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        normalization_rule_name="nmt_nfkc",
        add_dummy_prefix=True,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()
