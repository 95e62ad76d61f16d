"""Which files a file, a directory or a glob names."""

from __future__ import annotations

from typing import Any

import pytest

from tart_ray.data.listing import list_files
from tart_ray.data.storage import StorageError


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("", ["a.x", "b.x", "c.y", "d/e.x", "d/f/g.x"]),
        ("a.x", ["a.x"]),
        ("_h.x", ["_h.x"]),  # asked for by name
        ("_j", ["_j/k.x"]),
        ("*.x", ["a.x", "b.x"]),
        ("**/*.x", ["a.x", "b.x", "d/e.x", "d/f/g.x"]),
        ("[ab].?", ["a.x", "b.x"]),
        ("d", ["d/e.x", "d/f/g.x"]),
        ("d/", ["d/e.x", "d/f/g.x"]),
        ("_j/*", ["_j/k.x"]),
    ],
)
def test_files_of_a_file_directory_or_glob(tree: Any, wanted: str, expected: list[str]) -> None:
    assert tree.names(tree.at(wanted) if wanted else tree.url) == expected


@pytest.mark.parametrize("wanted", ["missing", "missing/", "*.z", "empty.x", "missing/**"])
def test_nothing_to_read_is_an_error_that_says_what_was_expected(tree: Any, wanted: str) -> None:
    with pytest.raises(StorageError) as caught:
        list_files(tree.storage, tree.at(wanted))
    assert tree.at(wanted) in str(caught.value)
    assert "expected a file, a directory or a glob" in str(caught.value)
