"""EncT5Tokenizer: T5's sentencepiece vocabulary with a leading ``<s>``, as TART was trained with it.

Input ids are ``<s> A </s> B </s>``; ``<s>`` is not in T5's vocabulary, it is the token added behind it.
sentencepiece is called directly: transformers 5's own T5Tokenizer splits on white space first, adds no
``<s>``, and differs on odd input. This module knows text and ids, nothing about models or devices.
"""

from __future__ import annotations

import json
import re
import shutil
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import sentencepiece
from transformers import BatchEncoding

from tart_ray.model.checkpoint import CheckpointError, resolve_checkpoint

VOCAB_FILE = "spiece.model"
DEFAULT_MAX_LENGTH = 512
SPECIALS_PER_TEXT = 2  # <s> A </s>
SPECIALS_PER_PAIR = 3  # <s> A </s> B </s>
PADDINGS = (True, "longest", "max_length", False, "do_not_pad")
Truncation = Literal["longest_first", "only_document"]


class QueryTooLongError(ValueError):
    """``only_document`` truncation met queries that leave no room for a document.

    ``rows`` holds their positions in the batch.
    """

    def __init__(self, rows: list[int], max_length: int) -> None:
        self.rows = rows
        super().__init__(
            f"truncation='only_document': the instruction and query of {len(rows)} pairs (first: row {rows[0]}) "
            f"leave no room for a document in max_length={max_length} tokens; shorten them, raise max_length "
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

    Raises:
        CheckpointError: the vocabulary cannot be read, or is not in T5's layout.
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
    ) -> None:
        self.vocab_file = Path(vocab_file)
        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(vocab_file))
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"{vocab_file}: not a sentencepiece model that can be read: {error}") from error
        layout = (self._pieces.pad_id(), self._pieces.eos_id(), self._pieces.unk_id())
        if layout != (0, 1, 2):
            raise CheckpointError(
                f"{vocab_file}: got ids {layout} for <pad>, </s>, <unk>; expected T5's layout (0, 1, 2)"
            )
        self.extra_ids = extra_ids
        self.pad_token_id, self.eos_token_id, self.unk_token_id = layout
        self.sentinel_end = self._pieces.get_piece_size() + extra_ids
        self.bos_token_id = self.sentinel_end if bos_token_id is None else bos_token_id
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
    ) -> EncT5Tokenizer:
        """Load from a hub id, a local directory or ``s3://…``.

        Raises:
            CheckpointError: there is no such checkpoint, or it holds no ``spiece.model``.
        """
        folder = resolve_checkpoint(path, revision=revision, storage_options=storage_options, weights=False)
        if not (folder / VOCAB_FILE).is_file():
            raise CheckpointError(
                f"{path}: no {VOCAB_FILE} (T5's sentencepiece vocabulary); "
                f"found {sorted(file.name for file in folder.iterdir())}"
            )
        config = _read_json(folder / "tokenizer_config.json")
        added = _read_json(folder / "added_tokens.json")
        for token_id, token in config.get("added_tokens_decoder", {}).items():
            added.setdefault(token["content"], int(token_id))
        if model_max_length is None:  # old checkpoints say 1e30 for "no limit"; TART was trained with 512
            model_max_length = min(config.get("model_max_length", DEFAULT_MAX_LENGTH), DEFAULT_MAX_LENGTH)
        return cls(
            folder / VOCAB_FILE,
            extra_ids=config.get("extra_ids", 100),
            bos_token_id=added.get("<s>"),
            model_max_length=model_max_length,
            split_special_tokens=split_special_tokens,
            num_threads=num_threads,
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the vocabulary and its description in the layout of the published checkpoint."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / VOCAB_FILE).exists() or not (folder / VOCAB_FILE).samefile(self.vocab_file):
            shutil.copyfile(self.vocab_file, folder / VOCAB_FILE)
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
            ValueError: lists of unequal length, or an option that is not known.
        """
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
        """Ids of each text alone, without ``<s>`` and ``</s>``."""
        if self.split_special_tokens:
            return self._encode_plain(list(texts))
        with_specials = {i for i, text in enumerate(texts) if "<" in text and self._special_pattern.search(text)}
        plain = iter(self._encode_plain([text for i, text in enumerate(texts) if i not in with_specials]))
        return [self._encode_with_specials(text) if i in with_specials else next(plain) for i, text in enumerate(texts)]

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
            ValueError: lists of unequal length, or a ``max_length`` with room for the special tokens alone.
            QueryTooLongError: ``only_document``, and no room is left for a document.
        """
        if len(queries) != len(documents):
            raise ValueError(f"got {len(queries)} queries and {len(documents)} documents, expected as many of each")
        if max_length is not None and max_length <= SPECIALS_PER_PAIR:
            raise ValueError(f"max_length: got {max_length}, expected more than the {SPECIALS_PER_PAIR} special tokens")
        query_ids, query_of = self._encode_distinct(queries)
        document_ids, document_of = self._encode_distinct(documents)
        query_lengths = np.array([len(ids) for ids in query_ids], dtype=np.int64)[query_of]
        document_lengths = np.array([len(ids) for ids in document_ids], dtype=np.int64)[document_of]
        kept_query, kept_document = query_lengths, document_lengths
        if max_length is not None and truncation == "only_document":
            room = max_length - SPECIALS_PER_PAIR - query_lengths
            too_long = np.flatnonzero((room < 1) & (room < document_lengths))
            if len(too_long):
                raise QueryTooLongError(too_long.tolist(), max_length)
            kept_document = np.minimum(document_lengths, room)
        elif max_length is not None and truncation == "longest_first":
            kept_query, kept_document = longest_first(query_lengths, document_lengths, max_length - SPECIALS_PER_PAIR)

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
        return EncodedPairs(np.frombuffer(flat, dtype=np.int32) if flat else np.zeros(0, np.int32), offsets, truncated)

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

    def _encode_distinct(self, texts: Sequence[str]) -> tuple[list[array[int]], npt.NDArray[np.int64]]:
        """Ids of the distinct texts, and for each text the position of its ids among them."""
        position: dict[str, int] = {}
        of = np.fromiter((position.setdefault(text, len(position)) for text in texts), np.int64, len(texts))
        return [array("i", ids) for ids in self.encode_texts(list(position))], of

    def _encode_plain(self, texts: list[str]) -> list[list[int]]:
        return self._pieces.encode(texts, out_type=int, num_threads=self.num_threads) if texts else []

    def _encode_with_specials(self, text: str) -> list[int]:
        """The original cuts the text at special tokens, strips what stands beside them, and encodes each part."""
        parts = self._special_pattern.split(text)  # text, special, text, special, …, text
        last = len(parts) - 1
        ids: list[int] = []
        for i, part in enumerate(parts):
            if i % 2:
                ids.append(self._special_ids[part])
                continue
            strip: Callable[[str], str] = str.strip if 0 < i < last else str.lstrip if i else str.rstrip
            ids += self._pieces.encode(strip(part), out_type=int)
        return ids


def join_instruction(instruction: str | None, query: str) -> str:
    """``"{instruction} [SEP] {query}"``; ``[SEP]`` is plain text to T5.

    Where there is no instruction (None) it is the bare query. An empty one keeps its ``[SEP]``, as in the original.
    """
    return query if instruction is None else f"{instruction} [SEP] {query}"


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


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
