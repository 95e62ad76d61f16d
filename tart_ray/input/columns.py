"""The columns of an input: which is which of ours, of what type, and which are carried through."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from tart_ray.errors import InputError
from tart_ray.tables.schemas import (
    CANDIDATES_ALIAS,
    CANDIDATES_COLUMN,
    FIELDS,
    FIELDS_OF_A_CANDIDATE,
    IDS,
    RESERVED,
    Role,
    map_types,
)

Shape = Literal["pairs", "lists"]

MEANINGS = frozenset({CANDIDATES_COLUMN, *(field.name for field in FIELDS["candidates"])})
MADE_OF = {"query_id": "query", "doc_id": "text"}  # what an id without a column is made of
NEEDED = ("query_id", "doc_id", CANDIDATES_COLUMN)


@dataclass(frozen=True)
class Naming:
    """What the configuration says of one input's columns, each as our name → their name.

    ``key``: where it says so. ``role``: what stands before our names there, and a dot, or nothing.
    ``named``: these must be there. ``preferred``: taken where they are there. ``otherwise``: taken where they are there
    and no column goes by our name. ``ids_from_text``: whether ids without a column are made of the texts.
    """

    key: str = "input.columns"
    role: str = ""
    named: Mapping[str, str] = field(default_factory=dict)
    preferred: Mapping[str, str] = field(default_factory=dict)
    otherwise: Mapping[str, str] = field(default_factory=dict)
    ids_from_text: bool = False

    @classmethod
    def of(
        cls,
        columns: Mapping[str, str],
        role: Role,
        key: str = "input.columns",
        *,
        taken: Iterable[str] = (),
        renames: bool = False,
        ids_from_text: bool = False,
    ) -> Naming:
        """The part of a configuration's ``columns`` that is about one role.

        Args:
            columns: the names before the colon may begin with a role: ``corpus.doc_id``.
            taken: names without a role that another input has a column for.
            renames: whether names without a meaning rename this input's other columns.
            ids_from_text: whether ids without a column are made of the texts; a column ``document`` is then a text.
        """
        start = f"{role}."
        free = without_role(columns)
        named = {ours.removeprefix(start): theirs for ours, theirs in columns.items() if ours.startswith(start)}
        if renames:
            named |= {ours: theirs for ours, theirs in free.items() if ours not in MEANINGS}
        known = {field.name for field in FIELDS[role]} | ({CANDIDATES_COLUMN} if role == "candidates" else set())
        otherwise = {ours: theirs for ours, theirs in free.items() if ours in known and ours in taken}
        return cls(
            key,
            start,
            named,
            {ours: theirs for ours, theirs in free.items() if ours in known and ours not in taken},
            {"text": "document", **otherwise} if ids_from_text else otherwise,
            ids_from_text,
        )

    def choose(self, role: Role, names: Collection[str], inner: Collection[str] | None = None) -> dict[str, str]:
        """What applies to an input that has columns of these names.

        Args:
            inner: names of the fields of a candidate, where there are lists of them.
        """

        def place(ours: str) -> Collection[str]:
            return inner if inner is not None and ours in FIELDS_OF_A_CANDIDATE else names

        aliases = {field.name: field.aliases for field in FIELDS[role]}
        needed = {o: t for o, t in self.otherwise.items() if {o, *aliases.get(o, ())}.isdisjoint(place(o))}
        preferred = {o: t for o, t in (needed | dict(self.preferred)).items() if t in place(o)}
        return preferred | dict(self.named)

    def setting(self, ours: str, theirs: str) -> str:
        """The setting that gives a column its name, as it stands in the configuration."""
        has_role = ours in self.named and ours in MEANINGS
        return f"{self.key} says {self.role if has_role else ''}{ours}: {theirs}"


def without_role(columns: Mapping[str, str]) -> dict[str, str]:
    """The names of columns that do not say whose they are."""
    return {ours: theirs for ours, theirs in columns.items() if ours.partition(".")[0] not in FIELDS or "." not in ours}


def check_used(
    key: str, columns: Mapping[str, str], available: Mapping[str, tuple[Mapping[str, str], Iterable[str]]]
) -> None:
    """Refuse names with a meaning that no input has a column for.

    Args:
        columns: what the configuration says under ``key``, names with a role left out of account.
        available: of each input our name → their name, of the columns that were found, and all of its names.

    Raises:
        InputError: one is not used.
    """
    known = MEANINGS.union(*(columns_of_input for columns_of_input, _ in available.values()))
    for ours, theirs in without_role(columns).items():
        if ours not in known:  # another name for a column without a meaning
            continue
        if all(columns_of_input.get(ours) != theirs for columns_of_input, _ in available.values()):
            names_of_each = "; ".join(f"{source}: {sorted(names)}" for source, (_, names) in available.items())
            raise InputError(f"{key} says {ours}: {theirs}, available: {names_of_each}")


def candidates_column(role: Role, names: set[str], columns: Mapping[str, str]) -> str | None:
    """Their name of the column of lists of candidates; None where the rows are pairs."""
    if role != "candidates":
        return None
    named = columns.get(CANDIDATES_COLUMN)
    return next((name for name in ([named] if named else [CANDIDATES_COLUMN, CANDIDATES_ALIAS]) if name in names), None)


def map_columns(
    url: str, role: Role, shape: Shape, names: set[str], columns: Mapping[str, str], naming: Naming
) -> dict[str, str]:
    """Our name → their name, of the columns beside a list of candidates, or of all where there is none."""
    mapped = {}
    known = [field.name for field in FIELDS[role]] + ([CANDIDATES_COLUMN] if shape == "lists" else [])
    alias_of_lists = (CANDIDATES_ALIAS,) if shape == "lists" else ()
    known = [name for name in known if shape == "pairs" or name not in FIELDS_OF_A_CANDIDATE]
    claimed = {columns[name] for name in known if name in columns}
    for ours in known:
        theirs = columns.get(ours)
        if theirs is not None and theirs not in names:
            raise InputError(f"{url}: {naming.setting(ours, theirs)}, available: {sorted(names)}")
        aliases = next((f.aliases for f in FIELDS[role] if f.name == ours), alias_of_lists)
        chosen = theirs or next((name for name in (ours, *aliases) if name in names - claimed), None)
        if chosen is not None:
            mapped[ours] = chosen
    return mapped


def map_candidate(url: str, names: set[str], columns: Mapping[str, str], naming: Naming) -> dict[str, str]:
    """Our name → their name, of the fields of the objects in a list of candidates."""
    missing = {ours: columns[ours] for ours in FIELDS_OF_A_CANDIDATE if ours in columns and columns[ours] not in names}
    if missing:
        raise InputError(f"{url}: {naming.key} says {missing}, available in each candidate: {sorted(names)}")
    named = {ours: columns[ours] for ours in FIELDS_OF_A_CANDIDATE if ours in columns}
    unnamed = (name for name in FIELDS_OF_A_CANDIDATE if name in names - {*named.values()} and name not in named)
    return named | {name: name for name in unnamed}


def check_needed(url: str, role: Role, mapped: Mapping[str, str], names: set[str], naming: Naming) -> None:
    """Refuse an input without a column that it needs, and say how theirs can be named.

    Raises:
        InputError: there is none.
    """
    needed = {"candidates": ("query_id", "doc_id"), "queries": ("query_id", "query"), "corpus": ("doc_id", "text")}
    missing = [name for name in needed.get(role, ("query_id", "doc_id", "relevance")) if name not in mapped]
    if naming.ids_from_text:
        missing = [name for name in missing if MADE_OF[name] not in mapped]
    for ours in missing:
        if ours in naming.preferred:
            raise InputError(f"{url}: {naming.setting(ours, naming.preferred[ours])}, available: {sorted(names)}")
    if missing:
        accepted = {field.name: field.aliases for field in FIELDS[role] if field.name in missing and field.aliases}
        understood = "".join(f"; {name} may also be {', '.join(aliases)}" for name, aliases in accepted.items())
        raise InputError(
            f"{url}: {role}: missing column {', '.join(missing)}; available: {sorted(names)}; "
            f"name theirs in {naming.key}, as in {{{role}.{missing[0]}: THEIR_NAME}}{understood}"
            f"{_without_ids(role, naming)}"
        )


def _without_ids(role: Role, naming: Naming) -> str:
    """What to do about candidates that have no ids, for the end of a message."""
    if role != "candidates" or naming.key != Naming.key:  # such as a TREC run of jobs.evaluate
        return ""
    if naming.ids_from_text:
        made = ", ".join(f"{ours} of {theirs}" for ours, theirs in MADE_OF.items())
        return f"; input.ids: from_text makes {made}, where the candidates have these"
    return "; or let input.ids: from_text make ids of the candidates' texts"


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


def with_keys(record: dict[str, Any], keys: Iterable[tuple[str, str | None]]) -> tuple[dict[str, Any], int]:
    """A record of a text file with the values of its ``key=value`` directories, and how many of its own give way.

    As pyarrow, DuckDB, polars and Spark do, the directory is believed. What it says is of the type of the record's own
    value, where it can be.
    """
    merged, overruled = dict(record), 0
    for key, value in keys:
        of_file = record.get(key)
        merged[key] = value if of_file is None or value is None else _like(of_file, value)
        overruled += of_file is not None and merged[key] != of_file
    return merged, overruled


def _like(own: Any, value: str) -> Any:
    try:
        if isinstance(own, bool):
            return {"true": True, "false": False}.get(value.lower(), value)
        return type(own)(value) if isinstance(own, int | float) else value
    except ValueError:
        return value
