"""Entries from Debian's package lists: a package's summary asks for its long description."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from recipes.demo_model.entries import Entry

CAT_FILE = "/usr/lib/apt/apt-helper"  # reads the lists, whatever they are compressed with
MIN_WORDS = 12


def read_descriptions(lines: Iterable[str], source_of: dict[str, str]) -> Iterator[Entry]:
    """One entry per package of a ``Translation-en`` list.

    ``source_of``: the source package where it has another name; packages made from one source stay together.
    """
    for stanza in _stanzas(lines):
        if not (match := re.fullmatch(r"Package: (\S+)\n.*?^Description-en: ([^\n]+)\n(.*)", stanza, re.S | re.M)):
            continue
        package, summary, rest = match.groups()
        description = "\n".join("" if line == " ." else line.strip() for line in rest.splitlines())
        if len(description.split()) >= MIN_WORDS and len(summary.split()) >= 2:
            source = source_of.get(package, package)
            yield Entry("debian", f"debian/{source}", package, package, summary.strip(), {"description": description})


def read_sources(lines: Iterable[str]) -> dict[str, str]:
    """The source package of each package of a ``Packages`` list whose source has another name."""
    found = {}
    for stanza in _stanzas(lines):
        package = re.search(r"^Package: (\S+)", stanza, re.M)
        source = re.search(r"^Source: (\S+)", stanza, re.M)
        if package and source:
            found[package[1]] = source[1]
    return found


def fetch_lists(folder: Path) -> None:
    """Fetch Debian's lists, with English descriptions, into ``folder`` and not into the system's own place.

    Raises:
        FileNotFoundError: there is no apt on this machine.
        subprocess.CalledProcessError: apt could not fetch them.
    """
    (folder / "partial").mkdir(parents=True, exist_ok=True)
    options = ["-o", f"Dir::State::Lists={folder.resolve()}", "-o", "Acquire::Languages=en"]
    subprocess.run(["apt-get", *options, "--quiet", "--quiet", "update"], check=True)


def debian_entries(folder: Path) -> Iterator[Entry]:
    """The entries of all lists in ``folder``."""
    source_of: dict[str, str] = {}
    for path in sorted(folder.glob("*_Packages*")):
        source_of |= read_sources(_lines(path))
    for path in sorted(folder.glob("*Translation-en*")):
        yield from read_descriptions(_lines(path), source_of)


def _lines(path: Path) -> list[str]:
    command = [CAT_FILE, "cat-file", str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines(keepends=True)


def _stanzas(lines: Iterable[str]) -> Iterator[str]:
    stanza: list[str] = []
    for line in lines:
        if line.strip():
            stanza.append(line)
        elif stanza:
            yield "".join(stanza)
            stanza = []
    if stanza:
        yield "".join(stanza)
