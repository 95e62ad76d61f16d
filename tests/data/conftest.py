"""A place to keep files: a local directory, or a bucket of a real S3 server."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from support.places import Place

from tart_ray.data.storage import Storage


@pytest.fixture
def local(tmp_path: Path) -> Place:
    return Place(Storage(), str(tmp_path))


@pytest.fixture(scope="session")
def bucket(s3: Any) -> str:
    return s3.new_bucket()


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "local":
        return request.getfixturevalue("local")
    config = request.getfixturevalue("s3").config
    return Place(Storage(config), f"s3://{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}")


@pytest.fixture
def tree(place: Any) -> Any:
    for name in ["b.x", "a.x", "c.y", "d/e.x", "d/f/g.x", "_h.x", ".i.x", "_j/k.x", "d/_l/m.x", "d/.n/o.x"]:
        place.put(name, name)
    place.put("empty.x", b"")
    return place
