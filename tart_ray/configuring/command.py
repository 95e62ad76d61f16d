"""`tart-ray init` and `tart-ray schema`: a commented configuration to begin with, and a JSON schema for editors."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tart_ray.config.command_line import parse_with_storage
from tart_ray.config.json_schema import schema_text
from tart_ray.config.keys import validate
from tart_ray.config.template import commented
from tart_ray.config.yaml_text import read_yaml
from tart_ray.configuring.proposals import propose
from tart_ray.errors import ConfigurationError, ExitCode
from tart_ray.job_table import JOBS
from tart_ray.storage import Storage

SHORT = {"mine": "mine_negatives"}  # names that are understood beside those of the jobs
SCHEMAS = "schemas"  # the folder beside a configuration
HEADER = """\
# yaml-language-server: $schema={schema}
#
# {summary}: tart-ray {job} --config {name}
# Keys behind a # have the value that is shown. To set one, remove the # before it and before the section that it is in.
"""


def main(name: str, argv: Sequence[str]) -> int:
    """Do one of the commands, return its exit code.

    Raises:
        TartRayError: the file is not what the job reads, or what would be written is there.
        SystemExit: the options are no good (code 2), or ask for help (0).
    """
    if name == "schema":
        parser = argparse.ArgumentParser("tart-ray schema", description="Print the JSON schema of a configuration.")
        parser.add_argument("job", type=_job, metavar="JOB", help=f"one of {', '.join(JOBS)}")
        print(schema_text(JOBS[parser.parse_args(argv).job].config), end="")  # noqa: T201
        return ExitCode.DONE
    options, stores = parse_with_storage(_parser(), argv)
    output = options.output or Path(f"{options.job}.yaml")
    if output.exists():
        raise ConfigurationError(f"{output}: is there, and is not written over; give another --output")
    text = configuration(Storage(stores), options.job, options.file, output.name)
    schema = output.parent / SCHEMAS / f"{options.job}.json"
    schema.parent.mkdir(parents=True, exist_ok=True)
    schema.write_text(schema_text(JOBS[options.job].config), encoding="utf-8")
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:  # meanwhile
        raise ConfigurationError(f"{output}: is there, and is not written over; give another --output") from None
    print(f"wrote {output}, and {schema} for editors")  # noqa: T201
    print(f"what it would do: tart-ray {options.job} --config {output} --dry-run")  # noqa: T201
    return ExitCode.DONE


def configuration(storage: Storage, job: str, url: str | None, name: str) -> str:
    """The text of a configuration over a file, which has been validated.

    Args:
        job: its name in `JOBS`.
        name: of the file that it is for.

    Raises:
        InputError, StorageError, ConfigurationError: the file is not what the job reads.
    """
    proposal, known = propose(storage, job, url), JOBS[job]
    header = HEADER.format(schema=f"{SCHEMAS}/{job}.json", summary=known.summary.capitalize(), job=job, name=name)
    text = header + commented(known.config, proposal.values, proposal.notes)
    validate(known.config, read_yaml(text))
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "tart-ray init",
        description="Write a commented configuration, from a look at a file of yours where one is given.",
        allow_abbrev=False,
    )
    parser.add_argument("job", type=_job, metavar="JOB", help=f"one of {', '.join(JOBS)}; mine is mine_negatives")
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="candidates of rerank, relabel, mine (or output.path of jobs.rerank); the directory of a collection for "
        "evaluate; examples for train",
    )
    parser.add_argument("--output", type=Path, metavar="YAML", help="default: JOB.yaml; never written over")
    return parser


def _job(text: str) -> str:
    name = SHORT.get(text, text).replace("-", "_")
    if name not in JOBS:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected one of {', '.join(JOBS)}")
    return name
