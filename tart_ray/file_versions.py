"""What tells one content of a file from another of the same name and size, as stores report it.

Every store has its own word for it. A run's manifest holds these versions, so an unknown word must not read as "never
changes": where none is known, `version_of` says so and the caller decides (hash the content, or refuse the store).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

# Names without case, hyphens and underscores, the best first. The order is part of the versions in manifests.
NAMES = (
    "generation",  # Google Cloud Storage; its ETag changes with metadata, too
    "etag",  # S3, Azure ("etag"), HTTP, WebDAV
    "blobid",  # the hub of Hugging Face (hf://)
    "xethash",
    "lfs",
    "contentmd5",
    "md5hash",
    "digest",
    "sha",  # GitHub
    "versionid",
    "lastcommit",  # says that something changed, perhaps another file
    "mtime",  # local disks, HDFS, SFTP
    "lastmodified",
    "lastmodifieddate",
    "updated",
    "modified",
    "modify",  # FTP
    "lastwritetime",  # SMB
    "created",  # where whatever is written is another file: fsspec's memory filesystem
)
INNER = ("sha256", "oid")  # of a version that is an object: the hub's `lfs` and `last_commit`


def version_of(info: Mapping[str, Any]) -> str | None:
    """The version of a file, from what a filesystem of fsspec reports of it; None where nothing there tells versions.

    The same file has one version, whether ``info`` comes from a listing or from a look at the file alone, as long as
    both hold the same name.
    """
    found = {re.sub(r"[-_]", "", str(name)).lower(): value for name, value in info.items()}
    return next((text for name in NAMES if (text := _text(found.get(name)))), None)


def _text(value: Any) -> str:
    """A version as text; empty for one that says nothing, as a time of 0 does."""
    for name in INNER:
        value = value.get(name, value) if isinstance(value, Mapping) else getattr(value, name, value)
    if isinstance(value, datetime):
        value = value.timestamp()  # some filesystems list numbers and look at datetimes
    if isinstance(value, bytes | bytearray):
        value = value.hex()
    text = str(value or "")
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
