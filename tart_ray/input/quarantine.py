"""Bad rows: kept with their reason and origin, never dropped, never guessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.input import json_lines
from tart_ray.input.sources import Source
from tart_ray.tables.printing import printable
from tart_ray.tables.schemas import ORIGIN, QUARANTINE, Rule
from tart_ray.tables.texts import DOCUMENT_COLUMNS

READ, JOIN, SCORE = "read", "join", "score"


@dataclass
class Quarantine:
    """The bad rows that one unit of work met.

    ``overruled``: values of good rows that gave way to those of their ``key=value`` directory.
    """

    stage: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    overruled: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def add(
        self,
        reason: str,
        source: str,
        position: int,
        item: int,
        row: Mapping[str, Any] | None = None,
        raw: bytes | None = None,
    ) -> None:
        """Keep one row: as JSON, or the bytes of a line that could not be decoded."""
        fields = row or {}
        ids = {name: id_text(fields.get(name)) for name in ("query_id", "doc_id")}
        text = None
        if row is not None:
            try:
                text = orjson.dumps(dict(row), default=str).decode()
            except TypeError:  # integers beyond 64 bits, or nested deeper than can be written
                try:
                    text = json_lines.dumps(dict(row))
                except (ValueError, TypeError):
                    raw = repr(row).encode()
        place = {"stage": self.stage, "reason": reason, "source": source, "position": position, "item": item}
        self.rows.append({**place, **ids, "row": text, "raw": raw})

    def add_rows(self, source: Source, table: pa.Table, reasons: Mapping[int, str]) -> None:
        """Keep the rows of ``table`` (which has the columns of `ORIGIN`) that ``reasons`` names by position.

        A text that came from a corpus is left out: the row's document id says which it is, and it may be a long one of
        many bad rows.
        """
        bad = table.take(pa.array(list(reasons), pa.int64()))
        joined = [n for n in DOCUMENT_COLUMNS if n in table.schema.names and n not in source.columns]
        missing = zip(*(pc.is_null(bad[name]).to_pylist() for name in joined), strict=True) if joined else None
        bad = printable(bad.drop_columns(joined))
        shown = [name for name in bad.schema.names if name not in ORIGIN.names]
        for reason, row in zip(reasons.values(), bad.to_pylist(), strict=True):
            origin = source.origin(row["_split"])
            values = {name: row[name] for name in shown}
            if missing is not None:
                values |= {name: None for name, is_missing in zip(joined, next(missing), strict=True) if is_missing}
            objects = values.pop(json_lines.EXTRAS, None)
            values |= json_lines.parse(objects.encode()) if objects else {}
            self.add(reason, origin, row["_position"], row["_item"], values)

    def sift(self, source: Source, table: pa.Table, rules: Sequence[Rule]) -> pa.Table:
        """The rows of ``table`` that no rule condemns; the others are kept here."""
        good, reasons = find_reasons(table, rules)
        if reasons:
            self.add_rows(source, table, reasons)
        return good

    def table(self) -> pa.Table:
        """Rows in the schema `QUARANTINE`."""
        return pa.Table.from_pylist(self.rows, schema=QUARANTINE)


def id_text(value: Any) -> str | None:
    """An id as text: integers are ids too; None for what is no id."""
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else None


def find_reasons(table: pa.Table, rules: Sequence[Rule]) -> tuple[pa.Table, dict[int, str]]:
    """The rows that no rule condemns, and for each other row the first rule's reason, by position."""
    reasons: dict[int, str] = {}
    for mask, reason in rules:
        for position in np.flatnonzero(mask).tolist():
            reasons.setdefault(position, reason)
    if not reasons:
        return table, reasons
    keep = np.ones(len(table), dtype=bool)
    keep[list(reasons)] = False
    return table.filter(pa.array(keep)), dict(sorted(reasons.items()))
