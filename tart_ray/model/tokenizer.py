"""EncT5Tokenizer: T5's sentencepiece vocabulary with a leading ``<s>``, as TART was trained with it.

Input ids are ``<s> A </s> B </s>``; ``<s>`` is not in T5's vocabulary, it is the token added behind it.
This module knows text and ids, nothing about models or devices.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from transformers import BatchEncoding

from tart_ray.model.encoded import EncodedPairs, EncodedWindows
from tart_ray.model.place import CheckpointPlace
from tart_ray.model.text_tokenizer import TextTokenizer, distinct_texts
from tart_ray.model.texts import check_texts
from tart_ray.model.tokenizer_files import TokenizerSettings, read_files, write_files
from tart_ray.model.truncation import DEFAULT_MAX_LENGTH, LEAST_ROOM, SPECIALS_PER_PAIR, Truncation, cut_windows, fit

# of ids: goes up when a text, a pair or a window gets other ones (template, special tokens, truncation, windows)
TOKENISING_VERSION = 1
SPECIALS_PER_TEXT = 2  # <s> A </s>
PADDINGS = (True, "longest", "max_length", False, "do_not_pad")


class EncT5Tokenizer(TextTokenizer):
    """Text pairs to token ids, by transformers' calling conventions.

    Args:
        model_max_length: where truncation ends when no ``max_length`` is given, tokens.
        vocab_file, extra_ids, bos_token_id, split_special_tokens, num_threads, vocabulary: as `TextTokenizer` takes
            them.

    Raises:
        CheckpointError: as `TextTokenizer`.
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
        super().__init__(
            vocab_file,
            extra_ids=extra_ids,
            bos_token_id=bos_token_id,
            split_special_tokens=split_special_tokens,
            num_threads=num_threads,
            vocabulary=vocabulary,
        )
        self.model_max_length = model_max_length

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
        return cls.from_place(
            CheckpointPlace(path, revision, storage_options, fingerprint),
            model_max_length=model_max_length,
            split_special_tokens=split_special_tokens,
            num_threads=num_threads,
        )

    @classmethod
    def from_place(
        cls,
        place: CheckpointPlace,
        *,
        model_max_length: int | None = None,
        split_special_tokens: bool = False,
        num_threads: int = 1,
    ) -> EncT5Tokenizer:
        """As `from_pretrained`, of a place."""
        vocab_file, vocabulary, settings = read_files(place)
        return cls(
            vocab_file,
            extra_ids=settings.extra_ids,
            bos_token_id=settings.bos_token_id,
            model_max_length=settings.model_max_length if model_max_length is None else model_max_length,
            split_special_tokens=split_special_tokens,
            num_threads=num_threads,
            vocabulary=vocabulary,
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the vocabulary and its description in the layout of the published checkpoint."""
        settings = TokenizerSettings(self.extra_ids, self.bos_token_id, self.model_max_length)
        write_files(Path(folder), self.vocabulary, settings, type(self).__name__)

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
        texts, document_of = distinct_texts(documents)
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


def _check_pairs(queries: Sequence[str], documents: Sequence[str], max_length: int | None) -> None:
    check_texts("queries", queries)
    check_texts("documents", documents)
    if len(queries) != len(documents):
        raise ValueError(f"got {len(queries)} queries and {len(documents)} documents, expected as many of each")
    if max_length is not None and max_length <= SPECIALS_PER_PAIR:
        raise ValueError(f"max_length: got {max_length}, expected more than the {SPECIALS_PER_PAIR} special tokens")


def _lengths(ids: Sequence[array[int]]) -> npt.NDArray[np.int64]:
    return np.array([len(ids_of_text) for ids_of_text in ids], dtype=np.int64)


def _int32(flat: array[int]) -> npt.NDArray[np.int32]:
    return np.frombuffer(flat, dtype=np.int32) if flat else np.zeros(0, np.int32)
