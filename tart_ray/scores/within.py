"""A score store of another job's own: candidates that it scores first, as a run in a directory of its output."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tart_ray.config import LimitsConfig, OutputConfig, Section
from tart_ray.engine.outcome import Outcome
from tart_ray.engine.session import Session
from tart_ray.errors import ExitCode
from tart_ray.input.sources import notes_of
from tart_ray.reports.wording import number_of
from tart_ray.runs.balance import Balance
from tart_ray.runs.run import Run
from tart_ray.runs.stage import total
from tart_ray.scores.encoder_report import EncoderReport
from tart_ray.scores.plan import Plan
from tart_ray.scores.prepare import Prepared, prepare, prepared_before
from tart_ray.scores.replica import LoadScorer, load_scorer
from tart_ray.scores.scored import Scored
from tart_ray.scores.spec import ScoringSpec
from tart_ray.scores.store import JOBS, ScoreStore

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Config:
    """What the manifest of such a run says of its configuration, as `store.find_run` reads it."""

    plan: Plan
    spec: ScoringSpec
    path: str

    @property
    def limits(self) -> LimitsConfig:
        """When the run gives up."""
        return self.spec.limits

    @property
    def sections(self) -> dict[str, Section]:
        """As a configuration of jobs.rerank has them."""
        return {
            "input": self.plan.input,
            "output": OutputConfig(path=self.path),
            "model": self.spec.model,
            "cluster": self.spec.cluster,
            "limits": self.spec.limits,
            "storage": self.spec.storage,
        }

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """As JSON."""
        return {name: section.model_dump(mode=mode) for name, section in self.sections.items()}

    def changed(self) -> dict[str, Any]:
        """What differs from the defaults."""
        return {f"{name}.{key}": value for name, of in self.sections.items() for key, value in of.changed().items()}


def identity_of(plan: Plan, spec: ScoringSpec, run: Run) -> dict[str, Any]:
    """What must be equal for a rerun to continue the store in a run's directory.

    One that an older release built there was a jobs.rerank: if its scores are the same, it is continued.
    """
    scored = {"model": spec.identity, **plan.identity}
    if run.storage.exists(run.manifest_url):
        found: dict[str, Any] = run.read_manifest()["identity"]
        if found.get("job") in JOBS and json.loads(json.dumps(scored)) == {name: found.get(name) for name in scored}:
            return found
    return {"job": "score", **scored}


@dataclass(frozen=True)
class ScoredWithin:
    """A score store that was built, or found complete, for who is at work above it.

    Attributes:
        code: how its run ended; unless `ExitCode.DONE`, the store is not to be used.
        plan: with the columns that the candidates were found to have.
        counts: rows of its input by what became of them, as `counts` has them.
        warnings: sentences.
    """

    code: ExitCode
    store: ScoreStore
    plan: Plan
    counts: Mapping[str, int]
    warnings: Sequence[str]


def score_within(
    session: Session, run: Run, plan: Plan, spec: ScoringSpec, load: LoadScorer = load_scorer
) -> ScoredWithin:
    """Build the score store of a plan, or find it complete.

    Raises:
        RunConflictError: something else is there.
        RunFailedError: it began and could not end.
    """
    identity, config = identity_of(plan, spec, run), _Config(plan, spec, run.path)
    with session.begun(run, identity, config) as begun:
        if begun.is_complete():
            prepared = prepared_before(begun, plan, spec)
            store, scored = ScoreStore.reopen(begun, prepared)
            warnings = [*prepared.warnings, *EncoderReport.of(begun, scored.values()).warnings]
            return ScoredWithin(ExitCode.DONE, store, prepared.plan, counts(prepared, scored), warnings)
        prepared = prepare(begun, plan, spec=spec)
        store, scored = ScoreStore.build(begun, prepared, spec, load)
        encoder = EncoderReport.of(begun, scored.values())
        found = counts(prepared, scored)
        outcome = Outcome(
            "score",
            config,
            found,
            balances(prepared, scored),
            report=encoder.report,
            told=[f"It scored {number_of(found['scored'], 'pair')} with {spec.model.path}."],
            facts=encoder.figures,
            notes=notes_of(plan.sources),
            warnings=[*prepared.warnings, *encoder.warnings],
        )
        return ScoredWithin(session.finish(begun, outcome), store, prepared.plan, outcome.counts, outcome.warnings)


def counts(prepared: Prepared, scored: Mapping[str, Scored]) -> dict[str, int]:
    """Rows of the input by what became of them."""
    return {
        "read": prepared.read,
        "scored": total(scored.values(), "rows"),
        "duplicates": prepared.duplicates,
        "quarantined": prepared.quarantined + total(scored.values(), "quarantined"),
        "chunks": len(scored),
        "truncated": total(scored.values(), "truncated"),
        "quarantined_queries_and_documents": prepared.other_quarantined,
        "duplicate_documents_in_corpus": prepared.corpus_duplicates,
        "values_overruled_by_directories": prepared.overruled,
        "duplicate_queries": prepared.query_duplicates,
    }


def balances(prepared: Prepared, scored: Mapping[str, Scored]) -> list[Balance]:
    """How the rows of the input reconcile.

    Raises:
        ReconciliationError: they do not.
    """
    found = counts(prepared, scored)
    return [Balance("read", found["read"], {name: found[name] for name in ("scored", "duplicates", "quarantined")})]
