"""Which files an input is: what a file, a directory or a glob names."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from urllib.parse import unquote

from tart_ray.data.schema import HIVE_NULL
from tart_ray.data.storage import FileInfo, Storage, StorageError, explained, version_of


class InputError(ValueError):
    """Input that cannot be read as configured; the message says what was got, expected and available."""


def list_files(storage: Storage, url: str) -> list[FileInfo]:
    """The files that a file, directory or glob names, sorted; names with a leading ``_`` or ``.`` are skipped.

    Raises:
        StorageError: there is no such file, or none is left.
    """
    filesystem, path = storage.resolve(url)
    with explained("list", url):
        if filesystem.isfile(path):
            found = {path: filesystem.info(path)}
        elif glob.has_magic(path) and not filesystem.isdir(path):  # a name may hold the characters of a glob
            found = filesystem.glob(path, detail=True)
            for name in [name for name, info in found.items() if info["type"] == "directory"]:
                found |= filesystem.find(name, detail=True)
            path = path[: glob.escape(path).index("[")].rpartition("/")[0]
        else:
            found = filesystem.find(path, detail=True)
    root = path.rstrip("/")
    files = [
        FileInfo(filesystem.unstrip_protocol(name), int(info["size"]), version_of(info), path_keys(name[len(root) :]))
        for name, info in sorted(found.items())
        if info["type"] == "file" and info["size"] and not _is_hidden(name, root)
    ]
    if not files:
        raise StorageError(f"{url}: no file there, or only empty ones; expected a file, a directory or a glob")
    return files


def look_at(storage: Storage, urls: Sequence[str]) -> list[FileInfo]:
    """The files of these names, sorted: for files that are known, where a listing may lag.

    Raises:
        StorageError: one is not there.
    """
    found = []
    for url in sorted(urls):
        filesystem, path = storage.resolve(url)
        with explained("look at", url):
            info = filesystem.info(path)
        found.append(FileInfo(filesystem.unstrip_protocol(path), int(info["size"]), version_of(info)))
    return found


def path_keys(path: str) -> tuple[tuple[str, str | None], ...]:
    """Keys and values of the ``key=value`` directories of a path."""
    pairs = [part.split("=", 1) for part in path.split("/")[:-1] if "=" in part.lstrip("=")]
    return tuple((unquote(key), None if value == HIVE_NULL else unquote(value)) for key, value in pairs)


def _is_hidden(name: str, root: str) -> bool:
    inside = name.removeprefix(root)  # a file that is named itself is wanted
    return any(part.startswith(("_", ".")) for part in inside.split("/") if part)
