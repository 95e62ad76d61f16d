"""The jobs, each once: what the command line and the API call by name, and which extra one needs.

A job's module is named here and imported when the job is begun: Ray, pyarrow and torch are none of a caller's business
who only wants to know which jobs there are.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tart_ray.config import EvaluateConfig, MineConfig, RelabelConfig, RerankConfig, Section, TrainConfig
from tart_ray.errors import ExitCode
from tart_ray.extras import missing_of_extra

Config = TypeVar("Config", bound=Section)


@dataclass(frozen=True)
class Job(Generic[Config]):
    """A job that takes a configuration.

    Attributes:
        name: of the job, of the function in its module that does it, and of the extra that it may need.
        module: where that function is, and beside it ``describe``, which tells the plan.
        config: the class of its configuration.
        summary: what it does, in a line.
        needs_extra: whether a configuration needs the extra.
        only_with: the key that needs it, where not all configurations do.
    """

    name: str
    module: str
    config: type[Config]
    summary: str
    needs_extra: Callable[[Config], bool] = lambda config: False
    only_with: str = ""

    def missing(self, config: Config) -> str:
        """What a configuration needs that is not installed, in a sentence; empty if nothing."""
        return missing_of_extra(self.name, self.only_with) if self.needs_extra(config) else ""

    def run(self, config: Config, *, ends_process: bool) -> ExitCode:
        """Do the job. Loads Ray.

        Args:
            ends_process: of a command: what ends the work from outside ends this process.

        Raises:
            TartRayError: see the function of the job.
        """
        code: ExitCode = getattr(self._import(), self.name)(config, ends_process=ends_process)
        return code

    def describe(self, config: Config) -> Iterator[str]:
        """Lines that say what the job would do, one by one as they are known; starts nothing.

        Raises:
            TartRayError: as `run`, for the same reasons.
        """
        lines: Iterator[str] = self._import().describe(config)
        return lines

    def _import(self) -> Any:
        return importlib.import_module(self.module)


JOBS: dict[str, Job[Any]] = {
    job.name: job
    for job in (
        Job(
            "rerank",
            "tart_ray.reranking.job",
            RerankConfig,
            "score candidates with an instruction-following cross-encoder and rank them",
        ),
        Job(
            "relabel",
            "tart_ray.relabeling.job",
            RelabelConfig,
            "give a corpus of (query, document) new labels, scoring only what changed",
            needs_extra=lambda config: config.labels.by == "calibrated",
            only_with="labels.by: calibrated",
        ),
        Job(
            "mine_negatives",
            "tart_ray.mining.job",
            MineConfig,
            "mine hard negatives for training from scored candidates",
        ),
        Job(
            "evaluate",
            "tart_ray.evaluation.job",
            EvaluateConfig,
            "evaluate a model on retrieval tasks",
            needs_extra=lambda config: True,
        ),
        Job(
            "train",
            "tart_ray.training.job",
            TrainConfig,
            "train an EncT5 to follow instructions, from a T5 or from scratch",
            needs_extra=lambda config: config.input.evaluation is not None,
            only_with="input.evaluation",
        ),
    )
}
