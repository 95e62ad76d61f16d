"""Keys made of ids and texts alone, so that every process and every order of rows gives the same."""

from __future__ import annotations

import hashlib
import unicodedata
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.tables.groups import first_rows
from tart_ray.tables.texts import values

TEXT_KEY = pa.binary(16)
TEXTS_AT_ONCE = 65_536  # bounds the texts that are Python strings at one time


def text_keys(documents: pa.Table) -> pa.ChunkedArray:
    """A key of each document's normalised text: equal keys, equal texts.

    Normalised is NFKC, case folded, NFKC again, every run of white space one space. A document without text goes by
    its title; otherwise titles do not count, so that a copy under another title is still a copy.

    Args:
        documents: ``text`` (string) and, if need be, ``title``.

    Returns:
        `TEXT_KEY`, BLAKE2b of the UTF-8 text in 128 bits; null where text and title are blank or null.
    """
    names = documents.schema.names
    if "text" not in names:
        raise ValueError(f"got columns {names}, expected 'text' among them")
    parts = (documents.slice(start, TEXTS_AT_ONCE) for start in range(0, len(documents), TEXTS_AT_ONCE))
    return pa.chunked_array([pa.array(_keys_of(part), TEXT_KEY) for part in parts], TEXT_KEY)


def normalise(text: str) -> str:
    """NFKC, case folded, NFKC again, as folding takes some letters apart; white space as single spaces."""
    if text.isascii():
        return " ".join(text.casefold().split())
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def _keys_of(documents: pa.Table) -> list[bytes | None]:
    texts = values(documents["text"])
    titles = values(documents["title"]) if "title" in documents.schema.names else [None] * len(texts)
    keys: dict[str, bytes | None] = {}  # of each text once: one document is a candidate of many queries

    def key(text: str | None) -> bytes | None:
        if text and text not in keys:
            normalised = normalise(text)
            keys[text] = hashlib.blake2b(normalised.encode(), digest_size=16).digest() if normalised else None
        return keys[text] if text else None

    return [key(text) or key(title) for text, title in zip(texts, titles, strict=True)]


def text_id(text: str) -> str:
    """BLAKE2b of the UTF-8 text in 128 bits, as 32 hexadecimal digits."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def content_keys(pairs: pa.Table, scored_with: bytes) -> pa.Array:
    """A key of everything that the score of a pair depends on: equal keys, equal scores but for rounding.

    BLAKE2b in 128 bits, as hexadecimal text, of ``scored_with``, instruction, query, title and text. Each is preceded
    by the length of its UTF-8 in 64 bits, so that no two inputs run together into the same bytes. A missing
    instruction is not an empty one; a missing title is, as it is to the model.

    Args:
        pairs: ``instruction``, ``query``, ``text`` and, if need be, ``title``.
        scored_with: what describes the model and how it reads a pair.
    """
    names = pairs.schema.names
    keys: list[str] = []
    for start in range(0, len(pairs), TEXTS_AT_ONCE):
        part = pairs.slice(start, TEXTS_AT_ONCE)
        titles = values(part["title"]) if "title" in names else [""] * len(part)
        read = zip(*(values(part[name]) for name in ("instruction", "query", "text")), titles, strict=True)
        for instruction, query, text, title in read:
            key = hashlib.blake2b(_prefixed(scored_with), digest_size=16)
            key.update(_MISSING if instruction is None else _prefixed(instruction.encode()))
            for value in (query, title or "", text):
                key.update(_prefixed(value.encode()))
            keys.append(key.hexdigest())
    return pa.array(keys, pa.string())


_MISSING = b"\xff" * 8  # no length that a text can have


def _prefixed(data: bytes) -> bytes:
    return len(data).to_bytes(8, "little") + data


def positions(rows: pa.Table, among: pa.Table, keys: Sequence[str]) -> npt.NDArray[np.int64]:
    """Where each row stands in ``among``, the first that is equal in the columns ``keys``; -1 for none.

    Args:
        rows, among: the columns ``keys``, without nulls, each of ``rows`` once.
    """
    right = first_rows(_numbered(among, keys, "_right"), *keys)
    left = _numbered(rows, keys, "_left")
    joined = left.join(right, list(keys), join_type="left outer", use_threads=False).sort_by("_left")
    at: npt.NDArray[np.int64] = pc.fill_null(joined["_right"], -1).to_numpy()
    return at


def _numbered(table: pa.Table, keys: Sequence[str], name: str) -> pa.Table:
    return table.select(list(keys)).append_column(name, pa.array(np.arange(len(table))))


def random_keys(seed: int, query_ids: pa.ChunkedArray, doc_ids: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """A number in (0, 1) for each pair: a function of the seed and the two ids and of nothing else.

    BLAKE2b of each id under the seed, 64 bits, mixed by the finaliser of SplitMix64 (Steele, Lea, Flood 2014); its
    upper 53 bits are the number. The pairs with the smallest numbers of a query are a uniform sample of them.

    Args:
        seed: in [0, 2**64).
        query_ids, doc_ids: strings, one of each per pair.
    """
    mixed = _mix(_hashes(seed, query_ids) ^ _mix(_hashes(seed, doc_ids)))
    uniform: npt.NDArray[np.float64] = ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return uniform


def gumbel(uniform: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Standard Gumbel noise from numbers in (0, 1), by inversion.

    The k pairs with the largest ``log(weight) + noise`` are a sample without replacement in proportion to the weights
    (Efraimidis and Spirakis 2006; as "Gumbel top-k", Kool et al. 2019).
    """
    noise: npt.NDArray[np.float64] = -np.log(-np.log(uniform))
    return noise


def _hashes(seed: int, ids: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    encoded = pc.dictionary_encode(ids.cast(pa.large_string()).combine_chunks())
    key = seed.to_bytes(8, "little")
    digests = b"".join(_digests(key, encoded.dictionary))
    hashes: npt.NDArray[np.uint64] = np.frombuffer(digests, "<u8").astype(np.uint64)
    of_pairs: npt.NDArray[np.uint64] = hashes[encoded.indices.to_numpy(zero_copy_only=False)]
    return of_pairs


def _digests(key: bytes, ids: pa.Array) -> Iterator[bytes]:
    for start in range(0, len(ids), TEXTS_AT_ONCE):
        for text in ids.slice(start, TEXTS_AT_ONCE).to_pylist():
            yield hashlib.blake2b(text.encode(), digest_size=8, key=key).digest()


def _mix(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64: next state, then its finaliser. Products wrap around, as they should."""
    z = bits + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: npt.NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed


def bucket_of(ids: pa.ChunkedArray | pa.Array, buckets: int) -> npt.NDArray[np.int64]:
    """The bucket of each id: CRC-32 modulo ``buckets``, the same on every machine and in every version."""
    whole = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    encoded = whole.dictionary_encode()
    hashes = [zlib.crc32(text.encode()) % buckets for text in encoded.dictionary.to_pylist()]
    of_each: npt.NDArray[np.int64] = np.array(hashes, dtype=np.int64)[encoded.indices.to_numpy()]
    return of_each
