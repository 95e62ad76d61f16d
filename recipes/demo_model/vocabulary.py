"""The vocabulary: sentencepiece pieces that code and prose share.

`parse_url`, `parseUrl` and "parse URL" become the same pieces, so that a word of a description meets its twin in the
code. The rules that see to it are in the vocabulary's own normalizer; who tokenizes needs nothing but `spiece.model`.
"""

from __future__ import annotations

import io
import string
import sys
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from sentencepiece import SentencePieceTrainer

from recipes.demo_model.entries import Entry
from recipes.demo_model.tasks import TASKS
from tart_ray.model.checkpoint_files import VOCAB_FILE
from tart_ray.model.tokenizer import EncT5Tokenizer

PIECES = 8_000
MAX_LENGTH = 112  # tokens of a pair that the model is trained with
SEPARATOR = "[SEP]"  # between instruction and query


def normalization_rules() -> Iterator[tuple[str, str]]:
    """What is replaced by what: letters are folded to lower case, camelCase is parted, punctuation becomes a space."""
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        kind = unicodedata.category(character)
        if kind[0] in "PS" or kind in ("Cc", "Zs"):  # punctuation, symbols, control characters, spaces
            if character not in ("\0", " "):
                yield character, " "
        elif kind == "Lu" and (folded := character.lower()) != character:
            yield character, folded
    for small in string.ascii_lowercase:
        for capital in string.ascii_uppercase:
            yield small + capital, f"{small} {capital.lower()}"


def train_vocabulary(folder: Path, entries: Iterable[Entry], *, pieces: int = PIECES) -> EncT5Tokenizer:
    """Learn the pieces from queries, titles, answers and instructions; write them to ``folder`` in T5's layout."""
    vocabulary = io.BytesIO()  # not a file: its name would become part of the vocabulary
    with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as rules:
        for source, target in normalization_rules():
            rules.write(f"{_hexadecimal(source)}\t{_hexadecimal(target)}\n")
        rules.flush()
        SentencePieceTrainer.train(
            sentence_iterator=_sentences(entries),
            model_writer=vocabulary,
            normalization_rule_tsv=rules.name,
            user_defined_symbols=[SEPARATOR],
            vocab_size=pieces,
            hard_vocab_limit=False,
            character_coverage=0.9995,
            input_sentence_size=300_000,
            shuffle_input_sentence=True,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            num_threads=2,
            minloglevel=2,
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / VOCAB_FILE).write_bytes(vocabulary.getvalue())
    tokenizer = EncT5Tokenizer(folder / VOCAB_FILE, extra_ids=0, model_max_length=MAX_LENGTH)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _sentences(entries: Iterable[Entry]) -> Iterator[str]:
    for task in TASKS.values():
        yield from task.instructions
    for entry in entries:
        yield " ".join(entry.query.split())
        for text in entry.answers.values():
            yield " ".join(f"{entry.title} {text[:600]}".split())


def _hexadecimal(text: str) -> str:
    return " ".join(f"{ord(character):X}" for character in text)
