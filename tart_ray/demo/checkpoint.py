"""Small EncT5 checkpoints: the length of the one that the package holds, and untrained ones made on the spot."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable
from pathlib import Path

import torch
from sentencepiece import SentencePieceTrainer
from transformers import T5Config

from tart_ray.model.checkpoint_files import VOCAB_FILE
from tart_ray.model.enct5 import EncT5ForSequenceClassification
from tart_ray.model.tokenizer import EncT5Tokenizer

MODEL_LENGTH = 112  # tokens of a pair that the model `demo` was trained with
PIECES = 4_000
LINES = 20_000  # distinct ones that the vocabulary is learned from
GEOMETRY = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}


def make_untrained_checkpoint(folder: Path, texts: Iterable[str], *, seed: int = 0) -> None:
    """Write a checkpoint in the published layout: a vocabulary learned from ``texts``, and random weights.

    It is UNTRAINED: what it ranks is noise. It shows the path that a real checkpoint takes, not its quality.
    """
    vocabulary = io.BytesIO()  # not a file: its name would become part of the vocabulary
    distinct = dict.fromkeys(line for text in texts for line in text.splitlines())
    SentencePieceTrainer.train(
        sentence_iterator=itertools.islice(distinct, LINES),
        model_writer=vocabulary,
        vocab_size=PIECES,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / VOCAB_FILE).write_bytes(vocabulary.getvalue())
    tokenizer = EncT5Tokenizer(folder / VOCAB_FILE)
    tokenizer.save_pretrained(folder)
    config = T5Config(vocab_size=-(-len(tokenizer) // 64) * 64, feed_forward_proj="gated-gelu", **GEOMETRY)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        EncT5ForSequenceClassification(config).save_pretrained(folder)
