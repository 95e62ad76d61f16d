"""report.json and the page of each job, from outcomes made by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tart_ray.config import EvaluateConfig, MineConfig, RelabelConfig, RerankConfig, Section, TrainConfig
from tart_ray.engine.outcome import Outcome, conclude
from tart_ray.input.quarantine import READ, Quarantine
from tart_ray.reports.figures import Histogram, Table
from tart_ray.runs.balance import Balance
from tart_ray.runs.run import Run
from tart_ray.storage import Storage

CONFIGS: dict[str, tuple[type[Section], dict[str, Any]]] = {
    "rerank": (RerankConfig, {"input": {"candidates": "c"}}),
    "relabel": (RelabelConfig, {"input": {"candidates": "c"}, "labels": {"by": "thresholds", "cuts": [0.5]}}),
    "mine_negatives": (MineConfig, {"input": {"run": "r"}, "positives": {"qrels": "q"}}),
    "evaluate": (EvaluateConfig, {"input": {"tasks": [{"name": "t", "path": "p"}]}}),
    "train": (TrainConfig, {"input": {"train": "t"}, "model": {"path": "m"}}),
}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.at(Storage(), str(tmp_path / "run"), 1).begin({"job": "x"}, {})


def outcome(job: str, **more: Any) -> Outcome:
    kind, sections = CONFIGS[job]
    config: Any = kind.model_validate(
        {**sections, "output": {"path": "o"}, "limits": {"max_quarantined_fraction": 0.5}}
    )
    counts = {"read": 8, "used": 6, "quarantined": 2}
    return Outcome(job, config, counts, [Balance("read", 8, {"used": 6, "quarantined": 2})], **more)


@pytest.mark.parametrize("job", CONFIGS)
def test_the_page_says_what_the_job_did_and_shows_what_was_set(job: str, run: Run) -> None:
    figures = {
        "Margins": [Histogram("All", "margin", "pairs", [0, 1], {"": [8]})],
        "Labels": [Table("T", ["a"], [[1]])],
    }
    said = outcome(job, told=["It did <it>."], figures=figures, warnings=["careful"], remarks=["by the way"])
    report, page = conclude(run, said, {"score": 1.5}, 0.0)
    assert "figures" in report
    assert json.loads(json.dumps(report))["figures"]["Margins"][0]["counts"] == {"": [8]}
    assert report["warnings"] == ["careful"]
    assert report["remarks"] == ["2 of 8 (25.0%) rows of the input are in quarantine.", "by the way"]
    (lead,) = re.findall(r'<p class="lead">(.*?)</p>', page)
    assert lead.startswith(f"jobs.{job} ran on 1 January 1970, 00:00 UTC, for ") or "its last start" in lead
    assert lead.endswith(f"It did &lt;it&gt;. The results are in {run.path}.")
    settings = page[page.index("Configuration") :]
    assert "limits.max_quarantined_fraction" in settings
    assert "max_attempts" not in settings  # as it is by default
    assert "None" not in page
    assert page.count("<svg") == 1


def test_bad_rows_are_shown_by_reason_with_the_command_that_shows_more(run: Run) -> None:
    quarantine = Quarantine(READ)
    for position in range(3):
        quarantine.add("text is <null>", "a.jsonl", position, 0, {"doc_id": f"<d{position}>"})
    quarantine.add("broken", "b.jsonl", 0, 0, raw=b"{\xff")
    run.write_quarantine(quarantine, "read-candidates", "00000")
    report, page = conclude(run, outcome("rerank"), {}, 0.0)
    (table,) = report["figures"]["Quarantine"]
    assert table["rows"] == [[3, "text is <null>", '{"doc_id":"<d0>"}', "a.jsonl"], [1, "broken", "{�", "b.jsonl"]]
    assert "text is &lt;null&gt;" in page
    assert f"tart-ray show {run.path} --quarantine" in page
