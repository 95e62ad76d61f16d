"""A shuffle through storage: rows go to buckets by the hash of an id.

Ray Data's own shuffles hold their state in actors and in the object store, so a lost node or driver starts them
again, and the order of their rows differs from run to run. Here every task writes one *fragment*, a file that holds
its rows by bucket, and whoever needs a bucket fetches that range of every fragment: durable, resumable, in input
order, with memory for one bucket at a time.

A fragment is ``buckets + 1`` little-endian int64 offsets, then one Arrow IPC stream per bucket that has rows.
A task whose rows are long writes several, since one holds a shared text once for each bucket that it goes to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tart_ray.storage import Storage
from tart_ray.tables import texts

OFFSET_BYTES = 8
FRAGMENT_BYTES = 256 << 20  # of documents, before compression
IPC_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


def encode_fragments(table: pa.Table, bucket: npt.NDArray[np.int64], buckets: int) -> Iterator[bytes]:
    """One fragment after the other that together hold ``table``, as of `encode_fragment`; at least one."""
    start = 0
    for part in texts.slices(table, FRAGMENT_BYTES):
        yield encode_fragment(part, bucket[start : start + len(part)], buckets)
        start += len(part)


def encode_fragment(table: pa.Table, bucket: npt.NDArray[np.int64], buckets: int) -> bytes:
    """A fragment of ``table``, whose row ``i`` belongs to ``bucket[i]``; rows of a bucket keep their order."""
    order = np.argsort(bucket, kind="stable")
    ends = np.cumsum(np.bincount(bucket, minlength=buckets))
    ordered = table.unify_dictionaries().take(pa.array(order)).combine_chunks()
    parts, offsets, start = [], [(buckets + 1) * OFFSET_BYTES], 0
    for end in ends.tolist():
        if end > start:
            parts.append(encode_rows(ordered.slice(start, end - start)))
        offsets.append(offsets[-1] + (len(parts[-1]) if end > start else 0))
        start = end
    return b"".join([np.array(offsets, dtype="<i8").tobytes(), *parts])


def encode_rows(table: pa.Table) -> bytes:
    """The rows as one Arrow IPC stream, for `decode_rows`."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=IPC_OPTIONS) as writer:
        writer.write_table(texts.without_unused(table))
    return bytes(sink.getvalue())


def decode_rows(stream: bytes | memoryview) -> pa.Table:
    """What `encode_rows` was given."""
    return pa.ipc.open_stream(stream).read_all()


def read_bucket(storage: Storage, fragments: Sequence[str], bucket: int, schema: pa.Schema) -> pa.Table:
    """The rows of one bucket, fragment by fragment in the order given."""
    start = bucket * OFFSET_BYTES
    heads = storage.read_ranges(fragments, [start] * len(fragments), [start + 2 * OFFSET_BYTES] * len(fragments))
    ranges = [np.frombuffer(head, dtype="<i8").tolist() for head in heads]
    held = [(url, *span) for url, span in zip(fragments, ranges, strict=True) if span[1] > span[0]]
    streams = storage.read_ranges([h[0] for h in held], [h[1] for h in held], [h[2] for h in held])
    return pa.concat_tables([schema.empty_table(), *map(decode_rows, streams)]).unify_dictionaries()
