"""EncT5Tokenizer: T5's sentencepiece vocabulary with a leading ``<s>``, as TART was trained with it.

Input ids are ``<s> A </s> B </s>``; ``<s>`` is not in T5's vocabulary, it is the token added behind it.
sentencepiece is called directly: transformers 5's own T5Tokenizer splits on white space first, adds no
``<s>``, and differs on odd input. This module knows text and ids, nothing about models or devices.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from transformers import BatchEncoding

from tart_ray.errors import (
    CheckpointError,
)
from tart_ray.model.checkpoint import (
    ADDED_TOKENS,
    TOKENIZER_CONFIG,
    VOCAB_FILE,
    check_tokenizer,
    read_tokenizer_files,
    resolve_checkpoint,
)
from tart_ray.model.segmentation import check_release, check_ties

# of ids: goes up when a text, a pair or a window gets other ones (template, special tokens, truncation, windows)
TOKENISING_VERSION = 1
SPACE_PIECE = "▁"  # what sentencepiece writes for a space
DEFAULT_MAX_LENGTH = 512
CHARACTERS_PER_TOKEN = 8  # more than most texts have
CHARACTERS_PER_BLOCK = (4_096, 262_144)  # a long text is tokenised in blocks: at least, and at most
WORD = re.compile(r"\w")
WORD_START = re.compile(r" (?=[^\W_])")
SPECIALS_PER_TEXT = 2  # <s> A </s>
SPECIALS_PER_PAIR = 3  # <s> A </s> B </s>
PADDINGS = (True, "longest", "max_length", False, "do_not_pad")
Truncation = Literal["longest_first", "only_document"]
LongDocuments = Literal["truncate", "maxp"]
OVERLAP = 4  # consecutive windows share at least one part in so many of the text that a window holds
LEAST_ROOM = 8  # windows get at least one part in so many of max_length, or the query is too long


class QueryTooLongError(ValueError):
    """``only_document`` truncation met queries that leave too little room for a document.

    ``rows`` holds their positions in the batch.
    """

    def __init__(self, rows: list[int], max_length: int) -> None:
        self.rows = rows
        super().__init__(
            f"truncation='only_document': the instruction and query of {len(rows)} pairs (first: row {rows[0]}) "
            f"leave too little room for a document in max_length={max_length} tokens; shorten them, raise max_length "
            "or use truncation='longest_first', which cuts the query too"
        )


@dataclass(frozen=True)
class EncodedPairs:
    """Token ids of n pairs, unpadded: pair ``i`` is ``input_ids[offsets[i]:offsets[i + 1]]``.

    ``input_ids``: int32, one flat array. ``offsets``: int64, (n + 1,). ``truncated``: bool, (n,).
    """

    input_ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    truncated: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each pair, special tokens included, int64 (n,)."""
        return np.diff(self.offsets)

    def row(self, i: int) -> npt.NDArray[np.int32]:
        """The ids of pair ``i``."""
        return self.input_ids[self.offsets[i] : self.offsets[i + 1]]

    def take(self, rows: npt.NDArray[np.int64]) -> EncodedPairs:
        """The pairs at these positions, in this order."""
        offsets = np.concatenate([[0], np.cumsum(self.lengths[rows])])
        ids = [self.row(i) for i in rows.tolist()]
        return EncodedPairs(
            np.concatenate([np.empty(0, np.int32), *ids], dtype=np.int32), offsets, self.truncated[rows]
        )

    @classmethod
    def concatenate(cls, parts: Sequence[EncodedPairs]) -> EncodedPairs:
        """The pairs of all parts, one after the other."""
        offsets = np.concatenate([[0], *(part.lengths for part in parts)]).cumsum()
        ids = [np.empty(0, np.int32), *(part.input_ids for part in parts)]
        truncated = [np.empty(0, np.bool_), *(part.truncated for part in parts)]
        return cls(np.concatenate(ids), offsets, np.concatenate(truncated))


@dataclass(frozen=True)
class BestWindows:
    """The best window of each of n pairs.

    ``index``: its number, from 0, int64 (n,). ``count``: windows of the pair, int64 (n,). ``start``, ``end``: what it
    covers of the document, ``document[start:end]``, in characters (Unicode code points), int64 (n,).
    """

    index: npt.NDArray[np.int64]
    count: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]


@dataclass(frozen=True)
class EncodedWindows:
    """Token ids of n pairs, each in one window or several: those of pair ``i`` are rows ``starts[i]:starts[i + 1]``.

    ``rows``: the windows, what a model is given, (w,). ``starts``: int64, (n + 1,). ``spans``: the characters of the
    document that a window covers, from and up to, int64 (w, 2); zeros where pairs were cut instead.
    """

    rows: EncodedPairs
    starts: npt.NDArray[np.int64]
    spans: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each pair in all its windows, int64 (n,)."""
        return np.diff(self.rows.offsets[self.starts])

    @property
    def truncated(self) -> npt.NDArray[np.bool_]:
        """Whether tokens of the pair are in none of its windows, bool (n,)."""
        return self.rows.truncated[self.starts[:-1]]

    @classmethod
    def of_pairs(cls, pairs: EncodedPairs) -> EncodedWindows:
        """Each pair, cut or not, as one window."""
        return cls(pairs, np.arange(len(pairs) + 1), np.zeros((len(pairs), 2), np.int64))

    def take(self, pairs: npt.NDArray[np.int64]) -> EncodedWindows:
        """The pairs at these positions, in this order."""
        counts = np.diff(self.starts)[pairs]
        starts = np.concatenate([[0], np.cumsum(counts)])
        rows = np.arange(starts[-1]) + np.repeat(self.starts[pairs] - starts[:-1], counts)
        return EncodedWindows(self.rows.take(rows), starts, self.spans[rows])

    @classmethod
    def concatenate(cls, parts: Sequence[EncodedWindows]) -> EncodedWindows:
        """The pairs of all parts, one after the other."""
        counts = [np.zeros(1, np.int64), *(np.diff(part.starts) for part in parts)]
        spans = [np.zeros((0, 2), np.int64), *(part.spans for part in parts)]
        rows = EncodedPairs.concatenate([part.rows for part in parts])
        return cls(rows, np.concatenate(counts).cumsum(), np.concatenate(spans))

    def best(self, margin: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """The row of each pair's best window, int64 (n,): the highest margin, the first of equal ones.

        A window whose margin is NaN or infinite is taken before all others, so that it is not hidden.
        """
        key = np.where(np.isfinite(margin), margin, np.inf)
        highest = np.maximum.reduceat(key, self.starts[:-1]) if len(self) else key
        candidates = np.flatnonzero(key == np.repeat(highest, np.diff(self.starts)))
        return candidates[np.searchsorted(candidates, self.starts[:-1])]

    def describe(self, rows: npt.NDArray[np.int64]) -> BestWindows:
        """What there is to say of one window of each pair, given by its row, int64 (n,)."""
        start, end = self.spans[rows].T
        return BestWindows(rows - self.starts[:-1], np.diff(self.starts), start, end)


class EncT5Tokenizer:
    """Text pairs to token ids, by transformers' calling conventions.

    Args:
        vocab_file: a sentencepiece model with ``<pad>`` 0, ``</s>`` 1, ``<unk>`` 2 (T5's layout).
        extra_ids: the number of sentinels ``<extra_id_0> …``, counted down from the vocabulary's end.
        bos_token_id: the id of ``<s>``; by default the first one behind pieces and sentinels (32100 for T5).
        model_max_length: where truncation ends when no ``max_length`` is given, tokens.
        split_special_tokens: False parses ``</s>``, ``<pad>``, ``<extra_id_0>`` … in raw text as special tokens,
            as the original does. True encodes them as plain text, so that no document can forge its own boundary.
        num_threads: sentencepiece threads for a batch.
        vocabulary: what is in ``vocab_file``, where it has been read; an attribute in any case.

    Raises:
        CheckpointError: the vocabulary cannot be read, or is not in T5's layout; or sentencepiece is of a release that
            gives other ids than checkpoints were trained with.
    """

    model_input_names = ("input_ids", "attention_mask")
    padding_side = "right"

    def __init__(
        self,
        vocab_file: str | Path,
        *,
        extra_ids: int = 100,
        bos_token_id: int | None = None,
        model_max_length: int = DEFAULT_MAX_LENGTH,
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
        self.model_max_length = model_max_length
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

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        revision: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        model_max_length: int | None = None,
        split_special_tokens: bool = False,
        num_threads: int = 1,
        fingerprint: str | None = None,
    ) -> EncT5Tokenizer:
        """Load from a hub id, a local directory or ``s3://…``.

        Args:
            fingerprint: of the checkpoint that must be there (`tart_ray.model.checkpoint`).

        Raises:
            CheckpointError: there is no such checkpoint, it holds no ``spiece.model``, or its files cannot be read.
            CheckpointChangedError: another one is there.
        """
        where: dict[str, Any] = {"revision": revision, "storage_options": storage_options, "fingerprint": fingerprint}
        folder = resolve_checkpoint(path, weights=False, **where)
        files = read_tokenizer_files(folder)  # once: what is hashed is what is used
        if fingerprint is not None:
            check_tokenizer(path, fingerprint, files)
        if VOCAB_FILE not in files:
            raise CheckpointError(
                f"{path}: no {VOCAB_FILE} (T5's sentencepiece vocabulary); "
                f"found {sorted(file.name for file in folder.iterdir())}"
            )
        config = _parse_json(path, TOKENIZER_CONFIG, files)
        added = _parse_json(path, ADDED_TOKENS, files)
        try:
            for token_id, token in config.get("added_tokens_decoder", {}).items():
                added.setdefault(token["content"], int(token_id))
            if model_max_length is None:  # old checkpoints say 1e30 for "no limit"; TART was trained with 512
                model_max_length = int(min(config.get("model_max_length", DEFAULT_MAX_LENGTH), DEFAULT_MAX_LENGTH))
            bos = added.get("<s>")
            extra_ids, bos_token_id = int(config.get("extra_ids", 100)), None if bos is None else int(bos)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path}: {TOKENIZER_CONFIG} or {ADDED_TOKENS} is not what a T5 tokenizer writes: {error!r}"
            ) from error
        return cls(
            folder / VOCAB_FILE,
            extra_ids=extra_ids,
            bos_token_id=bos_token_id,
            model_max_length=model_max_length,
            split_special_tokens=split_special_tokens,
            num_threads=num_threads,
            vocabulary=files[VOCAB_FILE],
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the vocabulary and its description in the layout of the published checkpoint."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        vocabulary = folder / VOCAB_FILE
        if not vocabulary.is_file() or vocabulary.read_bytes() != self.vocabulary:
            vocabulary.write_bytes(self.vocabulary)
        names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
        names_and_sentinels = names | {"additional_special_tokens": [f"<extra_id_{i}>" for i in range(self.extra_ids)]}
        config = names_and_sentinels | {
            "extra_ids": self.extra_ids,
            "model_max_length": self.model_max_length,
            "tokenizer_class": type(self).__name__,
        }
        _write_json(folder / "added_tokens.json", {"<s>": self.bos_token_id})
        _write_json(folder / "special_tokens_map.json", names_and_sentinels)
        _write_json(folder / "tokenizer_config.json", config)

    def __len__(self) -> int:
        return max(self.sentinel_end, self.bos_token_id + 1)

    def __call__(
        self,
        text: str | Sequence[str],
        text_pair: str | Sequence[str] | None = None,
        *,
        padding: bool | Literal["longest", "max_length", "do_not_pad"] = False,
        truncation: bool | Literal["longest_first", "only_second", "only_document", "do_not_truncate"] = False,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: Literal["pt", "np"] | None = None,
    ) -> BatchEncoding:
        """Encode texts, or pairs of texts, as transformers' tokenizers do.

        Returns:
            ``input_ids`` and ``attention_mask`` (1 = a token, 0 = padding): lists of ints or, with
            ``return_tensors``, int64 arrays (n, length). A single text gives one row, unbatched without tensors.

        Raises:
            TypeError: something else than a text, or a list of texts.
            ValueError: lists of unequal length, an option that is not known, or a text that is no Unicode.
        """
        check_texts("text", [text] if isinstance(text, str) else text)
        if text_pair is not None:
            check_texts("text_pair", [text_pair] if isinstance(text_pair, str) else text_pair)
        single = isinstance(text, str)
        first = [text] if isinstance(text, str) else list(text)
        second = [text_pair] if isinstance(text_pair, str) else None if text_pair is None else list(text_pair)
        limit = max_length or self.model_max_length
        modes: dict[bool | str, Truncation | None] = {
            True: "longest_first",
            "longest_first": "longest_first",
            "only_second": "only_document",
            "only_document": "only_document",
            False: None,
            "do_not_truncate": None,
        }
        if truncation not in modes:
            raise ValueError(f"truncation: got {truncation!r}, expected one of {[*modes]}")
        if padding not in PADDINGS:
            raise ValueError(f"padding: got {padding!r}, expected one of {[*PADDINGS]}")
        if second is None:
            if modes[truncation] and limit <= SPECIALS_PER_TEXT:
                raise ValueError(f"max_length: got {limit}, expected more than the {SPECIALS_PER_TEXT} special tokens")
            longest = limit - SPECIALS_PER_TEXT if modes[truncation] else None
            encoded = [[self.bos_token_id, *ids[:longest], self.eos_token_id] for ids in self.encode_texts(first)]
        else:
            pairs = self.encode_pairs(
                first, second, max_length=limit if modes[truncation] else None, truncation=modes[truncation]
            )
            encoded = [pairs.row(i).tolist() for i in range(len(pairs))]
        features: Any = {"input_ids": encoded}
        if padding in (False, "do_not_pad"):
            features["attention_mask"] = [[1] * len(ids) for ids in encoded]
        else:
            features = self.pad(
                features,
                padding=padding,
                max_length=limit,
                pad_to_multiple_of=pad_to_multiple_of,
            )
        if single and return_tensors is None:
            return BatchEncoding({name: rows[0] for name, rows in features.items()})
        if return_tensors == "np":
            return BatchEncoding({name: np.array(rows, dtype=np.int64) for name, rows in features.items()})
        return BatchEncoding(features, tensor_type=return_tensors)

    def pad(
        self,
        features: Mapping[str, list[list[int]]],
        *,
        padding: bool | Literal["longest", "max_length", "do_not_pad"] = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: Literal["pt", "np"] | None = None,
    ) -> BatchEncoding:
        """Pad ``features["input_ids"]`` on the right to one length and make the attention mask."""
        rows = features["input_ids"]
        if padding == "max_length":
            width = max_length or self.model_max_length
        else:
            width = max(map(len, rows), default=0)
        if pad_to_multiple_of:
            width = -(-width // pad_to_multiple_of) * pad_to_multiple_of
        padded = {
            "input_ids": [ids + [self.pad_token_id] * (width - len(ids)) for ids in rows],
            "attention_mask": [[1] * len(ids) + [0] * (width - len(ids)) for ids in rows],
        }
        return BatchEncoding(padded, tensor_type=return_tensors)

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

    def encode_pairs(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        *,
        max_length: int | None = DEFAULT_MAX_LENGTH,
        truncation: Truncation | None = "longest_first",
    ) -> EncodedPairs:
        """Ids of ``<s> query </s> document </s>`` for each pair, the batch form that scoring uses.

        A text that recurs in the batch is tokenised once.

        Args:
            queries: with the instruction in front, see `join_instruction`.
            documents: with the title in front.
            max_length: tokens in all, special tokens included; None for no limit.
            truncation: ``longest_first`` as transformers' slow tokenizers do it (it can cut the query),
                or ``only_document``.

        Raises:
            TypeError: something else than a text in a list, or a text in place of a list.
            ValueError: lists of unequal length, a ``max_length`` with room for the special tokens alone, or a text
                that is no Unicode.
            QueryTooLongError: ``only_document``, and no room is left for a document.
        """
        _check_pairs(queries, documents, max_length)
        enough = None  # tokens of a text: truncation cuts it then, whatever follows
        if max_length is not None and truncation is not None:
            enough = max_length - SPECIALS_PER_PAIR + 1
        query_ids, query_of = self._encode_distinct(queries, enough)
        document_ids, document_of = self._encode_distinct(documents, enough)
        query_lengths, document_lengths = _lengths(query_ids)[query_of], _lengths(document_ids)[document_of]
        kept_query, kept_document = query_lengths, document_lengths
        if max_length is not None and truncation is not None:
            kept_query, kept_document = fit(query_lengths, document_lengths, max_length, truncation)

        flat = array("i")
        offsets = np.zeros(len(queries) + 1, dtype=np.int64)
        np.cumsum(kept_query + kept_document + SPECIALS_PER_PAIR, out=offsets[1:])
        columns = (query_of.tolist(), document_of.tolist(), kept_query.tolist(), kept_document.tolist())
        for query, document, query_end, document_end in zip(*columns, strict=True):
            flat.append(self.bos_token_id)
            flat.extend(query_ids[query][:query_end])
            flat.append(self.eos_token_id)
            flat.extend(document_ids[document][:document_end])
            flat.append(self.eos_token_id)
        truncated = (kept_query < query_lengths) | (kept_document < document_lengths)
        return EncodedPairs(_int32(flat), offsets, truncated)

    def encode_windows(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        *,
        heads: Sequence[int] | None = None,
        max_length: int = DEFAULT_MAX_LENGTH,
        truncation: Truncation = "longest_first",
    ) -> EncodedWindows:
        """Ids as `encode_pairs` gives them, but a document that it would cut is read whole, in several windows.

        Each is ``<s> query </s> head part </s>``; the first is what `encode_pairs` gives. Parts are as few, and lie as
        evenly, as they can while all have one length, cover the document, and share a quarter with the next.

        Args:
            heads: characters at the beginning of each document, its title, that every window repeats, unless their
                tokens take more than half of the room for a document; 0 by default.

        Raises:
            TypeError: something else than a text in a list, or a text in place of a list.
            ValueError: lists of unequal length, a ``max_length`` without room for a token of each text, or a text that
                is no Unicode.
            QueryTooLongError: ``only_document``, and a query leaves less than an eighth of ``max_length`` for a
                document that does not fit.
        """
        _check_pairs(queries, documents, max_length)
        if max_length < SPECIALS_PER_PAIR + 2:
            raise ValueError(f"max_length: got {max_length}, expected room for a token of query and document each")
        query_ids, query_of = self._encode_distinct(queries, max_length - SPECIALS_PER_PAIR + 1)
        texts, document_of = _distinct(documents)
        document_ids = [self._encode_in_blocks(text) for text in texts]
        query_lengths, document_lengths = _lengths(query_ids)[query_of], _lengths(document_ids)[document_of]
        least = max(max_length // LEAST_ROOM, 1)
        kept_query, kept_document = fit(query_lengths, document_lengths, max_length, truncation, least_room=least)
        room = max_length - SPECIALS_PER_PAIR
        # a window leaves the query more room than a pair that is cut
        kept_query = np.minimum(query_lengths, np.maximum(kept_query, room - least))
        kept_document = np.minimum(document_lengths, room - kept_query)

        cuts = {}
        longer = np.flatnonzero(kept_document < document_lengths)
        spans_of, spans = -1, np.zeros((0, 2), np.int64)
        for i in longer[np.argsort(document_of[longer], kind="stable")].tolist():
            if spans_of != document_of[i]:  # a document's are large, and held for as long as they are needed
                spans_of, spans = document_of[i], self._spans(documents[i])
            cuts[i] = cut_windows(spans, heads[i] if heads else 0, int(kept_document[i]))

        flat = array("i")
        counts = np.ones(len(queries), np.int64)
        covered = [np.zeros((0, 2), np.int64)]
        columns = (query_of.tolist(), document_of.tolist(), kept_query.tolist(), kept_document.tolist())
        for i, (query, document, query_end, room) in enumerate(zip(*columns, strict=True)):
            whole = (0, np.zeros(1, np.int64), np.array([[0, len(documents[i])]]))
            repeated, begins, spans = cuts.pop(i, whole)
            for begin in begins.tolist():
                flat.append(self.bos_token_id)
                flat.extend(query_ids[query][:query_end])
                flat.append(self.eos_token_id)
                flat.extend(document_ids[document][:repeated])
                flat.extend(document_ids[document][begin : begin + room - repeated])
                flat.append(self.eos_token_id)
            counts[i] = len(begins)
            covered.append(spans)
        offsets = np.repeat(kept_query + kept_document + SPECIALS_PER_PAIR, counts).cumsum()
        truncated = np.repeat(kept_query < query_lengths, counts)
        rows = EncodedPairs(_int32(flat), np.concatenate([[0], offsets]), truncated)
        return EncodedWindows(rows, np.concatenate([[0], counts.cumsum()]), np.concatenate(covered))

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
        distinct, of = _distinct(texts)
        if enough is None or not self._words_are_independent:
            return [array("i", ids) for ids in self.encode_texts(distinct)], of
        return self._encode_beginnings(distinct, enough), of

    def _encode_beginnings(self, texts: list[str], enough: int) -> list[array[int]]:
        """The first ids of each text: ``enough`` of them or more, or all."""
        found = [array("i")] * len(texts)
        waiting = list(range(len(texts)))
        size = enough * CHARACTERS_PER_TOKEN
        while waiting:
            beginnings = [_beginning(texts[i], size) for i in waiting]
            for i, ids in zip(waiting, self.encode_texts(beginnings), strict=True):
                found[i] = array("i", ids)
            waiting = [
                i
                for i, beginning in zip(waiting, beginnings, strict=True)
                if len(beginning) < len(texts[i]) and len(found[i]) < enough
            ]
            size *= 2
        return found

    def _encode_in_blocks(self, text: str) -> array[int]:
        """Ids of a text of any length, in memory that depends on little else than their number."""
        ids = array("i")
        for _, block, special in self._blocks(text):
            ids.extend(self._pieces.encode(block, out_type=int) if special is None else [special])
        return ids

    def _spans(self, text: str) -> npt.NDArray[np.int64]:
        """The characters that each token of `_encode_in_blocks` was made from, from and up to, int64 (t, 2)."""
        found = [np.zeros((0, 2), np.int64)]
        for begin, block, special in self._blocks(text):
            spans = [(0, len(block))]
            if special is None:
                pieces = self._pieces.encode(block, out_type="immutable_proto").pieces
                spans = [(piece.begin, piece.end) for piece in pieces]
            found.append(np.array(spans, np.int64).reshape(-1, 2) + begin)
        return np.concatenate(found)

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


def cut_windows(
    spans: npt.NDArray[np.int64], head: int, room: int
) -> tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Cut a document into windows of ``room`` tokens, which it is longer than.

    Args:
        spans: the characters of each token, from and up to, int64 (t, 2).
        head: characters at the beginning that every window repeats.

    Returns:
        The number of tokens that are repeated; the token that the rest of each window begins with, int64 (w,); the
        characters that this rest covers, from and up to, int64 (w, 2).
    """
    repeated = int(np.searchsorted(spans[:, 1], head, side="right")) if head else 0
    if repeated > room // 2:
        repeated = 0
    size = room - repeated
    last = len(spans) - size
    steps = -(-(last - repeated) // (size - size // OVERLAP))
    begins = repeated + (last - repeated) * np.arange(steps + 1) // steps
    return repeated, begins, np.stack([spans[begins, 0], spans[begins + size - 1, 1]], axis=1)


def join_instruction(instruction: str | None, query: str) -> str:
    """``"{instruction} [SEP] {query}"``; ``[SEP]`` is plain text to T5.

    Where there is no instruction (None) it is the bare query. An empty one keeps its ``[SEP]``, as in the original.
    """
    return query if instruction is None else f"{instruction} [SEP] {query}"


def fit(
    query: npt.NDArray[np.int64],
    document: npt.NDArray[np.int64],
    max_length: int,
    truncation: Truncation,
    *,
    least_room: int = 1,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Lengths kept of queries and documents, int64 (n,) each, so that pairs have ``max_length`` tokens at most.

    Raises:
        QueryTooLongError: ``only_document``, and a query leaves less than ``least_room`` tokens for a document that
            does not fit.
    """
    room = max_length - SPECIALS_PER_PAIR
    if truncation == "longest_first":
        return longest_first(query, document, room)
    left = room - query
    too_long = np.flatnonzero((left < least_room) & (left < document))
    if len(too_long):
        raise QueryTooLongError(too_long.tolist(), max_length)
    return query, np.minimum(document, left)


def longest_first(
    first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], room: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Lengths kept of both sides when they must share ``room`` tokens.

    transformers' slow tokenizers take one token at a time from the longer side, from the second where both are
    equally long. In closed form: the longer side shrinks to the shorter; if that is not enough both end at half
    of ``room``, the first with the odd token.
    """
    half_first, half_second = room - room // 2, room // 2
    kept_first = np.where(second <= half_second, np.minimum(first, room - second), np.minimum(first, half_first))
    kept_second = np.minimum(second, room - kept_first)
    fits = first + second <= room
    return np.where(fits, first, kept_first), np.where(fits, second, kept_second)


def check_texts(name: str, texts: object, *, optional: bool = False) -> None:
    """Refuse what is no list of texts: what would be scored as the text "None" or "nan", or crash in native code.

    Args:
        name: of the argument, for the message.
        optional: None may stand for a text.

    Raises:
        TypeError: a text in place of a list, no list at all, or something else than a text in it.
        ValueError: a text with half of a surrogate pair, which no UTF-8 can say.
    """
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise TypeError(f"{name}: got {_shown(texts)}, expected a list of texts")
    for i, text in enumerate(texts):
        if text is None and optional:
            continue
        if not isinstance(text, str):
            raise TypeError(f"{name}[{i}]: got {_shown(text)}, expected a text{' or None' if optional else ''}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = text[error.start]
            raise ValueError(
                f"{name}[{i}]: got {half!r} at character {error.start}, half of a surrogate pair, expected Unicode; "
                "text.encode(errors='replace').decode() replaces it"
            ) from None


def _shown(value: object) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else f'{text[:60]}…'} ({type(value).__name__})"


def _check_pairs(queries: Sequence[str], documents: Sequence[str], max_length: int | None) -> None:
    check_texts("queries", queries)
    check_texts("documents", documents)
    if len(queries) != len(documents):
        raise ValueError(f"got {len(queries)} queries and {len(documents)} documents, expected as many of each")
    if max_length is not None and max_length <= SPECIALS_PER_PAIR:
        raise ValueError(f"max_length: got {max_length}, expected more than the {SPECIALS_PER_PAIR} special tokens")


def _distinct(texts: Sequence[str]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The distinct texts, and for each text its position among them."""
    position: dict[str, int] = {}
    of = np.fromiter((position.setdefault(text, len(position)) for text in texts), np.int64, len(texts))
    return list(position), of


def _lengths(ids: Sequence[array[int]]) -> npt.NDArray[np.int64]:
    return np.array([len(found) for found in ids], dtype=np.int64)


def _int32(flat: array[int]) -> npt.NDArray[np.int32]:
    return np.frombuffer(flat, dtype=np.int32) if flat else np.zeros(0, np.int32)


def _parse_json(origin: str | Path, name: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        found = json.loads(files.get(name, b"{}"))
    except ValueError as error:
        raise CheckpointError(f"{origin}: {name} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{origin}: {name}: got {type(found).__name__}, expected an object")
    return found


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
