"""Which files an input is: what a file, a directory or a glob names, and what is left out of it."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from tart_ray.errors import InputError, StorageError
from tart_ray.input import table_logs
from tart_ray.storage import FileInfo, Storage, explained
from tart_ray.tables.schemas import HIVE_NULL

HIDDEN = "hidden (names that begin with _ or .)"
EMPTY = "empty"
LOOPS = "links to a directory that they lie in"
ODD = "neither files nor directories"
NAMES_SHOWN = 3


@dataclass(frozen=True)
class Skipped:
    """Entries of an input that are not read, for one reason: how many, and the first few, relative to the input."""

    reason: str
    count: int
    first: tuple[str, ...]

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.first) else ""
        return f"{self.count:,} {self.reason}: {', '.join(self.first)}{more}"


@dataclass(frozen=True)
class Listing:
    """The files of an input, sorted by name, and what is left out."""

    files: tuple[FileInfo, ...]
    skipped: tuple[Skipped, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What is left out, in words."""
        return tuple(f"skipped {entries}" for entries in self.skipped)


def list_files(storage: Storage, url: str) -> Listing:
    """The files that a file, a directory or a glob names.

    Names that begin with ``_`` or ``.`` are hidden, as for Spark and pyarrow, except ``key=value`` directories and
    whatever is named itself. Symbolic links are followed.

    Raises:
        StorageError: there is no such file, or none is left; a link leads nowhere.
        InputError: the files belong to a table whose log decides which of them are read.
    """
    filesystem, path = storage.resolve(url)
    with explained("list", url):
        listed_whole = False
        if filesystem.isfile(path):
            root, infos = path.rpartition("/")[0], {path: filesystem.info(path)}
        elif glob.has_magic(path) and not filesystem.isdir(path):  # a name may hold the characters of a glob
            root = path[: glob.escape(path).index("[")].rpartition("/")[0]
            infos = _matches(filesystem, root, path)
        else:
            root, infos = path.rstrip("/"), _below(filesystem, path)
            listed_whole = True
        table = table_logs.find(filesystem, root, infos, listed_whole=listed_whole)
    if table is not None:
        raise InputError(f"{url}: {table}")
    named = _named(path[len(root) :])
    files = []
    skipped: dict[str, list[str]] = {}
    for name, info in sorted(infos.items()):
        if info["type"] == "directory" and not name.endswith("/"):
            continue
        place = name[len(root) :].lstrip("/")
        hidden = None if name == path else _hidden_part(place, named)
        if hidden is not None:
            names = skipped.setdefault(HIDDEN, [])
            if names[-1:] != [hidden]:  # a directory is named once
                names.append(hidden)
        elif info["type"] == "file" and info["size"]:
            files.append(_file(storage, filesystem.unstrip_protocol(name), info, f"/{place}"))
        elif not name.endswith("/"):  # else it is the marker of a directory
            reason = {"file": EMPTY, LOOPS: LOOPS}.get(info["type"], ODD)
            skipped.setdefault(reason, []).append(place)
    left_out = tuple(Skipped(why, len(names), tuple(names[:NAMES_SHOWN])) for why, names in skipped.items())
    if not files:
        remark = "".join(f"; skipped {entries}" for entries in left_out)
        raise StorageError(f"{url}: no file there, or only empty ones{remark}; expected a file, a directory or a glob")
    return Listing(tuple(files), left_out)


def look_at(storage: Storage, urls: Sequence[str]) -> Listing:
    """The files of these names, sorted: for files that are known, where a listing may lag.

    Raises:
        StorageError: one is not there.
    """
    files = []
    for url in sorted(urls):
        filesystem, path = storage.resolve(url)
        with explained("look at", url):
            info = filesystem.info(path)
            files.append(_file(storage, filesystem.unstrip_protocol(path), info))
    return Listing(tuple(files), ())


def _file(storage: Storage, url: str, info: Mapping[str, Any], inside: str = "") -> FileInfo:
    return FileInfo(url, int(info["size"]), storage.version(url, info), path_keys(inside))


def path_keys(path: str) -> tuple[tuple[str, str | None], ...]:
    """Keys and values of the ``key=value`` directories of a path."""
    pairs = [part.split("=", 1) for part in path.split("/")[:-1] if _is_partition(part)]
    return tuple((unquote(key), None if value == HIVE_NULL else unquote(value)) for key, value in pairs)


def _is_partition(directory: str) -> bool:
    return "=" in directory.lstrip("=")


def _named(pattern: str) -> list[str]:
    """The parts of a glob that ask for hidden names."""
    return [part for part in pattern.split("/") if part.startswith(("_", "."))]


def _is_hidden(part: str, named: Sequence[str], *, directory: bool) -> bool:
    """Whether a name is hidden, as Spark has it, which others follow more or less; any partition is read."""
    if directory:
        hidden = part.startswith(("_", ".")) and not _is_partition(part)
    else:
        hidden = part.startswith(".") or (part.startswith("_") and "=" not in part)
    return hidden and not any(fnmatch.fnmatchcase(part, name) for name in named)


def _hidden_part(place: str, named: Sequence[str]) -> str | None:
    """The file, or the outermost directory of it, that is hidden; None where none is.

    Args:
        place: relative to the input; a directory ends with a slash.
    """
    parts = place.split("/")
    for end, part in enumerate(parts, 1):
        directory = end < len(parts)
        if _is_hidden(part, named, directory=directory):
            return "/".join(parts[:end]) + ("/" if directory else "")
    return None


def _below(filesystem: fsspec.AbstractFileSystem, path: str) -> dict[str, Any]:
    """What is under a directory, by full name; nothing where there is none."""
    if isinstance(filesystem, LocalFileSystem):
        return dict(_walk(filesystem, path.rstrip("/"), frozenset(), [], lambda _: True))
    found: dict[str, Any] = filesystem.find(path, detail=True)
    return found


def _matches(filesystem: fsspec.AbstractFileSystem, root: str, pattern: str) -> dict[str, Any]:
    """The files that a glob names, and what is under the directories that it names."""
    if not isinstance(filesystem, LocalFileSystem):
        found: dict[str, Any] = filesystem.glob(pattern, detail=True)
        for name in [name for name, info in found.items() if info["type"] == "directory"]:
            found |= filesystem.find(name, detail=True)
        return found
    parts = pattern.rstrip("/").split("/")
    depth = next((i for i, part in enumerate(parts) if part == "**"), len(parts))
    levels = [re.compile(glob_translate("/".join(parts[: end + 1]))) for end in range(depth)]
    whole = re.compile(glob_translate(pattern.rstrip("/")))

    def may_lead(name: str) -> bool:
        """Whether a directory, or what is in it, can match."""
        level = name.count("/")
        return level >= depth or levels[level].match(name) is not None

    def matches(name: str) -> bool:
        above = name.split("/")
        return any(whole.match("/".join(above[:end])) for end in range(1, len(above) + 1))

    walked = _walk(filesystem, root, frozenset(), _named(pattern[len(root) :]), may_lead)
    return {name: info for name, info in walked if name.endswith("/") or matches(name)}


def _walk(
    filesystem: LocalFileSystem,
    directory: str,
    above: frozenset[str],
    named: Sequence[str],
    wanted: Callable[[str], bool],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Full names under a local directory and what fsspec says of them, links followed.

    fsspec's own `find` follows no link, and leaves out what it may not read. Hidden directories are named, with a slash
    at their end, and not entered. A link that leads back to a directory above it is of the type `LOOPS`.

    Raises:
        OSError: a directory cannot be read.
        StorageError: a link leads nowhere.
    """
    real = os.path.realpath(directory or "/")
    if real in above:
        yield directory, {"type": LOOPS}
        return
    try:
        names = sorted(os.listdir(directory or "/"))  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        full = f"{directory}/{name}"
        if not wanted(full):
            continue
        try:
            info = filesystem.info(full)
        except OSError as error:
            if not os.path.islink(full):  # noqa: PTH114
                continue  # gone since it was listed
            if not _is_hidden(name, named, directory=False):
                target = os.readlink(full)  # noqa: PTH115
                raise StorageError(
                    f"{full}: a link to {target}, which cannot be followed; mend or remove it"
                ) from error
            info = {"type": "file", "size": 0}
        if info["type"] != "directory":
            yield full, info
        elif _is_hidden(name, named, directory=True):
            yield f"{full}/", info
        else:
            yield from _walk(filesystem, full, above | {real}, named, wanted)
