"""Segments: commits of a stage that its driver has written once more, many in one object, to be read in one request.

    _commits/<stage>/<unit>.json                           the commit of a unit, which stays
    _commits/<stage>/_segments/<number>-<id of run>.json   what the commits of a slice of the stage's units say

Single commits decide; a segment is an index of them. So no unit is lost: one that no segment has is looked for by its
own commit. And none is taken for done that is not: a segment is written when every unit of its slice has a commit of
this run, a commit is never taken back while its run is there, and a segment of another run has another name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic

from tart_ray.runs.directory import SEGMENT_UNITS, Confirm, Directory
from tart_ray.runs.stage import R, Stage


class SegmentWriter(Generic[R]):
    """Writes the segment of each slice of a stage's units as soon as all of them are committed.

    Args:
        units: all of the stage, in the order of the run. Of up to `SEGMENT_UNITS` there are no segments.
        records: of those that are committed. The caller adds the others, and calls `add` for each.
        confirm: raises where this driver has lost its lease.
    """

    def __init__(
        self, directory: Directory, stage: Stage[R], units: Sequence[str], records: Mapping[str, R], confirm: Confirm
    ) -> None:
        self._directory, self._stage, self._records, self._confirm = directory, stage, records, confirm
        self._slices: dict[int, Sequence[str]] = {}
        if len(units) > SEGMENT_UNITS:
            there = {number for number, _ in directory.segments(stage)}
            starts = range(0, len(units), SEGMENT_UNITS)
            slices = {number: units[start : start + SEGMENT_UNITS] for number, start in enumerate(starts)}
            self._slices = {number: part for number, part in slices.items() if number not in there}
        self._number = {unit: number for number, part in self._slices.items() for unit in part}
        self._left = {number: {*part} - records.keys() for number, part in self._slices.items()}
        for number in self._slices:
            self._write_if_done(number)

    def add(self, unit: str) -> None:
        """Take note that a unit is committed, and its record among the ``records``."""
        if (number := self._number.get(unit)) is not None:
            self._left[number].discard(unit)
            self._write_if_done(number)

    def _write_if_done(self, number: int) -> None:
        if not self._left[number]:
            records = {unit: self._records[unit] for unit in self._slices[number]}
            self._directory.write_segment(self._stage, number, records, self._confirm)
