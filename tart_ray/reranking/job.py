"""jobs.rerank from its configuration to its exit code: plan, prepare, score, rank, reconcile, report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tart_ray.config import RerankConfig
from tart_ray.config.paths import check_output, input_paths, with_absolute_paths
from tart_ray.engine.cluster import room_for_replicas
from tart_ray.engine.outcome import Outcome
from tart_ray.engine.session import Needs, at_work, nothing_to_do, tell
from tart_ray.errors import ExitCode
from tart_ray.input.sources import notes_of
from tart_ray.reports.wording import number_of, under
from tart_ray.reranking.stages import Ranked, check_included, rank_queries
from tart_ray.runs.balance import Balance
from tart_ray.runs.run import Run
from tart_ray.runs.stage import total
from tart_ray.scores import estimate, figures
from tart_ray.scores.encoder_report import EncoderReport
from tart_ray.scores.plan import Plan, check_partitions, make_plan
from tart_ray.scores.prepare import Prepared, prepare
from tart_ray.scores.replica import LoadScorer, load_scorer
from tart_ray.scores.scored import Scored
from tart_ray.scores.spec import ScoringSpec
from tart_ray.scores.store import ScoreStore
from tart_ray.scores.within import balances, counts
from tart_ray.storage import Storage
from tart_ray.tables.ranking import RANKING_VERSION


@dataclass(frozen=True)
class Task:
    """What the job does, checked; paths are absolute and the model is pinned."""

    config: RerankConfig
    storage: Storage
    plan: Plan
    spec: ScoringSpec

    @property
    def identity(self) -> dict[str, Any]:
        """What must be equal for a rerun to continue a run: input, model, and all that changes rows of the output.

        Replicas, endpoints, limits and batch sizes may change in between.
        """
        changes_rows = {"partition_by", "top_k"}
        if self.config.output.include:  # of which runs of older releases know nothing
            changes_rows |= {"include"}
        return {
            "job": "rerank",
            "model": self.spec.identity,
            "output": self.config.output.model_dump(include=changes_rows),
            "versions": {"ranking": RANKING_VERSION},
            **self.plan.identity,
        }


def look(config: RerankConfig) -> Task:
    """Look at the input and the model, and check the settings.

    Raises:
        ConfigurationError, InputError, StorageError, CheckpointError: something is not there, or not as configured.
    """
    config = with_absolute_paths(config)
    storage = Storage(config.storage)
    check_output(config.output.path, input_paths(config.input))
    plan = make_plan(storage, config.input, windows=config.model.long_documents == "maxp")
    check_partitions(plan, config.output.partition_by)
    check_included(plan, config.output.include)
    spec = ScoringSpec.resolve(config.model, config.cluster, config.limits, config.storage, config.input)
    return Task(config.model_copy(update={"model": spec.model}), storage, plan, spec)


def rerank(config: RerankConfig, *, load: LoadScorer = load_scorer, ends_process: bool = False) -> ExitCode:
    """Run the job; a rerun of the same configuration continues where an earlier one stopped.

    Args:
        ends_process: of a command: SIGTERM, SIGINT and the loss of the lease or of the cluster end this process.

    Raises:
        ConfigurationError, InputError, StorageError, CheckpointError, RunConflictError: before any work.
        RunFailedError: the run began and could not end.
    """
    task = look(config)
    config, plan = task.config, task.plan
    run = Run.at(task.storage, config.output.path, config.limits.max_attempts_per_chunk)
    tell(notes_of(plan.sources))
    if run.check(task.identity) and run.is_complete():
        return nothing_to_do(run)
    reads = {**plan.reads, "model.path": [config.model.path]}
    needs = Needs(config.cluster.address, room_for_replicas(config.cluster), reads)
    with (
        at_work(run, needs, ends_process=ends_process) as session,
        session.begun(run, task.identity, config) as run,
    ):
        if run.is_complete():  # by another driver, meanwhile
            return nothing_to_do(run)
        with session.timed("prepare"):
            prepared = prepare(run, plan, config.output.partition_by, task.spec)
        with session.timed("score"):
            store, scored = ScoreStore.build(run, prepared, task.spec, load)
        with session.timed("rank"):
            ranked = rank_queries(run, prepared.plan, config.output, store)
        encoder = EncoderReport.of(run, scored.values())
        outcome = make_outcome(config, prepared, scored, ranked, encoder)
        return session.finish(run, with_figures(outcome, config, run, store, scored, ranked))


def describe(config: RerankConfig) -> Iterator[str]:
    """Lines that say what the job would do; starts nothing.

    Raises:
        the errors of `look`.
    """
    task = look(config)
    yield from estimate.describe(task.storage, task.plan, task.spec, task.config.plan)


def make_outcome(
    config: RerankConfig,
    prepared: Prepared,
    scored: Mapping[str, Scored],
    ranked: Mapping[str, Ranked],
    encoder: EncoderReport,
) -> Outcome:
    """Counts of rows, after every one of them is accounted for, and what the report says.

    Raises:
        ReconciliationError: read ≠ scored + duplicates + quarantined, or not every scored row was ranked.
    """
    found = counts(prepared, scored) | {"written": total(ranked.values(), "written")}
    Balance("scored", found["scored"], {"ranked": total(ranked.values(), "rows")})
    tokens, padded = total(scored.values(), "tokens"), total(scored.values(), "padded_tokens")
    busy = sum(record.seconds for record in scored.values())
    padding = 1 - tokens / padded if padded else 0.0
    speed = found["scored"] / busy if busy else None
    windows = total(scored.values(), "windows")
    sources = prepared.plan.sources
    return Outcome(
        "rerank",
        config,
        found,
        balances(prepared, scored),
        report={
            "windows": windows,
            "tokens": tokens,
            "padding": padding,
            "replica_seconds": busy,
            "pairs_per_replica_second": speed,
            **encoder.report,
            "files": {role: len(source.files) for role, source in sources.items()},
            "skipped_files": {role: source.skipped for role, source in sources.items()},
            "columns": prepared.columns,
        },
        facts={
            "windows": windows,
            "tokens": tokens,
            "padding": f"{padding:.1%}",
            "pairs/s of a busy replica": speed,
            **encoder.figures,
            **{f"column {line}": "" for line in prepared.columns},
        },
        notes=notes_of(sources),
        warnings=[*prepared.warnings, *encoder.warnings],
    )


def with_figures(
    outcome: Outcome,
    config: RerankConfig,
    run: Run,
    store: ScoreStore,
    scored: Mapping[str, Scored],
    ranked: Mapping[str, Ranked],
) -> Outcome:
    """The outcome with what a look at a sample of the scores tells; for the driver, before ``_work`` is removed."""
    seen = figures.sample(store)
    found = outcome.counts
    numbers = [record.queries for record in ranked.values()]
    queries = number_of(sum(number or 0 for number in numbers), "query", "queries")
    of = "" if None in numbers else f" of {queries}"
    instructions = under([*seen.instructions], all_known=len(seen.table) == seen.pairs)
    kept = f", and kept the {config.output.top_k:,} best of each query" if config.output.top_k else ""
    return replace(
        outcome,
        told=[
            f"It scored {number_of(found['scored'], 'pair')}{of} with {config.model.path}, {instructions}.",
            f"It ranked them{kept}: {number_of(found['written'], 'row')} in reranked/.",
        ],
        figures=figures.figures_of(run, seen, scored.values()),
        remarks=figures.remarks(seen, found, config.model.max_length),
    )
