"""Which versions of labels may go, and what a kill while one goes leaves."""

from __future__ import annotations

from typing import Any

import pytest

from tart_ray.errors import LeaseHeldError
from tart_ray.runs.lease import Lease
from tart_ray.runs.pruning import prunable, remove, to_prune
from tart_ray.runs.run import Run
from tart_ray.runs.stage import Record, Stage
from tart_ray.runs.versions import Current, Versions

NAMES = [f"0000{number}-{letter}" for number, letter in enumerate("abcdef", start=1)]


class Labelled(Record):
    rows: int


LABEL = Stage("label", Labelled)


@pytest.mark.parametrize(
    ("current", "base", "left", "keep", "expected"),
    [
        ("f", "e", "", 1, "abcd"),
        ("f", "e", "", 2, "abcd"),
        ("f", "e", "", 3, "abc"),
        ("f", "e", "", 9, ""),
        ("f", None, "", 1, "abcde"),
        ("d", "c", "", 1, "ab"),  # e and f were begun after it: their scores may be taken over
        ("d", "a", "", 1, "bc"),
        ("c", "b", "de", 1, "a"),
        ("f", "e", "b", 1, "acd"),  # b was switched away from
    ],
)
def test_what_may_go(current: str, base: str | None, left: str, keep: int, expected: str) -> None:
    ids = {name[-1]: name for name in NAMES}
    pointer = Current(ids[current], tuple(ids[letter] for letter in left), 3)
    found = prunable(NAMES, pointer, ids[base] if base else None, keep)
    assert found == [ids[letter] for letter in expected]


def test_nothing_goes_before_there_is_a_current_version() -> None:
    assert prunable(NAMES, None, None, 1) == []


@pytest.fixture
def versions(place: Any) -> Versions:
    """Four finished versions, each upon the one before; the last one is current."""
    found = Versions(Run.at(place.storage, place.at("labels"), 1))
    base = None
    for number in range(4):
        id_ = found.id_of({"input": number}, base)
        run = found.run(id_).begin({"input": number, "base": base}, {})
        run.write(b"labels", "labels", "00000.parquet")
        run.commit(LABEL, "00000", Labelled(rows=1))
        run.finish({}, "", success=True)
        found.switch(id_, found.current())
        base = id_
    return found


def test_old_versions_go_and_the_pointer_still_leads_to_a_whole_one(versions: Versions) -> None:
    before = versions.ids()
    versions.storage.write(versions.place.url("runs", "0-old", "labels.parquet"), b"of somebody")
    assert to_prune(versions, 1) == before[:2]  # the last one builds upon the third
    for id_ in to_prune(versions, 1):
        remove(versions, id_, lambda: None)
    assert versions.ids() == before[2:]
    assert not any(versions.storage.holds_files(versions.run(id_).path) for id_ in before[:2])
    current = versions.current()
    assert current is not None
    assert current.run == before[3]
    assert versions.run(before[3]).opened().is_complete()
    assert versions.id_of({"input": 9}, before[3]).startswith("00005-")  # numbers only grow
    assert to_prune(versions, 1) == []


class KilledError(Exception):
    """In place of SIGKILL."""


@pytest.mark.parametrize("after", range(4))
def test_a_version_that_a_kill_left_half_removed_is_no_finished_one_and_goes_next_time(
    versions: Versions, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after so many files and directories were removed: what is committed is there, and the rest can go."""
    id_ = versions.ids()[0]
    done = 0

    def counted(name: str) -> Any:
        really = getattr(type(versions.storage), name)

        def act(self: Any, *urls: str) -> None:
            nonlocal done
            if done == after:
                raise KilledError
            done += 1
            really(self, *urls)

        return act

    for name in ("remove", "remove_tree"):
        monkeypatch.setattr(type(versions.storage), name, counted(name))
    with pytest.raises(KilledError):
        remove(versions, id_, lambda: None)
    monkeypatch.undo()
    run = versions.run(id_).opened()
    assert run.is_complete() == (after == 0)
    if run.committed(LABEL):
        assert run.read("labels", "00000.parquet") == b"labels"
    assert id_ in to_prune(versions, 1)
    remove(versions, id_, lambda: None)
    assert not versions.storage.holds_files(run.path)
    assert id_ not in to_prune(versions, 1)


def test_a_lost_lease_ends_the_removal(versions: Versions) -> None:
    def lost() -> None:
        raise LeaseHeldError("another driver")

    before = versions.ids()
    with pytest.raises(LeaseHeldError):
        remove(versions, before[0], lost)
    assert versions.run(before[0]).opened().is_complete()


def test_the_command_refuses_while_a_driver_is_at_work(
    versions: Versions, place: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tart_ray.jobs_command import main

    monkeypatch.setattr("tart_ray.runs.lease.RENEW_SECONDS", 0.1)
    config = place.storage.config
    stores = [] if config.key is None else ["--storage.endpoint_url", config.endpoint_url]
    for name in ("key", "secret"):
        stores += [f"--storage.{name}", getattr(config, name).get_secret_value()] if stores else []
    prune = ["prune", versions.path, "--keep", "1", *stores]
    lease = Lease(versions.place, print)
    before = versions.ids()
    assert main([*prune, "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"would remove {versions.run(id_).path}" for id_ in before[:2]]
    assert main(prune) == 2
    assert "another run is at work there" in capsys.readouterr().err
    assert versions.ids() == before
    lease.release()
    assert main(prune) == 0
    assert versions.ids() == before[2:]
    assert capsys.readouterr().out.splitlines()[-1] == "2 versions removed, 2 left"
