"""Splits: the parts of files that tasks read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pyarrow.parquet import FileMetaData

from tart_ray.input import text_files
from tart_ray.storage import FileInfo

SPLIT_BYTES = 32 << 20  # of one split, more where there would be over MAX_SPLITS
MAX_SPLITS = 4_096


@dataclass(frozen=True)
class Split:
    """A part of one file that one task reads: row groups ``[start, end)`` of Parquet, or bytes of text."""

    index: int
    file: FileInfo
    start: int
    end: int


def split_text(files: Sequence[FileInfo], nbytes: int) -> Iterator[Split]:
    """The splits of text files, which together have so many bytes."""
    size = _split_bytes(nbytes)
    ranges = (part for file in files for part in text_files.ranges(file, size))
    return (Split(index, *part) for index, part in enumerate(ranges))


def split_parquet(files: Sequence[FileInfo], footers: Sequence[FileMetaData], nbytes: int) -> Iterator[Split]:
    """The splits of Parquet files, which together have so many bytes."""
    size = _split_bytes(nbytes)
    index = 0
    for file, footer in zip(files, footers, strict=True):
        start, held = 0, 0
        for group in range(footer.num_row_groups):
            held += footer.row_group(group).total_byte_size
            if held >= size or group + 1 == footer.num_row_groups:
                yield Split(index, file, start, group + 1)
                index, start, held = index + 1, group + 1, 0


def _split_bytes(nbytes: int) -> int:
    return max(SPLIT_BYTES, math.ceil(nbytes / MAX_SPLITS))
