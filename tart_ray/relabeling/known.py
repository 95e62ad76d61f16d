"""What earlier runs know of pairs: their scores, who scored them and when, and a key of what was scored."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.relabeling.labels import LABEL, PAIR
from tart_ray.tables.keys import positions
from tart_ray.tables.schemas import SCORES

CONTENT = pa.field("content", pa.string())
SCORED_BY = pa.field("scored_by", pa.string())  # id of the run that scored the pair, or the path of a jobs.rerank
SCORED_AT = pa.field("scored_at", pa.timestamp("ms", "UTC"))  # when that run began
NUMBERS = pa.schema([SCORES.field(name) for name in ("score", "margin", "tokens", "truncated")])
SCORED = pa.schema([*(SCORES.field(name) for name in PAIR), *NUMBERS])
RESULT = pa.schema([*NUMBERS, SCORED_BY, SCORED_AT])
IS_BASE = pa.field("is_base", pa.bool_())  # whether a row is one of the current run
KNOWN = pa.schema([*(SCORES.field(name) for name in PAIR), CONTENT, *RESULT, LABEL, IS_BASE])


@dataclass(frozen=True)
class Provenance:
    """Who scored pairs.

    Attributes:
        run: its id, or the path of a jobs.rerank.
        began: when it did.
    """

    run: str
    began: datetime

    @classmethod
    def of(cls, run: str, created: float) -> Provenance:
        """Of a run whose manifest was written at a time in seconds since 1970."""
        return cls(run, datetime.fromtimestamp(created, UTC))

    def sign(self, scores: pa.Table) -> pa.Table:
        """The scores with columns that say this of each."""
        for field, value in ((SCORED_BY, self.run), (SCORED_AT, self.began)):
            scores = scores.append_column(field, pa.repeat(pa.scalar(value, field.type), len(scores)))
        return scores


@dataclass(frozen=True)
class KnownTable:
    """A table with scores of an earlier run; as text, ``<run>.<kind>.<name>``.

    Attributes:
        run: its id.
        kind: ``bucket`` of its label set, or ``chunk`` that it scored before it was interrupted.
        name: of the bucket or the chunk.
    """

    run: str
    kind: str
    name: str

    @classmethod
    def parse(cls, text: str) -> KnownTable:
        """The table that a text names."""
        return cls(*text.split("."))

    def __str__(self) -> str:
        return f"{self.run}.{self.kind}.{self.name}"


def as_known(scores: pa.Table, *, is_base: bool) -> pa.Table:
    """Signed scores as `KNOWN`; labels are null where they have none."""
    if LABEL.name not in scores.schema.names:
        scores = scores.append_column(LABEL, pa.nulls(len(scores), LABEL.type))
    return scores.append_column(IS_BASE, pa.repeat(pa.scalar(is_base), len(scores))).select(KNOWN.names).cast(KNOWN)


def with_results(rows: pa.Table, known: pa.Table, at: pa.Array) -> pa.Table:
    """Rows with the columns of `RESULT`, as ``known`` has them at these positions, where they have no such yet."""
    taken = known.select(RESULT.names).take(at)
    for field in RESULT:
        if field.name in rows.schema.names:
            index = rows.schema.get_field_index(field.name)
            rows = rows.set_column(index, field, pc.coalesce(rows[field.name], taken[field.name]))
        else:
            rows = rows.append_column(field, taken[field.name])
    return rows


def find(rows: pa.Table, known: pa.Table, *keys: str) -> pa.Array:
    """Where each row stands in ``known``, by its pair and these columns; null for nowhere."""
    at = positions(rows, known, (*PAIR, *keys))
    return pa.array(at, mask=at < 0)
