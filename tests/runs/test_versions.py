"""Versions of labels under one path, and the pointer to the current one."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from tart_ray.errors import RunConflictError
from tart_ray.runs.run import Run
from tart_ray.runs.versions import Current, Versions


@pytest.fixture
def versions(place: Any) -> Versions:
    return another(place)


def another(place: Any) -> Versions:
    """As another driver sees them."""
    return Versions(Run.at(place.storage, place.at("labels"), 2))


def copy_of(versions: Versions) -> dict[str, Any]:
    """What readers find."""
    found: dict[str, Any] = json.loads(versions.storage.read(versions.place.url("current.json")))
    return found


def begun(versions: Versions, identity: dict[str, Any], base: str | None) -> str:
    id_ = versions.id_of(identity, base)
    versions.run(id_).begin({**identity, "base": base}, {})
    return id_


def test_the_pointer_moves_forward_and_readers_have_a_copy(versions: Versions) -> None:
    assert versions.current() is None
    versions.switch("00001-a", None)
    first = versions.current()
    assert first == Current("00001-a", (), 1)
    versions.switch("00002-b", first, ("00001-a",))
    assert versions.current() == Current("00002-b", ("00001-a",), 2)
    told = copy_of(versions)
    assert (told["run"], told["path"], told["left"]) == ("00002-b", "runs/00002-b", ["00001-a"])
    assert datetime.fromisoformat(told["switched_at"]).timestamp() == int(told["switched"])


def test_a_driver_that_comes_back_late_moves_nothing(versions: Versions, place: Any) -> None:
    versions.switch("00001-a", None)
    seen = versions.current()  # by a driver that is suspended now
    another(place).switch("00002-b", seen)
    with pytest.raises(RunConflictError, match="run 00002-b became current while run 00003-c was at work"):
        versions.switch("00003-c", seen)
    assert versions.current() == Current("00002-b", (), 2)
    assert copy_of(versions)["run"] == "00002-b"
    versions.switch("00002-b", seen)  # what was wanted is there, whoever did it


@pytest.mark.parametrize("moment", ["create", "replace"])
def test_a_driver_that_is_suspended_while_it_switches_sets_no_older_run_current(
    versions: Versions, place: Any, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Others take over right before it moves the pointer, or right before it writes the copy of an own move."""
    versions.switch("00001-a", None)
    seen = versions.current()
    really = getattr(place.storage, moment)

    def late(*arguments: Any) -> Any:
        monkeypatch.undo()
        others = another(place)
        others.switch("00003-c", others.current())
        return really(*arguments)

    monkeypatch.setattr(place.storage, moment, late)
    if moment == "create":
        with pytest.raises(RunConflictError):
            versions.switch("00002-b", seen)
    else:
        versions.switch("00002-b", seen)
    assert another(place).current().run == "00003-c"  # type: ignore[union-attr]
    assert copy_of(versions)["run"] == "00003-c"


def test_a_copy_that_a_killed_driver_left_out_of_date_is_mended(versions: Versions) -> None:
    versions.switch("00001-a", None)
    old = versions.storage.read(versions.place.url("current.json"))
    versions.switch("00002-b", versions.current())
    versions.storage.write(versions.place.url("current.json"), old)
    versions.mend()
    assert copy_of(versions)["run"] == "00002-b"
    versions.storage.remove(versions.place.url("current.json"))
    versions.mend()
    assert copy_of(versions)["run"] == "00002-b"
    before = versions.storage.version_at(versions.place.url("current.json"))
    versions.mend()
    assert versions.storage.version_at(versions.place.url("current.json")) == before


def test_a_pointer_of_an_older_release_is_gone_on_with(versions: Versions) -> None:
    said = {"run": "00004-d", "path": "runs/00004-d", "left": []}
    versions.storage.write(versions.place.url("current.json"), json.dumps(said).encode())
    versions.mend()
    assert versions.current() == Current("00004-d", (), 0)
    versions.switch("00005-e", versions.current())
    assert versions.current() == Current("00005-e", (), 1)
    assert copy_of(versions)["run"] == "00005-e"


def test_numbers_only_grow_and_the_same_command_finds_its_own_run(versions: Versions) -> None:
    first = begun(versions, {"input": 1}, None)
    second = begun(versions, {"input": 2}, first)
    assert (first[:6], second[:6]) == ("00001-", "00002-")
    # after a rollback to the first, another input builds upon the first again
    third = begun(versions, {"input": 3}, first)
    assert third.startswith("00003-")
    assert versions.id_of({"input": 3}, first) == third
    assert versions.id_of({"input": 2}, first) == second
    assert versions.id_of({"input": 3}, second).startswith("00004-")
    # a run that was current and was removed by hand: its number is not used again
    versions.switch(third, None)
    versions.storage.remove_tree(versions.run(third).path)
    assert versions.id_of({"input": 4}, third).startswith("00004-")
