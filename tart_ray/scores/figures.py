"""Figures of scores for a report: of a sample of the score store, and of the records of all its chunks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.errors import StorageError
from tart_ray.reports import speed
from tart_ray.reports.figures import Figure, bin_edges, evenly, histogram
from tart_ray.reports.ranks import Ranked, example, hardly_differ, moves
from tart_ray.runs.directory import Directory
from tart_ray.scores.prepare import chunk_path, read_chunk
from tart_ray.scores.scored import Scored
from tart_ray.scores.store import ScoreStore
from tart_ray.storage import is_missing
from tart_ray.tables import texts
from tart_ray.tables.groups import group_starts
from tart_ray.tables.masks import as_mask
from tart_ray.tables.ranking import rank
from tart_ray.tables.schemas import SCORES

PAIRS = 200_000  # of the sample, at most
INSTRUCTIONS = 5  # that have a histogram each
QUERIES = 5  # with their top documents
CHUNK_BYTES = 64 << 20  # a larger chunk is not read for its texts
TRUNCATED = 0.05  # of all pairs: said on top
SPREAD = 0.1  # of a query's margins, below which they hardly differ


@dataclass(frozen=True)
class Sample:
    """Scored pairs of some buckets of queries, ranked.

    Attributes:
        table: `SCORES`, as `rank` gives them; all pairs of a query are in one bucket.
        chunks: ids of those that the pairs are of.
        pairs: in the score store.
    """

    table: pa.Table
    chunks: Sequence[str]
    pairs: int

    @property
    def note(self) -> str:
        """That it is a sample, if it is."""
        return f"Of a sample of {len(self.table):,} of {self.pairs:,} pairs." if len(self.table) < self.pairs else ""

    @property
    def instructions(self) -> dict[str, int]:
        """Pairs by instruction, most first; "" is none."""
        found = Counter(dict(zip(*map(pa.Array.to_pylist, pc.value_counts(self._bare).flatten()), strict=True)))
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    @property
    def _bare(self) -> pa.Array:
        return pc.fill_null(self.table["instruction"].combine_chunks(), "")


def sample(store: ScoreStore, pairs: int = PAIRS) -> Sample:
    """Whole buckets of queries, at even distances, up to so many pairs; a bucket that has more is left out."""
    sizes = {bucket: sum(chunks.values()) for bucket, chunks in store.chunks.items()}
    fitting = [bucket for bucket, size in sizes.items() if size <= pairs]
    chosen = evenly(fitting, max(1, pairs // max([sizes[bucket] for bucket in fitting], default=1)))
    tables = [rank(store.bucket(bucket, SCORES)) for bucket in chosen]
    table = pa.concat_tables([rank(SCORES.empty_table()), *tables])
    chunks = [chunk for bucket in chosen for chunk, rows in store.chunks[bucket].items() if rows]
    return Sample(table, chunks, store.rows)


def figures_of(directory: Directory, seen: Sample, records: Iterable[Scored]) -> dict[str, list[Figure]]:
    """Margins, lengths, speed, and beside a first stage the moves of ranks, by heading.

    Args:
        directory: where the chunks were prepared; while they are there, queries are shown with their texts.
    """
    work = [speed.Work(r.began, r.seconds, r.rows, r.tokens, r.replica) for r in records if r.rows]
    ranked = seen.table.filter(pc.is_valid(seen.table["first_stage_rank"]))
    before, after = (ranked[name].to_numpy().astype(np.int64) for name in ("first_stage_rank", "rank"))
    found: dict[str, list[Figure | None]] = {
        "Margins": _margins(seen),
        "Lengths": [
            histogram(
                "Tokens per pair", "tokens, as the model read them", "pairs",
                {"": seen.table["tokens"].to_numpy()}, note=_truncated(seen),
            )
        ],
        "Speed": [speed.over_time(work), *([speed.by_replica(work)] if work else [])],
        "Before and after": [*moves(before, after, seen.note), *_examples(directory, seen)],
    }  # fmt: skip
    return {heading: shown for heading, figures in found.items() if (shown := [f for f in figures if f is not None])}


def remarks(seen: Sample, counts: Mapping[str, int], max_length: int) -> list[str]:
    """What is good to know of scores.

    Args:
        counts: of all rows; ``scored``, ``truncated`` and ``duplicates`` among them.
    """
    said = []
    scored, truncated, repeated = (counts[name] for name in ("scored", "truncated", "duplicates"))
    if truncated > TRUNCATED * scored:
        said.append(
            f"{truncated:,} of {scored:,} pairs ({truncated / scored:.1%}) were truncated to model.max_length "
            f"{max_length}: the model did not see all of them. model.long_documents: maxp reads whole documents."
        )
    if repeated:
        said.append(f"{repeated:,} rows repeat an earlier query_id and doc_id: the first of each was scored.")
    instructions = [*seen.instructions]
    if instructions == [""]:
        said.append("No pair has an instruction.")
    elif len(instructions) == 1:
        said.append("All pairs have the same instruction.")
    ends = group_starts(seen.table, "query_id") if len(seen.table) else np.zeros(1, np.int64)
    margins = np.split(seen.table["margin"].to_numpy().astype(np.float64), ends[1:-1])
    spread = hardly_differ(margins, SPREAD)
    if spread is not None:
        said.append(
            f"Scores hardly differ: the best and the worst document of a query are {spread:.2g} apart in margin, at "
            "the median of queries. Is it the right checkpoint, and does it know such an instruction?"
        )
    return said


def _margins(seen: Sample) -> list[Figure | None]:
    """Of each instruction, where there are few; else of all pairs."""
    margins, x = seen.table["margin"].to_numpy(), "margin (logit of relevant less that of irrelevant)"
    instructions = [*seen.instructions]
    if not 1 < len(instructions) <= INSTRUCTIONS:
        return [histogram("All pairs", x, "pairs", {"": margins}, note=seen.note)]
    of, edges = pc.fill_null(seen.table["instruction"], ""), bin_edges(margins)
    series = {text: {"": margins[as_mask(pc.equal(of, text))]} for text in instructions}
    return [
        histogram(text or "no instruction", x, "pairs", found, edges=edges, note=seen.note)
        for text, found in series.items()
    ]


def _truncated(seen: Sample) -> str:
    number = pc.sum(seen.table["truncated"]).as_py() or 0
    return f"{number:,} of {len(seen.table):,} pairs were truncated. {seen.note}".strip()


def _examples(directory: Directory, seen: Sample) -> list[Figure]:
    """Some queries, with their first documents before and after, of chunks that are small and still there."""
    shown: list[Figure] = []
    names = evenly(seen.chunks, QUERIES)
    for place, name in enumerate(names):
        if (chunk := _texts_of(directory, name)) is None:
            continue
        wanted = QUERIES * (place + 1) // len(names) - QUERIES * place // len(names)
        for query_id in evenly(pc.unique(chunk["query_id"]).to_pylist(), wanted):
            rows = chunk.filter(pc.equal(chunk["query_id"], query_id))
            scored = seen.table.filter(pc.equal(seen.table["query_id"], query_id))
            documents, _ = texts.document_texts(rows)
            text_of = dict(zip(rows["doc_id"].to_pylist(), documents, strict=True))
            columns = (scored[name].to_pylist() for name in ("doc_id", "rank", "first_stage_rank", "margin"))
            ranked = [
                Ranked(doc_id, now, before, margin, text_of.get(doc_id))
                for doc_id, now, before, margin in zip(*columns, strict=True)
            ]
            if ranked:
                shown.append(example(f"{query_id}: {rows['query'][0].as_py()}", ranked))
    return shown


def _texts_of(directory: Directory, chunk: str) -> pa.Table | None:
    """The rows of a chunk with their texts; None where that would take long, or they are gone."""
    try:
        small = directory.storage.size(directory.url(*chunk_path(chunk))) <= CHUNK_BYTES
        return read_chunk(directory, chunk) if small else None
    except StorageError as error:
        if is_missing(error):
            return None
        raise
