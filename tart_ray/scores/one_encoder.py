"""One encoder scores the chunks of a run: the first replica with a chunk chooses it, all others follow.

    _commits/encoder/choice.json        the choice, created once
    _work/<id>/encoder/<number>.json    a claim: who chooses, and which candidate is being tried
    _work/<id>/encoder/following-…      a process that makes the encoder of the choice; removed when it has

A candidate may hang, or kill its process. So a claim says what is being tried; whoever finds one whose process has
ended makes the next claim, and leaves that candidate out. Replicas that come meanwhile wait for the choice. It is never
changed, by a rerun neither: a replica on whose device the encoder is not right falls back to the reference.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from dataclasses import dataclass
from typing import Any, NoReturn

from tart_ray.engine.deaths import excuse, has_ended, this_process
from tart_ray.errors import PoisonUnitError, StorageError
from tart_ray.model.encoded import EncodedPairs
from tart_ray.runs.attempts import Process
from tart_ray.runs.directory import WORK, Directory
from tart_ray.runs.stage import Record, Stage
from tart_ray.scores.deadline import Deadline
from tart_ray.scoring.choice import Choice, DeviceFailedError
from tart_ray.scoring.protocol import ChoosesEncoder
from tart_ray.storage import is_missing

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 1.0
MOST_SECONDS_OF_TRIAL = 300.0  # of one batch, for which an encoder may be compiled: then it hangs
MOST_SECONDS_OF_CLAIM = 1_200.0  # unchanged: more than the trials of a candidate take
MOST_CLAIMS = 30


class Chosen(Record):
    """The encoder of a run."""

    choice: Choice


ENCODER = Stage("encoder", Chosen)
UNIT = "choice"


def settle_encoder(run: Directory, scorer: ChoosesEncoder, pairs: EncodedPairs, *, seconds: float) -> Choice:
    """Give the scorer the encoder of the run, chosen now if no other replica has done so.

    Args:
        pairs: of a chunk, whose lengths count.
        seconds: that a batch may take; here `MOST_SECONDS_OF_TRIAL` at most. Then a trial hangs, and its process ends.

    Raises:
        NoEncoderError: none is right, not even the reference.
        RunLostError: the directory does not hold this run any more.
    """
    choice = chosen(run)
    if choice is None and scorer.choice is not None:
        choice = run.commit_first(ENCODER, UNIT, Chosen(choice=scorer.choice)).choice
    if choice is None:
        choice = _choose_or_wait(run, scorer, pairs, min(seconds, MOST_SECONDS_OF_TRIAL))
    if scorer.choice is None:
        _follow(run, scorer, choice, min(seconds, MOST_SECONDS_OF_TRIAL))
    elif choice != scorer.choice:
        scorer.follow(choice)
    return choice


def _follow(run: Directory, scorer: ChoosesEncoder, choice: Choice, seconds: float) -> None:
    """Take the choice of another process, unless one of this driver has died of that on this node."""
    process = this_process()
    if process is None:  # no process of Ray's
        scorer.follow(choice)
        return
    mine = f"following-{run.session}-{process.node}-"
    notes = [name.removeprefix(mine) for name in run.storage.names(run.url(WORK, "encoder")) if name.startswith(mine)]
    if died := sum(has_ended(Process(process.node, worker)) for worker in notes):
        scorer.follow(
            choice, distrusted=f"{died} processes died on this node as they took the encoder {choice.encoder}"
        )
        return
    note = run.url(WORK, "encoder", f"{mine}{process.worker}")
    run.confirm()
    run.storage.write(note, b"")
    try:
        with Deadline(seconds, log.error) as deadline:
            scorer.on_batch = deadline.renew
            scorer.follow(choice)
    except DeviceFailedError as error:
        _end(error)
    run.storage.remove(note)


def _end(error: Exception) -> NoReturn:
    log.error("this process cannot go on: ending it for another to begin: %s", error)
    os._exit(1)


def chosen(run: Directory) -> Choice | None:
    """The encoder of the run; None before it is chosen."""
    record = run.record(ENCODER, UNIT)
    return record.choice if record else None


@dataclass(frozen=True)
class _Claim:
    """What a process says that chooses. ``trying``: a candidate. ``words``: why the process is about to end."""

    session: str
    process: Process | None
    trying: str | None = None
    words: str | None = None
    failed: bool = False

    @classmethod
    def read(cls, run: Directory, url: str) -> _Claim | None:
        """None where the run has ended meanwhile."""
        try:
            said: dict[str, Any] = json.loads(run.storage.read(url))
        except StorageError as error:
            if is_missing(error):
                return None
            raise
        return cls(**said | {"process": Process(**said["process"]) if said["process"] else None})

    def to_json(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode()

    def has_ended(self, run: Directory) -> bool:
        """Whether whoever made the claim chooses no more."""
        return self.failed or self.session != run.session or (self.process is not None and has_ended(self.process))

    def blames(self, run: Directory) -> str | None:
        """What speaks against the candidate that was being tried; None if its process ended for another reason."""
        if self.words:
            return self.words
        if self.session != run.session or (self.process and excuse(self.process)):
            return None
        return "the process that tried it died"


def _choose_or_wait(run: Directory, scorer: ChoosesEncoder, pairs: EncodedPairs, seconds: float) -> Choice:
    excluded: dict[str, str] = {}
    mine = _Claim(run.session, this_process())
    for number in range(MOST_CLAIMS):
        url = run.url(WORK, "encoder", f"{number}.json")
        run.confirm()
        if run.storage.create(url, mine.to_json()):
            return _choose(run, scorer, pairs, seconds, url, mine, excluded)
        claim = _wait_for_end_of(run, url)
        if (choice := chosen(run)) is not None:
            return choice
        if claim and claim.trying and (reason := claim.blames(run)):
            excluded[claim.trying] = reason
    raise PoisonUnitError(
        f"choosing an encoder: {MOST_CLAIMS} processes ended at it, as their nodes ran out of memory or were lost. "
        "model.encoder names one that is not tried. A rerun resumes with it"
    )


def _wait_for_end_of(run: Directory, url: str) -> _Claim | None:
    """The last that a claim said; it returns when there is a choice, or nobody chooses any more."""
    before, since = None, time.monotonic()
    while True:
        claim = _Claim.read(run, url)
        if claim != before:
            before, since = claim, time.monotonic()
        is_stale = time.monotonic() > since + MOST_SECONDS_OF_CLAIM  # where Ray does not say that a process ended
        if chosen(run) is not None or claim is None or claim.has_ended(run) or is_stale:
            return _Claim.read(run, url)  # its last words may have come in between
        time.sleep(SECONDS_BETWEEN_LOOKS)
        run.confirm()


def _choose(
    run: Directory,
    scorer: ChoosesEncoder,
    pairs: EncodedPairs,
    seconds: float,
    url: str,
    claim: _Claim,
    excluded: dict[str, str],
) -> Choice:
    def say(**more: Any) -> None:
        nonlocal claim
        claim = dataclasses.replace(claim, **more)
        run.storage.write(url, claim.to_json())

    def begin(name: str) -> None:
        say(trying=name)
        deadline.renew()

    log.warning("trying which encoder is the fastest here; others wait for it")
    try:
        with Deadline(seconds, lambda words: say(words=words)) as deadline:
            scorer.on_batch = deadline.renew
            choice = scorer.choose(pairs, excluded=excluded, on_trial=begin)
    except DeviceFailedError as error:
        say(words=str(error))
        _end(error)
    except Exception:
        say(failed=True)
        raise
    return run.commit_first(ENCODER, UNIT, Chosen(choice=choice)).choice
