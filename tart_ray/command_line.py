"""`--config FILE [--section.key value ...] [--dry-run]` for every job, and what their exit codes mean."""

from __future__ import annotations

import enum
import re
import sys
from collections.abc import Sequence
from typing import TypeVar

from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings
from pydantic import BaseModel, ValidationError

from tart_ray.config import Section

Config = TypeVar("Config", bound=Section)


class ExitCode(enum.IntEnum):
    """How a job ended."""

    DONE = 0
    FAILED = 1  # a rerun of the same command resumes
    BAD_CONFIGURATION = 2  # nothing was done
    TOO_MANY_QUARANTINED = 3  # finished, but over limits.max_quarantined_fraction
    TOO_MANY_CHANGED = 4  # finished, but over limits.max_changed_fraction: a person decides


class ConfigurationError(ValueError):
    """Something that the user must change before any work can start: exit code 2."""


def parse_config(config_class: type[Config], job: str, argv: Sequence[str] | None = None) -> tuple[Config, bool]:
    """The configuration of ``python -m jobs.<job>`` and whether ``--dry-run`` was given.

    Values come from the file and then, in their order, from the command line. Leaves with exit code 2 on an unknown
    key, a wrong type or a missing value, saying what was got and what is available.
    """
    set_parsing_settings(config_read_mode_fsspec_enabled=True)
    parser = ArgumentParser(prog=f"python -m jobs.{job}", description=config_class.__doc__, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file, local or s3://")
    parser.add_argument("--dry-run", action="store_true", help="read a sample and print the plan, without any work")
    for name, field in config_class.model_fields.items():
        default = {} if field.is_required() else {"default": field.default}
        parser.add_argument(f"--{name}", type=field.annotation, **default)
    try:
        values = _parse(config_class, parser, argv)
        parts = parser.instantiate(values)
        return config_class(**{name: parts[name] for name in config_class.model_fields}), values.dry_run
    except (ArgumentError, ValidationError) as error:
        print(_explain(config_class, error), file=sys.stderr)  # noqa: T201
        print(f"`{parser.prog} --help` describes every key", file=sys.stderr)  # noqa: T201
        raise SystemExit(ExitCode.BAD_CONFIGURATION) from None


def _parse(config_class: type[BaseModel], parser: ArgumentParser, argv: Sequence[str] | None) -> Namespace:
    try:
        values = parser.parse_args(argv)
    except ArgumentError:
        raise
    except Exception as error:  # object storage has many ways to refuse a file
        raise ArgumentError(None, f'Parser key "config": {type(error).__name__}: {error}') from error
    for section in sorted({key.rsplit(".", 1)[0] for key in _keys(config_class)}):
        found = values.get(section)
        if found is None:  # a section whose last key was removed or commented out
            raise ArgumentError(None, f'Parser key "{section}": got nothing, expected keys below it; remove it')
        if not isinstance(found, (Namespace, BaseModel, dict)):
            raise ArgumentError(None, f'Parser key "{section}": got {found!r}, expected keys below it')
    return values


def _explain(config_class: type[BaseModel], error: ArgumentError | ValidationError) -> str:
    if isinstance(error, ValidationError):
        found = [
            (".".join(map(str, item["loc"])), item["msg"].removeprefix("Value error, ")) for item in error.errors()
        ]
        return "\n".join(f"configuration error: {place + ': ' if place else ''}{message}" for place, message in found)
    message = f"configuration error: {_without_noise(error.message)}"
    if '"config"' in error.message or error.message.startswith("Problems parsing config"):  # the file, and no key in it
        return message
    keys = _keys(config_class)
    sections = {key.rsplit(".", 1)[0] for key in keys}
    named = {section for section in sections if re.search(rf"(?<![\w./]){section}[.'\"]", error.message)}
    deepest = tuple(f"{section}." for section in named if not any(other.startswith(f"{section}.") for other in named))
    return f"{message}\navailable: {', '.join(key for key in keys if key.startswith(deepest or ''))}"


def _without_noise(message: str) -> str:
    """Without what pydantic adds to its messages, and without its complaint that a list of bad items has too few."""
    message = re.sub(r"(\n *- )\d+ validation errors? for .*\n *", r"\1", message)
    message = re.sub(r"\n *\d+ validation errors? for .*", "", message)
    message = re.sub(r"\n *For further information visit [^\s]+/\w+", "", message)
    message = re.sub(r" \[type=.*?, input_type=\w+\]", "", message)
    if re.search(r"\n *\d+\.", message):
        message = re.sub(r"\n *(Tuple|List) should have at least \d+ items? after validation, not \d+", "", message)
    return message


def _keys(config_class: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in config_class.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys += _keys(inner, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys
