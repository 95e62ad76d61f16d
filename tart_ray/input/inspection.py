"""What looking at the files of an input shows, and which of its columns are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from tart_ray.input import cascade
from tart_ray.input.columns import Naming, Shape, candidates_column, check_dropped, map_columns
from tart_ray.input.splits import Split
from tart_ray.tables.schemas import Role


@dataclass(frozen=True)
class Inspection:
    """What the files show; its attributes are those of `tart_ray.input.sources.Source`."""

    shape: Shape
    columns: Mapping[str, str]
    extras: pa.Schema
    rows: int
    nbytes: int
    splits: tuple[Split, ...]
    carried: Mapping[str, str]
    notes: tuple[str, ...]
    is_cascade: bool
    dropped: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Choice:
    """What is done with the columns of an input.

    Attributes:
        columns: our name → their name.
        dropped: their names of those that are left out.
        notes: what the user should know of it.
        is_cascade: whether the input is the output of an earlier run.
    """

    columns: Mapping[str, str]
    dropped: tuple[str, ...]
    notes: tuple[str, ...] = ()
    is_cascade: bool = False


def choose_columns(
    url: str, role: Role, names: set[str], columns: Mapping[str, str], drop: Sequence[str], naming: Naming
) -> Choice:
    """What is configured, checked; the output of an earlier run is a first stage, with its margin as the score.

    Args:
        names: of all columns that were found.
        columns: our name → their name, as far as it is configured.

    Raises:
        InputError: a column is to be left out that is needed, or that is not there.
    """
    if role != "candidates":
        return Choice(columns, tuple(drop))
    shape: Shape = "pairs" if candidates_column(role, names, columns) is None else "lists"
    check_dropped(url, drop, names, map_columns(url, role, shape, names, columns, naming), columns)
    if not cascade.is_output(names) or cascade.FIRST_STAGE in drop or "score" in columns:
        return Choice(columns, tuple(drop))
    replaced = sorted((cascade.REPLACED & names) - {*drop} - {*columns.values()})
    note = f"the output of an earlier run: its margin is the score of the first stage; left out: {', '.join(replaced)}"
    return Choice({**columns, "score": cascade.FIRST_STAGE}, (*drop, *replaced), (note,), is_cascade=True)
