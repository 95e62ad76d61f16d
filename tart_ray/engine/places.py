"""Local paths of a job whose cluster has several nodes: one place on all of them, or refused.

A node with a disk of its own would read what happens to lie there, and keep its rows to itself.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tart_ray.engine.deaths import living_nodes
from tart_ray.errors import ConfigurationError
from tart_ray.locations import check_location, is_local
from tart_ray.runs.directory import WORK, Directory

log = logging.getLogger(__name__)

SECONDS_TO_LOOK = 120.0  # a node starts a process for it

Reads = Mapping[str, Iterable[str]]  # files, and directories of models, by the key of the configuration
Facts = dict[str, Any]


def prove_shared(place: Directory, reads: Reads) -> None:
    """Look from every node at the files that are read, and at a file that is written now, where they are local paths.

    Raises:
        ConfigurationError: a node sees something else than this process.
    """
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in living_nodes()}
    others = {id_: address for id_, address in nodes.items() if id_ != ray.get_runtime_context().get_node_id()}
    local = ((key, check_location(path)) for key, paths in reads.items() for path in paths if is_local(path))
    read = {(key, path): _facts(path) for key, path in local if Path(path).is_absolute()}  # the id of a model is not
    read = {named: facts for named, facts in read.items() if facts is not None}
    writes = is_local(place.path)
    if not others or not (read or writes):
        return
    nonce = uuid.uuid4().hex
    probe = place.url(WORK, f"probe-{nonce}") if writes else None
    if probe:
        place.storage.write(probe, nonce.encode())
    try:
        _ask_all(others, ray.put((read, probe, nonce)), place.path)
    finally:
        if probe:
            place.storage.remove(probe, *(f"{probe}-{id_}" for id_ in others))


def _ask_all(nodes: Mapping[str, str], what: Any, output: str) -> None:
    look = ray.remote(num_cpus=0)(_look)
    asked = {
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(id_, soft=False)).remote(what, id_): address
        for id_, address in nodes.items()
    }
    answered, silent = ray.wait([*asked], num_returns=len(asked), timeout=SECONDS_TO_LOOK)
    for answer in answered:
        try:
            problem = ray.get(answer)
        except RayError as error:  # it is gone; what comes in its place is found by its first unit of work
            log.warning("node %s did not look at local paths: %s", asked[answer], type(error).__name__)
            continue
        if problem:
            key, path, found = problem
            raise ConfigurationError(
                f"{key or 'output.path'}: {path or output}: node {asked[answer]} {found}; expected one place on all "
                "nodes of the cluster: a path in object storage (s3://…), or a directory that every node mounts"
            )
    if silent:
        log.warning("%s did not look at local paths yet", ", ".join(asked[ref] for ref in silent))


def _look(what: tuple[dict[tuple[str, str], Facts], str | None, str], node: str) -> tuple[str, str, str] | None:
    """On a node: the first thing that is not as the driver sees it, as key, path and what was found; None if all is."""
    read, probe, nonce = what
    for (key, path), expected in read.items():
        found = _facts(path)
        if found != expected:
            return key, path, "has no such file" if found is None else "has something else there"
    if probe:
        try:
            if Path(probe).read_text() != nonce:
                return "", "", "has something else there"
            Path(f"{probe}-{node}").write_text(nonce)
        except FileNotFoundError:
            return "", "", "does not see what this machine writes there"
        except OSError as error:
            return "", "", f"cannot write there ({error.strerror})"
    return None


def _facts(path: str) -> Facts | None:
    """What tells a file, or a directory of files, from another; None where nothing is."""
    try:
        if not os.path.isdir(path):  # noqa: PTH112
            found = os.stat(path)  # noqa: PTH116
            return {"size": found.st_size, "modified": found.st_mtime_ns}
        with os.scandir(path) as entries:  # a copy of a model has other times
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    except OSError:
        return None
