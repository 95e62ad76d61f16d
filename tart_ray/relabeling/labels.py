"""Labels from scores: graded by thresholds, by quantiles of each instruction, or by calibrated probabilities.

However the thresholds are found, a grade is the number of them that are reached, from 0 to their number.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.relabeling.calibration import Calibration
from tart_ray.tables.keys import positions

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint32]

LABELLING_VERSION = 1  # of labels: goes up when the same scores get other labels, thresholds or differences
LABEL = pa.field("label", pa.int32())
THRESHOLD = pa.field("threshold", pa.float64())
PROBABILITY = pa.field("probability", pa.float64())
PAIR = ("query_id", "doc_id")

COUNTS = pa.schema([("instruction", pa.large_string()), ("part", pa.int64()), ("pairs", pa.int64())])
PLACES = pa.schema(
    [
        ("instruction", pa.large_string()),
        ("pairs", pa.int64()),
        ("parts", pa.list_(pa.int64())),
        ("rests", pa.list_(pa.int64())),
    ]
)
THRESHOLDS = pa.schema(
    [("instruction", pa.large_string()), ("pairs", pa.int64()), ("thresholds", pa.list_(pa.float64()))]
)
DIFF = pa.schema(
    [
        ("query_id", pa.string()),
        ("doc_id", pa.string()),
        ("status", pa.string()),  # changed | new | gone
        ("old_label", pa.int32()),
        ("new_label", pa.int32()),
        ("old_margin", pa.float32()),
        ("new_margin", pa.float32()),
        ("content_changed", pa.bool_()),  # or the model; null where it is not known on both sides
    ]
)
LABELLED = pa.schema(  # what is compared
    [
        ("query_id", pa.string()),
        ("doc_id", pa.string()),
        ("label", pa.int32()),
        ("margin", pa.float32()),
        ("content", pa.string()),  # `tart_ray.tables.keys.content_keys`
    ]
)
LOW_BITS = 16
MIN_WAITING = 1 << 20  # rows of counts that are gathered before they are added up


@dataclass(frozen=True)
class Labelling:
    """How scores become labels, with everything that was found out for it.

    Attributes:
        score: the column that is compared, ``margin`` or ``score``; a calibration has its own number.
        cuts: the thresholds, rising; of the calibrated probability where there is a calibration.
        by_instruction: thresholds by instruction in place of ``cuts``.
        calibration: from margins to probabilities.
    """

    score: str
    cuts: tuple[float, ...]
    by_instruction: Mapping[str | None, tuple[float, ...]] | None = None
    calibration: Calibration | None = None


def label(scores: pa.Table, labelling: Labelling) -> pa.Table:
    """The table with ``label`` (int32), ``threshold`` (float64) and, if calibrated, ``probability`` (float64).

    With s the number of a row, c_1 < … < c_k its thresholds: label = #{i: s >= c_i}, in float64, and ``threshold`` is
    the highest one that s reaches, null for label 0.

    Raises:
        ValueError: an instruction has no thresholds.
    """
    if labelling.calibration is not None:
        numbers = labelling.calibration.probability(_numbers(scores, "margin"))
        scores = scores.append_column(PROBABILITY, pa.array(numbers))
    else:
        numbers = _numbers(scores, labelling.score)
    grades = np.zeros(len(scores), np.int32)
    reached = np.full(len(scores), np.nan)
    for rows, cuts in _cuts_of_rows(scores, labelling):
        grades[rows], reached[rows] = grade(numbers[rows], cuts)
    column = pa.array(reached, mask=grades == 0)
    return scores.append_column(LABEL, pa.array(grades)).append_column(THRESHOLD, column)


def grade(numbers: Floats, cuts: Sequence[float]) -> tuple[npt.NDArray[np.int32], Floats]:
    """How many of the rising ``cuts`` each number reaches, and the highest of these; NaN where it reaches none."""
    grades = np.searchsorted(np.asarray(cuts, np.float64), numbers, side="right").astype(np.int32)
    return grades, np.array([math.nan, *cuts])[grades]


def _cuts_of_rows(scores: pa.Table, labelling: Labelling) -> Iterator[tuple[Ints, tuple[float, ...]]]:
    if labelling.by_instruction is None:
        yield np.arange(len(scores)), labelling.cuts
        return
    for instruction, rows in _by_instruction(scores):
        if instruction not in labelling.by_instruction:
            raise ValueError(f"no thresholds for instruction {instruction!r}")
        yield rows, labelling.by_instruction[instruction]


def count_parts(scores: pa.Table, column: str, places: pa.Table | None = None) -> pa.Table:
    """`COUNTS`, so that quantiles over any number of tables can be exact without holding their rows.

    A float32 becomes an unsigned integer in the same order (its bits with the sign flipped, all bits flipped where it
    is negative: Terdiman, "Radix Sort Revisited", 2000). First its upper 16 bits are counted; then, where the wanted
    ranks lie (`find_places`), whole numbers.

    Args:
        column: ``margin`` or ``score``, float32.
        places: None for the first count, those of `find_places` for the second.
    """
    keys = ordered_keys(scores[column].to_numpy())
    wanted = None if places is None else dict(zip(*(places[name].to_pylist() for name in ("instruction", "parts"))))  # noqa: B905
    tables = [COUNTS.empty_table()]
    for instruction, rows in _by_instruction(scores):
        numbers, high = keys[rows], keys[rows] >> np.uint32(LOW_BITS)
        numbers = high if wanted is None else numbers[np.isin(high, wanted[instruction])]
        parts, pairs = np.unique(numbers, return_counts=True)
        names = pa.array([instruction] * len(parts), pa.large_string())
        tables.append(pa.table([names, parts.astype(np.int64), pairs.astype(np.int64)], schema=COUNTS))
    return pa.concat_tables(tables)


def add_counts(tables: Iterable[pa.Table]) -> pa.Table:
    """`COUNTS` of several tables together; holds about twice their sum, and one table more."""
    total, waiting, rows = COUNTS.empty_table(), [], 0
    for table in tables:
        waiting.append(table)
        rows += len(table)
        if rows > max(len(total), MIN_WAITING):  # else each table would be added to all that is there
            total, waiting, rows = _summed([total, *waiting]), [], 0
    return _summed([total, *waiting])


def _summed(tables: Sequence[pa.Table]) -> pa.Table:
    grouped = pa.concat_tables(tables).group_by(["instruction", "part"], use_threads=False)
    return grouped.aggregate([("pairs", "sum")]).rename_columns(COUNTS.names).cast(COUNTS)


def find_places(counts: pa.Table, quantiles: Sequence[float]) -> pa.Table:
    """Where the wanted ranks of each instruction lie: `PLACES`, the part for each quantile and the rank inside of it.

    Of n numbers x_1 <= … <= x_n the threshold for the quantile q is x_j with j = floor(n q) + 1, the upper quantile
    inf {x: F(x) > q}. So the best ceil(n (1 - q)) pairs of an instruction reach it, and what ties with the last of
    them. q is taken as the decimal number that it is written as.
    """
    rows = []
    numbers = counts.select(["part", "pairs"]).combine_chunks()
    for instruction, of in _by_instruction(counts):
        by_part = numbers.take(pa.array(of)).sort_by("part")
        parts, ends = by_part["part"].to_numpy(), np.cumsum(by_part["pairs"].to_numpy())
        ranks = [math.floor(Fraction(repr(q)) * int(ends[-1])) for q in quantiles]
        at = np.searchsorted(ends, ranks, side="right")
        rests = np.array(ranks) - np.append(0, ends)[at]
        rows.append(
            {"instruction": instruction, "pairs": ends[-1], "parts": parts[at].tolist(), "rests": rests.tolist()}
        )
    return pa.Table.from_pylist(rows, schema=PLACES)


def thresholds_at(places: pa.Table, counts: pa.Table) -> pa.Table:
    """`THRESHOLDS` of each instruction, from the places and the second count."""
    numbers = counts.select(["part", "pairs"]).combine_chunks()
    keys = {instruction: numbers.take(pa.array(rows)).sort_by("part") for instruction, rows in _by_instruction(counts)}
    rows = []
    for place in places.to_pylist():
        by_part = keys[place["instruction"]]
        whole, pairs = by_part["part"].to_numpy(), by_part["pairs"].to_numpy()
        thresholds = []
        for part, rest in zip(place["parts"], place["rests"], strict=True):
            inside = np.flatnonzero(whole >> LOW_BITS == part)
            at = inside[np.searchsorted(np.cumsum(pairs[inside]), rest, side="right")]
            thresholds.append(float(numbers_of(whole[at : at + 1].astype(np.uint32))[0]))
        rows.append({"instruction": place["instruction"], "pairs": place["pairs"], "thresholds": thresholds})
    return pa.Table.from_pylist(rows, schema=THRESHOLDS)


def ordered_keys(numbers: npt.NDArray[np.float32]) -> Keys:
    """Unsigned integers in the order of the numbers; -0 counts as 0."""
    bits = (numbers.astype(np.float32) + np.float32(0)).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)).astype(np.uint32)


def numbers_of(keys: Keys) -> npt.NDArray[np.float32]:
    """The numbers that `ordered_keys` made integers of."""
    return np.where(keys >> 31, keys & np.uint32((1 << 31) - 1), ~keys).astype(np.uint32).view(np.float32)


@dataclass(frozen=True)
class Diff:
    """How two label sets differ.

    Attributes:
        rows: `DIFF`, one row for each pair that is changed, new or gone, by query_id and doc_id.
        counts: pairs that are ``unchanged``, ``changed``, ``new``, ``gone``.
        flips: pairs in both by (old label, new label), the unchanged ones included.
        old_labels: int32, of each pair of the new set, null where it had none.
    """

    rows: pa.Table
    counts: dict[str, int]
    flips: dict[tuple[int, int], int]
    old_labels: pa.Array


def diff(old: pa.Table, new: pa.Table) -> Diff:
    """Compare two label sets pair by pair.

    Args:
        old, new: `LABELLED`, each pair once.
    """
    at = positions(new, old, PAIR)
    in_both = np.flatnonzero(at >= 0)
    is_gone = np.ones(len(old), dtype=bool)
    is_gone[at[in_both]] = False
    before, after = old["label"].to_numpy()[at[in_both]], new["label"].to_numpy()[in_both]
    moved = before != after
    changed, added, gone = in_both[moved], np.flatnonzero(at < 0), np.flatnonzero(is_gone)
    rows = pa.concat_tables(
        [
            _rows("changed", old.take(pa.array(at[changed])), new.take(pa.array(changed))),
            _rows("new", None, new.take(pa.array(added))),
            _rows("gone", old.take(pa.array(gone)), None),
        ]
    )
    flips, pairs = np.unique(np.stack([before, after]), axis=1, return_counts=True)
    return Diff(
        rows.sort_by([(name, "ascending") for name in PAIR]),
        {"unchanged": len(in_both) - len(changed), "changed": len(changed), "new": len(added), "gone": len(gone)},
        {(int(a), int(b)): int(n) for (a, b), n in zip(flips.T, pairs, strict=True)},
        old["label"].combine_chunks().take(pa.array(at, mask=at < 0)),
    )


def _rows(status: str, old: pa.Table | None, new: pa.Table | None) -> pa.Table:
    pairs = new if new is not None else old
    assert pairs is not None
    missing = {field.name: pa.nulls(len(pairs), field.type) for field in LABELLED}
    before = missing if old is None else old
    after = missing if new is None else new
    columns = [
        *(pairs[name] for name in PAIR),
        pa.array([status] * len(pairs), pa.string()),
        *(side[name] for name, side in itertools.product(("label", "margin"), (before, after))),
        pc.not_equal(before["content"], after["content"]),
    ]
    return pa.table(columns, schema=DIFF)


def _numbers(scores: pa.Table, column: str) -> Floats:
    return np.asarray(scores[column].to_numpy(), np.float64)


def _by_instruction(rows: pa.Table) -> Iterator[tuple[str | None, Ints]]:
    """Each instruction, None where there is none, and its rows in their order."""
    codes = pc.dictionary_encode(rows["instruction"].combine_chunks(), null_encoding="encode")
    indices = codes.indices.to_numpy(zero_copy_only=False)
    order = np.argsort(indices, kind="stable")
    ends = np.cumsum(np.bincount(indices, minlength=len(codes.dictionary)))
    starts = np.append(0, ends)
    for code, instruction in enumerate(codes.dictionary.to_pylist()):
        yield instruction, order[starts[code] : ends[code]]
