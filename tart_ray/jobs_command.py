"""The jobs by their names, as `tart-ray <job>` and as `python -m jobs.<job>`: options, help, exit codes."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import tart_ray
import tart_ray.demo
from tart_ray.config.command_line import parse_config
from tart_ray.errors import ExitCode
from tart_ray.job_table import JOBS, missing_of_extra

DEMO = "demo"  # takes no configuration
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
    if missing := job.missing(config):
        print(missing, file=sys.stderr)  # noqa: T201
        return ExitCode.BAD_CONFIGURATION
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    from tart_ray.engine.session import exit_code_of  # after the configuration was found good: it loads Ray

    if plan_only:
        return exit_code_of(lambda: _show(job.describe(config)))
    return exit_code_of(lambda: job.run(config, ends_process=True))


def _show(lines: Iterable[str]) -> ExitCode:
    """Print the plan of a job, line by line as it is known."""
    for line in lines:
        print(line)  # noqa: T201
    return ExitCode.DONE


def _demo(program: str, argv: Sequence[str] | None) -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=program, description=tart_ray.demo.__doc__, formatter_class=raw)
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="emptied first")
    parser.add_argument("--functions", type=int, default=150, help="that are asked for, each of them twice")
    arguments = parser.parse_args(argv)
    if missing := missing_of_extra(DEMO, where=""):
        print(missing, file=sys.stderr)  # noqa: T201
        return ExitCode.BAD_CONFIGURATION
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from tart_ray.demo import show as demo

    return demo.show(arguments.output, arguments.functions)


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
