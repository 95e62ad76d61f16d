"""Old versions of labels removed, so that they do not fill the store; what readers or a rollback need stays.

A version goes in an order in which a kill leaves nothing that could be taken for whole: ``_SUCCESS`` first, then the
commits, then all else, the manifest last. What a kill leaves is removed by the next pruning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tart_ray.runs.directory import COMMITS, MANIFEST, SUCCESS
from tart_ray.runs.versions import BASE, Current, Versions, is_id, number_of
from tart_ray.storage import join_url


def prunable(names: Sequence[str], current: Current | None, base: str | None, keep: int) -> list[str]:
    """The versions that may go, oldest first.

    These stay: the ``keep`` newest; the current one, and all that were begun after it, whose scores it may yet lend;
    the one that it builds upon, to which `switch_to: previous` goes back; and those that a person switched away from,
    which the same command would otherwise make again.

    Args:
        names: of all that is under ``runs/``, in the order of their numbers.
        current: what the pointer says; None before the first version is done, when nothing may go.
        base: the version that the current one builds upon.
        keep: at least 1.
    """
    if current is None:
        return []
    needed = {*names[-keep:], current.run, base, *current.left}
    return [name for name in names if name not in needed and number_of(name) < number_of(current.run)]


def to_prune(versions: Versions, keep: int) -> list[str]:
    """The versions at a path that may go, oldest first; those of which a killed pruning left something among them."""
    current = versions.current()
    base = versions.run(current.run).read_manifest()["identity"][BASE] if current else None
    found = prunable([*filter(is_id, versions.names())], current, base, keep)  # and nothing that others put there
    return [id_ for id_ in found if versions.storage.holds_files(versions.run(id_).path)]  # stores list emptied ones


def remove(versions: Versions, id_: str, confirm: Callable[[], None]) -> None:
    """Remove a version.

    Args:
        confirm: of the holder of the lease: raises where it has lost it.
    """
    storage, path = versions.storage, versions.run(id_).path
    confirm()
    storage.remove(join_url(path, SUCCESS))
    storage.remove_tree(join_url(path, COMMITS))
    for name in storage.names(path):
        if name != MANIFEST:
            confirm()
            url = join_url(path, name)
            storage.remove(url) if storage.exists(url) else storage.remove_tree(url)
    storage.remove(join_url(path, MANIFEST))
    storage.remove_tree(path)
