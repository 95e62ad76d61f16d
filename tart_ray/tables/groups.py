"""Rows in groups: in the order of the input, where each group begins, and the first row of each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.tables.masks import as_mask


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
        begins[1:] |= as_mask(pc.not_equal(ids[1:], ids[:-1]))
    return np.append(np.flatnonzero(begins), len(rows))


def places_in_groups(starts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where each row stands within its group, from 0, int64 (rows,).

    Args:
        starts: where each group begins, and behind them the number of rows, as `group_starts` gives them.
    """
    places: npt.NDArray[np.int64] = np.arange(starts[-1]) - np.repeat(starts[:-1], np.diff(starts))
    return places


def first_rows(table: pa.Table, *keys: str) -> pa.Table:
    """The first row of each combination of values of the columns ``keys``, in the order of the table."""
    numbered = table.select(list(keys)).append_column("_row", pa.array(np.arange(len(table))))
    first = numbered.group_by(list(keys), use_threads=False).aggregate([("_row", "min")])["_row_min"]
    return table.take(pa.array(np.sort(first.to_numpy())))
