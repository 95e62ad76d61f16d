"""What all units of a run of relabelling did together: how it reconciles, and what the report says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tart_ray.relabeling.stages import Collected, Labelled, Matched, Spread
from tart_ray.relabeling.stages_labels import Calibrated
from tart_ray.reports.figures import Curve, Figures, Table
from tart_ray.reports.wording import number_of
from tart_ray.runs.balance import Balance
from tart_ray.runs.run import Run
from tart_ray.runs.stage import total
from tart_ray.scores.encoder_report import EncoderReport
from tart_ray.scores.prepare import Prepared


@dataclass(frozen=True)
class Done:
    """What all stages did.

    Attributes:
        judged_quarantined: bad judgements.
        encoder: by what the pairs were scored that this run scored.
    """

    prepared: Prepared
    spread: Mapping[str, Spread]
    matched: Mapping[str, Matched]
    collected: Mapping[str, Collected]
    labelled: Mapping[str, Labelled]
    calibrated: Calibrated | None
    judged_quarantined: int
    encoder: EncoderReport

    @property
    def counts(self) -> dict[str, int]:
        """Rows of the input, and old labels, by what became of them."""
        prepared, labelled = self.prepared, self.labelled.values()
        bad = total(self.matched.values(), "quarantined") + total(self.collected.values(), "quarantined")
        return {
            "read": prepared.read,
            "labelled": total(labelled, "rows"),
            "scored": total(self.collected.values(), "scored"),
            "reused": total(self.matched.values(), "reused"),
            "duplicates": prepared.duplicates,
            "quarantined": prepared.quarantined + bad,
            "old": total(self.spread.values(), "of_base") + total(labelled, "given"),
            **{name: total(labelled, name) for name in ("unchanged", "changed", "new", "gone")},
            "quarantined_queries_and_documents": prepared.other_quarantined,
            "duplicate_documents_in_corpus": prepared.corpus_duplicates,
            "duplicate_queries": prepared.query_duplicates,
            "quarantined_judgements": self.judged_quarantined,
        }

    @property
    def labels(self) -> dict[str, int]:
        """Pairs by label."""
        labels: Counter[str] = Counter()
        for record in self.labelled.values():
            labels.update(record.labels)
        return {name: labels[name] for name in sorted(labels, key=int)}

    @property
    def flips(self) -> list[tuple[int, int, int]]:
        """Old label, new label, and pairs that went from the one to the other."""
        flips: Counter[tuple[int, int]] = Counter()
        for record in self.labelled.values():
            flips.update({(old, new): pairs for old, new, pairs in record.flips})
        return sorted((old, new, pairs) for (old, new), pairs in flips.items())

    @property
    def balances(self) -> list[Balance]:
        """How every row of the input and every old label is accounted for.

        Raises:
            ReconciliationError: one is not.
        """
        counts = self.counts
        parts = {
            "read": ("labelled", "duplicates", "quarantined"),
            "labelled": ("unchanged", "changed", "new"),
            "old": ("unchanged", "changed", "gone"),
        }
        of_each = {name: {part: counts[part] for part in names} for name, names in parts.items()}
        by_score = {"scored": counts["scored"], "scored before": counts["reused"]}
        return [
            Balance("read", counts["read"], of_each["read"]),
            Balance("labelled", counts["labelled"], by_score),
            Balance("labelled", counts["labelled"], of_each["labelled"]),
            Balance("old labels", counts["old"], of_each["old"]),
        ]

    @property
    def report(self) -> dict[str, Any]:
        """What report.json says beside the counts."""
        collected = self.collected.values()
        tokens, padded = total(collected, "tokens"), total(collected, "padded_tokens")
        return {
            "labels": self.labels,
            "flips": self.flips,
            "calibration": self.calibrated and self.calibrated.model_dump(mode="json"),
            "tokens": tokens,
            "padding": 1 - tokens / padded if padded else 0.0,
            "replica_seconds": sum(record.seconds for record in collected),
            **self.encoder.report,
            "columns": self.prepared.columns,
        }

    @property
    def told(self) -> str:
        """What was labelled, in a sentence."""
        counts = self.counts
        return (
            f"It labelled {number_of(counts['labelled'], 'pair')}: {counts['scored']:,} were scored now, "
            f"{counts['reused']:,} had been scored before. Of {number_of(counts['old'], 'old label')} "
            f"{counts['changed']:,} changed and {counts['gone']:,} are gone."
        )

    @property
    def figures(self) -> Figures:
        """Of the labels that changed, and of the calibration."""
        labels = sorted({label for old, new, _ in self.flips for label in (old, new)} | {*map(int, self.labels)})
        pairs = {(old, new): number for old, new, number in self.flips}
        matrix = [[old, *(pairs.get((old, new), 0) for new in labels)] for old in labels]
        header = ["old label", *(f"now {label}" for label in labels)]
        flips = [Table("Labels that changed", header, matrix)] if pairs else []
        of_labels = Table("Pairs by label", ["label", "pairs"], [[int(name), n] for name, n in self.labels.items()])
        return {"Labels": [of_labels, *flips], **({"Calibration": [self._curve]} if self.calibrated else {})}

    @property
    def _curve(self) -> Curve:
        assert self.calibrated is not None
        assessed = {"calibrated": self.calibrated.held_out, "uncalibrated": self.calibrated.held_out_uncalibrated}
        lines = {
            name: [(bin_["mean_probability"], bin_["relevant_fraction"]) for bin_ in found["reliability"]]
            for name, found in assessed.items()
        }
        return Curve(
            "Reliability on held-out queries", "mean probability", "relevant fraction", lines, diagonal=True,
            note="On the grey diagonal, a probability is what it says.",
        )  # fmt: skip

    @property
    def facts(self) -> dict[str, Any]:
        """What the page shows beside figures and counts."""
        calibrated = self.calibrated
        return {
            **self.encoder.figures,
            **{f"column {line}": "" for line in self.prepared.columns},
            **({"Brier score, held out": round(calibrated.held_out["brier"], 4)} if calibrated else {}),
        }


def too_many_changed(run: Run, base: str | None, counts: Mapping[str, int], allowed: float) -> str | None:
    """Why this run must not become current by itself; None if it may."""
    moved = counts["changed"] + counts["gone"]
    if moved <= allowed * counts["old"]:
        return None
    return (
        f"{moved:,} of {counts['old']:,} labels changed or are gone, more than limits.max_changed_fraction {allowed} "
        f"allows: see {run.url('diff')}; the current run stays {base or 'none'}"
    )
