"""Tables whose log decides which of their files are read: Delta Lake, Hudi, Iceberg and the like.

Their directories also hold files of deleted and replaced rows, so reading them file by file gives another table.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import fsspec

SPARK = "read it with Spark and write what it gives as Parquet: spark.read.{}.write.parquet(...)"
LOGS = {  # the directory of the log: what it is of, and how such a table is exported
    "_delta_log": (
        "Delta Lake",
        SPARK.format('format("delta").load(...)') + ", or use DeltaTable(...).to_pyarrow_dataset()",
    ),
    ".hoodie": ("Hudi", SPARK.format('format("hudi").load(...)')),
    "_spark_metadata": ("Spark's streaming sink", SPARK.format("parquet(...)")),
}
ICEBERG = "Iceberg", SPARK.format('table("...")') + ", or use pyiceberg's table.scan().to_arrow()"
ICEBERG_LOG = re.compile(r"(?:^|/)metadata/[^/]*\.metadata\.json(?:\.gz)?$")
ICEBERG_DATA = "data"
HIVE = "Hive's ACID transactions", "INSERT OVERWRITE DIRECTORY ... STORED AS PARQUET SELECT * FROM it, in Hive"
HIVE_LOG = re.compile(r"(?:base|(?:delete_)?delta_\d{7,})_\d{7,}(?:_\d{4,})?(?:_v\d+)?")
MAY_BE_OF_A_LOG = re.compile("|".join([*map(re.escape, LOGS), "/metadata/", "delta_", "base_"]))
MAX_DIRECTORIES = 256  # that a glob names and that are looked at


def find(filesystem: fsspec.AbstractFileSystem, root: str, names: Collection[str], *, listed_whole: bool) -> str | None:
    """Why the files of an input are not to be read one by one; None where they may be.

    Args:
        root: the directory that the input is, or lies in.
        names: full names of what is found there, hidden ones included.
        listed_whole: whether these are all that is there; else a log may lie beside them.
    """
    for name in names:
        message = _in_path(name) if MAY_BE_OF_A_LOG.search(name) else None
        if message is not None:
            return message
    if "://" in root:  # of a web server, which lists nothing
        return None
    parts = root.split("/")
    tables = ["/".join(parts[:end]) for end in range(len(parts), 0, -1) if parts[end - 1]]
    if not listed_whole:
        tables += itertools.islice(_directories(root, names), MAX_DIRECTORIES)
    return _beside(filesystem, tables)


def _in_path(name: str) -> str | None:
    parts = name.split("/")
    for end, part in enumerate(parts[:-1]):
        table = "/".join(parts[:end])
        if part in LOGS:
            return _message(*LOGS[part], table, f"{part}/")
        if HIVE_LOG.fullmatch(part):
            return _message(*HIVE, table, f"{part}/")
    if ICEBERG_LOG.search(name):
        return _message(*ICEBERG, "/".join(parts[:-2]), "metadata/")
    return None


def _directories(root: str, names: Iterable[str]) -> Iterator[str]:
    """Directories below the root that can be tables: partitions are none, nor what lies in them."""
    seen = set()
    for name in names:
        parts = name.removeprefix(root).strip("/").split("/")[:-1]
        for end, part in enumerate(parts, 1):
            directory = "/".join([root, *parts[:end]])
            if "=" in part:
                break
            if directory not in seen:
                seen.add(directory)
                yield directory


def _beside(filesystem: fsspec.AbstractFileSystem, tables: Sequence[str]) -> str | None:
    """The same for what lies in these directories: the input may be a partition of a table, or some of its files."""
    for table in tables:
        above, _, name = table.rpartition("/")
        if HIVE_LOG.fullmatch(name):
            return _message(*HIVE, above, f"{name}/")
    probes = [(table, name) for table in tables for name in LOGS]
    with ThreadPoolExecutor(16) as pool:
        exist = [*pool.map(lambda probe: _is_there(filesystem, "/".join(probe)), probes)]
    for (table, name), exists in zip(probes, exist, strict=True):
        if exists:
            return _message(*LOGS[name], table, f"{name}/")
    for data in tables:
        table, _, name = data.rpartition("/")
        if name == ICEBERG_DATA and _has_iceberg_log(filesystem, f"{table}/metadata"):
            return _message(*ICEBERG, table, "metadata/")
    return None


def _is_there(filesystem: fsspec.AbstractFileSystem, path: str) -> bool:
    try:
        return bool(filesystem.exists(path))
    except OSError:  # what may not be looked at says nothing
        return False


def _has_iceberg_log(filesystem: fsspec.AbstractFileSystem, path: str) -> bool:
    try:
        return any(ICEBERG_LOG.search(name) for name in filesystem.ls(path, detail=False))
    except OSError:
        return False


def _message(kind: str, export: str, table: str, log: str) -> str:
    return (
        f"{table} is a table of {kind}: its log {log} decides which files are read, and they hold deleted and replaced "
        f"rows, too; {export}, and give that copy"
    )
