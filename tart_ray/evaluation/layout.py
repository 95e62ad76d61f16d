"""The files of a collection: which there are, by kind, and where they lie in a directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tart_ray.config import TaskConfig
from tart_ray.errors import InputError
from tart_ray.input import text_files
from tart_ray.input.columns import Naming
from tart_ray.input.sources import Source, inspect_source
from tart_ray.storage import Storage, join_url
from tart_ray.tables.schemas import Role


@dataclass(frozen=True)
class Layout:
    """What a kind of collection consists of.

    Attributes:
        qrels: directories of judgements, which have a file for each split, by the name of the set of judgements.
        answers: the file of judgements that are no qrels.
        measures: those that are usual for it.
        ignores_identical_ids: whether a document that has its query's id is no answer to it.
    """

    measures: tuple[str, ...]
    corpus: str = "corpus.jsonl"
    queries: str = "queries.jsonl"
    qrels: Mapping[str, str] | None = None
    answers: str | None = None
    ignores_identical_ids: bool = False


def inspect_file(storage: Storage, config: TaskConfig, name: str, role: Role) -> Source:
    """Look at a file of a task's collection."""
    return inspect_source(storage, find_file(storage, config.path, name), role, naming_of(config, role))


def inspect_run(storage: Storage, config: TaskConfig, url: str) -> Source:
    """Look at a run of a task's queries."""
    return inspect_source(storage, url, "candidates", naming_of(config, "candidates"))


def inspect_qrels(storage: Storage, config: TaskConfig, folder: str) -> Source:
    """Look at the judgements of the task's split.

    Raises:
        InputError: there are none; says which splits there are.
    """
    at = join_url(config.path, folder)
    splits = {name: text_files.plain_name(name).rpartition(".")[0] for name in storage.names(at)}
    names = [name for name, split in splits.items() if split == config.split]
    if not names:
        raise InputError(
            f"{at}: input.tasks: {config.name}: got split {config.split!r}, "
            f"available: {sorted({*splits.values()}) or 'none, no such directory'}"
        )
    if len(names) > 1:
        raise InputError(
            f"{at}: input.tasks: {config.name}: got {sorted(names)} for split {config.split!r}, expected one"
        )
    return inspect_source(storage, join_url(at, names[0]), "qrels", naming_of(config, "qrels"))


def naming_of(config: TaskConfig, role: Role) -> Naming:
    """What a task's ``columns`` say of one role."""
    return Naming.of(config.columns, role, f"input.tasks: {config.name}: columns")


def find_file(storage: Storage, folder: str, name: str) -> str:
    """URL of a file in a directory that may be compressed, and be called in capitals; of one that may not be there.

    Raises:
        InputError: several files are meant.
    """
    alike = files_like(storage, folder, name)
    if name in alike or not alike:
        return join_url(folder, name)
    if len(alike) > 1:
        raise InputError(f"{folder}: got {sorted(alike)}, expected one file {name}")
    return join_url(folder, alike[0])


def files_like(storage: Storage, folder: str, name: str) -> list[str]:
    """Names in a directory that are ``name`` but for compression and capitals."""
    return [other for other in storage.names(folder) if text_files.plain_name(other).lower() == name.lower()]
