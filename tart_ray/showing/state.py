"""What state a run is in: from its manifest, commits, lease and report; its tables are not read."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict

from tart_ray.errors import ConfigurationError, StorageError
from tart_ray.locations import absolute
from tart_ray.relabeling.stages import PENDING
from tart_ray.runs.directory import COMMITS, MANIFEST, RUN_ID, WORK, Directory
from tart_ray.runs.lease import Holder, holder_of
from tart_ray.runs.run import FAILED, Run
from tart_ray.runs.stage import Record, Stage, total
from tart_ray.runs.versions import RUNS, Versions, is_id
from tart_ray.storage import Storage, is_missing
from tart_ray.training.stages import STATE

SCORING = "scoring"  # within an output: the run of a job that scores first
STAGES = (  # of all jobs, each after those that it reads from
    "retrieve", "read-candidates", "read-queries", "read-corpus", "read-qrels", "examples", "join", "chunk", "known",
    "match", "encoder", "score", "collect", "count", "place", "recount", "thresholds", "sample", "calibrate", "label",
    "rank", "join-positives", "regroup", "mine", "spread", "measure", "summarise", "train",
)  # fmt: skip


class Condition(enum.Enum):
    """How far a run has come."""

    FINISHED = "finished"
    OVER_LIMITS = "ended over its limits, without _SUCCESS"
    RUNNING = "still running"
    FAILED = "failed because of its input or its configuration"
    STOPPED = "stopped before its end"


class Told(Record):
    """What the commits of all stages may say, as far as it is shown."""

    model_config = ConfigDict(extra="allow")

    rows: int = 0
    quarantined: int = 0


@dataclass(frozen=True)
class Progress:
    """The units of one stage.

    Attributes:
        done: that are committed.
        units: of the stage; None where that is not known.
        rows: of the units that are done.
    """

    stage: str
    done: int
    units: int | None
    rows: int
    quarantined: int


@dataclass(frozen=True)
class Seen:
    """A run as it is now.

    Attributes:
        holder: of the lease, now or last.
        report: ``report.json``; None before the first end.
        failure: why it failed, where the input or the configuration was at fault.
        stages: of a run that has not finished.
        holds_scores: whether another configuration is refused here even after a failure.
        within: the run that scores for this one.
        saved: when the state of a training that goes on was last saved, in seconds since 1970.
    """

    run: Run
    manifest: Mapping[str, Any]
    condition: Condition
    holder: Holder | None
    report: Mapping[str, Any] | None
    failure: str | None = None
    stages: tuple[Progress, ...] = ()
    holds_scores: bool = False
    within: Seen | None = None
    saved: float | None = None

    @property
    def job(self) -> str:
        """That made it."""
        return str(self.manifest["identity"]["job"])


def find(storage: Storage, path: str) -> Run | Versions:
    """The run at a path, or the versions of labels.

    Raises:
        ConfigurationError: neither is there.
    """
    run = Run.at(storage, absolute(path), 1).opened()
    if run.id is not None or storage.exists(run.manifest_url):
        return run
    versions = Versions(run)
    if any(map(is_id, versions.ids())) or versions.current() is not None:
        return versions
    holder = holder_of(run)
    begun = f"; process {holder.pid} on {holder.host} took the lease and has not begun" if holder else ""
    raise ConfigurationError(f"{run.path}: no {MANIFEST} there{begun}; expected output.path of a job")


def look(run: Run) -> Seen:
    """The state of a run.

    Raises:
        RunConflictError: the manifest is none of this project.
    """
    manifest, report = run.read_manifest(), _json(run, "report.json")
    scoring = scoring_of(run)
    inner = look(scoring) if scoring is not None else None
    if run.is_complete():
        return Seen(run, manifest, Condition.FINISHED, None, report, within=inner)
    job = manifest["identity"]["job"]
    holder = holder_of(_leased(run, job))
    failed = _json(run, FAILED)
    reason = failed["reason"] if failed and failed[RUN_ID] == run.id else None
    if holder is not None and holder.is_at_work:
        condition = Condition.RUNNING
    elif reason is not None:
        condition = Condition.FAILED
    else:
        condition = Condition.OVER_LIMITS if report is not None else Condition.STOPPED
    stages = tuple(_progress(run, manifest["identity"]))
    saved = run.storage.modified(run.url(WORK, STATE)) if job == "train" else None
    return Seen(run, manifest, condition, holder, report, reason, stages, run.holds_scores(), inner, saved)


def scoring_of(run: Run) -> Run | None:
    """The run that scores for another one, within it."""
    scoring = Run.at(run.storage, run.url(SCORING), 1).opened()
    return scoring if scoring.id is not None else None


def _leased(run: Run, job: str) -> Directory:
    """The directory that the driver of a run has the lease of: not its own where the run belongs to something above."""
    above = {"score": f"/{SCORING}", "relabel": f"/{RUNS}/{run.path.rpartition('/')[2]}"}.get(job)
    return run if above is None else Run.at(run.storage, run.path.removesuffix(above), 1)


def _json(run: Run, name: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(run.read(name))
    except StorageError as error:
        if is_missing(error):
            return None
        raise
    return found


def _progress(run: Run, identity: Mapping[str, Any]) -> Iterator[Progress]:
    """The stages of which something is committed, or whose number of units is known, in the order of the work."""
    names = [name for name in run.storage.names(run.url(COMMITS)) if name in STAGES]
    records = {name: run.committed(Stage(name, Told)) for name in names}
    if identity["job"] == "relabel" and "score" not in records:
        records["score"] = run.sub(WORK, PENDING).committed(Stage("score", Told))
    units = units_of(identity) | _chunks_of(identity, records)
    for stage in STAGES:
        found = records.get(stage, {})
        if found or stage in units:
            done = found.values()
            yield Progress(stage, len(found), units.get(stage), total(done, "rows"), total(done, "quarantined"))


def units_of(identity: Mapping[str, Any]) -> dict[str, int]:
    """How many units the stages of a run have, as far as its identity tells."""
    job = identity["job"]
    if job == "mine_negatives":
        return {"mine": identity["scored"]["plan"]["query_buckets"]}
    if job == "evaluate":
        return {"collect": len(identity["tasks"]), "summarise": len(identity["tasks"])}
    if job == "train":
        return {"examples": len(identity["input"]["files"]), "train": 1}
    plan = (identity["scores"] if job == "relabel" else identity)["plan"]
    last = {"rerank": ("rank",), "relabel": ("match", "collect", "label")}.get(job, ())
    joins = {"join": plan["document_buckets"]} if plan["document_buckets"] else {}
    reads = {f"read-{role}": splits for role, splits in plan["splits"].items()}
    return reads | joins | dict.fromkeys(("chunk", *last), plan["query_buckets"])


def _chunks_of(identity: Mapping[str, Any], records: Mapping[str, Mapping[str, Told]]) -> dict[str, int]:
    """The units of scoring, once all chunks are cut."""
    cut = "match" if identity["job"] == "relabel" else "chunk"
    buckets = units_of(identity).get(cut)
    if buckets is None or len(records.get(cut, ())) < buckets:
        return {}
    return {"score": sum(len(record.model_dump()["chunks"]) for record in records[cut].values())}
