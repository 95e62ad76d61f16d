"""`--config FILE [--section.key value ...] [--dry-run]` for every job, and what their exit codes mean."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml  # type: ignore[import-untyped]
from jsonargparse import (  # type: ignore[attr-defined]
    ActionConfigFile,
    ArgumentError,
    ArgumentParser,
    Namespace,
    get_loader,
    set_loader,
    set_parsing_settings,
)
from pydantic import BaseModel, ValidationError

from tart_ray.config import Section, StorageConfig
from tart_ray.errors import ConfigurationError, ExitCode, LocationError
from tart_ray.locations import LEAST_SECRET, MASK, is_local, open_filesystem, printable

Config = TypeVar("Config", bound=Section)

SEVERAL = "\n\n"  # between the errors of one configuration
PUBLIC_STORAGE = ("endpoint_url", "region", "anonymous")  # keys of the section storage that hold no secret
_LOAD_YAML: Callable[[str], Any] = get_loader("yaml")


def parse_config(
    config_class: type[Config], job: str, argv: Sequence[str] | None = None, *, program: str | None = None
) -> tuple[Config, bool]:
    """The configuration of a job and whether ``--dry-run`` was given.

    Values come from the file and then, in their order, from the command line. Leaves with exit code 2 on an unknown
    key, a wrong type or a missing value, saying what was got and what is available.

    Args:
        argv: the options; those of this process if left out.
        program: what a user types before them; ``python -m jobs.<job>`` if left out.
    """
    program = program or f"python -m jobs.{job}"
    try:
        return _read(config_class, program, sys.argv[1:] if argv is None else argv)
    except ConfigurationError as error:
        lines = "\n".join(f"configuration error: {line}" for line in str(error).split(SEVERAL))
        print(lines, file=sys.stderr)  # noqa: T201
        print(f"`{program} --help` describes every key", file=sys.stderr)  # noqa: T201
        raise SystemExit(ExitCode.BAD_CONFIGURATION) from None


def load_config(config_class: type[Config], job: str, source: Config | Mapping[str, Any] | str | Path) -> Config:
    """The configuration of a job: itself, its keys, or the path or URL of its YAML file.

    Raises:
        ConfigurationError: the file cannot be read, a key is unknown or missing, a value of the wrong type.
    """
    if isinstance(source, config_class):
        return source
    if isinstance(source, Mapping):
        try:
            return config_class.model_validate(source)
        except ValidationError as error:
            raise ConfigurationError(_explain(config_class, error)) from None
    if not isinstance(source, (str, Path)):
        raise ConfigurationError(
            f"got {type(source).__name__}, expected a {config_class.__name__}, a dict, or the path of a YAML file"
        )
    return _read(config_class, f"python -m jobs.{job}", ["--config", str(source)])[0]


def _read(config_class: type[Config], program: str, argv: Sequence[str]) -> tuple[Config, bool]:
    secrets = {*_secrets_of_arguments(config_class, argv)}
    repeated: list[str] = []
    set_parsing_settings(config_read_mode_fsspec_enabled=True)
    set_loader("yaml", _loader(secrets, repeated), (yaml.YAMLError,))
    parser = ArgumentParser(prog=program, description=config_class.__doc__, exit_on_error=False, parser_mode="yaml")
    parser.add_argument("--config", action=_ConfigFile, help="YAML file, local or in a store (s3://, gs://, az://)")
    parser.add_argument("--dry-run", action="store_true", help="read a sample and print the plan, without any work")
    for name, field in config_class.model_fields.items():
        default = {} if field.is_required() else {"default": field.default}
        parser.add_argument(f"--{name}", type=field.annotation, **default)
    try:
        values = _parse(config_class, parser, argv)
        parts = parser.instantiate(values)
        return config_class(**{name: parts[name] for name in config_class.model_fields}), values.dry_run
    except (ArgumentError, ValidationError) as error:
        message = repeated[0] if repeated else _explain(config_class, error)
        raise ConfigurationError(_without(secrets, message)) from None


class _ConfigFile(ActionConfigFile):
    """``--config``, from every place that input can be in."""

    @staticmethod
    def apply_config(parser: ArgumentParser, cfg: Namespace, dest: str, value: str) -> None:
        """Merge the file into ``cfg``, unless its place is refused."""
        if not value.lstrip().startswith("{"):  # else it is the configuration itself
            try:
                filesystem, path = open_filesystem(value, StorageConfig().fsspec_options(value))
            except LocationError as error:
                raise ArgumentError(None, f'Parser key "{dest}": {error}') from error
            value = path if is_local(value) else filesystem.unstrip_protocol(path)
        ActionConfigFile.apply_config(parser, cfg, dest, value)


def _loader(secrets: set[str], repeated: list[str]) -> Callable[[str], Any]:
    """jsonargparse's loader of YAML, which refuses a key that is given twice.

    Args:
        secrets: gets the values that no message may show.
        repeated: gets a sentence for such a key.
    """

    def load(text: str) -> Any:
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            for mark in filter(None, (error.context_mark, error.problem_mark)):
                mark.buffer = None  # or the message would show the line, and a secret in it
            raise
        for node in (_nodes(root, {}) if root is not None else {}).values():
            if isinstance(node, yaml.MappingNode):
                repeated.extend(_repeated_keys(node))
        secrets.update(_secrets_of_yaml(root))
        if repeated:
            raise yaml.YAMLError(repeated[0])
        return _LOAD_YAML(text)

    return load


def _nodes(node: yaml.Node, found: dict[int, yaml.Node]) -> dict[int, yaml.Node]:
    """All nodes below one, each once: aliases make a graph of the tree."""
    if id(node) not in found and isinstance(node.value, list):
        found[id(node)] = node
        for child in node.value:
            for part in child if isinstance(child, tuple) else (child,):
                _nodes(part, found)
    elif id(node) not in found:
        found[id(node)] = node
    return found


def _repeated_keys(mapping: yaml.MappingNode) -> Iterator[str]:
    """Sentences on keys that are there twice: YAML's readers take the last value without a word."""
    first: dict[str, int] = {}
    for key, _ in mapping.value:
        line = key.start_mark.line + 1
        if isinstance(key, yaml.ScalarNode) and key.value in first:
            yield (
                f"the key {key.value!r} is given twice, in line {first[key.value]} and in line {line}: put what "
                "belongs to it together"
            )
        elif isinstance(key, yaml.ScalarNode):
            first[key.value] = line


def _secrets_of_yaml(root: yaml.Node | None) -> Iterator[str]:
    """What stands below ``storage`` in a configuration, but for what is no secret."""
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        if key.value == "storage":
            inner = value.value if isinstance(value, yaml.MappingNode) else [(key, value)]
            for name, given in inner:
                if name.value not in PUBLIC_STORAGE:
                    yield from (
                        str(node.value) for node in _nodes(given, {}).values() if isinstance(node, yaml.ScalarNode)
                    )


def _secrets_of_arguments(config_class: type[BaseModel], argv: Sequence[str]) -> Iterator[str]:
    """Values of ``--storage…`` that may be secrets, and those of options that do not exist."""
    known = {*_keys(config_class), "config", "dry-run", "help"}
    known |= {section for key in known for section in (key.split(".")[0], key.rpartition(".")[0])} - {""}
    public = {f"storage.{name}" for name in PUBLIC_STORAGE} | {name for name in known if not name.startswith("storage")}
    name = ""
    for argument in argv:
        if argument.startswith("--"):
            name, _, value = argument[2:].partition("=")
        else:
            value = argument
        if name and value and not any(name == found or name.startswith(f"{found}.") for found in public):
            yield value


def _without(secrets: set[str], message: str) -> str:
    for secret in sorted(secrets, key=len, reverse=True):
        edge = r"(?<![\w-])" + re.escape(secret) + r"(?![\w-])" if len(secret) < LEAST_SECRET else re.escape(secret)
        message = re.sub(edge, MASK, message)
    return printable(message)


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
        return SEVERAL.join(f"{place + ': ' if place else ''}{message}" for place, message in found)
    message = _without_noise(error.message)
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
    message = re.sub(r" \[type=(\w+|.*?, input_type=\w+)\]", "", message).replace("Value error, ", "")
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
