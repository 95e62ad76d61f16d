"""The jobs as functions, for notebooks and programs: they return what they made, raise what went wrong, end nothing.

Each takes the typed configuration, a dict of its keys, or the path or URL of its YAML file. A function starts Ray on
this machine where `ray.init` was not called before and no cluster is named, and gives its lease back whatever happens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tart_ray.config import (
    EvaluateConfig,
    MineConfig,
    RelabelConfig,
    RerankConfig,
    Section,
    StorageConfig,
    TrainConfig,
)
from tart_ray.config.command_line import load_config
from tart_ray.errors import ConfigurationError, ExitCode
from tart_ray.job_table import JOBS

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

    from tart_ray.runs.run import Run

Source = Mapping[str, Any] | str | Path


@dataclass(frozen=True)
class RunResult:
    """A run that has ended.

    Attributes:
        job: that made it: ``rerank``, ``relabel``, ``mine_negatives``, ``evaluate`` or ``train``.
        path: its directory; of relabel, that of the current run.
        complete: whether it has ``_SUCCESS``. If not, more rows were quarantined, or more labels changed, than the
            limits allow; the same configuration with a higher limit accepts it as it is.
        report: ``report.json``.
    """

    job: str
    path: str
    complete: bool
    report: Mapping[str, Any] = field(repr=False)
    _run: Run = field(repr=False)

    @property
    def counts(self) -> Mapping[str, int]:
        """Rows by what became of them."""
        counts: Mapping[str, int] = self.report["counts"]
        return counts

    @property
    def tables(self) -> list[str]:
        """What `read` can read."""
        from tart_ray.results import tables_of

        return tables_of(self._run)

    def read(self, table: str) -> Dataset:
        """A table of the run, such as ``reranked``, ``scores``, ``labels`` or ``quarantine``; `tables` names them.

        Columns that partition it are text.

        Raises:
            InputError: the run has no such table.
        """
        from tart_ray.results import read_table

        return read_table(self._run, table)


def rerank(config: RerankConfig | Source) -> RunResult:
    """Score candidates and rank them: ``jobs.rerank``.

    Raises:
        TartRayError: see `tart_ray.errors`; a `RunFailedError` of a run that has begun, which the same call continues.
    """
    return _ended("rerank", config)


def relabel(config: RelabelConfig | Source) -> RunResult:
    """Give a corpus labels by its scores: ``jobs.relabel``. Raises as `rerank` does."""
    loaded = _loaded("relabel", config)
    path = loaded.output.path
    if JOBS["relabel"].run(loaded, ends_process=False) != ExitCode.DONE:  # then it is not the current one
        from tart_ray.relabeling.job import newest_run

        path = newest_run(path, loaded.storage)
    return open_run(path, storage=loaded.storage)


def mine_negatives(config: MineConfig | Source) -> RunResult:
    """Find hard negatives: ``jobs.mine_negatives``. Raises as `rerank` does."""
    return _ended("mine_negatives", config)


def evaluate(config: EvaluateConfig | Source) -> RunResult:
    """Measure a model on collections: ``jobs.evaluate``. Raises as `rerank` does."""
    return _ended("evaluate", config)


def train(config: TrainConfig | Source) -> RunResult:
    """Train an EncT5: ``jobs.train``. Raises as `rerank` does."""
    return _ended("train", config)


def plan(config: Section | Source, *, job: str | None = None) -> str:
    """What a job would do, as its ``--dry-run`` prints it; starts nothing.

    Args:
        job: whose configuration it is, where it is none of the typed ones.

    Raises:
        the errors of the job, for the same reasons.
    """
    job = job or next((name for name, known in JOBS.items() if type(config) is known.config), None)
    if job not in JOBS:
        raise ConfigurationError(f"job: got {job!r}, expected one of {[*JOBS]}")
    return "\n".join(JOBS[job].describe(_loaded(job, config)))


def open_run(path: str | Path, *, storage: StorageConfig | Mapping[str, Any] | None = None) -> RunResult:
    """A run that has ended; of relabel's, the current one.

    Args:
        storage: options of its store, as the section ``storage`` of a configuration.

    Raises:
        ConfigurationError: no run that has ended is there.
        StorageError: the place cannot be read.
    """
    from tart_ray.locations import absolute
    from tart_ray.runs.run import Run
    from tart_ray.runs.versions import Versions
    from tart_ray.storage import Storage

    options = storage if isinstance(storage, StorageConfig) else StorageConfig.model_validate(storage or {})
    place = Run.at(Storage(options), absolute(str(path)), 1)
    run = place.opened()
    if run.id is None and (current := Versions(place).current()) is not None:
        run = Versions(place).run(current.run).opened()
    if run.id is None or not run.storage.exists(run.url("report.json")):
        what = "no run" if run.id is None else "a run that has not ended"
        raise ConfigurationError(f"{path}: got {what}, expected output.path of a job, with report.json in it")
    report = json.loads(run.storage.read(run.url("report.json")))
    return RunResult(report["job"], run.path, run.is_complete(), report, run)


def _ended(job: str, config: Section | Source) -> RunResult:
    loaded = _loaded(job, config)
    JOBS[job].run(loaded, ends_process=False)
    return open_run(loaded.output.path, storage=loaded.storage)


def _loaded(job: str, config: Section | Source) -> Any:
    """The configuration of a job, for which everything is installed."""
    loaded = load_config(JOBS[job].config, config)
    if missing := JOBS[job].missing(loaded):
        raise ConfigurationError(missing)
    return loaded
