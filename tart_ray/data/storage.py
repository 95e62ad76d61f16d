"""Object storage and local disks behind one small surface, through fsspec.

Every file that this project writes is one whole object: a single PUT on S3 (s3fs sends up to 100 MB in one), a
temporary file that is renamed on a local disk. So a file is there completely or not at all, whoever is killed.
"""

from __future__ import annotations

import glob
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import fsspec
from fsspec.implementations.local import LocalFileSystem

from tart_ray.data.schema import HIVE_NULL

PARTIAL = ".partial"  # ends the names of temporary files, which begin with a dot: readers skip them
EXISTS_ERRNO = 22  # what s3fs makes of the 412 that answers `If-None-Match: *`


class StorageError(ValueError):
    """A place that cannot be used as configured; the message says which and why."""


@dataclass(frozen=True)
class FileInfo:
    """A file of the input.

    ``version`` changes when its content does: an ETag, or a modification time. ``keys``: what the ``key=value``
    directories say that it lies in below the place that was named.
    """

    url: str
    size: int
    version: str
    keys: tuple[tuple[str, str | None], ...] = ()


class Storage:
    """Files by URL. ``options`` go to fsspec for URLs with a protocol; pickles into every worker."""

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self.options = dict(options or {})

    def resolve(self, url: str) -> tuple[fsspec.AbstractFileSystem, str]:
        """The filesystem that serves ``url`` and the path of ``url`` in it."""
        if "://" not in url or url.startswith("file://"):
            return fsspec.filesystem("file"), absolute(url.removeprefix("file://"))
        filesystem, path = fsspec.core.url_to_fs(url, **self.options)
        return filesystem, path

    def files(self, url: str) -> list[FileInfo]:
        """The files that a file, directory or glob names, sorted; names with a leading ``_`` or ``.`` are skipped.

        Raises:
            StorageError: there is no such file, or none is left.
        """
        filesystem, path = self.resolve(url)
        try:
            if filesystem.isfile(path):
                found = {path: filesystem.info(path)}
            elif glob.has_magic(path) and not filesystem.isdir(path):  # a name may hold the characters of a glob
                found = filesystem.glob(path, detail=True)
                for name in [name for name, info in found.items() if info["type"] == "directory"]:
                    found |= filesystem.find(name, detail=True)
                path = path[: glob.escape(path).index("[")].rpartition("/")[0]
            else:
                found = filesystem.find(path, detail=True)
        except (PermissionError, FileNotFoundError) as error:
            raise StorageError(f"{url}: {error or 'no such bucket or file'}") from error
        root = path.rstrip("/")
        files = [
            FileInfo(filesystem.unstrip_protocol(name), int(info["size"]), _version(info), path_keys(name[len(root) :]))
            for name, info in sorted(found.items())
            if info["type"] == "file" and info["size"] and not _is_hidden(name, root)
        ]
        if not files:
            raise StorageError(f"{url}: no file there, or only empty ones; expected a file, a directory or a glob")
        return files

    def exists(self, url: str) -> bool:
        """Whether the file is there."""
        filesystem, path = self.resolve(url)
        try:
            return bool(filesystem.info(path)["type"] == "file")  # isfile() takes any error for an absence
        except FileNotFoundError:
            return False

    def names(self, url: str) -> list[str]:
        """Names of the files and directories directly under a directory; none where it does not exist."""
        filesystem, path = self.resolve(url)
        try:
            found = filesystem.ls(path, detail=False)
        except FileNotFoundError:
            return []
        inside = (name.rstrip("/") for name in found if name.rstrip("/") != path.rstrip("/"))
        return sorted(name.rsplit("/", 1)[-1] for name in inside if not name.endswith(PARTIAL))

    def holds_files(self, url: str) -> bool:
        """Whether any file is under a directory; some object stores go on listing directories that were emptied."""
        filesystem, path = self.resolve(url)
        return any(info["type"] == "file" for info in filesystem.find(path, detail=True).values())

    def read(self, url: str, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes of a file, or of a range of it."""
        filesystem, path = self.resolve(url)
        return bytes(filesystem.cat_file(path, start=start, end=end))

    def read_many(self, urls: Sequence[str]) -> list[bytes]:
        """The bytes of several files, fetched together."""
        return self.read_ranges(urls, [None] * len(urls), [None] * len(urls))

    def read_ranges(self, urls: Sequence[str], starts: Sequence[int | None], ends: Sequence[int | None]) -> list[bytes]:
        """One range of each file, fetched together; None is the file's start, or its end."""
        if not urls:
            return []
        filesystem, _ = self.resolve(urls[0])
        paths = [self.resolve(url)[1] for url in urls]
        return list(filesystem.cat_ranges(paths, list(starts), list(ends), on_error="raise"))

    def write(self, url: str, data: bytes | memoryview) -> None:
        """Write a whole file; an older one of that name is replaced at once."""
        filesystem, path = self.resolve(url)
        if isinstance(filesystem, LocalFileSystem):
            partial = _write_partial(path, data)
            os.replace(partial, path)  # noqa: PTH105
        else:
            filesystem.pipe_file(path, bytes(data))

    def create(self, url: str, data: bytes) -> bool:
        """Write a small file unless one of that name exists; False if it does. One wins where several try."""
        filesystem, path = self.resolve(url)
        if isinstance(filesystem, LocalFileSystem):
            partial = _write_partial(path, data)
            try:
                os.link(partial, path)
            except FileExistsError:
                return False
            finally:
                os.unlink(partial)  # noqa: PTH108
            return True
        try:
            filesystem.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno == EXISTS_ERRNO and self.exists(url):
                return False
            raise
        return True

    def remove_tree(self, url: str) -> None:
        """Remove a directory with all that is in it; nothing happens where there is none."""
        filesystem, path = self.resolve(url)
        if glob.has_magic(path) and not isinstance(filesystem, LocalFileSystem):
            for name in filesystem.find(path):  # rm() would take the path for a glob, and remove what it matches
                filesystem.rm_file(name)
            return
        try:
            filesystem.rm(path, recursive=True)
        except FileNotFoundError:
            return


def path_keys(path: str) -> tuple[tuple[str, str | None], ...]:
    """Keys and values of the ``key=value`` directories of a path."""
    pairs = [part.split("=", 1) for part in path.split("/")[:-1] if "=" in part.lstrip("=")]
    return tuple((unquote(key), None if value == HIVE_NULL else unquote(value)) for key, value in pairs)


def absolute(url: str) -> str:
    """A local path made absolute; a URL as it is."""
    return url if "://" in url else os.path.abspath(os.path.expanduser(url))  # noqa: PTH100, PTH111


def join_url(root: str, *parts: str) -> str:
    """``root/part/part``."""
    return "/".join([root.rstrip("/"), *parts])


def _write_partial(path: str, data: bytes | memoryview) -> str:
    folder, name = os.path.split(path)
    partial = os.path.join(folder, f".{name[:100]}.{uuid.uuid4().hex}{PARTIAL}")  # noqa: PTH118
    try:
        file = open(partial, "xb")  # noqa: SIM115, PTH123
    except FileNotFoundError:
        os.makedirs(folder, exist_ok=True)  # noqa: PTH103
        file = open(partial, "xb")  # noqa: SIM115, PTH123
    with file:
        file.write(data)
    return partial


def _is_hidden(name: str, root: str) -> bool:
    inside = name.removeprefix(root)  # a file that is named itself is wanted
    return any(part.startswith(("_", ".")) for part in inside.split("/") if part)


def _version(info: Mapping[str, Any]) -> str:
    return str(info.get("ETag") or info.get("mtime") or "").strip('"')
