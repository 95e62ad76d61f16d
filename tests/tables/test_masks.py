"""Conditions as arrays of numpy."""

from __future__ import annotations

import pyarrow as pa

from tart_ray.tables.masks import as_mask


def test_a_condition_is_false_where_it_is_not_known() -> None:
    condition = pa.chunked_array([[True, None], [False]], pa.bool_())
    assert as_mask(condition).tolist() == [True, False, False]
    assert as_mask(condition.combine_chunks()).tolist() == [True, False, False]
    assert as_mask(condition.slice(0, 0)).dtype == bool
