"""From values per query to what metrics.json says of a task, and to a table over tasks as in the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tart_ray.config import MetricsConfig
from tart_ray.evaluation.instructions import BEIR, BEIR_AVERAGE, published
from tart_ray.evaluation.measuring import COMPARE_WITH, ENSEMBLE, FIRST_STAGE
from tart_ray.evaluation.metrics import P_MRR, Floats, compare, interval, robustness
from tart_ray.evaluation.tasks import ALL, CHANGED, CLOSED, POOLED, Task
from tart_ray.reports.figures import Compared, Comparison
from tart_ray.reports.wording import number_of

AVERAGE = "macro average"
RERANKED = "reranked"  # in summaries: the mean over instructions, query by query
COLUMNS = ("first_stage", "compare_with", "reranked", "worst", "best", "ensemble", "published")

Values = Mapping[tuple[str, str, str, str], Floats]  # (setup, run, judged_by, measure) → by query, sorted by query_id
Row = dict[str, Any]


def summarise(task: Task, table: pa.Table, metrics: MetricsConfig, model: str) -> dict[str, Any]:
    """What metrics.json says of one task.

    Args:
        table: `measuring.VALUES` of the whole task.
        model: the checkpoint's name, for what was published of it.
    """
    values = _arrays(table)
    setups = {setup: _setup(task, setup, values, metrics) for setup in task.setups}
    result: dict[str, Any] = {
        "kind": task.kind,
        "group": task.group,
        "pool": task.pool,
        "measures": list(task.measures),
        "instructions": [
            {"run": v.name, "instruction": v.instruction, "preset": v.preset, "column": v.column} for v in task.variants
        ],
        "template": task.template,
        "setups": setups,
    }
    if POOLED in setups:
        result["pooled_minus_closed"] = {
            measure: compare(_reranked(task, POOLED, values, measure), _reranked(task, CLOSED, values, measure))
            for measure in task.measures
        }
    figures = {variant.preset: published(model, variant.preset) for variant in task.variants if variant.preset}
    result["departures"] = list(task.departures)
    result["published"] = {preset: list(figure) for preset, figure in figures.items() if figure and not task.departures}
    return result


def rows_of(name: str, summary: Mapping[str, Any]) -> list[Row]:
    """The rows of the table for one task: one per setup, of its first measure; of FollowIR also p-MRR."""
    rows = []
    for setup, of_setup in summary["setups"].items():
        for measure, reranked in of_setup[RERANKED].items():
            if measure not in (summary["measures"][0], P_MRR):
                continue
            runs = of_setup["runs"]
            row: Row = {"task": name, "group": summary["group"], "setup": setup, "measure": measure, **reranked}
            row["reranked"] = row.pop("mean")
            for column in (FIRST_STAGE, COMPARE_WITH, ENSEMBLE):
                row[column] = runs.get(column, {}).get(measure, {}).get("mean")
            spread = reranked.get("robustness")
            row["worst"], row["best"] = (spread[end]["value"] for end in ("worst", "best")) if spread else (None, None)
            given = [variant["preset"] for variant in summary["instructions"]]
            as_published = len(given) == 1 and not summary["departures"] and setup == CLOSED
            row["preset"] = given[0] if as_published else None
            of, figure = summary["published"].get(row["preset"], (None, None))
            row["published"] = figure if of == measure else None
            rows.append(row)
    return rows


def with_averages(rows: Sequence[Row], model: str) -> list[Row]:
    """The table: tasks of a group as their mean, then the mean over all rows of a setup and measure.

    A mean is of rows that all have a figure in the column; where one has none, neither has the mean. The published mean
    of BEIR stands beside that of the nine tasks with their presets, and no other.
    """
    table: list[Row] = []
    for row in rows:
        if row["group"] is None:
            table.append(row)
        elif not any(other["task"] == row["group"] and other["setup"] == row["setup"] for other in table):
            members = [r for r in rows if (r["group"], r["setup"], r["measure"]) == _key(row)]
            table.append(_mean(row["group"], members))
    means = []
    for setup, measure in dict.fromkeys((row["setup"], row["measure"]) for row in table):
        members = [row for row in table if (row["setup"], row["measure"]) == (setup, measure)]
        if len(members) > 1:
            mean = _mean(AVERAGE, members)
            of_paper = published(model, BEIR_AVERAGE)
            presets = sorted(str(row["preset"]) for row in members)
            if presets == sorted(f"beir/{name}" for name in BEIR) and of_paper and of_paper[0] == measure:
                mean["published"] = of_paper[1]
            means.append(mean)
    return table + means


def as_text(rows: Sequence[Row]) -> list[list[str]]:
    """The table as cells, its header first; columns that hold nothing are left out."""
    used = [column for column in COLUMNS if any(row[column] is not None for row in rows)]
    header = ["task", "setup", "measure", "queries", *(column.replace("_", " ") for column in used)]
    return [header, *([row["task"], row["setup"], row["measure"], *_cells(row, used)] for row in rows)]


def compared(rows: Sequence[Row]) -> Comparison:
    """The table as a picture shows it."""
    shown = [row for row in rows if row["reranked"] is not None]
    return Comparison(
        "First stage and reranked, task by task",
        [
            Compared(
                row["task"],
                row["measure"] if row["setup"] == CLOSED else f"{row['measure']}, {row['setup']}",
                row["first_stage"],
                row["reranked"],
                *(row.get(name) for name in ("low", "high", "worst", "best")),
            )
            for row in shown
        ],
        "Grey: the first stage. Blue: reranked, a line of its confidence interval, and ticks at the worst and the best "
        "instruction.",
    )


def told(rows: Sequence[Row], model: str | None) -> str:
    """What was measured, in a sentence.

    Args:
        model: that scored; None where runs that were there were measured.
    """
    tasks = number_of(len({row["task"] for row in rows} - {AVERAGE}), "task")
    scorer = f"{model} reranked" if model else "runs that were there ranked"
    last = rows[-1]
    beside = f" (first stage {last['first_stage']:.3f})" if last["first_stage"] is not None else ""
    reached = "" if last["reranked"] is None else f"; {last['task']}: {last['measure']} {last['reranked']:.3f}{beside}"
    return f"It measured {tasks}, whose candidates {scorer}{reached}."


def _cells(row: Row, columns: Sequence[str]) -> list[str]:
    cells = [f"{row['queries']:,}"]
    for column in columns:
        value = row[column]
        text = "" if value is None else f"{value:.3f}"
        if column == "reranked" and row.get("low") is not None:
            text += f" [{row['low']:.3f}, {row['high']:.3f}]"
            p_value = (row.get("against_first_stage") or {}).get("p_value")
            text += "" if p_value is None else f" p={p_value:.2g}"
        cells.append(text)
    return cells


def _key(row: Row) -> tuple[str, str, str]:
    return row["group"], row["setup"], row["measure"]


def _mean(name: str, members: Sequence[Row]) -> Row:
    mean: Row = {"task": name, "group": None, "setup": members[0]["setup"], "measure": members[0]["measure"]}
    mean |= {"queries": sum(row["queries"] for row in members), "rows": len(members), "preset": None}
    for column in COLUMNS:
        figures = [row[column] for row in members]
        mean[column] = None if None in figures or column == "published" else float(np.mean(figures))
    return mean


def _setup(task: Task, setup: str, values: Values, metrics: MetricsConfig) -> dict[str, Any]:
    runs: dict[str, Any] = {}
    against: dict[str, Any] = {FIRST_STAGE: {}, COMPARE_WITH: {}}
    for (of_setup, run, judged_by, measure), by_query in values.items():
        if of_setup != setup:
            continue
        name = run if run not in (FIRST_STAGE, COMPARE_WITH) or judged_by != CHANGED else f"{run} ({judged_by})"
        runs.setdefault(name, {})[measure] = _mean_and_interval(by_query, metrics)
        for baseline, tests in against.items():
            other = values.get((setup, baseline, judged_by, measure))
            if other is not None and run != baseline:
                tests.setdefault(name, {})[measure] = compare(by_query, other)
    result: dict[str, Any] = {"runs": runs, **{f"against_{name}": tests for name, tests in against.items() if tests}}
    result[RERANKED] = {}
    for measure in (*task.measures, *([P_MRR] if _has(values, setup, P_MRR) else [])):
        reranked = _reranked(task, setup, values, measure)
        judged_by = CHANGED if measure == P_MRR else task.judged_by[0]
        of_measure: dict[str, Any] = _mean_and_interval(reranked, metrics)
        for baseline in against:
            other = values.get((setup, baseline, judged_by, measure))
            if other is not None:
                of_measure[f"against_{baseline}"] = compare(reranked, other)
        if len(task.variants) > 1 and task.judged_by == (ALL,):
            of_measure["robustness"] = robustness({v.name: values[setup, v.name, ALL, measure] for v in task.variants})
        result[RERANKED][measure] = of_measure
    return result


def _has(values: Values, setup: str, measure: str) -> bool:
    return any((key[0], key[3]) == (setup, measure) for key in values)


def _reranked(task: Task, setup: str, values: Values, measure: str) -> Floats:
    """By query, the mean over instructions; of FollowIR the original instruction, and p-MRR of both."""
    if measure == P_MRR:
        return values[setup, CHANGED, CHANGED, P_MRR]
    judged_by = task.judged_by[0]
    by_variant = [values[setup, v.name, judged_by, measure] for v in task.variants if v.judged_by == judged_by]
    mean: Floats = np.mean(by_variant, axis=0)
    return mean


def _mean_and_interval(values: Floats, metrics: MetricsConfig) -> dict[str, Any]:
    low, high = interval(values, metrics.confidence, metrics.resamples, metrics.seed)
    return {"mean": float(values.mean()), "low": low, "high": high, "queries": len(values)}


def _arrays(table: pa.Table) -> dict[tuple[str, str, str, str], Floats]:
    keys = ["setup", "run", "judged_by", "measure"]
    ordered = table.sort_by([(name, "ascending") for name in (*keys, "query_id")])
    grouped = ordered.group_by(keys, use_threads=False).aggregate([("value", "list")])
    return {tuple(row[name] for name in keys): np.array(row["value_list"], np.float64) for row in grouped.to_pylist()}
