"""The data of the demo's model, made of a hand-written package, a package list and manual pages."""

from __future__ import annotations

import gzip
import textwrap
import zipfile
from pathlib import Path

from recipes.demo_model.debian_packages import read_descriptions, read_sources
from recipes.demo_model.entries import (
    STANDARD_LIBRARY,
    Entry,
    read_entries,
    split_entries,
    split_of,
    text_key,
    write_entries,
)
from recipes.demo_model.manual_pages import manual_entries, read_page
from recipes.demo_model.python_source import modules_of_archive, modules_of_folder, read_package

SOURCE = textwrap.dedent(
    '''
    def parse_url(text):
        """Split a URL into its parts.

        The scheme is lower-cased; the port is an integer, or None where the URL names none.
        """
        scheme, _, rest = text.partition("://")
        return scheme.lower(), rest


    def undocumented(text):
        return text.strip().lower()


    class Cache:
        def get(self, key):
            """Return the value that was stored last."""
            return self.values[key] if key in self.values else None
    '''
)


def write_package(root: Path) -> None:
    (root / "net" / "tests").mkdir(parents=True)
    (root / "net" / "__init__.py").write_text("")
    (root / "net" / "urls.py").write_text(SOURCE)
    (root / "net" / "broken.py").write_bytes(b'x = "\xff"')
    (root / "net" / "tests" / "test_urls.py").write_text(SOURCE)


def test_a_docstring_asks_for_code_and_for_its_own_rest(tmp_path: Path) -> None:
    write_package(tmp_path)
    parse, get = read_package("net", modules_of_folder(tmp_path))
    assert (parse.package, parse.name, parse.title) == ("net", "net.urls.parse_url", "net.urls")
    assert parse.query == "Split a URL into its parts."
    assert parse.answers["code"].startswith("def parse_url(text):\n    scheme, _, rest")
    assert "Split a URL" not in parse.answers["code"]
    assert parse.answers["documentation"].startswith("The scheme is lower-cased;")
    assert (get.name, [*get.answers]) == ("net.urls.Cache.get", ["code"])


def test_a_wheel_gives_the_entries_of_its_folder(tmp_path: Path) -> None:
    write_package(tmp_path)
    with zipfile.ZipFile(tmp_path / "net-1.0-py3-none-any.whl", "w") as wheel:
        for path in sorted((tmp_path / "net").rglob("*.py")):
            wheel.write(path, path.relative_to(tmp_path))
    from_wheel = modules_of_archive(tmp_path / "net-1.0-py3-none-any.whl")
    assert [*read_package("net", from_wheel)] == [*read_package("net", modules_of_folder(tmp_path))]


def test_a_package_summary_asks_for_the_long_description() -> None:
    lists = textwrap.dedent(
        """\
        Package: libzip-dev
        Description-md5: 0
        Description-en: library for zip archives (development)
         Reads, writes and changes zip archives, from memory or from files.
         .
         This package has what is needed to build programs with it.

        Package: short
        Description-md5: 1
        Description-en: too little text
         Nothing more.
        """
    )
    source_of = read_sources(["Package: libzip-dev\n", "Source: libzip (1.9)\n", "\n", "Package: zip\n"])
    assert source_of == {"libzip-dev": "libzip"}
    (entry,) = read_descriptions(lists.splitlines(keepends=True), source_of)
    assert (entry.package, entry.name) == ("debian/libzip", "libzip-dev")
    assert entry.query == "library for zip archives (development)"
    assert entry.answers["description"] == (
        "Reads, writes and changes zip archives, from memory or from files.\n\n"
        "This package has what is needed to build programs with it."
    )


PAGE = r"""
.\" a comment
.TH CUT 1 "May 2024"
.SH NAME
cut \- remove sections from each line of files
.SH SYNOPSIS
.B cut
\fIOPTION\fR... [\fIFILE\fR]...
.SH DESCRIPTION
.IX Header "DESCRIPTION"
Print selected parts of lines from each \fBFILE\fP to standard output, one line for each line read.
.TP
.B \-b
select only these bytes
.SH OPTIONS
.B \-\-zero
"""


def test_a_name_line_asks_for_description_and_usage() -> None:
    entry = read_page("coreutils", "cut.1", PAGE)
    assert entry is not None
    assert (entry.package, entry.title, entry.query) == (
        "debian/coreutils",
        "cut.1",
        "remove sections from each line of files",
    )
    assert entry.answers["usage"] == "cut\nOPTION... [FILE]...\n--zero"
    assert entry.answers["description"] == (
        "Print selected parts of lines from each FILE to standard output, one line for each line read.\n"
        "-b\nselect only these bytes"
    )
    assert read_page("coreutils", "cut.1", ".SH NAME\nno dash in it\n") is None


def test_pages_are_found_by_package_unpacked_or_installed(tmp_path: Path) -> None:
    unpacked = tmp_path / "cache" / "manpages" / "usr" / "share" / "man" / "man1"
    unpacked.mkdir(parents=True)
    (unpacked / "cut.1.gz").write_bytes(gzip.compress(PAGE.encode()))
    (unpacked / "link.1.gz").symlink_to("cut.1.gz")
    (tmp_path / "info").mkdir()
    (tmp_path / "info" / "other:amd64.list").write_text("/usr/share/man/man1/not-there.1.gz\n")
    (entry,) = manual_entries(tmp_path / "cache", installed=tmp_path / "info")
    assert (entry.package, entry.name) == ("debian/manpages", "cut.1")


def entry(package: str, query: str, **answers: str) -> Entry:
    return Entry("python", package, query, package, query, answers)


def test_near_duplicates_stay_in_the_test_split_alone() -> None:
    train, dev = (next(f"p{i}" for i in range(1_000) if split_of(f"p{i}") == split) for split in ("train", "dev"))
    split = split_entries(
        [
            entry(train, "Parse a URL", code="def f(x): return x"),  # the query is one of the test split's
            entry(train, "Parse another thing", code="def  f( y ):\n  return y", documentation="What y is."),
            entry(train, "Parse a third thing", code="def F(X): return X"),  # the code is
            entry(dev, "Open a file", code="def open_file(path): ..."),
            entry(STANDARD_LIBRARY, "parse a URL!", code="def f(x):\n    return x"),
        ]
    )
    assert [e.query for e in split["test"]] == ["parse a URL!"]
    assert [e.query for e in split["dev"]] == ["Open a file"]
    assert [e.query for e in split["train"]] == ["Parse another thing"]
    assert text_key("A, b\nc") == text_key("a B-c") != text_key("a b d")


def test_entries_are_read_as_they_were_written(tmp_path: Path) -> None:
    entries = [entry("a", "q", code="x"), entry("b", "r", code="y", documentation="z")]
    assert write_entries(tmp_path / "entries.parquet", iter(entries)) == 2
    assert read_entries(tmp_path / "entries.parquet") == entries
