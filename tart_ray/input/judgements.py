"""Whether judgements are about what is scored, found out before any work.

Only ids and grades are read, and only until they fit, which where they do is at once. What cannot be settled within
`ROWS_AT_MOST` and `BYTES_AT_MOST` is not refused.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tart_ray.errors import InputError
from tart_ray.input import json_lines
from tart_ray.input.parquet_files import is_damage
from tart_ray.input.quarantine import READ, Quarantine
from tart_ray.input.readers import read_split
from tart_ray.input.sources import Source
from tart_ray.input.splits import Split
from tart_ray.storage import Storage, explained
from tart_ray.tables.schemas import CANDIDATES_COLUMN, IDS

ROWS_AT_MOST = 2_000_000  # of each side
BYTES_AT_MOST = 256 << 20  # of files that cannot be read by the column
ROWS_AT_ONCE = 65_536
EXAMPLES = 3

Id = Literal["query_id", "doc_id"]
WORDS: dict[Id, str] = {"query_id": "queries", "doc_id": "documents"}


def check_ids(
    storage: Storage, qrels: Source, scored: Sequence[Source], key: str, min_relevance: int, name: Id = "query_id"
) -> str | None:
    """Refuse judgements of which none that is relevant is about a query, or a document, that is there.

    Args:
        scored: where the ids are: candidates, or, for documents, the corpus too.
        key: of the configuration, that names the judgements.
        min_relevance: what is judged lower is irrelevant.

    Returns:
        A warning where none was found and not all could be read; else None.

    Raises:
        InputError: there is none, with examples of both sides.
    """
    judged, others = _Reader(storage, [qrels], [name, "relevance"]), _Reader(storage, scored, [name])
    relevant: set[str] = set()
    there: set[str] = set()
    judgements = 0
    while judged.more or others.more:  # in turn, so that whichever is long is not read further than need be
        for table in judged.read():
            judgements += len(table)
            relevant.update(table.filter(pc.greater_equal(table["relevance"], min_relevance))[name].to_pylist())
        for table in others.read():
            there.update(pc.unique(table[name]).to_pylist())
        if not relevant.isdisjoint(there):
            return None
    place, what = f"{key} {qrels.url}", WORDS[name]
    if judged.complete and not relevant:
        raise InputError(f"{place}: none of its {judgements:,} judgements is at least {min_relevance} (min_relevance)")
    where = " and the ".join(source.role for source in scored)
    examples = f"judged {sorted(relevant)[:EXAMPLES]}, in the {where} {sorted(there)[:EXAMPLES]}"
    if judged.complete and others.complete:
        raise InputError(
            f"{place}: none of the {len(relevant):,} {what} in relevant judgements is among the {len(there):,} of the "
            f"{where}. Ids: {examples}; expected some that both have: are these the judgements of this collection and "
            "split?"
        )
    return f"{place}: no {name} was found that is in the {where} too, and not all were looked at; {examples}"


def check_grades(
    storage: Storage, source: Source, key: str, min_relevance: int, *, of_each: int, column: str | None = None
) -> None:
    """Refuse judgements with too few relevant ones, or too few irrelevant ones.

    Args:
        source: judgements; or candidates, whose ``column`` holds numbers or booleans, null where nothing is known.
        key: of the configuration, that names the judgements.
        of_each: how many are needed of either kind; 0: one that is relevant.

    Raises:
        InputError: there are fewer, all of them counted.
    """
    name = column or "relevance"
    judged = _Reader(storage, [source], [name])
    grades: Counter[float] = Counter()
    while judged.more:
        for table in judged.read():
            grades.update(pc.drop_null(table[name]).to_pylist())
        fraction = next((grade for grade in grades if isinstance(grade, str) or grade % 1), None)
        if fraction is not None:
            raise InputError(f"{key} {name}: got {fraction}, expected integers")
        relevant = sum(number for grade, number in grades.items() if grade >= min_relevance)
        irrelevant = sum(grades.values()) - relevant
        if relevant >= max(of_each, 1) and irrelevant >= of_each:
            return
    if judged.complete:
        wanted = f"{of_each} or more of each" if of_each else "a relevant one"
        most = ", ".join(f"{grade} ({number:,} times)" for grade, number in grades.most_common(5)) or "none at all"
        raise InputError(
            f"{key} {column or source.url}: got {relevant:,} relevant and {irrelevant:,} irrelevant judgements, "
            f"expected {wanted}; relevant is at least {min_relevance} (min_relevance), and the grades are {most}"
        )


class _Reader:
    """Some columns of sources, read a table at a time; rows without an id are left out.

    ``more``: whether there may be more to read; ``complete``: whether all was read.
    """

    def __init__(self, storage: Storage, sources: Sequence[Source], columns: list[str]) -> None:
        self._storage, self._columns = storage, columns
        self._tables = itertools.chain.from_iterable(map(self._read, sources))
        self._rows = self._bytes = 0
        self._skipped = False
        self.more = True
        self.complete = False

    def read(self) -> Iterator[pa.Table]:
        """The next table, if there is one."""
        if not self.more:
            return
        table = next(self._tables, None)
        if table is None:
            self.more, self.complete = False, not self._skipped
            return
        self._rows += len(table)
        self.more = self._rows < ROWS_AT_MOST and self._bytes < BYTES_AT_MOST
        for name in self._columns:
            column = table[name]
            if name in IDS:
                column = column.cast(pa.large_string())
            elif pa.types.is_boolean(column.type):
                column = column.cast(pa.int8())
            elif pa.types.is_floating(column.type):
                column = pc.if_else(pc.is_nan(column), None, column)
            table = table.set_column(table.schema.get_field_index(name), name, column)
        yield table.filter(pc.is_valid(table[self._columns[0]]))

    def _read(self, source: Source) -> Iterator[pa.Table]:
        nested = source.shape == "lists" and "doc_id" in self._columns
        if source.format != "parquet" or nested:
            return self._read_rows(source)
        return self._read_columns(source)

    def _read_rows(self, source: Source) -> Iterator[pa.Table]:
        kept = {*IDS, CANDIDATES_COLUMN, *self._columns}
        ours = {name: theirs for name, theirs in source.columns.items() if name in kept}
        extras = pa.schema([field for field in source.extras if field.name in self._columns])
        narrow = source if source.has_objects else dataclasses.replace(source, columns=ours, extras=extras)
        for split in source.splits:
            self._bytes += source.nbytes // len(source.splits)
            for table in read_split(self._storage, narrow, split, Quarantine(READ)):
                yield self._expanded(source, table).select(self._columns)

    def _expanded(self, source: Source, table: pa.Table) -> pa.Table:
        """The table with the columns that are wanted, also where they are still fields of objects."""
        if json_lines.EXTRAS not in table.schema.names:
            return table
        kinds = json_lines.kinds_of(json_lines.objects_of(table))
        wanted = {name: source.carried[name] for name in self._columns if name not in table.schema.names}
        types = pa.schema([(name, json_lines.type_of(kinds.get(theirs, ()))) for name, theirs in wanted.items()])
        return json_lines.expand(table, types, wanted)

    def _read_columns(self, source: Source) -> Iterator[pa.Table]:
        for split in source.splits:
            with explained("read", split.file.url):
                try:
                    with self._storage.open(split.file) as handle:
                        yield from self._batches(source, split, pq.ParquetFile(handle))
                except (pa.ArrowException, OSError) as error:
                    if not is_damage(error):
                        raise
                    self._skipped = True  # goes to quarantine when it is read in earnest

    def _batches(self, source: Source, split: Split, file: pq.ParquetFile) -> Iterator[pa.Table]:
        theirs = {ours: source.columns.get(ours, ours) for ours in self._columns}
        present = [name for name in theirs.values() if name in file.schema_arrow.names]
        of_path = dict(split.file.keys)
        for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=range(split.start, split.end), columns=present):
            yield pa.table(
                {
                    ours: batch[name] if name in present else pa.array([of_path.get(name)] * len(batch), pa.string())
                    for ours, name in theirs.items()
                }
            )
