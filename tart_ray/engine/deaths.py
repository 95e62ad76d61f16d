"""What became of the processes that left a note of an attempt: only some deaths say something about the rows.

A node that was lost takes its processes along, and Ray's memory monitor ends the process that it can best do without,
whatever that one is at. Ray knows both; what it cannot tell is taken for a death of the process's own.
"""

from __future__ import annotations

import logging
from typing import Any

import ray

from tart_ray.runs.attempts import LOST_NODE, OUT_OF_MEMORY, Attempt, Process
from tart_ray.runs.directory import Directory

log = logging.getLogger(__name__)


def begin_attempt(run: Directory, stage: str, unit: str) -> Attempt:
    """`Attempt.begin` for a process of Ray, which sees what became of those before it."""
    return Attempt.begin(run, stage, unit, process=this_process(), excuse=excuse)


def this_process() -> Process | None:
    """This process by Ray's names; None outside of Ray."""
    if not ray.is_initialized():
        return None
    context = ray.get_runtime_context()
    return Process(context.get_node_id(), context.get_worker_id())


def excuse(process: Process) -> str | None:
    """Why the death of a process says nothing about its rows; None if it may."""
    if process.node not in {node["NodeID"] for node in living_nodes()}:
        return LOST_NODE
    return OUT_OF_MEMORY if _was_ended_for_memory(process) else None


def has_ended(process: Process) -> bool:
    """Whether a process of Ray is gone; False too where Ray does not say."""
    if process.node not in {node["NodeID"] for node in living_nodes()}:
        return True
    worker = _worker(process)
    return worker is not None and not worker.is_alive


def living_nodes() -> list[dict[str, Any]]:
    """What Ray says of each node that it has not lost."""
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _was_ended_for_memory(process: Process) -> bool:
    from ray.core.generated import common_pb2

    worker = _worker(process)
    return worker is not None and worker.exit_type == common_pb2.WorkerExitType.NODE_OUT_OF_MEMORY  # type: ignore[attr-defined]


def _worker(process: Process) -> Any:
    """What Ray's table says of a process; None if it says nothing."""
    try:
        from ray._private.state import state
        from ray.core.generated import gcs_pb2

        accessor: Any = state._connect_and_get_accessor()
        workers = map(gcs_pb2.WorkerTableData.FromString, accessor.get_worker_table())  # type: ignore[attr-defined]
        return next((worker for worker in workers if worker.worker_address.worker_id.hex() == process.worker), None)
    except Exception as error:  # Ray has no public way without its dashboard, and may change this one
        log.debug("Ray does not say what became of worker %s: %s", process.worker, error)
        return None
