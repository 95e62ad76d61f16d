"""Rows in groups: in the order of the input, and where each group begins."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


def in_input_order(table: pa.Table, *first: str) -> pa.Table:
    """Rows sorted by the columns ``first``, then by where they stood in the input."""
    keys = [(name, "ascending") for name in (*first, "_split", "_position", "_item")]
    return table.take(pc.sort_indices(table, sort_keys=keys))


def group_starts(rows: pa.Table, *keys: str) -> npt.NDArray[np.int64]:
    """Where each group begins in rows that are sorted by the columns ``keys``, and behind them the number of rows."""
    begins = np.zeros(len(rows), dtype=bool)
    begins[:1] = True
    for key in keys:
        ids = rows[key].combine_chunks()
        begins[1:] |= np.asarray(pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False), dtype=bool)
    return np.append(np.flatnonzero(begins), len(rows))
