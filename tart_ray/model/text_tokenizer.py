"""TextTokenizer: texts to ids and back, by T5's sentencepiece vocabulary and its special tokens.

sentencepiece is called directly: transformers 5's own T5Tokenizer splits on white space first, adds no
``<s>``, and differs on odd input.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from tart_ray.errors import CheckpointError
from tart_ray.model.segmentation import check_release, check_ties
from tart_ray.model.texts import check_texts

SPACE_PIECE = "▁"  # what sentencepiece writes for a space
CHARACTERS_PER_TOKEN = 8  # more than most texts have
CHARACTERS_PER_BLOCK = (4_096, 262_144)  # a long text is tokenised in blocks: at least, and at most
WORD = re.compile(r"\w")
WORD_START = re.compile(r" (?=[^\W_])")


class TextTokenizer:
    """Texts, one by one, to token ids, and ids to text.

    Args:
        vocab_file: a sentencepiece model with ``<pad>`` 0, ``</s>`` 1, ``<unk>`` 2 (T5's layout).
        extra_ids: the number of sentinels ``<extra_id_0> …``, counted down from the vocabulary's end.
        bos_token_id: the id of ``<s>``; by default the first one behind pieces and sentinels (32100 for T5).
        split_special_tokens: False parses ``</s>``, ``<pad>``, ``<extra_id_0>`` … in raw text as special tokens,
            as the original does. True encodes them as plain text, so that no document can forge its own boundary.
        num_threads: sentencepiece threads for a batch.
        vocabulary: what is in ``vocab_file``, where it has been read; an attribute in any case.

    Raises:
        CheckpointError: the vocabulary cannot be read, or is not in T5's layout; or sentencepiece is of a release that
            gives other ids than checkpoints were trained with.
    """

    def __init__(
        self,
        vocab_file: str | Path,
        *,
        extra_ids: int = 100,
        bos_token_id: int | None = None,
        split_special_tokens: bool = False,
        num_threads: int = 1,
        vocabulary: bytes | None = None,
    ) -> None:
        check_release()
        self.vocab_file = Path(vocab_file)
        try:  # an empty one is no model to sentencepiece, and kills the process later
            self.vocabulary = self.vocab_file.read_bytes() if vocabulary is None else vocabulary
            self._pieces = sentencepiece.SentencePieceProcessor(model_proto=self.vocabulary)
            if not self.vocabulary:
                raise OSError("it is empty")
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"{vocab_file}: not a sentencepiece model that can be read: {error}") from error
        check_ties(self._pieces, self.vocabulary)
        layout = (self._pieces.pad_id(), self._pieces.eos_id(), self._pieces.unk_id())
        if layout != (0, 1, 2):
            raise CheckpointError(
                f"{vocab_file}: got ids {layout} for <pad>, </s>, <unk>; expected T5's layout (0, 1, 2)"
            )
        self.extra_ids = extra_ids
        self.pad_token_id, self.eos_token_id, self.unk_token_id = layout
        self.sentinel_end: int = self._pieces.get_piece_size() + extra_ids
        self.bos_token_id: int = self.sentinel_end if bos_token_id is None else bos_token_id
        self.split_special_tokens = split_special_tokens
        self.num_threads = num_threads
        sentinels = {f"<extra_id_{i}>": self.sentinel_end - 1 - i for i in range(extra_ids)}
        self._special_ids = {
            "<s>": self.bos_token_id,
            "</s>": self.eos_token_id,
            "<pad>": self.pad_token_id,
            "<unk>": self.unk_token_id,
        } | sentinels
        self._special_texts = {i: text for text, i in self._special_ids.items()}
        self._special_pattern = re.compile("(" + "|".join(map(re.escape, self._special_ids)) + ")")
        self._words_are_independent = words_are_independent(self._pieces)

    def __len__(self) -> int:
        return max(self.sentinel_end, self.bos_token_id + 1)

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text alone, without ``<s>`` and ``</s>``.

        Raises:
            TypeError, ValueError: see `check_texts`.
        """
        check_texts("texts", texts)
        if self.split_special_tokens:
            return self._encode_plain(list(texts))
        with_specials = {i for i, text in enumerate(texts) if "<" in text and self._special_pattern.search(text)}
        plain = iter(self._encode_plain([text for i, text in enumerate(texts) if i not in with_specials]))
        return [self._encode_with_specials(text) if i in with_specials else next(plain) for i, text in enumerate(texts)]

    def without_tokens(self, texts: Sequence[str]) -> list[int]:
        """The positions of texts that encode to no token: blank ones, and such as hold invisible characters alone."""
        suspects = [i for i, text in enumerate(texts) if not WORD.search(text)]  # a letter or digit is a token
        encoded = self.encode_texts([texts[i] for i in suspects])
        return [i for i, ids in zip(suspects, encoded, strict=True) if not ids]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of ``ids``; special tokens stand as they are written, or are left out."""
        parts: list[str] = []
        run: list[int] = []
        for token_id in map(int, ids):
            if token_id in self._special_texts:
                parts.append(self._pieces.decode(run))
                run = []
                if not skip_special_tokens:
                    parts.append(self._special_texts[token_id])
            else:
                run.append(token_id)
        parts.append(self._pieces.decode(run))
        return " ".join(part for part in parts if part)

    def batch_decode(self, rows: Sequence[Sequence[int]], *, skip_special_tokens: bool = False) -> list[str]:
        """`decode` of each row."""
        return [self.decode(ids, skip_special_tokens=skip_special_tokens) for ids in rows]

    def _encode_distinct(
        self, texts: Sequence[str], enough: int | None
    ) -> tuple[list[array[int]], npt.NDArray[np.int64]]:
        """Ids of the distinct texts, and for each text the position of its ids among them.

        Of a text with more than ``enough`` tokens that many may be returned, or some more.
        """
        distinct, number = distinct_texts(texts)
        if enough is None or not self._words_are_independent:
            return [array("i", ids) for ids in self.encode_texts(distinct)], number
        return self._encode_beginnings(distinct, enough), number

    def _encode_beginnings(self, texts: list[str], enough: int) -> list[array[int]]:
        """The first ids of each text: ``enough`` of them or more, or all."""
        encoded = [array("i")] * len(texts)
        waiting = list(range(len(texts)))
        size = enough * CHARACTERS_PER_TOKEN
        while waiting:
            beginnings = [_beginning(texts[i], size) for i in waiting]
            for i, ids in zip(waiting, self.encode_texts(beginnings), strict=True):
                encoded[i] = array("i", ids)
            waiting = [
                i
                for i, beginning in zip(waiting, beginnings, strict=True)
                if len(beginning) < len(texts[i]) and len(encoded[i]) < enough
            ]
            size *= 2
        return encoded

    def _encode_in_blocks(self, text: str) -> array[int]:
        """Ids of a text of any length, in memory that depends on little else than their number."""
        ids = array("i")
        for _, block, special in self._blocks(text):
            ids.extend(self._pieces.encode(block, out_type=int) if special is None else [special])
        return ids

    def _spans(self, text: str) -> npt.NDArray[np.int64]:
        """The characters that each token of `_encode_in_blocks` was made from, from and up to, int64 (t, 2)."""
        spans_of_blocks = [np.zeros((0, 2), np.int64)]
        for begin, block, special in self._blocks(text):
            spans = [(0, len(block))]
            if special is None:
                pieces = self._pieces.encode(block, out_type="immutable_proto").pieces
                spans = [(piece.begin, piece.end) for piece in pieces]
            spans_of_blocks.append(np.array(spans, np.int64).reshape(-1, 2) + begin)
        return np.concatenate(spans_of_blocks)

    def _blocks(self, text: str) -> Iterator[tuple[int, str, int | None]]:
        """`_parts`, the long ones cut at words' starts, so that they have the ids of the whole.

        The space there is in neither block, since a text is encoded as if it began with one. Where no word starts in
        a very long text, it is cut all the same.
        """
        least, most = CHARACTERS_PER_BLOCK
        for place, part, special in self._parts(text):
            begin = 0
            while self._words_are_independent and len(part) - begin > least:
                cut = WORD_START.search(part, begin + least, begin + most)
                if cut is None and len(part) - begin <= most:
                    break
                end, after = cut.span() if cut else (begin + most, begin + most)
                yield place + begin, part[begin:end], None
                begin = after
            yield place + begin, part[begin:], special

    def _encode_plain(self, texts: list[str]) -> list[list[int]]:
        return self._pieces.encode(texts, out_type=int, num_threads=self.num_threads) if texts else []

    def _encode_with_specials(self, text: str) -> list[int]:
        ids: list[int] = []
        for _, part, special in self._parts(text):
            ids += self._pieces.encode(part, out_type=int) if special is None else [special]
        return ids

    def _parts(self, text: str) -> Iterator[tuple[int, str, int | None]]:
        """What is encoded apart: where it begins, the text, its id if it is a special token.

        The original cuts a text at special tokens and strips what stands beside them.
        """
        parts = [text] if self.split_special_tokens else self._special_pattern.split(text)
        last = len(parts) - 1  # text, special, text, special, …, text
        begin = 0
        for i, part in enumerate(parts):
            if i % 2:
                yield begin, part, self._special_ids[part]
            else:
                left = part.lstrip() if i else part
                yield begin + len(part) - len(left), left.rstrip() if i < last else left, None
            begin += len(part)


def words_are_independent(pieces: sentencepiece.SentencePieceProcessor) -> bool:
    """Whether a text that is cut at a space before a letter has the ids of its two parts, one behind the other.

    So it is where no piece has a space behind its first character, and no rule of the normalizer replaces a text that
    has a space in it. Then the space stays one, pieces end before it, and no decision on what stands before it depends
    on what follows: rules are applied from left to right, and the best path to the space, through which every path
    goes, is found from what is before it. The other part is encoded as if the space stood before it, as every text is.
    """
    texts = pieces.id_to_piece(list(range(pieces.get_piece_size())))
    if any(space in text[1:] for text in texts for space in (SPACE_PIECE, " ")):
        return False
    model = sentencepiece_model_pb2.ModelProto.FromString(pieces.serialized_model_proto())
    rules = model.normalizer_spec
    return rules.add_dummy_prefix and not _rules_replace_spaces(rules.precompiled_charsmap)


def _rules_replace_spaces(charsmap: bytes) -> bool:
    """Whether a rule of a normalizer replaces a text that has a space in it; may say so where none does.

    The rules are a double array trie (darts-clone): its size in bytes, then units of 32 bits. From a unit, which is
    no leaf, a byte leads to the unit whose place is that of the unit, its offset and the byte, by exclusive or; the
    byte is there if that one is labelled with it. Units that nothing leads to are looked at too, more than needed.
    """
    units = np.frombuffer(charsmap[4 : 4 + int.from_bytes(charsmap[:4], "little")], "<u4").astype(np.int64)
    offsets = (units >> 10) << ((units >> 6) & 8)
    behind_space = np.arange(len(units)) ^ offsets ^ ord(" ")
    labels = np.append(units & 0x800000FF, 0)[np.minimum(behind_space, len(units))]
    is_leaf = (units >> 31) == 1
    return bool((~is_leaf & (labels == ord(" "))).any())


def _beginning(text: str, size: int) -> str:
    """The text up to the first word's start behind ``size`` characters."""
    cut = WORD_START.search(text, size)
    return text[: cut.start()] if cut else text


def distinct_texts(texts: Sequence[str]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The distinct texts, and for each text its position among them."""
    position: dict[str, int] = {}
    number = np.fromiter((position.setdefault(text, len(position)) for text in texts), np.int64, len(texts))
    return list(position), number
