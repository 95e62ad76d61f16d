"""A page of a report with one of everything, and texts that would do harm."""

from __future__ import annotations

from tart_ray.reports.figures import Compared, Comparison, Curve, Histogram, Table
from tart_ray.reports.page import Page

HOSTILE = "<script>alert('harm')</script>"
LONG = "s3://bucket/" + "long" * 40


def example_page() -> Page:
    """A page of all kinds of figures."""
    return Page(
        job="rerank",
        lead=f"jobs.rerank ran under {HOSTILE}. The results are in {LONG}.",
        balances="read 1,234 = scored 1,234",
        counts={"read": 1_234, "duplicate_queries": 0},
        settings={"model.max_length": 256, "input.instruction": HOSTILE},
        warnings=[HOSTILE],
        remarks=[HOSTILE],
        figures={
            "Margins": [
                Histogram(HOSTILE, "margin", "pairs", [-1.0, 0.0, 1.0], {"": [5, 7]}, note=HOSTILE),
                Histogram("ابحث", "margin", "pairs", [-1.0, 0.0, 1.0], {"negatives": [5, 7], "positives": [1, 2]}),
            ],
            "Speed": [Curve("Speed", "seconds", "pairs/s", {"": [(0.0, 1.0), (1.0, 2.0)]})],
            "Results": [Comparison("Tasks", [Compared(HOSTILE, "nDCG@10", 0.5, 0.6, 0.55, 0.65, 0.5, 0.7)])],
            "Before and after": [
                Table(HOSTILE, ["rank", "first stage", "reranked"], [[1, HOSTILE, LONG], [2, None, "text " * 30]]),
                Table("Wide", [f"column {n}" for n in range(12)], [[n * 1_000_000 for n in range(12)]]),
            ],
        },
        command=f"tart-ray show {LONG} --quarantine",
        facts={"encoder": HOSTILE},
    )
