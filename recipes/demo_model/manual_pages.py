"""Entries from manual pages: the NAME line asks for the description, or for how the thing is called."""

from __future__ import annotations

import gzip
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from recipes.demo_model.entries import Entry

DOWNLOADED = ("manpages", "manpages-dev", "perl-doc", "tcl-doc", "libssl-doc", "git-man")
MOST_PER_PACKAGE = 1_000  # some packages bring thousands of pages from one template
MIN_DESCRIPTION_WORDS, MIN_USAGE_WORDS = 12, 4
SECTION = re.compile(r"^\.S[Hh] +\"?([^\"\n]+?)\"? *$", re.M)
NO_TEXT = re.compile(
    r"^[.'](\\\"|TH|Dd|Dt|Os|so|if|ie|el|de|ds|nr|ft|ad|hy|nh|ta|ti|in|ne|na|TS|TE|rn|tr|IX|RS|RE|sp|nf|fi|\.).*$", re.M
)
MACRO = re.compile(r"^[.'] *[A-Za-z]{1,2}\b *", re.M)
FONT = re.compile(r"\\f(\[[^]]*\]|\(..|.)|\\s[-+]?\d|\\[&|/,^:%c]")
CHARACTERS = {"-": "-", "e": "\\", "(aq": "'", "(dq": '"', "(lq": '"', "(rq": '"', "(em": "-", "(en": "-", "(bu": "*"}
ESCAPE = re.compile(r"\\(\((?:..)|\[[^]]*\]|.)", re.S)


def read_page(package: str, name: str, source: str) -> Entry | None:
    """The entry of a page in roff: ``description`` and ``usage`` (its synopsis, then its options), where it has them.

    None where the page has no NAME line of the usual form, or neither section.
    """
    parts = SECTION.split(source)
    sections = {heading.upper(): plain_text(text) for heading, text in zip(parts[1::2], parts[2::2], strict=True)}
    _, dash, query = " ".join(sections.get("NAME", "").split()).partition(" - ")
    if not dash or len(query.split()) < 2:
        return None
    usage = "\n".join(sections[heading] for heading in ("SYNOPSIS", "OPTIONS") if sections.get(heading))
    description = sections.get("DESCRIPTION", "")
    answers = {}
    if len(description.split()) >= MIN_DESCRIPTION_WORDS:
        answers["description"] = description
    if len(usage.split()) >= MIN_USAGE_WORDS:
        answers["usage"] = usage
    return Entry("manual", f"debian/{package}", name, name, query, answers) if answers else None


def plain_text(roff: str) -> str:
    """The words of roff source: requests without text, font changes and escapes are taken away."""
    text = re.sub(r"^\.Nd\b", "-", roff, flags=re.M)
    text = MACRO.sub("", NO_TEXT.sub("", text))
    text = ESCAPE.sub(lambda match: CHARACTERS.get(match[1], ""), FONT.sub("", text))
    return "\n".join(line.strip() for line in text.replace('"', "").splitlines() if line.strip())


def fetch_pages(folder: Path) -> None:
    """Download Debian packages of manual pages and unpack them under ``folder``; nothing is installed."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "--quiet", "--quiet", "download", *DOWNLOADED], check=True, cwd=folder)
    for path in sorted(folder.glob("*.deb")):
        subprocess.run(["dpkg", "--extract", path.name, path.name.split("_")[0]], check=True, cwd=folder)


def manual_entries(folder: Path, installed: Path = Path("/var/lib/dpkg/info")) -> Iterator[Entry]:
    """The entries of the unpacked packages in ``folder`` and of the packages installed on this machine."""
    pages = {child.name: sorted(child.rglob("man/man?/*")) for child in sorted(folder.iterdir()) if child.is_dir()}
    for path in sorted(installed.glob("*.list")):
        listed = re.findall(r"^/usr/share/man/man\d/\S+$", path.read_text(), re.M)
        pages.setdefault(path.stem.split(":")[0], [Path(line) for line in listed])
    for package, paths in pages.items():
        for path in [path for path in paths if path.is_file() and not path.is_symlink()][:MOST_PER_PACKAGE]:
            raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            entry = read_page(package, path.name.removesuffix(".gz"), raw.decode(errors="replace"))
            if entry:
                yield entry
