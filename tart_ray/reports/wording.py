"""Words of a report that every job needs: dates, durations, instructions, shares."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

INSTRUCTIONS = 3  # that a sentence names
UNITS = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))


def date(seconds: float) -> str:
    """A time in seconds since 1970, as in ``5 March 2026, 14:03 UTC``."""
    found = datetime.fromtimestamp(seconds, UTC)
    return f"{found.day} {found:%B %Y, %H:%M} UTC"


def duration(seconds: float) -> str:
    """In the two largest units that it has, as in ``2 hours 5 minutes``."""
    if seconds < 10:
        return f"{seconds:.1f} seconds"
    left = round(seconds)
    parts: list[str] = []
    for name, size in UNITS:
        number, left = divmod(left, size)
        if number or parts:
            parts.append(number_of(number, name) if number else "")
        if len(parts) == 2:
            break
    return " ".join(part for part in parts if part)


def number_of(number: int, name: str, plural: str = "") -> str:
    """A number and what is counted, as in ``1 query`` and ``1,200 queries``."""
    return f"{number:,} {name if number == 1 else plural or name + 's'}"


def under(instructions: Sequence[str], *, all_known: bool = True) -> str:
    """Under which instructions pairs were scored, most used first, as the end of a sentence.

    Args:
        all_known: whether these are all of them.
    """
    said = [text for text in instructions if text]
    if not said:
        return "without an instruction"
    quoted = ", ".join(f"“{text}”" for text in said[:INSTRUCTIONS])
    bare = " and without one" if len(said) < len(instructions) else ""
    if len(said) == 1:
        return f"under the instruction {quoted}{bare}"
    number = f"{len(said):,}" if all_known else f"{len(said):,} or more"
    return f"under {number} instructions{bare}{', such as' if len(said) > INSTRUCTIONS else ':'} {quoted}"


def share(part: int, whole: int) -> str:
    """A part of a whole, as in ``12 of 1,000 (1.2%)``."""
    return f"{part:,} of {whole:,} ({part / whole:.1%})"
