"""The paths of a configuration: made absolute, and the output not among what is read, nor where Ray throws it away."""

from __future__ import annotations

import fnmatch
import glob
import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import AfterValidator
from pydantic.fields import FieldInfo

from tart_ray.config import CandidatesConfig, ModelConfig, Section, StartConfig
from tart_ray.errors import ConfigurationError
from tart_ray.locations import DEMO, STORES, absolute, check_location, is_local, scheme_of

BM25 = "bm25"  # in place of the path of a run
UPLOADED = ("runtime_resources", "working_dir_files")  # where Ray unpacks what `ray job submit --working-dir` uploads


S = TypeVar("S", bound=Section)


def with_absolute_paths(section: S) -> S:
    """The configuration with local paths made absolute: workers, and jobs that read its manifest, run elsewhere."""
    return section.model_copy(
        update={
            name: _absolute(getattr(section, name), is_location=_is_location(field), is_model=_is_model(section))
            for name, field in type(section).model_fields.items()
        }
    )


def _absolute(value: Any, *, is_location: bool, is_model: bool) -> Any:
    if isinstance(value, Section):
        return with_absolute_paths(value)
    if isinstance(value, (tuple, list)):
        return type(value)(_absolute(item, is_location=is_location, is_model=is_model) for item in value)
    if not is_location or value in (None, BM25):
        return value
    if is_model and (value == DEMO or not Path(value).expanduser().exists()):
        return value  # what is no path may be the id of a model
    return absolute(value)


def _is_location(field: FieldInfo) -> bool:
    """Whether a field of the configuration is a `Location` or `Destination`, or several."""
    waiting: list[Any] = [*field.metadata, field.annotation]
    while waiting:
        found = waiting.pop()
        if isinstance(found, AfterValidator):
            if getattr(found.func, "func", found.func) is check_location:
                return True
        elif get_origin(found) is Annotated:
            waiting += found.__metadata__
        else:
            waiting += get_args(found)
    return False


def _is_model(section: Section) -> bool:
    return isinstance(section, (ModelConfig, StartConfig))


def input_paths(given: CandidatesConfig) -> dict[str, str | None]:
    """The paths of candidates and what belongs to them, by the keys of the configuration."""
    return {f"input.{name}": getattr(given, name) for name in ("candidates", "queries", "corpus")}


def check_output(output: str, inputs: Mapping[str, str | None]) -> None:
    """Refuse an output that would be lost, or that a rerun would find among its input.

    Args:
        inputs: paths, by the keys of the configuration: files, directories or globs.

    Raises:
        ConfigurationError: it would.
    """
    output = absolute(output)
    if is_local(output) and UPLOADED in itertools.pairwise(Path(output).parts):
        raise ConfigurationError(
            f"output.path: got {output}, which is in the copy of the working directory that Ray made for this job and "
            "removes after it; expected a URL such as s3://bucket/run, or an absolute path that every node shares"
        )
    for name, path in inputs.items():
        if path is not None and _would_read(absolute(path), output):
            raise ConfigurationError(
                f"output.path: got {output}, which {name} {path} takes in: whoever reads that would find this run's "
                "files; expected a directory beside it"
            )


def _would_read(source: str, output: str) -> bool:
    """Whether files under ``output`` are, or can be, among those that ``source`` names."""
    if is_local(source) != is_local(output):
        return False
    outputs = {_parts(output)}
    sources = {_parts(source)}
    if is_local(source):
        outputs.add(_parts(os.path.realpath(output)))
        sources.add(_parts(_real(source)))
    takes_in = _lies_in if is_local(source) and os.path.isdir(source) else _can_match  # noqa: PTH112 - a glob's name
    if any(takes_in(read, written) for read in sources for written in outputs):
        return True
    links = _links(source) if is_local(source) else ()
    return any(_lies_in(_parts(os.path.realpath(link)), written) for link in links for written in outputs)


def _lies_in(folder: tuple[str, ...], path: tuple[str, ...]) -> bool:
    return path[: len(folder)] == folder


def _can_match(pattern: tuple[str, ...], path: tuple[str, ...]) -> bool:
    """Whether a glob names a directory, one that it lies in, or something under it; all by their parts."""
    if not pattern:
        return True  # all that is under a directory is read
    if not path:
        return glob.has_magic(pattern[0])
    if pattern[0] == "**" and _can_match(pattern[1:], path):
        return True
    rest = pattern if pattern[0] == "**" else pattern[1:]
    return (pattern[0] in ("**", path[0]) or fnmatch.fnmatchcase(path[0], pattern[0])) and _can_match(rest, path[1:])


def _parts(location: str) -> tuple[str, ...]:
    """The store and the names on the way, so that ``s3://b/x/`` and ``s3a://b/x`` are the same."""
    scheme = scheme_of(location)
    store = "" if scheme in (None, "file") else STORES[str(scheme)].name
    path = location.partition("://")[2] if store else location
    return store, *(part for part in path.split("/") if part)


def _real(source: str) -> str:
    """A local path without links, as far as it holds no glob."""
    names = source.split("/")
    fixed = next((i for i, name in enumerate(names) if glob.has_magic(name)), len(names))
    if os.path.isdir(source):  # noqa: PTH112
        fixed = len(names)
    return "/".join([os.path.realpath("/".join(names[:fixed]) or "/"), *names[fixed:]])


def _links(source: str) -> Iterator[str]:
    """Links to directories in a local input, and in what these lead to."""
    seen: set[str] = set()
    waiting = [source] if os.path.isdir(source) else glob.glob(source, recursive=True)  # noqa: PTH112, PTH207
    for top in waiting:
        if os.path.islink(top):  # noqa: PTH114
            yield top
        if os.path.realpath(top) in seen:
            continue
        seen.add(os.path.realpath(top))
        for folder, names, _ in os.walk(top):
            links = [path for name in names if os.path.islink(path := os.path.join(folder, name))]  # noqa: PTH114, PTH118
            yield from links
            waiting += links
