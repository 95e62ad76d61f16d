"""What became of a run, and its report: report.json, and the page that a person opens."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tart_ray.config import LimitsConfig
from tart_ray.reports import wording
from tart_ray.reports.figures import Figures, Table, as_json, evenly
from tart_ray.reports.page import Page, render
from tart_ray.reports.ranks import snippet
from tart_ray.runs.bad_rows import by_reason, content_of
from tart_ray.runs.balance import Balance
from tart_ray.runs.run import Run
from tart_ray.version import __version__

QUARANTINE_FILES = 20  # that the page's rows in quarantine are read from, at most
STARTING = 60  # seconds: a run that is older than its driver by more was begun by an earlier one


class Config(Protocol):
    """The configuration of any job."""

    @property
    def limits(self) -> LimitsConfig:
        """When a run gives up."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """As JSON, with secrets masked."""

    def changed(self) -> dict[str, Any]:
        """What differs from the defaults, by the keys of YAML."""


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        job: its name.
        config: of the job.
        counts: rows by what became of them; ``read`` and ``quarantined`` among them.
        balances: how they reconcile.
        report: what ``report.json`` says beside what it says of every job.
        told: sentences for the page: what was done, with which model and instruction, and what came of it.
        figures: of the page and of report.json, by the heading of their section.
        facts: more of the page, by name.
        notes: what was left out or changed of each input.
        warnings: sentences about what may be wrong.
        remarks: sentences about what is good to know of the results.
        held: why too many labels changed, if they did.
    """

    job: str
    config: Config
    counts: Mapping[str, int]
    balances: Sequence[Balance]
    report: Mapping[str, Any] = field(default_factory=dict)
    told: Sequence[str] = ()
    figures: Figures = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    remarks: Sequence[str] = ()
    held: str | None = None

    @property
    def summary(self) -> str:
        """How the counts reconcile, in a sentence."""
        return "; ".join(map(str, self.balances))


def conclude(run: Run, outcome: Outcome, seconds: Mapping[str, float], began: float) -> tuple[dict[str, Any], str]:
    """report.json and the page of a run that has ended.

    Args:
        seconds: spent in each part of the work.
        began: when this driver did, in seconds since 1970.
    """
    quarantine, remarks = _quarantine(run), [*outcome.remarks]
    if bad := outcome.counts["quarantined"]:
        remarks.insert(0, f"{wording.share(bad, outcome.counts['read'])} rows of the input are in quarantine.")
    figures = {**outcome.figures, **({"Quarantine": [quarantine]} if quarantine else {})}
    report = {
        "job": outcome.job,
        "tart_ray": __version__,
        "counts": dict(outcome.counts),
        **outcome.report,
        "figures": as_json(figures),
        "seconds": seconds,
        "notes": outcome.notes,
        "warnings": list(outcome.warnings),
        "remarks": remarks,
        "config": outcome.config.model_dump(mode="json"),
    }
    notes = {name: " ".join(found) for name, found in outcome.notes.items() if found}
    page = Page(
        job=outcome.job,
        lead=" ".join([_when(run, outcome.job, began), *outcome.told, f"The results are in {run.path}."]),
        balances=outcome.summary,
        counts=outcome.counts,
        settings=outcome.config.changed(),
        warnings=[*([outcome.held] if outcome.held else []), *outcome.warnings],
        remarks=remarks,
        figures=figures,
        command=f"tart-ray show {shlex.quote(run.path)} --quarantine" if quarantine else "",
        facts={**outcome.facts, **{f"seconds: {part}": spent for part, spent in seconds.items()}, **notes},
    )
    return report, render(page)


def _when(run: Run, job: str, began: float) -> str:
    """When the job ran and for how long, in a sentence."""
    now, created = time.time(), run.read_manifest().get("created", began)
    last = wording.duration(now - began)
    if began - created < STARTING:
        return f"jobs.{job} ran on {wording.date(began)}, for {last}."
    return f"jobs.{job} began on {wording.date(created)}; its last start was on {wording.date(began)} and took {last}."


def _quarantine(run: Run) -> Table | None:
    """Rows in quarantine by reason, with one of each; None where there are none."""
    names = sorted(run.storage.names(run.url("quarantine")))
    read = evenly(names, QUARANTINE_FILES)
    found = by_reason(run.read_table("quarantine", name) for name in read)
    if not found:
        return None
    rows = [[bad.number, bad.reason, snippet(content_of(bad.samples[0])), bad.samples[0]["source"]] for bad in found]
    note = f"Of {len(read):,} of the {len(names):,} files in quarantine/." if len(read) < len(names) else ""
    return Table("Bad rows by reason", ["rows", "reason", "the first of them", "from"], rows, note)
