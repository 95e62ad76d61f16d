"""Score: chunks through a pool of replicas into the score store.

Reading and tokenising run as CPU tasks ahead of the replicas, writing and committing as tasks behind them, so that a
replica does nothing but encode. Between them a chunk travels as one row: its id and one Arrow table, serialised,
which is read on the other side without a copy.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from ray.data import ActorPoolStrategy, Dataset

from tart_ray.config import RerankConfig
from tart_ray.engine.deaths import begin_attempt
from tart_ray.engine.stages import drain
from tart_ray.errors import CheckpointError
from tart_ray.input.quarantine import SCORE, Quarantine, find_reasons
from tart_ray.model.encoded import EncodedPairs, EncodedWindows
from tart_ray.model.texts import join_instruction
from tart_ray.model.tokenizer import EncT5Tokenizer
from tart_ray.model.truncation import QueryTooLongError
from tart_ray.runs.attempts import Attempt
from tart_ray.runs.run import Record, Run
from tart_ray.scores.deadline import Deadline
from tart_ray.scores.isolate import PARTS, Rows, isolate
from tart_ray.scores.plan import Plan, replica_dtype, scores_schema
from tart_ray.scores.prepare import Chunk, read_chunk
from tart_ray.scores.releases import check_releases, library_releases
from tart_ray.scoring.batching import padded_tokens, plan_batches
from tart_ray.tables import texts
from tart_ray.tables.schemas import WINDOWS

if TYPE_CHECKING:  # torch takes seconds to import: only replicas do
    from tart_ray.scoring.scorer import Scorer

SCORES = "score"
ENCODE_MEMORY = 1 << 30  # of a task that reads and tokenises a chunk; it also keeps Ray from fusing it into the replica
WRITE_CPUS = 0.5  # a task that writes a chunk mostly waits for storage
NOTHING_LEFT = "the {} encodes to no token: it holds nothing but characters that the model's vocabulary leaves out"
NO_ROOM = "instruction and query leave too little room for a document in model.max_length"

TIMES_TO_LOAD = 4  # a model may come from far away: as much longer than a batch may take

ORDINARY_PAIR = EncodedPairs(np.array([1], np.int32), np.array([0, 1]), np.array([False]))  # </s>, in any vocabulary

WINDOW_COLUMNS = ("input_ids", "window_tokens", "window_spans")

Floats = npt.NDArray[np.float32]
LoadScorer = Callable[[RerankConfig], "Scorer"]


def load_scorer(config: RerankConfig) -> Scorer:
    """The replica that the configuration describes, on this process's device."""
    import torch
    import transformers

    from tart_ray.scoring.scorer import Scorer

    transformers.utils.logging.disable_progress_bar()
    threads = max(int(config.cluster.cpus_per_replica), 1)
    torch.set_num_threads(threads)  # Ray sets OMP_NUM_THREADS, which torch reads once and others may change
    budget = config.model.max_tokens_per_batch
    return Scorer.from_pretrained(
        config.model.path,
        revision=config.model.revision,
        fingerprint=config.model.fingerprint,
        storage_options=config.storage.fsspec_options(config.model.path),
        device="cuda" if config.cluster.gpus_per_replica else "cpu",
        dtype=replica_dtype(config),
        max_length=config.model.max_length,
        long_documents=config.model.long_documents,
        truncation=config.model.truncation,
        split_special_tokens=config.model.split_special_tokens,
        max_tokens_per_batch=None if budget == "auto" else budget,
    )


def load_at(releases: Mapping[str, str], load: LoadScorer, config: RerankConfig) -> Scorer:
    """The replica, on a node that has the releases of the run's manifest.

    Raises:
        OtherReleaseError: it has others.
    """
    check_releases(releases)
    return load(config)


def score(
    run: Run, plan: Plan, config: RerankConfig, chunks: list[Chunk], load: LoadScorer = load_scorer
) -> dict[str, Record]:
    """Score every chunk that no earlier run has committed; returns the records of all."""

    releases = library_releases()

    def transform(waiting: Dataset) -> Dataset:
        replicas, most = config.cluster.replicas, waiting.count()  # one for each chunk at most
        encoded = waiting.map(lambda row: _encode_chunk(run, config, releases, row["unit"]), memory=ENCODE_MEMORY)
        scored = encoded.map_batches(
            Replica,
            batch_size=1,  # one row is one chunk
            batch_format="pyarrow",
            fn_constructor_args=(run, config, functools.partial(load_at, releases, load)),
            compute=ActorPoolStrategy(
                min_size=min(replicas.min, most),
                max_size=min(replicas.max, most),
                max_tasks_in_flight_per_actor=1,  # no chunk waits for one replica while another idles
            ),
            num_cpus=config.cluster.cpus_per_replica,
            num_gpus=config.cluster.gpus_per_replica or None,
        )
        return scored.map(lambda row: _write_chunk(run, plan, row), num_cpus=WRITE_CPUS)

    return drain(run, SCORES, [chunk.id for chunk in chunks], transform, sum(chunk.rows for chunk in chunks))


def _encode_chunk(run: Run, config: RerankConfig, releases: Mapping[str, str], chunk: str) -> dict[str, Any]:
    """Read and tokenise: the chunk's columns without its texts, and those of `window_columns`."""
    check_releases(releases)
    with begin_attempt(run, "encode", chunk) as attempt:
        table = read_chunk(run, chunk)
        pairs, kept, reasons = _encode_rows(attempt, table, config)
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
        return {"unit": chunk, "reasons": json.dumps(reasons), "table": _to_bytes(rest)}


def _encode_rows(
    attempt: Attempt, table: pa.Table, config: RerankConfig
) -> tuple[EncodedWindows, Rows, dict[int, str]]:
    """Token ids, the rows that they belong to, in order, and for each other row why it has none."""
    tokenizer = _tokenizer(config)
    found: list[tuple[EncodedWindows, Rows]] = []
    left_out: dict[int, str] = {}

    def work(rows: Rows) -> None:
        pairs, reasons = encode(tokenizer, table.take(pa.array(rows)), config)
        found.append((pairs, np.delete(rows, [*reasons])))
        left_out.update({int(rows[position]): reason for position, reason in reasons.items()})

    parts = np.array_split(np.arange(len(table)), PARTS)
    raised = isolate(attempt, parts, work, max_attempts=config.limits.max_attempts_per_chunk)
    rows = np.concatenate([np.empty(0, np.int64), *(rows for _, rows in found)])
    pairs = EncodedWindows.concatenate([pairs for pairs, _ in found])
    return pairs.take(np.argsort(rows)), np.sort(rows), left_out | raised


def encode(tokenizer: EncT5Tokenizer, table: pa.Table, config: RerankConfig) -> tuple[EncodedWindows, dict[int, str]]:
    """Token ids of a chunk's rows, and for each row that is left out why, by position.

    Left out are rows whose query has no token, or whose document has none unless empty documents are scored; and those
    whose query leaves too little room for a document, which only ``only_document`` truncation can meet.
    """
    left_out = _without_tokens(tokenizer, table, config)
    kept = np.delete(np.arange(len(table)), [*left_out])
    try:
        return _encode(tokenizer, table.take(pa.array(kept)) if left_out else table, config), left_out
    except QueryTooLongError as error:
        left_out |= dict.fromkeys(kept[error.rows].tolist(), NO_ROOM)
        return _encode(tokenizer, table.take(pa.array(np.delete(kept, error.rows))), config), left_out


def _without_tokens(tokenizer: EncT5Tokenizer, table: pa.Table, config: RerankConfig) -> dict[int, str]:
    read = {"query": table["query"].to_pylist()}
    if config.input.empty_documents == "quarantine":
        read["document"] = document_texts(table)[0]
    return {
        position: NOTHING_LEFT.format(name)
        for name, found in reversed(read.items())  # of a row that lacks both, the query is told
        for position in tokenizer.without_tokens(found)
    }


def _encode(tokenizer: EncT5Tokenizer, table: pa.Table, config: RerankConfig) -> EncodedWindows:
    queries = list(map(join_instruction, table["instruction"].to_pylist(), table["query"].to_pylist()))
    documents, begins = document_texts(table)
    limits: Any = {"max_length": config.model.max_length, "truncation": config.model.truncation}
    if config.model.long_documents == "truncate":
        return EncodedWindows.of_pairs(tokenizer.encode_pairs(queries, documents, **limits))
    titles = [max(begin - 1, 0) for begin in begins]  # characters, without the space
    windows = tokenizer.encode_windows(queries, documents, heads=titles, **limits)
    spans = windows.spans - np.repeat(np.array(begins, np.int64), np.diff(windows.starts))[:, None]
    return EncodedWindows(windows.rows, windows.starts, np.maximum(spans, 0))


def document_texts(table: pa.Table) -> tuple[list[str], list[int]]:
    """``(title + " " + text).strip()`` of each row, and where ``text`` begins in it: below 0 if it lost white space.

    Rows of one document share the string.
    """
    bodies = [text or "" for text in texts.values(table["text"])]
    titles = [""] * len(table)
    if "title" in table.schema.names:
        titles = [f"{title or ''} " for title in texts.values(table["title"])]
    found = {}
    for front, body in {*zip(titles, bodies, strict=True)}:
        whole = front + body
        found[front, body] = whole.strip(), len(front) - len(whole) + len(whole.lstrip())
    documents = [found[pair] for pair in zip(titles, bodies, strict=True)]
    return [text for text, _ in documents], [begin for _, begin in documents]


def window_columns(windows: EncodedWindows) -> dict[str, pa.Array]:
    """Columns of a chunk, one row per pair: the ids of all its windows, the tokens of each, what each covers."""
    starts = pa.array(windows.starts, pa.int32())
    ids = pa.array(windows.rows.offsets[windows.starts], pa.int32())
    spans = pa.FixedSizeListArray.from_arrays(pa.array(windows.spans.ravel()), 2)
    return {
        "input_ids": pa.ListArray.from_arrays(ids, pa.array(windows.rows.input_ids)),
        "window_tokens": pa.ListArray.from_arrays(starts, pa.array(windows.rows.lengths, pa.int32())),
        "window_spans": pa.ListArray.from_arrays(starts, spans),
    }


def _windows_of(chunk: pa.Table) -> EncodedWindows:
    """What `window_columns` was made from, but for what it says of truncation."""
    ids, tokens, spans = (chunk[name].combine_chunks() for name in WINDOW_COLUMNS)
    offsets = np.concatenate([[0], np.cumsum(tokens.values.to_numpy(), dtype=np.int64)])
    rows = EncodedPairs(ids.values.to_numpy(), offsets, np.zeros(len(offsets) - 1, dtype=bool))
    starts = tokens.offsets.to_numpy().astype(np.int64)
    return EncodedWindows(rows, starts, spans.values.flatten().to_numpy().reshape(-1, 2))


class Replica:
    """An actor of the pool: one model on one device, one chunk at a time."""

    def __init__(self, run: Run, config: RerankConfig, load: LoadScorer) -> None:
        self._run, self._max_attempts = run, config.limits.max_attempts_per_chunk
        self._seconds_per_batch = config.limits.max_seconds_per_batch
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._failure: Exception | None = None  # raised by the first call: Ray loses the cause of one raised here
        try:
            with begin_attempt(run, "load", "model") as attempt:
                attempt.check(tries=config.cluster.replicas.max)
                with Deadline(TIMES_TO_LOAD * self._seconds_per_batch, attempt.add_last_words):
                    self._scorer = load(config)
                    logits = self._scorer.score_encoded(ORDINARY_PAIR).logits  # fails here what would for every pair
            if not np.isfinite(logits).all():
                raise CheckpointError(f"{config.model.path}: its logits for the shortest pair are {logits.tolist()}")
        except Exception as error:
            self._failure = error

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self._failure:
            raise self._failure
        with begin_attempt(self._run, SCORES, batch["unit"][0].as_py()) as attempt:
            table = pa.ipc.open_stream(batch["table"][0].as_buffer()).read_all()
            pairs = _windows_of(table)
            began, started = time.time(), time.perf_counter()
            score, margin, best, failed = self._score(attempt, pairs)
            statistics = {
                "tokens": len(pairs.rows.input_ids),
                "padded_tokens": padded_tokens(pairs.rows.lengths, self._scorer.max_tokens_per_batch),
                "windows": len(pairs.rows),
                "seconds": time.perf_counter() - started,
                "began": began,  # seconds since 1970
                "replica": self._name,
            }
            told = pairs.describe(best)
            added = (score, margin, told.index, told.count, told.start, told.end)
            result = table.drop_columns([*WINDOW_COLUMNS])
            for name, column in zip(("score", "margin", *WINDOWS.names), added, strict=True):
                result = result.append_column(name, pa.array(column))
            origin = table["_row"].to_pylist()
            reasons = json.loads(batch["reasons"][0].as_py())
            reasons |= {str(origin[row]): reason for row, reason in failed.items()}
            payload = pa.array([_to_bytes(result)], pa.large_binary())
            notes = {"reasons": [json.dumps(reasons)], "statistics": [json.dumps(statistics)]}
            return pa.table({"unit": batch["unit"], "table": payload, **notes})

    def _score(self, attempt: Attempt, pairs: EncodedWindows) -> tuple[Floats, Floats, Rows, dict[int, str]]:
        """Score, margin and best window's row of each pair; NaN and the first where there is no score, and why."""
        score = np.full(len(pairs), np.nan, dtype=np.float32)
        margin = score.copy()
        best = pairs.starts[:-1].copy()

        def work(rows: Rows) -> None:
            taken = pairs.take(rows)
            scores = self._scorer.score_encoded(taken.rows)
            found = taken.best(scores.margin)
            score[rows], margin[rows] = scores.score[found], scores.margin[found]
            best[rows] = pairs.starts[rows] + found - taken.starts[:-1]
            deadline.renew()

        batches = plan_batches(pairs.lengths, self._scorer.max_tokens_per_batch)
        limit = self._max_attempts
        with Deadline(self._seconds_per_batch, attempt.add_last_words) as deadline:
            self._scorer.on_batch = deadline.renew
            failed = isolate(attempt, batches, work, max_attempts=limit, is_usable=self._is_usable)
        return score, margin, best, failed

    def _is_usable(self) -> bool:
        try:
            self._scorer.score_encoded(ORDINARY_PAIR)
        except Exception:
            return False
        return True


def _write_chunk(run: Run, plan: Plan, row: dict[str, Any]) -> dict[str, str]:
    """Write the scores of a chunk, quarantine what has none, then commit."""
    chunk = row["unit"]
    with begin_attempt(run, "write", chunk) as attempt:
        attempt.check()
        table = pa.ipc.open_stream(row["table"]).read_all()
        reasons = {int(position): reason for position, reason in json.loads(row["reasons"]).items()}
        finite = np.isfinite(table["score"].to_numpy()) & np.isfinite(table["margin"].to_numpy())
        good, positions = find_reasons(table, [(~finite, "the model's output is NaN or infinite")])
        for position, reason in positions.items():
            reasons.setdefault(table["_row"][position].as_py(), reason)
        quarantine = Quarantine(SCORE)
        if reasons:
            quarantine.add_rows(plan.candidates, read_chunk(run, chunk), dict(sorted(reasons.items())))
        if len(good):
            schema = scores_schema(plan)
            run.write_table(good.select(schema.names).cast(schema), "scores", f"{chunk}.parquet")
        record = {
            "rows": len(good),
            "quarantined": run.write_quarantine(quarantine, SCORES, chunk),
            "truncated": pc.sum(good["truncated"]).as_py() or 0,
            **json.loads(row["statistics"]),
        }
        return {"unit": chunk, "record": json.dumps(run.commit(SCORES, chunk, record))}


@functools.lru_cache(maxsize=1)
def _tokenizer_at(path: str, options: str, **how: Any) -> EncT5Tokenizer:
    return EncT5Tokenizer.from_pretrained(path, storage_options=json.loads(options), **how)


def _tokenizer(config: RerankConfig) -> EncT5Tokenizer:
    """One tokenizer per process: that of the manifest, or an error."""
    options = json.dumps(config.storage.fsspec_options(config.model.path))
    how = config.model.model_dump(include={"revision", "fingerprint", "split_special_tokens"})
    return _tokenizer_at(config.model.path, options, **how)


def _to_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())
