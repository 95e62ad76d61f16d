"""Object stores in the memory of this process, as strict as real ones; a test says for how long they are supported."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from tart_ray import locations
from tart_ray.locations import Store


class StrictFileSystem(MemoryFileSystem):
    """Takes only the options that it knows, and says no more of a file than `_told` does."""

    store: dict[str, Any] = {}
    pseudo_dirs = [""]
    written: dict[str, int] = {}
    clock = itertools.count(1)

    def __init__(self, account: str = "nobody", *, use_listings_cache: bool = True) -> None:
        super().__init__(use_listings_cache=use_listings_cache)
        self.account = account

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix(f"{cls.protocol}://").strip("/")

    def unstrip_protocol(self, name: str) -> str:
        return f"{self.protocol}://{name.strip('/')}"

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        return self._told(super().info(path, **kwargs))

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        found = super().ls(path, detail=detail, **kwargs)
        return list(map(self._told, found)) if detail else found

    def find(self, path: str, *args: Any, detail: bool = False, **kwargs: Any) -> Any:
        found = super().find(path, *args, detail=True, **kwargs)
        return {name: self._told(info) for name, info in found.items()} if detail else list(found)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        super().pipe_file(path, value, mode=mode)
        self.written[self._strip_protocol(path)] = next(self.clock)

    def _told(self, info: dict[str, Any]) -> dict[str, Any]:
        kept = {name: info[name] for name in ("name", "size", "type")}
        return kept | (self._version(info["name"]) if info["type"] == "file" else {})

    def _version(self, path: str) -> dict[str, Any]:
        """No store of this kind tells one."""
        return {}


class LikeAzure(StrictFileSystem):
    """ETags in lower case, of the content."""

    protocol = "likeazure"
    store, pseudo_dirs, written = {}, [""], {}

    def _version(self, path: str) -> dict[str, Any]:
        return {"etag": f'"{hashlib.sha256(self.store[path].getvalue()).hexdigest()[:8]}"'}


class LikeGoogle(StrictFileSystem):
    """Generations: a number for every write."""

    protocol = "likegoogle"
    store, pseudo_dirs, written = {}, [""], {}

    def _version(self, path: str) -> dict[str, Any]:
        return {"generation": str(self.written.get(path, 0))}


class WithoutVersions(StrictFileSystem):
    protocol = "noversions"
    store, pseudo_dirs, written = {}, [""], {}


class Careless(StrictFileSystem):
    """Ignores the condition of an exclusive creation."""

    protocol = "careless"
    store, pseudo_dirs, written = {}, [""], {}

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        super().pipe_file(path, value, mode="overwrite")


@contextmanager
def supported(filesystem: type[MemoryFileSystem], scheme: str | None = None, *, writable: bool = True) -> Iterator[str]:
    """Support the scheme of a filesystem, with files of its own, until the block ends."""
    scheme = scheme or str(filesystem.protocol)
    fsspec.register_implementation(scheme, filesystem, clobber=True)
    locations.STORES[scheme] = Store(scheme, f"{scheme}fs", writable=writable)
    try:
        yield scheme
    finally:
        del locations.STORES[scheme]
        filesystem.store.clear()
        filesystem.pseudo_dirs[:] = [""]
