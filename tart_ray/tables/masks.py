"""Conditions on rows as arrays of numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


def as_mask(condition: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """A column of booleans as an array of numpy, bool (rows,); null is False."""
    return np.asarray(pc.fill_null(condition, False).to_numpy(zero_copy_only=False), dtype=bool)
