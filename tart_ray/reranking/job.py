"""jobs.rerank from its configuration to its exit code: plan, prepare, score, rank, reconcile, report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tart_ray
from tart_ray.config import RerankConfig
from tart_ray.engine.cluster import room_for_replicas
from tart_ray.engine.places import Reads
from tart_ray.engine.session import Clock, ReconciliationError, as_figures, execute_run, finish, tell
from tart_ray.errors import ExitCode, RunFailedError
from tart_ray.input.sources import notes_of
from tart_ray.reranking.stages import rank_queries
from tart_ray.runs.lease import Lease
from tart_ray.runs.run import Record, Run
from tart_ray.scores.plan import Files, Plan, identity, make_plan, pin_model
from tart_ray.scores.prepare import Prepared, prepare
from tart_ray.scores.score import LoadScorer, load_scorer, score
from tart_ray.storage import Storage, absolute

__all__ = ["RunFailedError", "rerank"]


def rerank(
    config: RerankConfig,
    *,
    load: LoadScorer = load_scorer,
    files: Files | None = None,
    ends_process: bool = False,
) -> ExitCode:
    """Run the job; a rerun of the same configuration continues where an earlier one stopped.

    Args:
        files: URLs of all files of a role, where they are known; else listings of the input's directories tell them.
        ends_process: of a command: SIGTERM, SIGINT and the loss of the lease or of the cluster end this process.

    Raises:
        ConfigurationError, InputError, StorageError, CheckpointError, RunConflictError: before any work.
        RunFailedError: the run began and could not end.
    """
    config = with_absolute_paths(config)
    storage = Storage(config.storage)
    run = Run.at(storage, config.output.path, config.limits.max_attempts_per_chunk)
    plan = make_plan(storage, config, files)
    tell(notes_of(plan.sources))
    config = config.model_copy(update={"model": pin_model(config.model, config.storage)})
    return execute_run(
        run,
        identity(plan, config),
        config,
        config.cluster.address,
        room_for_replicas(config.cluster),
        files_read(plan, config),
        lambda begun, lease: execute(begun, plan, config, load, lease),
        ends_process=ends_process,
    )


def execute(run: Run, plan: Plan, config: RerankConfig, load: LoadScorer, lease: Lease) -> ExitCode:
    """All stages of a run that has begun."""
    clock = Clock()
    with clock.timed("prepare"):
        prepared = prepare(run, plan, config.input.instruction, config.output.partition_by)
    with clock.timed("score"):
        scored = score(run, prepared.plan, config, prepared.chunks, load)
    with clock.timed("rank"):
        with_scores = {
            bucket: [chunk.id for chunk in chunks if scored[chunk.id]["rows"]]
            for bucket, chunks in prepared.buckets.items()
        }
        ranked = rank_queries(run, prepared.plan, config.output, with_scores)
    counts = reconcile(prepared, scored, ranked)
    report = make_report(config, prepared, counts, scored, clock.seconds) | {"warnings": list(prepared.warnings)}
    summary = "read {read:,} = scored {scored:,} + duplicates {duplicates:,} + quarantined {quarantined:,}"
    figures = {
        "windows": report["windows"],
        "tokens": report["tokens"],
        "padding": f"{report['padding']:.1%}",
        **{f"seconds: {stage}": seconds for stage, seconds in report["seconds"].items()},
        "pairs/s of a busy replica": report["pairs_per_replica_second"],
        **as_figures(report["notes"]),
        **{f"column {line}": "" for line in prepared.columns},
    }
    allowed = config.limits.max_quarantined_fraction
    return finish(run, lease, report, summary.format_map(counts), figures, allowed_bad=allowed)


def files_read(plan: Plan, config: RerankConfig) -> Reads:
    """What workers read of the input and the model, by the keys of the configuration."""
    files = {f"input.{role}": [file.url for file in source.files] for role, source in plan.sources.items()}
    return {**files, "model.path": [config.model.path]}


def with_absolute_paths(config: RerankConfig) -> RerankConfig:
    """Local paths made absolute: workers, and jobs that read this one's manifest, have other working directories."""
    output = config.output.model_copy(update={"path": absolute(config.output.path)})
    named = {name: getattr(config.input, name) for name in ("candidates", "queries", "corpus")}
    paths = {name: absolute(path) for name, path in named.items() if path is not None}
    read = config.input.model_copy(update=paths)
    is_directory = Path(config.model.path).expanduser().is_dir()
    model = config.model.model_copy(update={"path": absolute(config.model.path)} if is_directory else {})
    return config.model_copy(update={"input": read, "output": output, "model": model})


def reconcile(prepared: Prepared, scored: Mapping[str, Record], ranked: Mapping[str, Record]) -> dict[str, int]:
    """Counts of rows, after every one of them is accounted for.

    Raises:
        ReconciliationError: read ≠ scored + duplicates + quarantined, or not every scored row was ranked.
    """
    counts = {
        "read": prepared.read,
        "scored": sum(record["rows"] for record in scored.values()),
        "duplicates": prepared.duplicates,
        "quarantined": prepared.quarantined + sum(record["quarantined"] for record in scored.values()),
    }
    if counts["read"] != counts["scored"] + counts["duplicates"] + counts["quarantined"]:
        raise ReconciliationError(f"read ≠ scored + duplicates + quarantined: {counts}")
    seen = sum(record["rows"] for record in ranked.values())
    if seen != counts["scored"]:
        raise ReconciliationError(f"ranked {seen} rows of {counts['scored']} scored ones")
    return counts | {
        "written": sum(record["written"] for record in ranked.values()),
        "chunks": len(scored),
        "truncated": sum(record["truncated"] for record in scored.values()),
        "quarantined_queries_and_documents": prepared.other_quarantined,
        "duplicate_documents_in_corpus": prepared.corpus_duplicates,
        "values_overruled_by_directories": prepared.overruled,
        "duplicate_queries": prepared.query_duplicates,
    }


def make_report(
    config: RerankConfig,
    prepared: Prepared,
    counts: Mapping[str, int],
    scored: Mapping[str, Record],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """What ``report.json`` says."""
    tokens = sum(record["tokens"] for record in scored.values())
    padded = sum(record["padded_tokens"] for record in scored.values())
    busy = sum(record["seconds"] for record in scored.values())
    return {
        "job": "rerank",
        "tart_ray": tart_ray.__version__,
        "counts": dict(counts),
        "windows": sum(record["windows"] for record in scored.values()),
        "tokens": tokens,
        "padding": 1 - tokens / padded if padded else 0.0,
        "seconds": dict(seconds),
        "replica_seconds": busy,
        "pairs_per_replica_second": counts["scored"] / busy if busy else None,
        "files": {role: len(source.files) for role, source in prepared.plan.sources.items()},
        "skipped_files": {role: source.skipped for role, source in prepared.plan.sources.items()},
        "notes": notes_of(prepared.plan.sources),
        "columns": prepared.columns,
        "config": config.model_dump(mode="json"),
    }
