"""A place to keep files: a local directory, or a bucket of a real S3 server."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tart_ray.data.listing import list_files
from tart_ray.data.quarantine import Quarantine
from tart_ray.data.readers import read_split, table_schema
from tart_ray.data.sources import Source, inspect_source
from tart_ray.data.storage import Storage, join_url


@dataclass(frozen=True)
class Place:
    """An empty directory under ``url``, and the storage that serves it."""

    storage: Storage
    url: str

    def at(self, *parts: str) -> str:
        return join_url(self.url, *parts)

    def put(self, name: str, data: bytes | str | pa.Table, **options: Any) -> str:
        """Write a file, a table as Parquet, and return its URL."""
        if isinstance(data, pa.Table):
            sink = pa.BufferOutputStream()
            pq.write_table(data, sink, **options)
            data = sink.getvalue().to_pybytes()
        self.storage.write(self.at(name), data.encode() if isinstance(data, str) else data)
        return self.at(name)

    def read(self, name: str = "", role: Any = "candidates", **columns: str) -> tuple[Source, pa.Table, list[dict]]:
        """What a job reads: the source, its good rows in input order, and its bad ones."""
        source = inspect_source(self.storage, self.at(name), role, columns)
        quarantine = Quarantine("read")
        tables = [table for split in source.splits for table in read_split(self.storage, source, split, quarantine)]
        table = pa.concat_tables([table_schema(source).empty_table(), *tables])
        return source, table, quarantine.table().to_pylist()

    def names(self, url: str) -> list[str]:
        """The files that an input names, relative to this place, each of the size that it is listed with."""
        files = list_files(self.storage, url).files
        assert all(len(self.storage.read(file.url)) == file.size for file in files)
        return [file.url.removeprefix("file://").removeprefix(self.url + "/") for file in files]


@pytest.fixture
def local(tmp_path: Path) -> Place:
    return Place(Storage(), str(tmp_path))


@pytest.fixture(scope="session")
def bucket(s3: Any) -> str:
    return s3.new_bucket()


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "local":
        return request.getfixturevalue("local")
    options = request.getfixturevalue("s3").storage_options
    return Place(Storage(options), f"s3://{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}")


@pytest.fixture
def tree(place: Any) -> Any:
    for name in ["b.x", "a.x", "c.y", "d/e.x", "d/f/g.x", "_h.x", ".i.x", "_j/k.x", "d/_l/m.x", "d/.n/o.x"]:
        place.put(name, name)
    place.put("empty.x", b"")
    return place
