"""The jobs by their names, as `tart-ray <job>` and as `python -m jobs.<job>`: what each takes, needs and begins."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import tart_ray
import tart_ray.demo
from tart_ray.config import EvaluateConfig, MineConfig, RelabelConfig, RerankConfig, Section, TrainConfig
from tart_ray.config.command_line import parse_config
from tart_ray.errors import ExitCode

Config = TypeVar("Config", bound=Section)

EXTRAS = {  # of the package, with what each brings: distribution → module
    "demo": {"bm25s": "bm25s", "ir-measures": "ir_measures"},
    "evaluate": {"bm25s": "bm25s", "ir-measures": "ir_measures", "scipy": "scipy"},
    "relabel": {"scikit-learn": "sklearn"},
    "train": {"ir-measures": "ir_measures"},
}


@dataclass(frozen=True)
class Job(Generic[Config]):
    """A job that takes a configuration.

    Attributes:
        summary: what it does, in a line.
        config: the class of its configuration.
        work: gives what is to be done with a configuration: the job, or with True the plan alone. Loads Ray.
        needs_extra: whether a configuration needs the extra that has the job's name.
        only_with: the key that needs it, where not all configurations do.
    """

    summary: str
    config: type[Config]
    work: Callable[[Config, bool], Callable[[], ExitCode]]
    needs_extra: Callable[[Config], bool] = lambda config: False
    only_with: str = ""


def _rerank(config: RerankConfig, plan_only: bool) -> Callable[[], ExitCode]:
    from tart_ray.reranking import job as rerank

    return partial(rerank.show, config) if plan_only else partial(rerank.rerank, config, ends_process=True)


def _relabel(config: RelabelConfig, plan_only: bool) -> Callable[[], ExitCode]:
    from tart_ray.relabeling import job as relabel

    return partial(relabel.show, config) if plan_only else partial(relabel.relabel, config, ends_process=True)


def _mine_negatives(config: MineConfig, plan_only: bool) -> Callable[[], ExitCode]:
    from tart_ray.mining import job as mine

    return partial(mine.show, config) if plan_only else partial(mine.mine_negatives, config, ends_process=True)


def _evaluate(config: EvaluateConfig, plan_only: bool) -> Callable[[], ExitCode]:
    from tart_ray.evaluation import job as evaluate

    return partial(evaluate.show, config) if plan_only else partial(evaluate.evaluate, config, ends_process=True)


def _train(config: TrainConfig, plan_only: bool) -> Callable[[], ExitCode]:
    from tart_ray.training import job as train

    return partial(train.show, config) if plan_only else partial(train.train, config, ends_process=True)


DEMO = "demo"  # takes no configuration
JOBS: dict[str, Job[Any]] = {
    "rerank": Job("score candidates with an instruction-following cross-encoder and rank them", RerankConfig, _rerank),
    "relabel": Job(
        "give a corpus of (query, document) new labels, scoring only what changed",
        RelabelConfig,
        _relabel,
        needs_extra=lambda config: config.labels.by == "calibrated",
        only_with="labels.by: calibrated",
    ),
    "mine_negatives": Job("mine hard negatives for training from scored candidates", MineConfig, _mine_negatives),
    "evaluate": Job("evaluate a model on retrieval tasks", EvaluateConfig, _evaluate, needs_extra=lambda config: True),
    "train": Job(
        "train an EncT5 to follow instructions, from a T5 or from scratch",
        TrainConfig,
        _train,
        needs_extra=lambda config: config.input.evaluation is not None,
        only_with="input.evaluation",
    ),
}
SUMMARIES = {
    **{name: job.summary for name, job in JOBS.items()},
    DEMO: "rank functions of Python's own standard library with a small model; downloads nothing",
}


def main(argv: Sequence[str] | None = None) -> int:
    """`tart-ray <job> …`: do the job, return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    first, rest = (argv[0], argv[1:]) if argv else ("", ())
    if first in ("-h", "--help"):
        print(_help())  # noqa: T201
        return ExitCode.DONE
    if first == "--version":
        print(f"tart-ray {tart_ray.__version__}")  # noqa: T201
        return ExitCode.DONE
    name = first.replace("-", "_")
    if name not in SUMMARIES:
        got = f"got the job {first!r}" if first else "got no job"
        available = ", ".join(SUMMARIES)
        print(f"tart-ray: {got}, expected one of: {available}; tart-ray --help tells of each", file=sys.stderr)  # noqa: T201
        return ExitCode.BAD_CONFIGURATION
    return run_job(name, rest, f"tart-ray {name}")


def run_job(name: str, argv: Sequence[str] | None = None, program: str | None = None) -> int:
    """Parse the options of a job, do it, return its exit code.

    Args:
        name: one of `SUMMARIES`.
        argv: its options; those of this process if left out.
        program: what a user typed to get here; ``python -m jobs.<name>`` if left out.

    Raises:
        SystemExit: the options are no good (code 2), or ask for help (0).
    """
    program = program or f"python -m jobs.{name}"
    if name == DEMO:
        return _demo(program, argv)
    job = JOBS[name]
    config, plan_only = parse_config(job.config, name, argv, program=program)
    if job.needs_extra(config) and _tell_of_missing(name, job.only_with):
        return ExitCode.BAD_CONFIGURATION
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    from tart_ray.engine.session import exit_code_of  # after the configuration was found good: it loads Ray

    return exit_code_of(job.work(config, plan_only))


def _demo(program: str, argv: Sequence[str] | None) -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=program, description=tart_ray.demo.__doc__, formatter_class=raw)
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="emptied first")
    parser.add_argument("--functions", type=int, default=150, help="that are asked for, each of them twice")
    arguments = parser.parse_args(argv)
    if _tell_of_missing(DEMO):
        return ExitCode.BAD_CONFIGURATION
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from tart_ray.demo.show import show

    return show(arguments.output, arguments.functions)


def _tell_of_missing(name: str, only_with: str = "") -> bool:
    """Whether something is missing of the extra that has a job's name; if so, the user is told."""
    missing = [package for package, module in EXTRAS[name].items() if importlib.util.find_spec(module) is None]
    if missing:
        job = f"jobs.{name} with {only_with}" if only_with else f"jobs.{name}"
        what = f"{', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed"
        where = "" if name == DEMO else ", on every node"
        print(f"{job} needs {what}: pip install 'tart-ray[{name}]'{where}", file=sys.stderr)  # noqa: T201
    return bool(missing)


def _help() -> str:
    width = max(map(len, SUMMARIES)) + 2
    lines = [f"  {name:{width}}{summary}" for name, summary in SUMMARIES.items()]
    return "\n".join(
        [
            "usage: tart-ray JOB [--config FILE] [--section.key value ...] [--dry-run]",
            "",
            (tart_ray.__doc__ or "").partition(": ")[2],
            "",
            "jobs:",
            *lines,
            "",
            "`tart-ray JOB --help` describes every key of a job, `tart-ray --version` tells the release",
        ]
    )
