"""Where files can be: which paths and URLs are understood, which stores they name, and how a URL is shown.

A location is a local path, or a URL of one of `STORES`. Whatever else comes in is refused here in one sentence, before
anything is opened: configurations check their paths by `check_location`, and every filesystem is made by
`open_filesystem`. Credentials belong in options or the environment; a URL that holds any is refused, and `printable`
takes them out of every text that is shown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tart_ray.errors import LocationError

if TYPE_CHECKING:  # takes a quarter of a second to import, and a configuration needs none
    from fsspec import AbstractFileSystem

MASK = "***"
DEMO = "demo"  # in place of a model's path: the model that comes with the package; a directory is ./demo
LEAST_SECRET = 4  # characters


@dataclass(frozen=True)
class Store:
    """A kind of store.

    Attributes:
        name: The section of the ``storage`` configuration that holds its options (S3's are its own keys).
        package: What pip installs to reach it.
        options: Of its fsspec filesystem, always: a listing must see what another process has just written.
        writable: Whether a run's output can be there: its filesystem creates objects exclusively.
    """

    name: str
    package: str
    options: Mapping[str, Any] = field(default_factory=dict)
    writable: bool = True


_S3 = Store("s3", "s3fs", {"use_listings_cache": False, "max_concurrency": 1})  # s3fs repeats a cut GET, not its parts
_GS = Store("gs", "gcsfs", {"use_listings_cache": False})
_AZ = Store("az", "adlfs", {"use_listings_cache": False})

# by scheme; tests add stores of their own
STORES: dict[str, Store] = {
    "s3": _S3,
    "s3a": _S3,
    "gs": _GS,
    "gcs": _GS,
    "az": _AZ,
    "abfs": _AZ,
    "abfss": _AZ,
    "hf": Store("hf", "huggingface_hub", writable=False),
}
SUPPORTED = (
    "a local path (or file:///path), s3:// (s3a://), gs:// (gcs://), az:// (abfs://, abfss://) or hf:// (to read)"
)
OTHERS = ("http", "https", "ftp", "sftp", "ssh", "hdfs", "webhdfs", "s3n", "wasb", "wasbs", "dbfs", "memory", "data")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^\s'\"<>]*)")
_MISTYPED_URL = re.compile(rf"(?<![\w+.:-])({'|'.join((*STORES, *OTHERS))}):/?(?!/)([^\s'\"<>]+)", re.IGNORECASE)
_TELLING = r"(?:sig|token|secret|passw|pwd|key|credential|auth|connection_string)"
_IS_SECRET = re.compile(_TELLING, re.IGNORECASE)
_SECRET_PARAMETER = re.compile(rf"([?&][^=&#\s/'\"]*{_TELLING}[^=&#\s/'\"]*=)[^&#\s'\"<>]*", re.IGNORECASE)
_HAS_PORT = re.compile(r"[^:@]*:[0-9]*|\[[0-9a-fA-F:.]*\](:[0-9]*)?")


def check_location(location: str, *, written: bool = False) -> str:
    """The location as everything else expects it: a local path, or a URL whose scheme is in lower case.

    Args:
        written: whether it is to be written to, not only read.

    Raises:
        LocationError: it names no store that is supported, holds credentials, or looks like a mistyped URL.
    """
    if not location:
        raise LocationError(f"got an empty path, expected {SUPPORTED}")
    scheme = scheme_of(location)
    if scheme is None:
        if "://" in location and not location.startswith(("/", ".", "~")):
            raise LocationError(f"got {printable(location)!r}, expected {SUPPORTED}")
        return location
    rest = location[len(scheme) + 1 :]
    if scheme == "file":
        return _local(location, rest)
    if scheme not in STORES:
        raise LocationError(f"{printable(location)}: {scheme}: is not supported; expected {SUPPORTED}")
    if not rest.startswith("//"):
        meant = f"{scheme}://{rest.lstrip('/')}"
        raise LocationError(
            printable(f"got {location}, did you mean {meant}? A directory of that name is ./{location}")
        )
    if not rest.strip("/") or rest.startswith("///"):
        raise LocationError(f"{location}: names no bucket, expected {scheme}://bucket/path")
    url = f"{scheme}:{rest}"
    if STORES[scheme].name == "az" and "@" in rest.split("/")[2] and ":" not in rest.split("/")[2]:
        raise LocationError(
            f"{printable(url)}: got a URL that names its account, expected {scheme}://container/path, and the account "
            "in the configuration: storage.az: {account_name: …}"
        )
    if printable(url) != url:
        raise LocationError(
            f"{printable(url)}: credentials in a URL would show in logs and manifests; give them in the section "
            "storage of the configuration, or in the environment"
        )
    if written and not STORES[scheme].writable:
        raise LocationError(
            f"{url}: {scheme}:// can only be read; expected a path on a local disk, s3://, gs:// or az://"
        )
    return url


def scheme_of(location: str) -> str | None:
    """The scheme of a URL in lower case, or of what was meant to be one; None for a local path."""
    found = _SCHEME.match(location)
    if found is None:
        return None
    scheme = found[1].lower()
    rest = location[found.end() :]
    is_url = rest.startswith("//") or (rest.startswith(":") and "://" in rest)  # "a::b://…" chains filesystems
    return scheme if is_url or scheme in (*STORES, *OTHERS, "file") else None


def is_local(location: str) -> bool:
    """Whether a location is a local path, or a ``file:`` URL of one."""
    return scheme_of(location) in (None, "file")


def absolute(url: str) -> str:
    """A local path made absolute; a URL as it is."""
    return os.path.abspath(os.path.expanduser(check_location(url))) if is_local(url) else url  # noqa: PTH100, PTH111


def open_filesystem(location: str, options: Mapping[str, Any]) -> tuple[AbstractFileSystem, str]:
    """The fsspec filesystem that serves a location, and the location's path in it.

    Args:
        options: of the filesystem of a URL, in place of those of its `Store`.

    Raises:
        LocationError: the location is refused by `check_location`, a package is missing, or an option is wrong.
    """
    import fsspec

    checked = check_location(location)
    scheme = scheme_of(checked)
    if scheme is None:
        return fsspec.filesystem("file"), checked
    store = STORES[scheme]
    try:
        kind = fsspec.get_filesystem_class(scheme)
        filesystem = kind(**{**kind._get_kwargs_from_urls(checked), **store.options, **options})
    except ImportError as error:
        raise LocationError(
            f"{checked}: {scheme}:// needs a package that is not installed ({error}): pip install {store.package}, on "
            "every node of the cluster"
        ) from error
    except Exception as error:  # of many kinds; the values of options are in no message
        names = ", ".join(sorted(options)) or "none"
        told = without_secrets(f"{type(error).__name__}: {error}", options)
        raise LocationError(f"{checked}: cannot open this store ({told}); options given: {names}") from error
    return filesystem, filesystem._strip_protocol(checked)


def printable(text: str) -> str:
    """The text, with the credentials and signatures in its URLs masked."""
    shown = _MISTYPED_URL.sub(_without_user, _URL.sub(_without_user, text))
    return _SECRET_PARAMETER.sub(rf"\1{MASK}", shown)


def without_secrets(text: str, options: Mapping[str, Any]) -> str:
    """The text as `printable` makes it, and without the secrets among the options of a filesystem."""
    secrets = [text for name, value in options.items() if _IS_SECRET.search(name) for text in _texts(value)]
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return printable(text)


def _texts(value: Any) -> list[str]:
    """All texts in an option's value that are long enough to be a secret."""
    if isinstance(value, Mapping):
        return [text for inner in value.values() for text in _texts(inner)]
    return [value] if isinstance(value, str) and len(value) >= LEAST_SECRET else []


def _without_user(url: re.Match[str]) -> str:
    """The URL without a user and password before its host; secrets may hold slashes, buckets hold no colons."""
    scheme, rest = url[1], url[2]
    front, slash, behind = rest.partition("/")
    if "@" in front:
        return f"{scheme}://{MASK}@{front.rpartition('@')[2]}{slash}{behind}"
    if ":" in front and not front.startswith("arn:") and not _HAS_PORT.fullmatch(front):
        return f"{scheme}://{MASK}{'@' + behind.rpartition('@')[2] if '@' in behind else ''}"
    return url[0]


def _local(location: str, rest: str) -> str:
    if rest.startswith("///"):
        return rest[2:]
    if rest.startswith("//localhost/"):
        return rest.removeprefix("//localhost")
    if rest.startswith("/") and not rest.startswith("//"):  # RFC 8089 has it so, too
        return rest
    raise LocationError(f"got {printable(location)}, expected file:///path, or the path alone")
