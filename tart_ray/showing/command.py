"""`tart-ray show`, `versions`, `diff` and `prune`: what is at a path, printed; only `prune` changes anything."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from tart_ray.config.command_line import parse_with_storage
from tart_ray.engine.stopping import leased, stoppable
from tart_ray.errors import ConfigurationError, ExitCode
from tart_ray.results import tables_of
from tart_ray.runs import pruning
from tart_ray.runs.bad_rows import content_of
from tart_ray.runs.run import Run
from tart_ray.runs.versions import Versions
from tart_ray.showing import queries, tables, telling
from tart_ray.showing.bad_rows import bad_rows, place_of
from tart_ray.showing.state import find, look, scoring_of
from tart_ray.showing.texts import find_texts
from tart_ray.showing.versions import compare, versions_of
from tart_ray.storage import Storage

WIDTH = 160  # characters of a line where stdout is no terminal
TOP = 10
PLACES = ("report.html", "metrics.json", "checkpoint")  # of an output, beside its tables


def main(name: str, argv: Sequence[str]) -> int:
    """Do one of the commands, return its exit code.

    Raises:
        TartRayError: there is nothing of the kind at the path, or it cannot be read.
        SystemExit: the options are no good (code 2), or ask for help (0).
    """
    options, stores = parse_with_storage(_parser(name), argv)
    place = find(Storage(stores), options.path)
    if name == "show":
        _print(_show(place, options))
        return ExitCode.DONE
    if not isinstance(place, Versions):
        raise ConfigurationError(f"{place.path}: got a single run, expected output.path of jobs.relabel")
    if name == "versions":
        _print(tables.tell_versions(versions_of(place)))
    elif name == "diff":
        _print(_diff(place, options.diff))
    else:
        _print(_prune(place, options.keep, dry_run=options.dry_run))
    return ExitCode.DONE


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(f"tart-ray {name}", allow_abbrev=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("path", metavar="PATH", help="output.path of a job, local or in a store (s3://, gs://, az://)")
    if name == "show":
        parser.description = "Show what a job wrote: the state of its run, or a part of what came out."
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--query", metavar="ID", default=None, help="how its documents are ranked, labelled or mined")
        what.add_argument("--quarantine", action="store_true", default=False, help="bad rows by reason, with samples")
        what.add_argument("--versions", action="store_true", default=False, help="versions of labels")
        what.add_argument(
            "--diff", nargs="*", metavar="VERSION", default=None, help="compare two versions, or the last two"
        )
        parser.add_argument("--top", type=_positive, default=TOP, metavar="N", help=f"documents shown (default: {TOP})")
    elif name == "versions":
        parser.description = "List the versions of labels at a path: when each began, what it holds, its size."
    elif name == "diff":
        parser.description = "Compare two versions of labels pair by pair; the last two where none are named."
        parser.add_argument("diff", nargs="*", default=[], metavar="VERSION", help="two versions, the older first")
    else:
        parser.description = (
            "Remove old versions of labels. The current one stays, the one that it builds upon, those begun after it, "
            "and those that were switched away from."
        )
        parser.add_argument("--keep", type=_positive, required=True, metavar="N", help="newest versions that stay")
        parser.add_argument("--dry-run", action="store_true", default=False, help="say what would go, remove nothing")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {number}, expected at least 1")
    return number


def _print(lines: Iterator[str]) -> None:
    for line in lines:
        print(line)  # noqa: T201


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH


def _show(place: Run | Versions, options: argparse.Namespace) -> Iterator[str]:
    of_versions = options.versions or options.diff is not None
    if isinstance(place, Versions):
        yield from _show_versions(place, options)
    elif of_versions:
        raise ConfigurationError(
            f"{place.path}: got a single run, expected output.path of jobs.relabel with --versions and --diff"
        )
    elif options.quarantine:
        yield from _quarantine(place)
    elif options.query is not None:
        yield from _query(place, options.query, options.top)
    else:
        yield from _state(place)


def _show_versions(versions: Versions, options: argparse.Namespace) -> Iterator[str]:
    """What is asked of versions, or else of the current one; of the last one, where none is current."""
    if options.diff is not None:
        yield from _diff(versions, options.diff)
        return
    if options.versions or not (options.quarantine or options.query):
        yield from tables.tell_versions(versions_of(versions))
    if options.versions:
        return
    current = versions.current()
    run = versions.run(current.run if current else versions.ids()[-1]).opened()
    if options.quarantine:
        yield from _quarantine(run)
    elif options.query is not None:
        yield from _query(run, options.query, options.top)
    else:
        yield ""
        yield from _state(run)


def _diff(versions: Versions, names: Sequence[str]) -> Iterator[str]:
    if len(names) not in (0, 2):
        raise ConfigurationError(f"got {[*names]} to compare, expected two versions, or none for the last two")
    yield from tables.tell_comparison(compare(versions, *names))


def _state(run: Run) -> Iterator[str]:
    seen = look(run)
    if seen.job == "evaluate" and run.storage.exists(run.url("table.txt")):
        yield run.read("table.txt").decode()
    there = [name for name in PLACES if run.storage.exists(run.url(name)) or run.storage.holds_files(run.url(name))]
    yield from telling.tell(seen, {name: run.url(name) for name in (*tables_of(run), *there)})


def _query(run: Run, query_id: str, top: int) -> Iterator[str]:
    manifest = run.read_manifest()
    identity, job = manifest["identity"], manifest["identity"]["job"]
    if job == "train":
        raise ConfigurationError(f"{run.path}: got a run of jobs.train, which ranks nothing; --query is for other jobs")
    if job == "evaluate":
        yield from tables.tell_measured(query_id, queries.measured(run, query_id))
    elif job == "mine_negatives":
        mined = queries.mined(run, query_id)
        ids = [row["doc_id"] for name in ("positives", "negatives") for row in mined.get(name, ())]
        yield from tables.tell_mined(query_id, mined, find_texts(run.storage, manifest, query_id, ids), _width())
    else:
        rank = queries.labelled if job == "relabel" else queries.ranking
        rows = rank(run, identity, query_id, top)
        texts = find_texts(run.storage, manifest, query_id, [row["doc_id"] for row in rows])
        yield from tables.tell_ranking(query_id, rows, texts, _width())


def _quarantine(run: Run) -> Iterator[str]:
    scoring, identity = scoring_of(run), run.read_manifest()["identity"]
    found = [*bad_rows(run), *(bad_rows(scoring) if scoring else ())]
    shown: list[Any] = [
        (
            rows.stage,
            rows.reason,
            rows.number,
            [(place_of(run.storage, identity, row), content_of(row)) for row in rows.samples]
            if i < tables.REASONS
            else [],
        )
        for i, rows in enumerate(sorted(found, key=lambda rows: -rows.number))
    ]
    yield from tables.tell_bad_rows(shown, _width())


def _prune(versions: Versions, keep: int, *, dry_run: bool) -> Iterator[str]:
    """Remove old versions, each told before it goes."""
    if dry_run:
        yield from (f"would remove {versions.run(id_).path}" for id_ in pruning.to_prune(versions, keep))
        return
    with stoppable(ends_process=False) as stop, leased(versions.place, stop) as lease:
        versions.mend()  # a reader may begin at a copy of the pointer that is out of date
        removed = pruning.to_prune(versions, keep)
        for id_ in removed:
            yield f"removes {versions.run(id_).path}"
            pruning.remove(versions, id_, lease.confirm)
    yield f"{len(removed)} versions removed, {len(versions.ids())} left"
