"""Texts of a query and some documents, read again from the input that a manifest names: scores are kept without."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow.compute as pc
from pydantic import ValidationError

from tart_ray.config import InputConfig
from tart_ray.errors import TartRayError
from tart_ray.input.quarantine import READ, Quarantine
from tart_ray.input.readers import read_split
from tart_ray.input.sources import Source
from tart_ray.runs.run import Run
from tart_ray.scores.plan import make_plan
from tart_ray.storage import Storage

LOOKED_THROUGH = 256 << 20  # bytes of an input, about; then nothing more is read for a look


@dataclass(frozen=True)
class Texts:
    """What was found.

    Attributes:
        query: the query's text.
        documents: title and text by document id.
        missing: why texts are not shown, in a sentence; empty if they all are.
    """

    query: str | None = None
    documents: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""


def find_texts(storage: Storage, manifest: Mapping[str, Any], query_id: str, documents: Collection[str]) -> Texts:
    """Read the input of a run until the texts are found.

    Args:
        manifest: of a run that read candidates, or that took its scores over from one.
    """
    try:
        given, identity = _input_of(storage, manifest)
        plan = make_plan(storage, InputConfig.model_validate(given), windows=False)
        if json.loads(json.dumps(plan.identity["input"]["files"])) != identity["input"]["files"]:
            return Texts(missing="texts are not shown: the input has changed since it was read")
        own = _scan(storage, plan.candidates, query_id, documents)
        found = {row["doc_id"]: _document(row) for row in own if row.get("text") is not None}
        query = next((row["query"] for row in own if row.get("query")), None)
        if plan.corpus is not None:
            found = {row["doc_id"]: _document(row) for row in _scan(storage, plan.corpus, None, documents)}
        if plan.queries is not None:
            query = next((row["query"] for row in _scan(storage, plan.queries, query_id, ())), None)
    except (TartRayError, ValidationError) as error:
        return Texts(missing=f"texts are not shown: the input cannot be read: {error}")
    absent = len({*documents} - {*found})
    why = f"the text of {absent} of {len(documents)} is not in the first {LOOKED_THROUGH >> 20} MB of the input"
    return Texts(query, found, why if absent else "")


def _input_of(storage: Storage, manifest: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The configured input of the run that read the candidates, and that run's identity."""
    given = manifest["config"]["input"]
    if given.get("run"):
        return _input_of(storage, Run.at(storage, given["run"], 1).read_manifest())
    identity = manifest["identity"]
    identity = identity.get("scored") or identity.get("scores") or identity
    return {name: value for name, value in given.items() if name != "run"}, identity


def _scan(storage: Storage, source: Source, query_id: str | None, documents: Collection[str]) -> list[dict[str, Any]]:
    """Rows of the query, where one is given, and of these documents, where any are."""
    found: list[dict[str, Any]] = []
    keys = set[Any]()
    bytes_left = float(LOOKED_THROUGH)
    wanted = len(documents) if documents else 1
    for split in source.splits:
        for table in read_split(storage, source, split, Quarantine(READ)):
            rows = table
            if query_id is not None:
                rows = rows.filter(pc.field("query_id") == query_id)
            if documents:
                rows = rows.filter(pc.field("doc_id").isin([*documents]))
            names = [name for name in ("query_id", "query", "doc_id", "title", "text") if name in rows.schema.names]
            for row in rows.select(names).to_pylist():
                key = row["doc_id"] if documents else row["query_id"]
                if key not in keys:  # the first one counts
                    keys.add(key)
                    found.append(row)
        bytes_left -= source.nbytes / len(source.splits)
        if len(keys) == wanted or bytes_left <= 0:
            break
    return found


def _document(row: Mapping[str, Any]) -> str:
    return " ".join(part for part in (row.get("title"), row.get("text")) if part)
