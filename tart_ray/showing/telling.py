"""What is said of a run: lines of text from what was seen of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from tart_ray.runs.lease import EXPIRE_SECONDS, Holder
from tart_ray.showing.state import Condition, Progress, Seen
from tart_ray.tables.printing import aligned

INDENT = "  "
UNITS = ("kB", "MB", "GB", "TB")


def tell(seen: Seen, tables: Mapping[str, str]) -> Iterator[str]:
    """A run in lines.

    Args:
        tables: what can be opened, by name, with its URL.
    """
    yield f"jobs.{seen.job}: {seen.condition.value}"
    yield f"{INDENT}{seen.run.path}"
    yield f"{INDENT}began {moment(seen.manifest['created'])}, tart-ray {seen.manifest.get('tart_ray', 'unknown')}"
    if seen.holder is not None:
        yield INDENT + _of_lease(seen.holder, running=seen.condition is Condition.RUNNING)
    if seen.failure is not None:
        yield f"{INDENT}the reason: {seen.failure}"
    if seen.report is not None and seen.condition in (Condition.FINISHED, Condition.OVER_LIMITS):
        yield from _of_report(seen.report)
    else:
        yield from _of_stages(seen.stages)
        if seen.saved is not None:
            yield f"the state of the training was saved last at {moment(seen.saved)}"
        if seen.within is not None:
            yield f"scoring, in {seen.within.run.path}: {seen.within.condition.value}"
            yield from _of_stages(seen.within.stages)
    if tables:
        yield "where:"
        yield from indented(aligned([*tables.items()]))
    yield f"the same command over the same input {next_start(seen)}"


def next_start(seen: Seen) -> str:
    """What the command that began a run would do now, as the end of a sentence."""
    holder = seen.holder
    if seen.condition is Condition.FINISHED:
        return "has nothing to do"
    if seen.condition is Condition.RUNNING:
        assert holder is not None
        return f"is refused as long as process {holder.pid} on {holder.host} is at work"
    if seen.condition is Condition.OVER_LIMITS:
        return "ends in the same way; with a higher limit (limits.…) it accepts what is there and writes _SUCCESS"
    if seen.condition is Condition.FAILED:
        other = "another configuration needs another output.path" if seen.holds_scores else "so may another begin here"
        return f"continues once the input or the configuration is mended; {other}"
    watches = holder is not None and not holder.has_ended
    when = f"watches the lease for up to {EXPIRE_SECONDS:.0f} s, takes over" if watches else "takes over at once"
    return f"{when} and does what is missing; what is committed stays"


def moment(seconds: float) -> str:
    """A time in seconds since 1970 as ISO 8601, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def amount(nbytes: int) -> str:
    """A number of bytes, in the unit that suits it."""
    if nbytes < 1_000:
        return f"{nbytes} B"
    power = min((len(str(nbytes)) - 1) // 3, len(UNITS))
    return f"{nbytes / 1_000**power:.1f} {UNITS[power - 1]}"


def _of_lease(holder: Holder, *, running: bool) -> str:
    who = f"process {holder.pid} on {holder.host}"
    if holder.has_ended:
        return f"the lease: {who} had it last, and has ended"
    last = f"its last sign of life {holder.silent:.0f} s ago"
    return f"the lease: {who} has it, {last}" if running else f"the lease: {who} has not given it back, {last}"


def _of_report(report: Mapping[str, Any]) -> Iterator[str]:
    seconds = report["seconds"]
    parts = ", ".join(f"{name} {taken:,.1f}" for name, taken in seconds.items())
    yield f"{INDENT}took {sum(seconds.values()):,.1f} s in its last session: {parts}"
    yield from (f"warning: {warning}" for warning in report["warnings"])
    yield "rows:"
    yield from _figures({name.replace("_", " "): number for name, number in report["counts"].items()})
    if report.get("labels"):
        yield "labels:"
        yield from _figures(report["labels"])
    if flips := [flip for flip in report.get("flips", ()) if flip[0] != flip[1]]:
        yield "labels that changed:"
        yield from _figures({f"{old} → {new}": pairs for old, new, pairs in flips})
    if trained := report.get("trained"):
        yield "training:"
        yield from _of_training(trained)


def _of_training(trained: Mapping[str, Any]) -> Iterator[str]:
    yield from _figures({name: value for name, value in trained.items() if name not in ("history", "losses")})
    if history := trained["history"]:
        names = [*history[0]]
        yield "evaluations on the held-out queries:"
        cells = [names, *([number(row[name]) for name in names] for row in history)]
        yield from indented(aligned(cells))


def _of_stages(stages: tuple[Progress, ...]) -> Iterator[str]:
    if not stages:
        return
    yield "committed, of the units of each stage:"
    cells = [["stage", "units", "", "rows", "quarantined"]]
    for stage in stages:
        units = f"{stage.done:,} of {stage.units:,}" if stage.units is not None else f"{stage.done:,}"
        missing = "done" if stage.done == stage.units else f"{(stage.units or 0) - stage.done:,} missing"
        cells.append(
            [
                stage.stage,
                units,
                missing if stage.units is not None else "",
                f"{stage.rows:,}",
                f"{stage.quarantined:,}",
            ]
        )
    yield from indented(aligned(cells))


def _figures(values: Mapping[str, Any]) -> Iterator[str]:
    cells = [[name, number(value)] for name, value in values.items()]
    width = max((len(number) for _, number in cells), default=0)
    yield from indented(aligned([[name, number.rjust(width)] for name, number in cells])) if cells else ()


def number(value: Any) -> str:
    """A value of a table or a report as text."""
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1_000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else "none" if value is None else str(value)


def indented(text: str) -> Iterator[str]:
    """The lines of a text, further in."""
    return (INDENT + line for line in text.splitlines())
