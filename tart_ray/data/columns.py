"""The columns of an input: which is which of ours, of what type, and which are carried through."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import orjson
import pyarrow as pa

from tart_ray.data.listing import InputError
from tart_ray.data.schema import (
    CANDIDATES_ALIAS,
    CANDIDATES_COLUMN,
    FIELDS,
    FIELDS_OF_A_CANDIDATE,
    IDS,
    QRELS_FIELDS,
    RESERVED,
    Role,
    map_types,
)

Shape = Literal["pairs", "lists"]

MEANINGS = frozenset({CANDIDATES_COLUMN, *(field.name for field in FIELDS["candidates"])})
NEEDED = ("query_id", "doc_id", CANDIDATES_COLUMN)


def candidates_column(role: Role, names: set[str], columns: Mapping[str, str]) -> str | None:
    """Their name of the column of lists of candidates; None where the rows are pairs."""
    if role != "candidates":
        return None
    named = columns.get(CANDIDATES_COLUMN)
    return next((name for name in ([named] if named else [CANDIDATES_COLUMN, CANDIDATES_ALIAS]) if name in names), None)


def map_columns(url: str, role: Role, shape: Shape, names: set[str], columns: Mapping[str, str]) -> dict[str, str]:
    mapped = {}
    known = [field.name for field in FIELDS[role]] + ([CANDIDATES_COLUMN] if shape == "lists" else [])
    alias_of_lists = (CANDIDATES_ALIAS,) if shape == "lists" else ()
    known = [name for name in known if shape == "pairs" or name not in FIELDS_OF_A_CANDIDATE]
    claimed = {columns[name] for name in known if name in columns}
    for ours in known:
        theirs = columns.get(ours)
        if theirs is not None and theirs not in names:
            raise InputError(f"{url}: input.columns says {ours}: {theirs}, available: {sorted(names)}")
        aliases = next((f.aliases for f in FIELDS[role] if f.name == ours), alias_of_lists)
        found = theirs or next((name for name in (ours, *aliases) if name in names - claimed), None)
        if found is not None:
            mapped[ours] = found
    return mapped


def map_candidate(url: str, names: set[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Our name → their name, of the fields of the objects in a list of candidates."""
    missing = {ours: columns[ours] for ours in FIELDS_OF_A_CANDIDATE if ours in columns and columns[ours] not in names}
    if missing:
        raise InputError(f"{url}: input.columns says {missing}, available in each candidate: {sorted(names)}")
    named = {ours: columns[ours] for ours in FIELDS_OF_A_CANDIDATE if ours in columns}
    own = (name for name in FIELDS_OF_A_CANDIDATE if name in names - {*named.values()} and name not in named)
    return named | {name: name for name in own}


def check_needed(url: str, role: Role, mapped: Mapping[str, str], names: set[str]) -> None:
    needed = {"candidates": ("query_id", "doc_id"), "queries": ("query_id", "query"), "corpus": ("doc_id", "text")}
    missing = [name for name in needed.get(role, ("query_id", "doc_id", "relevance")) if name not in mapped]
    if missing:
        advice = "name theirs in input.columns (our name: their name)"
        if role == "qrels":
            accepted = {field.name: list(field.aliases) for field in QRELS_FIELDS}
            advice = f"rename it; names that are understood: {accepted}"
        raise InputError(f"{url}: {role}: missing column {', '.join(missing)}; available: {sorted(names)}; {advice}")


def check_type(url: str, role: Role, ours: str, theirs: str, got: pa.DataType) -> None:
    if pa.types.is_null(got):
        return
    integer = pa.types.is_integer(got)
    number = integer or pa.types.is_floating(got) or pa.types.is_decimal(got)
    text = pa.types.is_string(got) or pa.types.is_large_string(got)
    fits, expected = text, "string"
    if ours == "score":
        fits, expected = number, "a number"
    elif ours == "relevance":
        fits, expected = number, "integer"  # each value is looked at when it is read
    elif ours in IDS:
        fits, expected = text or integer, "string or integer"
    if not fits:
        raise InputError(f"{url}: {role}: column {theirs!r}: got {got}, expected {expected}; cast it first")


def candidate_struct(url: str, name: str, got: pa.DataType) -> pa.Schema:
    """The fields of a candidate in a list of candidates; a list of plain ids has their ``doc_id`` alone."""
    inner = got.value_type if pa.types.is_list(got) or pa.types.is_large_list(got) else pa.null()
    if is_id(inner):
        return pa.schema([("doc_id", inner)])
    if not pa.types.is_struct(inner):
        raise InputError(
            f"{url}: column {name!r}: got {got}, expected list<struct<doc_id, text, title?, score?>>, "
            "or a list of document ids"
        )
    return pa.schema(list(inner))


def as_candidate(item: Any) -> Any:
    """A candidate of a list in JSON as an object: plain ids name documents."""
    is_plain = isinstance(item, str | int) and not isinstance(item, bool)
    return {"doc_id": item} if is_plain else item


def is_id(kind: pa.DataType) -> bool:
    """Whether values of this type can be ids."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind))


def other_columns(
    url: str, names: Sequence[str], mapped: Mapping[str, str], columns: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """What the columns without a meaning here are called in the output: name → their name, and what to tell of it.

    A name that the output needs gets the prefix ``input_``, as often as that takes. Names that differ by case alone are
    one to Spark and DuckDB.

    Args:
        names: of all columns, in order, without those that are left out.
        mapped: our name → their name, of those with a meaning.
        columns: the same as configured, with names for other columns, too.

    Raises:
        InputError: a configured name is taken, or their column is not there.
    """
    asked = {name: theirs for name, theirs in columns.items() if name not in MEANINGS}
    taken = {name.lower(): "that name has a meaning here" for name in RESERVED}
    for name, theirs in asked.items():
        if theirs not in names:
            raise InputError(f"{url}: input.columns says {name}: {theirs}, available: {sorted(names)}")
        if name.lower() in taken:
            raise InputError(f"{url}: input.columns says {name}: {theirs}, but {taken[name.lower()]}; give it another")
        taken[name.lower()] = f"{theirs!r} is given that name"
    given, notes = {theirs: name for name, theirs in asked.items()}, []
    others = [name for name in names if name not in mapped.values() and name not in given]
    for name in others:
        if name.lower() not in taken:
            given[name] = name
            taken[name.lower()] = f"another column is called {name!r}"
    for theirs in others:
        if theirs not in given:
            name = theirs
            while name.lower() in taken:
                name = f"input_{name}"
            notes.append(f"column {theirs!r} is carried as {name!r}: {taken[theirs.lower()]}")
            given[theirs] = name
            taken[name.lower()] = f"another column is called {name!r}"
    renamed = [(name, theirs) for name, theirs in asked.items() if theirs not in others]
    return dict(renamed) | {given[theirs]: theirs for theirs in others}, notes


def check_dropped(
    url: str, dropped: Sequence[str], names: Collection[str], mapped: Mapping[str, str], columns: Mapping[str, str]
) -> None:
    """Refuse to leave out what is not there, or what is needed.

    Args:
        mapped: our name → their name, before anything is left out.

    Raises:
        InputError: it is.
    """
    unknown = sorted({*dropped} - {*names})
    if unknown:
        raise InputError(f"{url}: input.drop_columns: got {unknown}, available: {sorted(names)}")
    needed = {theirs: ours for ours, theirs in mapped.items() if ours in NEEDED or ours in columns}
    needed |= {theirs: ours for ours, theirs in columns.items()}
    kept = {theirs: needed[theirs] for theirs in dropped if theirs in needed}
    if kept:
        raise InputError(f"{url}: input.drop_columns: got {sorted(kept)}, needed as {sorted(kept.values())}")


def without_nulls(extras: Iterable[pa.Field]) -> pa.Schema:
    """The schema of columns that are carried through."""
    return pa.schema([(field.name, map_types(field.type, _without_null)) for field in extras])


def _without_null(kind: pa.DataType) -> pa.DataType:
    """What is null in every file: as text, since readers trip over the type null, and pyarrow (26) itself in take()."""
    return pa.string() if pa.types.is_null(kind) else kind


def json_type(values: Iterable[Any]) -> pa.DataType:
    """Type of a JSON column from sampled values: nested or mixed values are carried as JSON text."""
    kinds = {type(value) for value in values if value is not None}
    simple = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    if len(kinds) == 1 and (kind := kinds.pop()) in simple:
        return simple[kind]
    return pa.float64() if kinds == {int, float} else pa.large_string()


def with_keys(record: dict[str, Any], keys: Iterable[tuple[str, str | None]]) -> tuple[dict[str, Any], int]:
    """A record of a text file with the values of its ``key=value`` directories, and how many of its own give way.

    As pyarrow, DuckDB, polars and Spark do, the directory is believed. What it says is of the type of the record's own
    value, where it can be.
    """
    found, overruled = dict(record), 0
    for key, value in keys:
        own = record.get(key)
        found[key] = value if own is None or value is None else _like(own, value)
        overruled += own is not None and found[key] != own
    return found, overruled


def _like(own: Any, value: str) -> Any:
    try:
        if isinstance(own, bool):
            return {"true": True, "false": False}.get(value.lower(), value)
        return type(own)(value) if isinstance(own, int | float) else value
    except ValueError:
        return value


def json_value(value: Any, kind: pa.DataType) -> Any:
    """A JSON value as a column of the type that `inspect_source` gave it.

    Raises:
        ValueError: it is of another type.
    """
    if value is None:
        return None
    if pa.types.is_large_string(kind):
        try:
            return value if isinstance(value, str) else orjson.dumps(value).decode()
        except TypeError as error:  # nested deeper than can be written
            raise ValueError(str(error)) from error
    expected: tuple[Any, ...] = {pa.bool_(): (bool,), pa.int64(): (int,), pa.float64(): (int, float)}[kind]
    if not isinstance(value, expected) or (isinstance(value, bool) and expected != (bool,)):
        raise ValueError(f"got {type(value).__name__} {value!r}, expected {kind}")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"got {value}, which does not fit {kind}")
    return float(value) if kind == pa.float64() else value  # Arrow refuses integers that a double would round
