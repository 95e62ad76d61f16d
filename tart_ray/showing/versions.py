"""Versions of labels: which there are, and how any two of them differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from tart_ray.errors import ConfigurationError
from tart_ray.relabeling.labels import LABELLED, Diff, diff
from tart_ray.relabeling.stages import LABEL_PAIRS
from tart_ray.runs.run import Run
from tart_ray.runs.versions import Versions
from tart_ray.scores.prepare import unit_names
from tart_ray.showing.state import Condition, Seen, look

EXAMPLES = 3  # pairs that are shown of each kind of difference


@dataclass(frozen=True)
class Version:
    """One version.

    Attributes:
        role: current, left (a person switched away from it), held back, or what else it is; empty for an old one.
        nbytes: of all its files.
    """

    seen: Seen
    role: str
    nbytes: int

    @property
    def id(self) -> str:
        """Of its run."""
        return self.seen.run.path.rpartition("/")[2]

    @property
    def counts(self) -> Mapping[str, int]:
        """Of its report; empty without one."""
        counts: Mapping[str, int] = (self.seen.report or {}).get("counts", {})
        return counts


@dataclass
class Comparison:
    """How the labels of one version differ from those of another.

    Attributes:
        counts: pairs that are unchanged, changed, new, gone.
        flips: pairs in both by (old label, new label), the unchanged ones included.
        examples: rows of `tart_ray.relabeling.labels.DIFF`, a few of each kind.
    """

    old: str
    new: str
    counts: Counter[str] = field(default_factory=Counter)
    flips: Counter[tuple[int, int]] = field(default_factory=Counter)
    examples: list[dict[str, Any]] = field(default_factory=list)

    def add(self, found: Diff) -> None:
        """Count the differences of a part."""
        self.counts.update(found.counts)
        self.flips.update(found.flips)
        shown = Counter(map(_kind, self.examples))
        for row in found.rows.to_pylist():
            if shown[_kind(row)] < EXAMPLES:
                shown[_kind(row)] += 1
                self.examples.append(row)


def versions_of(versions: Versions) -> list[Version]:
    """All versions that have begun, by number."""
    current = versions.current()

    def role(id_: str, seen: Seen) -> str:
        if current and id_ == current.run:
            return "current"
        if seen.condition is Condition.OVER_LIMITS:
            return "held back"
        if seen.condition is not Condition.FINISHED:
            return seen.condition.name.lower()
        return "left" if current and id_ in current.left else ""

    seen = {id_: look(versions.run(id_).opened()) for id_ in versions.ids()}
    return [Version(of, role(id_, of), versions.storage.size(of.run.path)) for id_, of in seen.items()]


def compare(versions: Versions, old: str | None = None, new: str | None = None) -> Comparison:
    """Compare the labels of two finished versions pair by pair; those of the last two where none are named.

    Their buckets are compared one by one where both have as many, and all at once where not.

    Raises:
        ConfigurationError: one is not there, or not finished.
    """
    complete = [id_ for id_ in versions.ids() if versions.run(id_).opened().is_complete()]
    if old is None or new is None:
        if len(complete) < 2:
            raise ConfigurationError(f"{versions.path}: got finished versions {complete}, expected two to compare")
        old, new = complete[-2:]
    for id_ in (old, new):
        if id_ not in complete:
            raise ConfigurationError(f"{versions.path}: got version {id_!r}, finished ones: {complete}")
    found = Comparison(old, new)
    runs = [versions.run(id_).opened() for id_ in (old, new)]
    buckets = [run.read_manifest()["identity"]["scores"]["plan"]["query_buckets"] for run in runs]
    parts = [_labels(run, number) for run, number in zip(runs, buckets, strict=True)]
    if buckets[0] != buckets[1]:
        parts = [iter([pa.concat_tables(tables)]) for tables in parts]
    for before, after in zip(*parts, strict=True):
        found.add(diff(before, after))
    return found


def _kind(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["status"], row["old_label"], row["new_label"]


def _labels(run: Run, buckets: int) -> Iterator[pa.Table]:
    """`LABELLED` of a finished version, bucket by bucket; its commits tell which files there are."""
    for unit in run.records(LABEL_PAIRS, unit_names(buckets)):
        yield run.read_table("scores", f"{unit}.parquet", columns=LABELLED.names).select(LABELLED.names).cast(LABELLED)
