"""One task of an evaluation: a collection, what its queries are asked under, and what it is measured by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tart_ray.evaluation.instructions import Template, Variant
from tart_ray.input.sources import Source, notes_of
from tart_ray.storage import FileInfo

ALL, ORIGINAL, CHANGED = "all", "original", "changed"  # sets of judgements: FollowIR has the last two
CLOSED, POOLED = "closed", "pooled"  # setups


@dataclass(frozen=True)
class Task:
    """One task, its files looked at. Pickles into every worker.

    Attributes:
        group: the collection that a forum is part of; None for all others.
        qrels: by the name of the set of judgements.
        answers: LoTTE's judgements, which are no qrels.
        first_stage: None for BM25.
        scores: finished runs of jobs.rerank.
        has_own_first_stage: False where it is that of the scored runs.
        departures: from the protocol of the TART paper, whose figures are then not shown.
        notes: what the user should know.
    """

    name: str
    kind: str
    group: str | None
    queries: Source
    corpus: Source
    qrels: Mapping[str, Source]
    answers: tuple[FileInfo, ...]
    variants: tuple[Variant, ...]
    template: Template
    first_stage: Source | None
    pool: str | None
    pooled_first_stage: Source | None
    scores: tuple[str, ...]
    has_own_first_stage: bool
    compare_with: Source | None
    top_k: int
    measures: tuple[str, ...]
    ignore_identical_ids: bool
    protocol: str | None = None
    departures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def setups(self) -> tuple[str, ...]:
        """Corpora that the task is evaluated on: its own, and that of its pool."""
        return (CLOSED, POOLED) if self.pool else (CLOSED,)

    @property
    def sources(self) -> dict[str, Source]:
        """Everything that is read of this task, by what it is."""
        sources = {
            "queries": self.queries,
            "corpus": self.corpus,
            **{f"qrels: {name}": source for name, source in self.qrels.items()},
            "first_stage": self.first_stage,
            "pooled_first_stage": self.pooled_first_stage,
            "compare_with": self.compare_with,
        }
        return {name: source for name, source in sources.items() if source is not None}

    @property
    def all_notes(self) -> tuple[str, ...]:
        """The notes on the task and on what is read of it."""
        of_sources = (f"{name}: {note}" for name, notes in notes_of(self.sources).items() for note in notes)
        return (*self.notes, *of_sources)

    @property
    def judged_by(self) -> tuple[str, ...]:
        """Names of the sets of judgements."""
        return tuple(dict.fromkeys(variant.judged_by for variant in self.variants))

    @property
    def pairs(self) -> int:
        """Pairs that are scored at most; of sampled text files an estimate."""
        return 0 if self.scores else self.queries.rows * self.top_k * len(self.setups) * len(self.variants)
