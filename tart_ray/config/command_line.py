"""`--config FILE [--section.key value ...] [--dry-run]` for every job."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from tart_ray.config.keys import (
    BETWEEN,
    Config,
    descriptions,
    expectation,
    keys_of,
    nearest,
    section_of,
    sections_of,
    takes_null,
    takes_text,
    validate,
)
from tart_ray.config.sections import Section, StorageConfig
from tart_ray.config.yaml_text import read_yaml
from tart_ray.errors import ConfigurationError, ExitCode, LocationError
from tart_ray.locations import MASK, open_filesystem, printable

Values = dict[str, Any]


def parse_config(
    config_class: type[Config], job: str, argv: Sequence[str] | None = None, *, program: str | None = None
) -> tuple[Config, bool]:
    """The configuration of a job and whether ``--dry-run`` was given.

    Values come from files and options in the order in which they are given, so that later ones win. Leaves with exit
    code 2 on an unknown key, a wrong type or a missing value, saying what was got and what is available.

    Args:
        argv: the options; those of this process if left out.
        program: what a user types before them; ``python -m jobs.<job>`` if left out.
    """
    program = program or f"python -m jobs.{job}"
    try:
        return _read(config_class, program, sys.argv[1:] if argv is None else argv)
    except ConfigurationError as error:
        lines = "\n".join(f"configuration error: {line}" for line in printable(str(error)).split(BETWEEN))
        print(lines, file=sys.stderr)  # noqa: T201
        print(f"`{program} --help` describes every key", file=sys.stderr)  # noqa: T201
        raise SystemExit(ExitCode.BAD_CONFIGURATION) from None


class _Stores(Section):
    """What commands take of a configuration that only read what a job wrote."""

    storage: StorageConfig = StorageConfig()


def parse_with_storage(
    parser: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[argparse.Namespace, StorageConfig]:
    """What was given of a parser's own options, and of those of the stores, as the jobs take them (``--storage.key``).

    Raises:
        ConfigurationError: of the latter, one is unknown or of the wrong type.
        SystemExit: of the former; or help was asked for.
    """
    values: Values = {}
    _add_keys(parser, _Stores, values)
    options, rest = parser.parse_known_args(argv)
    if rest:
        raise ConfigurationError(_unrecognized(_Stores, rest, argv))
    return options, validate(_Stores, values).storage


def load_config(config_class: type[Config], source: Config | Mapping[str, Any] | str | Path) -> Config:
    """The configuration of a job: itself, its keys, or the path or URL of its YAML file.

    Raises:
        ConfigurationError: the file cannot be read, a key is unknown or missing, a value of the wrong type.
    """
    if isinstance(source, config_class):
        return source
    if isinstance(source, (str, Path)):
        source = _read_file(str(source))
    if not isinstance(source, Mapping):
        raise ConfigurationError(
            f"got {type(source).__name__}, expected a {config_class.__name__}, a dict, or the path of a YAML file"
        )
    return validate(config_class, source)


def _read(config_class: type[Config], program: str, argv: Sequence[str]) -> tuple[Config, bool]:
    values: Values = {}
    parser = _parser(config_class, program, values)
    try:
        options, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ConfigurationError(str(error)) from None
    if rest:
        raise ConfigurationError(_unrecognized(config_class, rest, argv))
    return validate(config_class, values), options.dry_run


def _unrecognized(config_class: type[Section], rest: Sequence[str], argv: Sequence[str]) -> str:
    """What to say of arguments that belong to no option; what may be a secret is masked."""
    keys = [key for key, _ in keys_of(config_class)]
    public = {"", "config", *(key for key in keys if not key.startswith("storage"))}
    option, shown = "", []
    for argument in argv:
        name, assigned, _ = argument.partition("=")
        if argument.startswith("--"):
            option = name[2:]
            text = f"{name}={MASK}" if assigned else name
        else:
            text = argument if option in public else MASK
        if argument in rest:
            shown.append(text)
    unknown = next((argument[2:].partition("=")[0] for argument in rest if argument.startswith("--")), "")
    section = unknown.rpartition(".")[0]
    available = [key for key in keys if section and key.startswith(f"{section}.")] or keys
    meant = nearest(unknown, keys) if unknown else ""
    return f"unrecognized arguments: {' '.join(shown)}{meant}\navailable: {', '.join(available)}"


def _parser(config_class: type[Section], program: str, values: Values) -> argparse.ArgumentParser:
    """A parser that writes what is given, in its order, into ``values``."""

    class File(argparse.Action):
        def __call__(self, parser: Any, namespace: Any, value: Any, option: str | None = None) -> None:
            _merge(config_class, values, _read_file(value))

    parser = argparse.ArgumentParser(
        program,
        usage=f"{program} --config FILE [--section.key VALUE ...] [--dry-run]",
        description=config_class.__doc__,
        allow_abbrev=False,
        exit_on_error=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--config", action=File, metavar="FILE", help="YAML, local or in a store (s3://, gs://, az://)")
    parser.add_argument(
        "--dry-run", action="store_true", default=False, help="read a sample and print the plan, without any work"
    )
    _add_keys(parser, config_class, values)
    return parser


def _add_keys(parser: argparse.ArgumentParser, config_class: type[Section], values: Values) -> None:
    """An option for every section and every key, which writes what is given into ``values``."""

    class Key(argparse.Action):
        def __call__(self, parser: Any, namespace: Any, value: Any, option: str | None = None) -> None:
            for name in reversed(self.dest.split(".")):
                value = {name: value}
            _merge(config_class, values, value)

    for place, section in sections_of(config_class):
        group = parser.add_argument_group(f"{place}: {(section.__doc__ or '').partition(chr(10))[0]}")
        group.add_argument(
            f"--{place}", action=Key, type=_yaml_argument, metavar="KEYS", help="keys and values as YAML"
        )
        described = descriptions(section)
        for name, field in section.model_fields.items():
            if section_of(field) is None:
                group.add_argument(
                    f"--{place}.{name}",
                    action=Key,
                    type=_reader(field),
                    metavar="VALUE",
                    help=_help(described.get(name, ""), field).replace("%", "%%"),
                )


def _help(description: str, field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    shown = "required" if field.is_required() else f"default: {'null' if default is None else default}"
    return f"{description} ({expectation(field)}; {shown})"


def _reader(field: FieldInfo) -> Callable[[str], Any]:
    """From what is typed to a value: text as it stands, all else as YAML."""
    if not takes_text(field):
        return _yaml_argument
    return (lambda text: None if text == "null" else text) if takes_null(field) else str


def _yaml_argument(text: str) -> Any:
    try:
        return read_yaml(text)
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _merge(section: type[Section], values: Values, given: Mapping[str, Any]) -> None:
    """Put what is given over the values, key by key within sections."""
    for name, value in given.items():
        field = section.model_fields.get(name)
        inner = section_of(field) if field else None
        if inner and isinstance(value, Mapping) and isinstance(values.get(name), dict):
            _merge(inner, values[name], value)
        elif inner and isinstance(value, Mapping):
            values[name] = dict(value)
        else:
            values[name] = value


def _read_file(url: str) -> Mapping[str, Any]:
    """The keys and values of a configuration file.

    Raises:
        ConfigurationError: it cannot be read, or holds no keys.
    """
    try:
        filesystem, path = open_filesystem(url, StorageConfig().fsspec_options(url))
        text = filesystem.cat_file(path)
    except LocationError as error:
        raise ConfigurationError(f"cannot read the configuration: {error}") from error
    except Exception as error:  # object storage has many ways to refuse a file
        raise ConfigurationError(f"cannot read the configuration {url}: {type(error).__name__}: {error}") from error
    try:
        values = read_yaml(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{url}: {error}") from None
    if not isinstance(values, Mapping):
        raise ConfigurationError(
            f"{url}: got {'nothing' if values is None else type(values).__name__}, expected sections with keys"
        )
    return values
