"""A directory or a bucket that tests put files in, and read them from as a job does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tart_ray.input import json_lines
from tart_ray.input.columns import Naming
from tart_ray.input.listing import list_files
from tart_ray.input.quarantine import Quarantine
from tart_ray.input.readers import read_split
from tart_ray.input.sources import Source, inspect_source, table_schema
from tart_ray.storage import Storage, join_url


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

    def read(
        self, name: str = "", role: Any = "candidates", *, ids_from_text: bool = False, **columns: str
    ) -> tuple[Source, pa.Table, list[dict]]:
        """What a job reads: the source, its good rows in input order, and its bad ones."""
        naming = Naming(named=columns) if not ids_from_text else Naming.of(columns, role, ids_from_text=True)
        source = inspect_source(self.storage, self.at(name), role, naming)
        quarantine = Quarantine("read")
        tables = [table for split in source.splits for table in read_split(self.storage, source, split, quarantine)]
        table = pa.concat_tables([table_schema(source).empty_table(), *tables])
        if source.has_objects:
            source = source.as_read([json_lines.kinds_of(json_lines.objects_of(table))])
            table = json_lines.expand(table, source.extras, source.carried)
        return source, table, quarantine.table().to_pylist()

    def names(self, url: str) -> list[str]:
        """The files that an input names, relative to this place, each of the size that it is listed with."""
        files = list_files(self.storage, url).files
        assert all(len(self.storage.read(file.url)) == file.size for file in files)
        return [file.url.removeprefix("file://").removeprefix(self.url + "/") for file in files]
