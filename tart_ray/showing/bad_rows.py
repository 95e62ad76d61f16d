"""The quarantine of a run: its rows by reason, and a few of each with where they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tart_ray.errors import TartRayError
from tart_ray.input import text_files
from tart_ray.input.formats import format_by_content, format_by_name
from tart_ray.input.listing import look_at
from tart_ray.runs.bad_rows import BadRows, by_reason
from tart_ray.runs.directory import Directory
from tart_ray.runs.stage import Stage
from tart_ray.showing.state import STAGES, Told
from tart_ray.storage import Storage

READ_FOR_A_LINE = 64 << 20  # bytes at most that are read to count the lines before a row


def bad_rows(run: Directory) -> list[BadRows]:
    """The rows in quarantine by reason, most first.

    A file counts once its unit is committed; of a run that has ended, all do.
    """
    has_ended = run.storage.exists(run.url("report.json"))
    names = run.storage.names(run.url("quarantine"))
    counted = (name for name in names if has_ended or _is_committed(run, name))
    return by_reason(run.read_table("quarantine", name) for name in counted)


def place_of(storage: Storage, identity: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Where a row of quarantine comes from: file and line, or row of a Parquet file, counted from 1.

    The byte offset stands for the line where the file is another one now, or counting would read too much of it.

    Args:
        identity: of the run, which has the files that it read.
    """
    source, position = row["source"], row["position"]
    if source is None or position is None:
        return str(source)
    item = f", candidate {row['item'] + 1}" if row["item"] else ""
    try:
        (file,) = look_at(storage, [source]).files
        if (format_by_name(source) or format_by_content(storage, file)) == "parquet":
            return f"{source} row {position + 1:,}{item}"
        as_read = json.dumps([file.url, file.size, file.version]) in json.dumps(identity)
        if as_read and position <= READ_FOR_A_LINE:
            return f"{source} line {text_files.line_number(storage, file, position):,}{item}"
    except TartRayError:  # it is told where the row was
        pass
    return f"{source} byte {position:,}{item}"


def _is_committed(run: Directory, name: str) -> bool:
    """Whether the unit that wrote a file of the quarantine is done; an attempt at it may be under way."""
    stage = max((stage for stage in STAGES if name.startswith(f"{stage}-")), key=len, default=None)
    if stage is None:
        return False
    unit = name.removeprefix(f"{stage}-").removesuffix(".parquet")
    return run.record(Stage(stage, Told), unit) is not None
