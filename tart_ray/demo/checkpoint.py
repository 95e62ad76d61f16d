"""A small EncT5 checkpoint made on the spot."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from sentencepiece import SentencePieceTrainer
from transformers import T5Config

from tart_ray.model.enct5 import EncT5ForSequenceClassification
from tart_ray.model.tokenizer import EncT5Tokenizer

PIECES = 4_000
LONGEST_TEXT = 4_000  # characters of a text that the vocabulary is learned from
GEOMETRY = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}


def make_untrained_checkpoint(folder: Path, texts: Iterable[str], *, seed: int = 0) -> None:
    """Write a checkpoint in the published layout: a vocabulary learned from ``texts``, and random weights.

    It is UNTRAINED: what it ranks is noise. It shows the path that a real checkpoint takes, not its quality.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        SentencePieceTrainer.train(
            sentence_iterator=(line for text in texts for line in text[:LONGEST_TEXT].splitlines()),
            model_prefix=f"{work}/spiece",
            vocab_size=PIECES,
            hard_vocab_limit=False,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            input_sentence_size=100_000,
            shuffle_input_sentence=False,
            minloglevel=2,
        )
        tokenizer = EncT5Tokenizer(f"{work}/spiece.model")
        tokenizer.save_pretrained(folder)
    config = T5Config(vocab_size=-(-len(tokenizer) // 64) * 64, feed_forward_proj="gated-gelu", **GEOMETRY)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        EncT5ForSequenceClassification(config).save_pretrained(folder)
