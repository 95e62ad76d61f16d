"""The jobs as functions, for notebooks and programs: they return what they made, raise what went wrong, end nothing.

Each takes the typed configuration, a dict of its keys, or the path or URL of its YAML file. A function starts Ray on
this machine where `ray.init` was not called before and no cluster is named, and gives its lease back whatever happens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
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

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

    from tart_ray.runs.run import Run

Source = Mapping[str, Any] | str | Path

CONFIGS: dict[str, type[Section]] = {
    "rerank": RerankConfig,
    "relabel": RelabelConfig,
    "mine_negatives": MineConfig,
    "evaluate": EvaluateConfig,
    "train": TrainConfig,
}


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
    from tart_ray.reranking.job import rerank as run

    return _ended("rerank", config, run)


def relabel(config: RelabelConfig | Source) -> RunResult:
    """Give a corpus labels by its scores: ``jobs.relabel``. Raises as `rerank` does."""
    from tart_ray.relabeling.job import newest_run
    from tart_ray.relabeling.job import relabel as run

    loaded = load_config(RelabelConfig, config)
    path = loaded.output.path
    if run(loaded) != ExitCode.DONE:  # then it is not the current one
        path = newest_run(path, loaded.storage)
    return open_run(path, storage=loaded.storage)


def mine_negatives(config: MineConfig | Source) -> RunResult:
    """Find hard negatives: ``jobs.mine_negatives``. Raises as `rerank` does."""
    from tart_ray.mining.job import mine_negatives as run

    return _ended("mine_negatives", config, run)


def evaluate(config: EvaluateConfig | Source) -> RunResult:
    """Measure a model on collections: ``jobs.evaluate``. Raises as `rerank` does."""
    from tart_ray.evaluation.job import evaluate as run

    return _ended("evaluate", config, run)


def train(config: TrainConfig | Source) -> RunResult:
    """Train an EncT5: ``jobs.train``. Raises as `rerank` does."""
    from tart_ray.training.job import train as run

    return _ended("train", config, run)


def plan(config: Section | Source, *, job: str | None = None) -> str:
    """What a job would do, as its ``--dry-run`` prints it; starts nothing.

    Args:
        job: whose configuration it is, where it is none of the typed ones.

    Raises:
        the errors of the job, for the same reasons.
    """
    job = job or next((name for name, kind in CONFIGS.items() if type(config) is kind), None)
    if job not in CONFIGS:
        raise ConfigurationError(f"job: got {job!r}, expected one of {[*CONFIGS]}")
    from tart_ray.evaluation import job as evaluate
    from tart_ray.mining import job as mine
    from tart_ray.relabeling import job as relabel
    from tart_ray.reranking import job as rerank
    from tart_ray.training import job as train

    describe: dict[str, Callable[[Any], Any]] = {
        "rerank": rerank.describe,
        "relabel": relabel.describe,
        "mine_negatives": mine.describe,
        "evaluate": evaluate.describe,
        "train": train.describe,
    }
    loaded = load_config(CONFIGS[job], config)
    return "\n".join(describe[job](loaded))


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


def _ended(job: str, config: Section | Source, run: Callable[[Any], ExitCode]) -> RunResult:
    loaded: Any = load_config(CONFIGS[job], config)
    run(loaded)
    return open_run(loaded.output.path, storage=loaded.storage)
