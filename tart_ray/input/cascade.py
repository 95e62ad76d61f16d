"""The output of one run as the candidates of the next: recognised by its columns, read as a first stage."""

from __future__ import annotations

import glob
from collections.abc import Collection

from tart_ray.errors import InputError
from tart_ray.locations import absolute
from tart_ray.storage import Storage, join_url
from tart_ray.tables.schemas import RERANKED, SCORES, WINDOWS

FIRST_STAGE = "margin"  # what the earlier run ranked by
REPLACED = frozenset({*RERANKED, *SCORES.names, *WINDOWS.names} - {"query_id", "doc_id", "instruction", FIRST_STAGE})
PARTS = ("reranked", "scores")  # directories of a run that hold such rows


def is_output(names: Collection[str]) -> bool:
    """Whether these are the columns of ``reranked/`` or ``scores/``."""
    return {*RERANKED} <= {*names} or {*SCORES.names} - {"instruction"} <= {*names}


def check_run(storage: Storage, url: str) -> None:
    """Refuse the directory of a run in place of one with rows in it, and the rows of a run that is not finished.

    Raises:
        InputError: it is such a one; says what to name, or what to do.
    """
    path = absolute(url).rstrip("/")
    if not glob.has_magic(path) and storage.exists(join_url(path, "manifest.json")):
        parts_there = [name for name in PARTS if name in storage.names(path)]
        if parts_there:
            raise InputError(f"{url}: the directory of a run; expected its rows: {join_url(path, parts_there[0])}")
    parts = path.split("/")
    for place, part in enumerate(parts):
        root = "/".join(parts[:place])
        if part in PARTS and root and storage.exists(join_url(root, "manifest.json")):
            if not storage.exists(join_url(root, "_SUCCESS")):
                raise InputError(
                    f"{url}: {root} is a run that is not finished: it has no _SUCCESS; run its own command again first"
                )
            return
