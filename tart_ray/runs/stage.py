"""A stage: units of work that each end in one commit, and what the commit of a unit says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    """What a unit of work did: counts, and the names of what it wrote. JSON where a commit is written and read."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)


def named(name: str) -> Any:
    """A field that has another name in commits."""
    return Field(validation_alias=name, serialization_alias=name)


R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Stage(Generic[R]):
    """Units of work of one kind.

    Attributes:
        name: of the folder of its commits.
        record: what the commit of a unit says.
    """

    name: str
    record: type[R]

    def parse(self, content: dict[str, Any]) -> R:
        """The record that a commit holds."""
        return self.record.model_validate(content)


def total(records: Iterable[Record], field: str) -> int:
    """The sum of a count over records."""
    return sum(getattr(record, field) for record in records)
