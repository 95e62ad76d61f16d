"""Doing a unit of work around rows that raise, or that kill the process they are in.

A unit is first done in one go. Where that failed, before in another process or now with an exception, it is done in
parts, and the parts that failed row by row: so a bad row costs a few attempts, and its neighbours nothing but time.
Whoever dies leaves behind which rows it was at (see `Attempt`), and the next process goes on from there. Deaths that
something else explains, such as a lost node or the end of the driver, do not count.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from tart_ray.errors import PoisonUnitError
from tart_ray.runs.attempts import Attempt

log = logging.getLogger(__name__)

Rows = npt.NDArray[np.int64]

PARTS = 64  # of a unit that failed as a whole: each is an object written, against a model loaded for each death
MAX_DEATHS = 50  # on one unit: then it is not the rows
MAX_KILLED_FOR_MEMORY = 10  # processes that Ray's memory monitor ended at one unit
MAX_ERRORS = 100  # one after the other, and nothing that went well: likewise
ALONE = 2  # deaths with nothing else at work that it takes to give a row up: one may have another reason


def isolate(
    attempt: Attempt,
    batches: Sequence[Rows],
    work: Callable[[Rows], None],
    *,
    max_attempts: int,
    is_usable: Callable[[], bool] = lambda: True,
) -> dict[int, str]:
    """Do ``work`` on all rows except those that are at fault.

    Args:
        batches: rows that are best done together; each row of the unit is in exactly one.
        work: does some rows, and keeps their results. Done again on rows that it raised for.
        max_attempts: processes that may die with a row at work, two of them with nothing else, until it is given up.
        is_usable: whether this process can go on after an exception; one that cannot (a CUDA context does not
            survive a failed kernel) ends here, so that another begins.

    Returns:
        For each row that has no result the reason, by position.

    Raises:
        PoisonUnitError: processes go on dying, or work goes on raising, whatever the rows.
    """
    if attempt.killed_for_memory >= MAX_KILLED_FOR_MEMORY:
        raise PoisonUnitError(
            f"{attempt.unit}: Ray's memory monitor ended {attempt.killed_for_memory} processes at it, as their nodes "
            "ran out of memory. Let fewer replicas share a node, or take larger ones. A rerun resumes with it"
        )
    if len(attempt.evidence) > MAX_DEATHS:
        raise PoisonUnitError(
            f"{attempt.unit}: {len(attempt.evidence)} processes died on it, more than bad rows explain. "
            "Look for lack of memory, or a library that fails, in the logs of Ray's workers. A rerun resumes with it"
        )
    if not attempt.evidence:
        try:
            work(_all(batches))
            return {}
        except Exception as error:
            _go_on(attempt, None, error, is_usable)
    suspects = {row for death in attempt.evidence if death.rows is not None for row in death.rows}
    waiting = deque([*_parts(batches, suspects), *([row] for row in sorted(suspects))])
    reasons: dict[int, str] = {}
    went_well = False
    while waiting:
        rows = waiting.popleft()
        if len(rows) == 1 and (given_up := _given_up(attempt, rows[0], max_attempts)):
            reasons[rows[0]] = given_up
            continue
        attempt.at(rows)
        try:
            work(np.array(rows, dtype=np.int64))
            went_well = True
        except Exception as error:
            _go_on(attempt, rows, error, is_usable)
            if len(rows) > 1:
                waiting.extend([row] for row in rows)
            else:
                reasons[rows[0]] = f"raised {_told(error)}"
                if len(reasons) >= MAX_ERRORS and not went_well:
                    raise PoisonUnitError(
                        f"{attempt.unit}: each of {len(reasons)} rows {reasons[rows[0]]}; that is not the rows"
                    ) from error
    return reasons


def _given_up(attempt: Attempt, row: int, max_attempts: int) -> str | None:
    """Why a row is not tried again; None if it is."""
    with_it = [death for death in attempt.evidence if death.rows is None or row in death.rows]
    alone = [death for death in with_it if death.rows == (row,)]
    if len(alone) < ALONE or len(with_it) < max_attempts:
        return None
    words = next((f"; it said: {death.last_words}" for death in alone if death.last_words), "")
    return f"{len(with_it)} processes died with it at work, {len(alone)} of them with nothing else{words}"


def _go_on(attempt: Attempt, rows: list[int] | None, error: Exception, is_usable: Callable[[], bool]) -> None:
    log.warning("%s raised %s; looking for the row", attempt.unit, _told(error))
    if not is_usable():
        log.error("this process cannot go on after %s: ending it for another to begin", _told(error))
        attempt.at(rows, _told(error))
        os._exit(1)


def _parts(batches: Sequence[Rows], suspects: set[int]) -> list[list[int]]:
    """At most `PARTS` runs of whole batches, without the suspects; the others stay in the batches that they were in."""
    ends = np.linspace(0, len(batches), min(PARTS, len(batches)) + 1).astype(int).tolist()
    groups = [batches[start:end] for start, end in itertools.pairwise(ends)]
    parts = [[row for batch in group for row in batch.tolist() if row not in suspects] for group in groups]
    return [part for part in parts if part]


def _all(batches: Sequence[Rows]) -> Rows:
    return np.sort(np.concatenate(batches)) if batches else np.empty(0, dtype=np.int64)


def _told(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:500]
