"""Encode: the pairs of a chunk to token ids, in tasks on CPUs ahead of the replicas."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tart_ray.engine.deaths import begin_attempt
from tart_ray.model.cross_encoder import CrossEncoderTokenizer, load_cross_encoder
from tart_ray.model.encoded import EncodedPairs, EncodedWindows
from tart_ray.model.place import CheckpointPlace
from tart_ray.model.template import Template
from tart_ray.model.texts import join_instruction
from tart_ray.model.tokenizer import EncT5Tokenizer
from tart_ray.model.truncation import QueryTooLongError
from tart_ray.runs.attempts import Attempt
from tart_ray.runs.directory import Directory
from tart_ray.scores.isolate import PARTS, Rows, isolate
from tart_ray.scores.prepare import read_chunk
from tart_ray.scores.releases import check_releases
from tart_ray.scores.spec import ScoringSpec
from tart_ray.tables import texts

ENCODE_MEMORY = 1 << 30  # of a task that reads and tokenises a chunk
NOTHING_LEFT = "the {} encodes to no token: it holds nothing but characters that the model's vocabulary leaves out"
NO_ROOM = "instruction and query leave too little room for a document in model.max_length"
WINDOW_COLUMNS = ("input_ids", "window_tokens", "window_spans")
TYPES_OF_TOKENS = "token_types"  # beside them, of models that have some

PairTokenizer = EncT5Tokenizer | CrossEncoderTokenizer


@dataclass(frozen=True)
class EncodedChunk:
    """A chunk that is tokenised.

    Attributes:
        table: its columns without its texts, with ``_row``, a row's position in the chunk, and `window_columns`.
        reasons: why rows are left out, by position.
    """

    table: pa.Table
    reasons: dict[int, str]


def encode_chunk(run: Directory, spec: ScoringSpec, releases: Mapping[str, str], chunk: str) -> EncodedChunk:
    """Read and tokenise.

    Raises:
        OtherReleaseError: this node has other releases of libraries than the driver.
    """
    check_releases(releases)
    with begin_attempt(run, "encode", chunk) as attempt:
        table = read_chunk(run, chunk)
        pairs, kept, reasons = _encode_rows(attempt, table, spec)
        rest = table.drop_columns([name for name in ("query", "text", "title") if name in table.schema.names])
        added = {
            "_row": pa.array(kept),
            "tokens": pa.array(pairs.lengths, pa.int32()),
            "truncated": pa.array(pairs.truncated),
            **window_columns(pairs),
        }
        rest = rest.take(pa.array(kept)) if len(kept) < len(table) else rest
        for name, column in added.items():
            rest = rest.append_column(name, column)
        return EncodedChunk(rest, reasons)


def _encode_rows(attempt: Attempt, table: pa.Table, spec: ScoringSpec) -> tuple[EncodedWindows, Rows, dict[int, str]]:
    """Token ids, the rows that they belong to, in order, and for each other row why it has none."""
    tokenizer = load_tokenizer(spec)
    found: list[tuple[EncodedWindows, Rows]] = []
    left_out: dict[int, str] = {}

    def work(rows: Rows) -> None:
        pairs, reasons = encode(tokenizer, table.take(pa.array(rows)), spec)
        found.append((pairs, np.delete(rows, [*reasons])))
        left_out.update({int(rows[position]): reason for position, reason in reasons.items()})

    parts = np.array_split(np.arange(len(table)), PARTS)
    raised = isolate(attempt, parts, work, max_attempts=spec.limits.max_attempts_per_chunk)
    rows = np.concatenate([np.empty(0, np.int64), *(rows for _, rows in found)])
    pairs = EncodedWindows.concatenate([pairs for pairs, _ in found])
    return pairs.take(np.argsort(rows)), np.sort(rows), left_out | raised


def encode(tokenizer: PairTokenizer, table: pa.Table, spec: ScoringSpec) -> tuple[EncodedWindows, dict[int, str]]:
    """Token ids of a chunk's rows, and for each row that is left out why, by position.

    Left out are rows whose query has no token, or whose document has none unless empty documents are scored; and those
    whose query leaves too little room for a document, which only ``only_document`` truncation can meet.
    """
    left_out = _without_tokens(tokenizer, table, spec)
    kept = np.delete(np.arange(len(table)), [*left_out])
    try:
        return _encode(tokenizer, table.take(pa.array(kept)) if left_out else table, spec), left_out
    except QueryTooLongError as error:
        left_out |= dict.fromkeys(kept[error.rows].tolist(), NO_ROOM)
        return _encode(tokenizer, table.take(pa.array(np.delete(kept, error.rows))), spec), left_out


def _without_tokens(tokenizer: PairTokenizer, table: pa.Table, spec: ScoringSpec) -> dict[int, str]:
    read = {"query": table["query"].to_pylist()}
    if spec.empty_documents == "quarantine":
        read["document"] = texts.document_texts(table)[0]
    return {
        position: NOTHING_LEFT.format(name)
        for name, found in reversed(read.items())  # of a row that lacks both, the query is told
        for position in tokenizer.without_tokens(found)
    }


def _encode(tokenizer: PairTokenizer, table: pa.Table, spec: ScoringSpec) -> EncodedWindows:
    if isinstance(tokenizer, CrossEncoderTokenizer):
        return EncodedWindows.of_pairs(_encode_by_template(tokenizer, table))
    queries = list(map(join_instruction, table["instruction"].to_pylist(), table["query"].to_pylist()))
    documents, begins = texts.document_texts(table)
    length, truncation = spec.model.max_length, spec.model.truncation
    if spec.model.long_documents == "truncate":
        pairs = tokenizer.encode_pairs(queries, documents, max_length=length, truncation=truncation)
        return EncodedWindows.of_pairs(pairs)
    titles = [max(begin - 1, 0) for begin in begins]  # characters, without the space
    windows = tokenizer.encode_windows(queries, documents, heads=titles, max_length=length, truncation=truncation)
    return windows.counted_from(begins)


def _encode_by_template(tokenizer: CrossEncoderTokenizer, table: pa.Table) -> EncodedPairs:
    instructions = table["instruction"].to_pylist()
    titles = texts.values(table["title"]) if "title" in table.schema.names else [None] * len(table)
    return tokenizer.encode_pairs(
        tokenizer.template.queries(table["query"].to_pylist(), instructions),
        tokenizer.template.documents(texts.values(table["text"]), titles),
        tokenizer.template.prompts(instructions),
    )


def window_columns(windows: EncodedWindows) -> dict[str, pa.Array]:
    """Columns of a chunk, one row per pair: the ids of all its windows, the tokens of each, what each covers."""
    starts = pa.array(windows.starts, pa.int32())
    ids = pa.array(windows.rows.offsets[windows.starts], pa.int32())
    spans = pa.FixedSizeListArray.from_arrays(pa.array(windows.spans.ravel()), 2)
    types = windows.rows.token_types
    return {
        "input_ids": pa.ListArray.from_arrays(ids, pa.array(windows.rows.input_ids)),
        "window_tokens": pa.ListArray.from_arrays(starts, pa.array(windows.rows.lengths, pa.int32())),
        "window_spans": pa.ListArray.from_arrays(starts, spans),
        **({TYPES_OF_TOKENS: pa.ListArray.from_arrays(ids, pa.array(types))} if types is not None else {}),
    }


def windows_of(chunk: pa.Table) -> EncodedWindows:
    """What `window_columns` was made from, but for what it says of truncation."""
    ids, tokens, spans = (chunk[name].combine_chunks() for name in WINDOW_COLUMNS)
    offsets = np.concatenate([[0], np.cumsum(tokens.values.to_numpy(), dtype=np.int64)])
    types = chunk[TYPES_OF_TOKENS].combine_chunks().values.to_numpy() if TYPES_OF_TOKENS in chunk.schema.names else None
    rows = EncodedPairs(ids.values.to_numpy(), offsets, np.zeros(len(offsets) - 1, dtype=bool), types)
    starts = tokens.offsets.to_numpy().astype(np.int64)
    return EncodedWindows(rows, starts, spans.values.flatten().to_numpy().reshape(-1, 2))


@functools.lru_cache(maxsize=1)
def _tokenizer_at(
    place: CheckpointPlace, *, split_special_tokens: bool, template: Template | None, max_length: int
) -> PairTokenizer:
    if template is not None:
        return CrossEncoderTokenizer(load_cross_encoder(place, device="meta"), template, max_length)
    return EncT5Tokenizer.from_place(place, split_special_tokens=split_special_tokens)


def load_tokenizer(spec: ScoringSpec) -> PairTokenizer:
    """One tokenizer per process: that of the manifest, or an error."""
    model = spec.model
    return _tokenizer_at(
        spec.place,
        split_special_tokens=model.split_special_tokens,
        template=spec.template,
        max_length=model.max_length,
    )
