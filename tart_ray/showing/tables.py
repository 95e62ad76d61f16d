"""What is said of a query, of bad rows and of versions: lines of text from what was read."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tart_ray.showing.queries import Rows
from tart_ray.showing.telling import amount, indented, moment, number
from tart_ray.showing.texts import Texts
from tart_ray.showing.versions import Comparison, Version
from tart_ray.tables.printing import aligned

REASONS = 20  # of bad rows that are told one by one
LEAST_TEXT = 40  # characters of a document that are shown however narrow the terminal is


def tell_ranking(query_id: str, rows: Rows, texts: Texts, width: int) -> Iterator[str]:
    """The best documents of a query, one a line.

    Args:
        rows: with ``rank``, ``margin``, ``score``, ``first_stage_rank``; with ``label`` where they are labelled.
        width: characters of a line.
    """
    yield from _query(query_id, texts.query, rows[0].get("instruction"), width)
    labelled = "label" in rows[0]
    header = ["rank", "move", "margin", "score", "first", *(["label"] if labelled else []), "document"]
    cells = [
        [
            f"{row['rank']:>4}",
            move(row["first_stage_rank"], row["rank"]),
            f"{row['margin']:+.3f}",
            f"{row['score']:.3f}",
            number(row["first_stage_rank"]) if row["first_stage_rank"] is not None else "",
            *([_label(row)] if labelled else []),
            row["doc_id"],
        ]
        for row in rows
    ]
    of_rows = {row["doc_id"]: " ".join(filter(None, (row.get("title"), row.get("text")))) for row in rows}
    documents = {doc_id: text for doc_id, text in of_rows.items() if text} | dict(texts.documents)
    yield from _with_texts(header, cells, [documents.get(row["doc_id"], "") for row in rows], width)
    if texts.missing and len(documents) < len(rows):
        yield texts.missing


def tell_mined(query_id: str, found: Mapping[str, Rows], texts: Texts, width: int) -> Iterator[str]:
    """Positives and negatives of a query, and what it lacks."""
    rows = [row for name in ("positives", "negatives") for row in found.get(name, ())]
    yield from _query(query_id, texts.query, next((row.get("instruction") for row in rows), None), width)
    header = ["", "rank", "margin", "first", "document"]
    cells, shown = [], []
    for row in rows:
        kind = row["policy"] if "policy" in row else f"positive ({row['positive_by']})"
        margin = "" if row["margin"] is None else f"{row['margin']:+.3f}"
        ranks = ["" if row[name] is None else number(row[name]) for name in ("rank", "first_stage_rank")]
        cells.append([kind, ranks[0], margin, ranks[1], row["doc_id"]])
        own = " ".join(filter(None, (row.get("title"), row.get("text"))))
        shown.append(own or texts.documents.get(row["doc_id"], ""))
    if rows:
        yield from _with_texts(header, cells, shown, width)
    for row in found.get("shortfalls", ()):
        yield f"policy {row['policy']}: {row['chosen']} of {row['wanted']} negatives: {row['reason']}"
    for row in found.get("left_out", ()):
        what = f"document {row['doc_id']}" if row["doc_id"] is not None else "the query"
        yield f"left out of {row['left_out_of']}: {what}: {row['reason']}"
    if texts.missing and not all(shown):
        yield texts.missing


def tell_measured(query_id: str, rows: Rows) -> Iterator[str]:
    """What an evaluation measured on a query."""
    yield f"query {query_id}"
    names = [name for name in rows[0] if name != "query_id"]
    cells = [[number(row[name]) for name in names] for row in rows]
    yield from indented(aligned([names, *cells]))


def tell_bad_rows(reasons: Sequence[tuple[str, str, int, Sequence[tuple[str, str]]]], width: int) -> Iterator[str]:
    """Bad rows by reason.

    Args:
        reasons: stage, reason, number, and a few rows, each as its place and its content; most first.
    """
    if not reasons:
        yield "quarantine: no row"
        return
    yield f"quarantine: {_rows(sum(found for _, _, found, _ in reasons))}"
    for stage, reason, found, samples in reasons[:REASONS]:
        yield f"{_rows(found)}: {reason} ({stage})"
        for place, content in samples:
            yield f"  {place}"
            yield f"    {_short(content, width - 4)}"
    if rest := reasons[REASONS:]:
        yield f"and {_rows(sum(found for _, _, found, _ in rest))} for {len(rest):,} other reasons"


def tell_versions(versions: Sequence[Version]) -> Iterator[str]:
    """Versions of labels, one a line."""
    header = ["version", "began", "", "labelled", "scored", "changed", "new", "gone", "size"]
    cells = [
        [
            version.id,
            moment(version.seen.manifest["created"]),
            version.role,
            *(
                f"{version.counts[n]:,}" if version.counts else ""
                for n in ("labelled", "scored", "changed", "new", "gone")
            ),
            amount(version.nbytes),
        ]
        for version in versions
    ]
    yield aligned([header, *cells])


def tell_comparison(found: Comparison) -> Iterator[str]:
    """How two versions differ."""
    yield f"labels of {found.new} beside those of {found.old}"
    yield "  " + ", ".join(f"{name} {found.counts[name]:,}" for name in ("unchanged", "changed", "new", "gone"))
    flips = {flip: pairs for flip, pairs in sorted(found.flips.items()) if flip[0] != flip[1]}
    kinds = [("changed", old, new) for old, new in flips]
    kinds += sorted({(row["status"], row["old_label"], row["new_label"]) for row in found.examples} - {*kinds}, key=str)
    for kind in kinds:
        status, old, new = kind
        sides = f"{number(old)} → {number(new)}"
        yield f"{sides}: {flips[old, new]:,} pairs" if status == "changed" else f"{status}, {sides}:"
        cells = [
            [f"query {row['query_id']}", f"document {row['doc_id']}", _margins(row)]
            for row in found.examples
            if (row["status"], row["old_label"], row["new_label"]) == kind
        ]
        yield from indented(aligned(cells))


def move(before: int | None, now: int) -> str:
    """How far a document moved from its first-stage rank, as in ↑3; nothing where it had none."""
    if before is None or before == now:
        return "" if before is None else "="
    return f"↑{before - now}" if before > now else f"↓{now - before}"


def _rows(number_of_rows: int) -> str:
    return f"{number_of_rows:,} {'row' if number_of_rows == 1 else 'rows'}"


def _label(row: Mapping[str, Any]) -> str:
    if row.get("status") == "changed":
        return f"{row['old_label']} → {row['label']}"
    return f"new: {row['label']}" if row.get("status") == "new" else str(row["label"])


def _margins(row: Mapping[str, Any]) -> str:
    margins = ["none" if row[name] is None else f"{row[name]:+.3f}" for name in ("old_margin", "new_margin")]
    content = ", its content or the model changed" if row["content_changed"] else ""
    return f"margin {' → '.join(margins)}{content}"


def _query(query_id: str, text: str | None, instruction: str | None, width: int) -> Iterator[str]:
    yield _short(f"query {query_id}: {text}", width) if text else f"query {query_id}"
    if instruction:
        yield _short(f"under “{instruction}”", width)


def _with_texts(header: list[str], cells: list[list[str]], texts: list[str], width: int) -> Iterator[str]:
    lines = aligned([header, *cells]).splitlines()
    at = max(map(len, lines)) + 2
    room = max(width - at, LEAST_TEXT)
    yield lines[0]
    for line, text in zip(lines[1:], texts, strict=True):
        yield f"{line:{at}}{_short(text, room)}".rstrip()


def _short(text: str, width: int) -> str:
    return textwrap.shorten(text, max(width, LEAST_TEXT), placeholder="…")
