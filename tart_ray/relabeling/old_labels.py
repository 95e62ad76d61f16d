"""The labels until now that candidates bring themselves, of pairs that no run has labelled."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.errors import InputError
from tart_ray.relabeling.labels import LABELLED, PAIR
from tart_ray.tables.grades import grades
from tart_ray.tables.keys import positions

OLD_LABEL = pa.field("old_label", pa.int32())
GIVEN = "_given"  # the column of labels until now, while labels are compared
MAX_OLD_LABELS = 100  # values; more are no grades


def given_labels(name: str, rows: pa.Table, base: pa.Table) -> pa.Table:
    """The labels in the column `GIVEN`, of pairs that the current run has none for: `LABELLED`.

    Args:
        name: of the column in the input.
        base: the labels of the current run.

    Raises:
        InputError: they are no grades.
    """
    rows = rows.filter(pa.array(positions(rows, base, PAIR) < 0)).filter(pc.is_valid(pc.field(GIVEN)))
    if pa.types.is_floating(rows[GIVEN].type):
        rows = rows.filter(pc.invert(pc.is_nan(pc.field(GIVEN))))
    values = pc.unique(rows[GIVEN])
    if len(values) > MAX_OLD_LABELS:
        raise InputError(f"labels.old_column {name!r}: got {len(values):,} different values, expected grades")
    try:
        labels = grades(name, rows[GIVEN]).cast(pa.int32())
    except ValueError as error:
        raise InputError(f"labels.old_column: {error}") from error
    columns = {"label": labels, "margin": pa.nulls(len(rows)), "content": pa.nulls(len(rows))}
    return pa.table({**{key: rows[key] for key in PAIR}, **columns}).cast(LABELLED)
