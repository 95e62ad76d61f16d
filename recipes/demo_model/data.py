"""The data: fetched into a cache, read, parted into splits."""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from recipes.demo_model.debian_packages import debian_entries, fetch_lists
from recipes.demo_model.entries import Entry, read_entries, split_entries, write_entries
from recipes.demo_model.manual_pages import fetch_pages, manual_entries
from recipes.demo_model.python_source import download_command, python_packages, read_package

SOURCES = "sources.json"  # what was downloaded, with versions
log = logging.getLogger(__name__)


def fetch(cache: Path) -> None:
    """Download what is not in ``cache`` yet: wheels, Debian's lists, Debian packages of manual pages.

    Raises:
        subprocess.CalledProcessError: a package manager failed; what is there stays.
    """
    for name, step in (("wheels", _fetch_wheels), ("apt", fetch_lists), ("manual", fetch_pages)):
        if not (done := cache / name / "_SUCCESS").exists():
            log.info("fetching %s into %s", name, cache / name)
            (cache / name).mkdir(parents=True, exist_ok=True)
            step(cache / name)
            done.touch()


def build(folder: Path, cache: Path) -> None:
    """Write ``train.parquet``, ``dev.parquet``, ``test.parquet`` and ``sources.json`` under ``folder``.

    What was read of each family is kept beside them, and not read again.
    """
    fetch(cache)
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[Entry] = []
    for family, read in READERS.items():
        path = folder / f"read-{family}.parquet"
        if not path.exists():
            log.info("%s: read %d entries", family, write_entries(path, read(cache)))
        entries += read_entries(path)
    counts = {
        split: write_entries(folder / f"{split}.parquet", chosen) for split, chosen in split_entries(entries).items()
    }
    fetched = sorted(path.name for kind in ("*.whl", "*.deb", "*Translation-en*") for path in cache.glob(f"*/{kind}"))
    (folder / SOURCES).write_text(json.dumps({"entries": counts, "fetched": fetched}, indent=2) + "\n")
    log.info("entries by split: %s", counts)


def read_python(cache: Path) -> Iterator[Entry]:
    """The entries of all Python packages, read by a process per core."""
    archives = sorted((cache / "wheels").glob("*.whl"))
    packages = [(name, list(modules)) for name, modules in python_packages(archives)]
    with ProcessPoolExecutor() as pool:
        for entries in pool.map(_read, packages):
            yield from entries


def read_debian(cache: Path) -> Iterator[Entry]:
    """The entries of Debian's lists."""
    return debian_entries(cache / "apt")


def read_manual(cache: Path) -> Iterator[Entry]:
    """The entries of manual pages."""
    return manual_entries(cache / "manual")


READERS = {"python": read_python, "debian": read_debian, "manual": read_manual}


def _read(package: tuple[str, list[tuple[str, str]]]) -> list[Entry]:
    return list(read_package(*package))


def _fetch_wheels(folder: Path) -> None:
    subprocess.run(download_command(folder), check=True)
