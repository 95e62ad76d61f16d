"""The jobs by their names, as `tart-ray <job>` and as `python -m jobs.<job>`, and the commands beside them."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import tart_ray
import tart_ray.demo
from tart_ray.config.command_line import parse_config
from tart_ray.errors import ExitCode, TartRayError
from tart_ray.extras import missing_of_extra
from tart_ray.job_table import JOBS
from tart_ray.locations import printable

DEMO = "demo"  # takes no configuration
SUMMARIES = {
    **{name: job.summary for name, job in JOBS.items()},
    DEMO: "rank functions of Python's own standard library with a small model; downloads nothing",
}
COMMANDS = {  # beside the jobs: the module whose `main` takes name and options, imported when it is begun; a summary
    "init": ("tart_ray.configuring.command", "write a commented configuration of a job, from a look at your file"),
    "schema": ("tart_ray.configuring.command", "print the JSON schema of a job's configuration, for editors"),
    "show": ("tart_ray.showing.command", "show what a job wrote: its state, a query, bad rows, versions of labels"),
    "versions": ("tart_ray.showing.command", "list the versions of labels at a path"),
    "diff": ("tart_ray.showing.command", "compare two versions of labels"),
    "prune": ("tart_ray.showing.command", "remove old versions of labels"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """`tart-ray <job or command> …`: do it, return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    first, rest = (argv[0], argv[1:]) if argv else ("", ())
    if first in ("-h", "--help"):
        print(_help())  # noqa: T201
        return ExitCode.DONE
    if first == "--version":
        print(f"tart-ray {tart_ray.__version__}")  # noqa: T201
        return ExitCode.DONE
    if first in COMMANDS:
        return _run_command(first, rest)
    name = first.replace("-", "_")
    if name not in SUMMARIES:
        got = f"got the job {first!r}" if first else "got no job"
        available = ", ".join([*SUMMARIES, *COMMANDS])
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


def _run_command(name: str, argv: Sequence[str]) -> int:
    """Do what a command beside the jobs does; what it raises becomes an exit code and a message."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        code: int = importlib.import_module(COMMANDS[name][0]).main(name, argv)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE
    except TartRayError as error:
        print(f"tart-ray {name}: {printable(str(error))}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return code


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
    width = max(map(len, (*SUMMARIES, *COMMANDS))) + 2
    jobs = [f"  {name:{width}}{summary}" for name, summary in SUMMARIES.items()]
    commands = [f"  {name:{width}}{summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: tart-ray JOB [--config FILE] [--section.key value ...] [--dry-run]",
            "       tart-ray COMMAND ...",
            "",
            (tart_ray.__doc__ or "").partition(": ")[2],
            "",
            "jobs:",
            *jobs,
            "",
            "commands:",
            *commands,
            "",
            "`tart-ray JOB --help` describes every key of a job, `tart-ray COMMAND --help` the options of a command,",
            "`tart-ray --version` tells the release",
        ]
    )
