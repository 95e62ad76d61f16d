"""Object storage and local disks behind one small surface, through fsspec.

Every file that this project writes is one whole object: a single PUT on S3 (s3fs sends up to 100 MB in one, and larger
files in parts that appear together), a temporary file that is renamed on a local disk. So a file is there completely or
not at all, whoever is killed.

Passing faults (503, 500, lost connections) are retried by botocore and again by s3fs. What remains is one kind of
error, that says which place was used for what and what to do.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import logging
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from tart_ray.config import StorageConfig
from tart_ray.errors import InputChangedError, LocationError, StorageError
from tart_ray.file_versions import version_of
from tart_ray.locations import absolute, check_location, is_local, open_filesystem, printable

log = logging.getLogger(__name__)

PARTIAL = ".partial"  # ends the names of temporary files, which begin with a dot: readers skip them
EXISTS_ERRNO = 22  # what s3fs makes of the 412 that answers `If-None-Match: *`
FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
FULL = re.compile(r"StorageFull|QuotaExceeded|Insufficient ?(Storage|Capacity)|no space left|\(507\)", re.IGNORECASE)
WITHOUT_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)  # what os.link says where there are no hard links
CREATIONS = 5
CONFLICT = "ConditionalRequestConflict"  # of AWS, for exclusive creations that overlap: to be repeated
SINGLE_PUT = 100 << 20  # bytes that s3fs sends in one request; it takes conditions for no more
UPLOAD_MARKERS = {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"}  # from one page to the next
REFUSED = "PreconditionFailed"  # of S3, for a file that is not the expected one
UNSUPPORTED = ("NotImplemented", "MethodNotAllowed")  # of stores that do not know a request


@dataclass(frozen=True)
class FileInfo:
    """A file of the input.

    ``version`` changes when its content does: an ETag, or a modification time (see `Storage.version`). ``keys``: what
    the ``key=value`` directories say that it lies in below the place that was named.
    """

    url: str
    size: int
    version: str
    keys: tuple[tuple[str, str | None], ...] = ()


class Storage:
    """Files by path or URL, in every store that `tart_ray.locations` knows; pickles into every worker.

    Args:
        config: how to reach the stores.
    """

    def __init__(self, config: StorageConfig | None = None) -> None:
        self.config = config or StorageConfig()

    def __repr__(self) -> str:
        return f"Storage({self.config!r})"  # which masks secrets

    def resolve(self, url: str) -> tuple[AbstractFileSystem, str]:
        """The filesystem that serves ``url`` and the path of ``url`` in it.

        Raises:
            StorageError: no such store is supported, or it cannot be reached from here.
        """
        try:
            filesystem, path = open_filesystem(url, self.config.fsspec_options(url))
        except LocationError as error:
            raise StorageError(str(error)) from error
        return filesystem, absolute(path) if isinstance(filesystem, LocalFileSystem) else path

    def version(self, url: str, info: Mapping[str, Any]) -> str:
        """What changes when a file's content does.

        Args:
            info: what the file's filesystem says of it.

        Raises:
            StorageError: its store tells nothing of the kind.
        """
        if is_local(url):
            return str(Path(check_location(url)).stat().st_mtime)  # of what a link points to; fsspec tells the link's
        version = version_of(info)
        if version is None:
            raise StorageError(
                f"{url}: its store tells neither an ETag nor a modification time, so nobody would notice a file that "
                "changes during the run; copy the input to a local disk, S3, Google Cloud Storage or Azure"
            )
        return version

    @contextmanager
    def open(self, file: FileInfo, **options: Any) -> Iterator[IO[bytes]]:
        """A file of the input to read from, which is the one that was listed from the first byte to the last.

        S3 checks that with every request (``If-Match``); elsewhere it is looked at before and after.

        Args:
            options: of the filesystem's ``open``.

        Raises:
            InputChangedError: it is another one now, or gone.
        """
        filesystem, path = self.resolve(file.url)
        filesystem.invalidate_cache(path)
        try:
            handle = filesystem.open(path, "rb", **options)
        except FileNotFoundError:
            raise _gone(file) from None
        with handle:
            self._check(file, handle)
            try:
                yield handle
            except Exception:
                self._check(file)  # or that explains it
                raise
            if "IfMatch" not in getattr(handle, "read_kw", ()):
                self._check(file, handle if is_local(file.url) else None)

    def read_part(self, file: FileInfo, start: int, end: int) -> bytes:
        """Bytes ``[start, end)`` of a file of the input.

        Raises:
            InputChangedError: it is not the file that was listed.
            StorageError: it cannot be read, or not all of it.
        """
        with explained("read", file.url), self.open(file, cache_type="none") as handle:
            handle.seek(start)
            part = bytes(handle.read(end - start))
        return _whole(file.url, start, end, part)

    def _check(self, file: FileInfo, handle: IO[bytes] | None = None) -> None:
        """Compare what is there, or what a handle is opened on, with what was listed."""
        filesystem, path = self.resolve(file.url)
        try:
            if handle is not None and isinstance(filesystem, LocalFileSystem):
                status = os.fstat(handle.fileno())
                size, version = status.st_size, str(status.st_mtime)
            else:
                info = getattr(handle, "details", None) or filesystem.info(path)
                size, version = int(info["size"]), self.version(file.url, info)
        except FileNotFoundError:
            raise _gone(file) from None
        if (size, version) != (file.size, file.version):
            raise InputChangedError(
                f"{file.url}: changed while the run reads it: {_listed(file)}; there are {size:,} bytes now, version "
                f"{version}"
            )

    def exists(self, url: str) -> bool:
        """Whether the file is there."""
        filesystem, path = self.resolve(url)
        with explained("look at", url):
            try:
                return bool(filesystem.info(path)["type"] == "file")  # isfile() takes any error for an absence
            except (FileNotFoundError, NotADirectoryError):
                return False

    def names(self, url: str) -> list[str]:
        """Names of the files and directories directly under a directory; none where it does not exist."""
        filesystem, path = self.resolve(url)
        with explained("list", url):
            try:
                found = filesystem.ls(path, detail=False)
            except FileNotFoundError:
                return []
        inside = (name.rstrip("/") for name in found if name.rstrip("/") != path.rstrip("/"))
        return sorted(name.rsplit("/", 1)[-1] for name in inside if not name.endswith(PARTIAL))

    def holds_files(self, url: str) -> bool:
        """Whether any file is under a directory; some object stores go on listing directories that were emptied."""
        filesystem, path = self.resolve(url)
        with explained("list", url):
            return any(info["type"] == "file" for info in filesystem.find(path, detail=True).values())

    def size(self, url: str) -> int:
        """Bytes of all files under a directory, as a listing tells them."""
        filesystem, path = self.resolve(url)
        with explained("list", url):
            return sum(int(info["size"]) for info in filesystem.find(path, detail=True).values())

    def modified(self, url: str) -> float | None:
        """When a file was written, in seconds since 1970 by the clock of its store; None where there is no file."""
        filesystem, path = self.resolve(url)
        with explained("look at", url):
            try:
                return float(filesystem.modified(path).timestamp())
            except FileNotFoundError:
                return None

    def read(self, url: str, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes of a file, or of a range of it that lies in it."""
        return self.read_ranges([url], [start], [end])[0]

    def read_many(self, urls: Sequence[str]) -> list[bytes]:
        """The bytes of several files, fetched together."""
        return self.read_ranges(urls, [None] * len(urls), [None] * len(urls))

    def read_ranges(self, urls: Sequence[str], starts: Sequence[int | None], ends: Sequence[int | None]) -> list[bytes]:
        """One range of each file, fetched together; None is the file's start, or its end."""
        if not urls:
            return []
        filesystem, _ = self.resolve(urls[0])
        paths = [filesystem._strip_protocol(url) for url in urls]
        with explained("read", urls[0] if len(urls) == 1 else f"{urls[0]} and {len(urls) - 1} more"):
            found = [bytes(part) for part in filesystem.cat_ranges(paths, list(starts), list(ends), on_error="raise")]
        return [_whole(*read) for read in zip(urls, starts, ends, found, strict=True)]

    def write(self, url: str, data: bytes | memoryview) -> None:
        """Write a whole file; an older one of that name is replaced at once."""
        filesystem, path = self.resolve(url)
        with explained("write", url):
            if isinstance(filesystem, LocalFileSystem):
                with _written_beside(path, data) as partial:
                    os.replace(partial, path)  # noqa: PTH105
            else:
                filesystem.pipe_file(path, bytes(data))

    def version_at(self, url: str) -> str | None:
        """What changes when the file does, as its store tells it, or else a hash; None where there is no file."""
        filesystem, path = self.resolve(url)
        with explained("look at", url):
            try:
                found = version_of(filesystem.info(path))
                return found or hashlib.sha256(filesystem.cat_file(path)).hexdigest()
            except FileNotFoundError:
                return None

    def replace(self, url: str, data: bytes | memoryview, version: str | None) -> bool:
        """Write a file in place of one of a known version; False if the file there is another one by now.

        On S3 the store itself compares, so that a request which arrives late does nothing. Elsewhere this process looks
        right before it writes.

        Args:
            version: what `version_at` said; None for no file.
        """
        if version is None:
            return self.create(url, data)
        filesystem, path = self.resolve(url)
        if not _is_s3(filesystem) or len(data) >= SINGLE_PUT:
            if self.version_at(url) != version:
                return False
            self.write(url, data)
            return True
        with explained("write", url):
            try:
                filesystem.pipe_file(path, bytes(data), IfMatch=f'"{version}"')
                return True
            except OSError as error:
                if isinstance(error, FileNotFoundError) or _code(error) in (REFUSED, CONFLICT):
                    return self._holds(url, data)  # if so, the answer to the first try was lost
                if _code(error) not in UNSUPPORTED:
                    raise
        self.write(url, data)
        return True

    def create(self, url: str, data: bytes | memoryview) -> bool:
        """Write a file unless one of that name exists; False if it does. One wins where several try.

        ``data`` must differ between those who try: a file that holds it is one's own, written by a request whose
        answer was lost and which was then repeated.
        """
        filesystem, path = self.resolve(url)
        with explained("write", url):
            for _ in range(CREATIONS):
                try:
                    if isinstance(filesystem, LocalFileSystem):
                        with _written_beside(path, data) as partial:
                            os.link(partial, path)
                    else:
                        filesystem.pipe_file(path, bytes(data), mode="create")
                    return True
                except OSError as error:
                    if _code(error) == CONFLICT:
                        continue
                    if isinstance(filesystem, LocalFileSystem) and error.errno in WITHOUT_LINKS:
                        raise StorageError(
                            f"{url}: cannot create it: its file system has no hard links, by which one of several "
                            f"drivers wins ({error}); expected another disk, or s3://, gs:// or az://"
                        ) from error
                    exists = isinstance(error, FileExistsError) or error.errno == EXISTS_ERRNO
                    if not exists or not self.exists(url):
                        raise
                    return self._holds(url, data)
            raise OSError(f"{CONFLICT}, {CREATIONS} times")

    def prove_creation(self, folder: str) -> None:
        """Make sure that the store does not replace what `create` finds there; some ignore the condition.

        Raises:
            StorageError: it does.
        """
        url = join_url(folder, f"probe-{uuid.uuid4().hex}")
        try:
            self.create(url, b"first")
            if self.create(url, b"second"):
                raise StorageError(
                    f"{folder}: its store replaced a file that was to be created only where there is none "
                    "(If-None-Match: *), so two drivers could write into one run; expected a store that honours this"
                )
        finally:
            self.remove(url)

    def _holds(self, url: str, data: bytes | memoryview) -> bool:
        filesystem, path = self.resolve(url)
        try:
            return filesystem.info(path)["size"] == len(data) and self.read(url) == data
        except FileNotFoundError:
            return False

    def remove(self, *urls: str) -> None:
        """Remove files; those that are not there are no error."""
        for url in urls:
            filesystem, path = self.resolve(url)
            with explained("remove", url):
                try:
                    filesystem.rm_file(path)
                except FileNotFoundError:
                    continue

    def remove_tree(self, url: str) -> None:
        """Remove a directory with all that is in it; nothing happens where there is none."""
        filesystem, path = self.resolve(url)
        with explained("remove", url):
            if glob.has_magic(path) and not isinstance(filesystem, LocalFileSystem):
                for name in filesystem.find(path):  # rm() would take the path for a glob, and remove what it matches
                    filesystem.rm_file(name)
                return
            try:
                filesystem.rm(path, recursive=True)
            except FileNotFoundError:
                return

    def remove_empty(self, url: str) -> None:
        """Remove a directory of a local disk if nothing is in it; object stores have none."""
        filesystem, path = self.resolve(url)
        if isinstance(filesystem, LocalFileSystem):
            with suppress(OSError):
                Path(path).rmdir()

    def abort_uploads(self, url: str) -> None:
        """Remove parts of files that killed writers left in a directory on S3, which keeps them unseen, at a price."""
        filesystem, path = self.resolve(url)
        if not _is_s3(filesystem):
            return
        bucket, key, _ = filesystem.split_path(path)
        page: dict[str, Any] = {"IsTruncated": True}
        try:
            while page.get("IsTruncated"):
                after = {to: page[of] for to, of in UPLOAD_MARKERS.items() if page.get(of)}
                page = filesystem.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{key}/", **after)
                for upload in page.get("Uploads", ()):
                    name = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                    filesystem.call_s3("abort_multipart_upload", **name)
        except OSError as error:  # it costs space and nothing else: some stores or credentials do not allow it
            log.debug("%s: unfinished uploads were not looked for: %s", url, error)

    def remove_partials(self, url: str) -> None:
        """Remove what killed writers left under a directory on a local disk; object stores keep no part of a PUT."""
        filesystem, path = self.resolve(url)
        if isinstance(filesystem, LocalFileSystem):
            with explained("clean up", url):
                for name in Path(path).rglob(f".*{PARTIAL}"):
                    name.unlink(missing_ok=True)


@contextmanager
def explained(verb: str, url: str) -> Iterator[None]:
    """What a filesystem raises, as one kind of error.

    Raises:
        StorageError: the place, what was wanted of it, what went wrong, and what to do.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:  # of the operating system, s3fs, botocore: they have no common class
        raise StorageError(printable(f"{url}: cannot {verb} it: {_explain(error)}")) from error


def _is_s3(filesystem: AbstractFileSystem) -> bool:
    return "s3" in filesystem.protocol  # also where it is a tuple


def _code(error: Exception) -> str | None:
    """How S3 calls an error, where it is one of its own."""
    found: str | None = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code")
    return found


def is_missing(error: StorageError) -> bool:
    """Whether the error is that there is no such file."""
    return isinstance(error.__cause__, FileNotFoundError)


def _explain(error: Exception) -> str:
    told = f"{error}" or type(error).__name__
    if type(error).__name__ == "EndpointConnectionError":
        return f"{told}; check storage.endpoint_url"
    if type(error).__name__ == "NoCredentialsError":
        return f"{told}; set AWS_* environment variables, storage.key and storage.secret, or storage.anonymous"
    if isinstance(error, PermissionError):
        return f"{told}; check the credentials, and what they may do there"
    if isinstance(error, FileNotFoundError):
        return f"no such bucket or file ({told})"
    if getattr(error, "errno", None) in FULL_ERRNOS or FULL.search(told):
        return f"{told}; make space there and run the same command again"
    return f"{type(error).__name__}: {told}"


def join_url(root: str, *parts: str) -> str:
    """``root/part/part``."""
    return "/".join([root.rstrip("/"), *parts])


@contextmanager
def _written_beside(path: str, data: bytes | memoryview) -> Iterator[str]:
    """A temporary file with this content in the directory of ``path``, for the block to move; gone after it."""
    folder, name = os.path.split(path)
    partial = os.path.join(folder, f".{name[:100]}.{uuid.uuid4().hex}{PARTIAL}")  # noqa: PTH118
    try:
        try:
            file = open(partial, "xb")  # noqa: SIM115, PTH123
        except FileNotFoundError:
            os.makedirs(folder, exist_ok=True)  # noqa: PTH103
            file = open(partial, "xb")  # noqa: SIM115, PTH123
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # or its name may outlive a loss of power, and its content not
        yield partial
    finally:
        Path(partial).unlink(missing_ok=True)


def _whole(url: str, start: int | None, end: int | None, part: bytes) -> bytes:
    """The range of a file, if all of it came."""
    if end is not None and len(part) != end - (start or 0):
        raise StorageError(
            f"{url}: bytes {start or 0} to {end}: got {len(part)}; the file is shorter than it was, or its store cut "
            "the answer short"
        )
    return part


def _gone(file: FileInfo) -> InputChangedError:
    return InputChangedError(f"{file.url}: is gone; {_listed(file)}")


def _listed(file: FileInfo) -> str:
    return f"listed with {file.size:,} bytes, version {file.version}"
