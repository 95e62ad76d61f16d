"""What the input is: its files, format, columns and size, found out before any work; and how it is cut into splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from tart_ray.errors import InputError
from tart_ray.input import cascade, json_lines
from tart_ray.input.columns import MADE_OF, Naming, Shape, other_columns
from tart_ray.input.formats import Format, format_of
from tart_ray.input.inspect_parquet import inspect_parquet
from tart_ray.input.inspect_text import inspect_text
from tart_ray.input.listing import list_files, look_at
from tart_ray.input.splits import Split
from tart_ray.storage import FileInfo, Storage
from tart_ray.tables.schemas import FIELDS, FIELDS_OF_A_CANDIDATE, ORIGIN, Role

MAX_FIELDS = 1_000  # that become columns


@dataclass(frozen=True)
class Source:
    """One input: candidates, queries, a corpus or judgements.

    Attributes:
        columns: our name → their name, of the columns that are there.
        extras: the other columns, carried through.
        rows: pairs, queries or documents; exact for Parquet pairs, else estimated from a sample.
        carried: the names of ``extras`` → their names in the files; of text files both are those that a sample shows,
            until `as_read` says which there are.
        skipped: how many entries of its directory are not read.
        notes: what was left out or changed, in words, for the plan, the log and the report.
        allows_empty_documents: whether a document may be blank, title and text.
        is_cascade: whether it is the output of an earlier run.
        dropped: their names of columns that are left out.
        names: of all columns that were found.
        made_ids: ids that have no column, and are made of the texts.
    """

    role: Role
    url: str
    format: Format
    shape: Shape
    files: tuple[FileInfo, ...]
    columns: Mapping[str, str]
    extras: pa.Schema
    rows: int
    nbytes: int
    splits: tuple[Split, ...] = field(repr=False)
    carried: Mapping[str, str] = field(default_factory=dict)
    skipped: int = 0
    notes: tuple[str, ...] = ()
    allows_empty_documents: bool = False
    is_cascade: bool = False
    dropped: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    made_ids: tuple[str, ...] = ()

    def origin(self, split: int) -> str:
        """The URL of the file that a split is part of."""
        return self.splits[split].file.url

    @property
    def columns_of_a_row(self) -> dict[str, str]:
        """Our name → their name, of what stands beside a list of candidates, or in a pair."""
        inside = FIELDS_OF_A_CANDIDATE if self.shape == "lists" else ()
        return {name: theirs for name, theirs in self.columns.items() if name not in inside}

    @property
    def has_objects(self) -> bool:
        """Whether other columns are carried as objects until all have been read: see `tart_ray.input.json_lines`."""
        return self.role == "candidates" and (self.format == "jsonl" or bool(self.format != "parquet" and self.extras))

    def as_read(self, kinds: Iterable[json_lines.Kinds]) -> Source:
        """The source with the columns that it has, now that every split has been read.

        Args:
            kinds: of the values in each split, as `json_lines.kinds_of` tells.

        Raises:
            InputError: there are too many to be columns.
        """
        if not self.has_objects:
            return self
        kinds_of_fields = json_lines.merge(kinds)
        sampled = [*self.carried.values()]
        names = [*sampled, *(name for name in kinds_of_fields if name not in sampled)]
        carried, notes = other_columns(self.url, names, self.columns_of_a_row, self.carried)
        if len(carried) > MAX_FIELDS:
            raise InputError(
                f"{self.url}: got {len(carried):,} fields beside the known ones, such as {[*carried][:5]}, expected "
                f"{MAX_FIELDS:,} at most: each becomes a column. Put them into one field, as an object"
            )
        types = {name: json_lines.type_of(kinds_of_fields.get(theirs, ())) for name, theirs in carried.items()}
        extras = pa.schema([*types.items()])
        return replace(self, extras=extras, carried=carried, notes=(*self.notes, *notes))


def inspect_source(
    storage: Storage,
    url: str,
    role: Role,
    columns: Naming | Mapping[str, str] | None = None,
    files: Sequence[str] | None = None,
    drop: Sequence[str] = (),
) -> Source:
    """Look at the files without reading the data: listing, Parquet footers, the head of some text files.

    Args:
        columns: our name → their name, where they differ; these must be there, unless a `Naming` says otherwise.
        files: URLs of all files, where they are known; else a listing of ``url`` tells them.
        drop: their names of columns that are left out.

    Raises:
        StorageError: nothing is there.
        InputError: an unknown or mixed format, a missing column, or a column of the wrong type.
    """
    naming = columns if isinstance(columns, Naming) else Naming(named=columns or {})
    if role == "candidates" and files is None:
        cascade.check_run(storage, url)
    listing = list_files(storage, url) if files is None else look_at(storage, files)
    kind = format_of(storage, listing.files, role)
    if kind == "trec" and role not in ("candidates", "qrels"):
        raise InputError(f"{url}: got a TREC run, expected {role} as JSONL, TSV or Parquet")
    if kind == "tsv" and role == "candidates":
        raise InputError(f"{url}: got TSV, expected candidates as Parquet, JSONL or a TREC run (.trec, .run)")
    if kind == "parquet":
        inspection = inspect_parquet(storage, url, role, listing.files, naming, drop)
    else:
        inspection = inspect_text(storage, url, role, kind, listing.files, naming, drop)
    return Source(
        role=role,
        url=url,
        format=kind,
        shape=inspection.shape,
        files=tuple(listing.files),
        columns=inspection.columns,
        extras=inspection.extras,
        rows=inspection.rows,
        nbytes=inspection.nbytes,
        splits=inspection.splits,
        carried=inspection.carried,
        skipped=sum(entries.count for entries in listing.skipped),
        notes=(*listing.notes, *inspection.notes),
        is_cascade=inspection.is_cascade,
        dropped=inspection.dropped,
        names=inspection.names,
        made_ids=tuple(name for name in MADE_OF if name not in inspection.columns) if naming.ids_from_text else (),
    )


def table_schema(source: Source) -> pa.Schema:
    """Columns that reading this source gives: origin, our columns that it has, its other columns or objects of them."""
    ours = [(f.name, f.type) for f in FIELDS[source.role] if f.name in (*source.columns, *source.made_ids)]
    objects = pa.schema([(json_lines.EXTRAS, pa.large_string())])
    return pa.schema([*ORIGIN, *pa.schema(ours), *(objects if source.has_objects else source.extras)])


def notes_of(sources: Mapping[str, Source]) -> dict[str, list[str]]:
    """What was left out or changed of each source, of those where anything was."""
    return {name: [*source.notes] for name, source in sources.items() if source.notes}
