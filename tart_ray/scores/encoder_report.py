"""What a report says of the encoder that scored."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tart_ray.runs.directory import Directory
from tart_ray.scores.one_encoder import chosen
from tart_ray.scores.scored import Scored
from tart_ray.scoring.choice import Choice


@dataclass(frozen=True)
class EncoderReport:
    """The encoder of a run, and by which ones its chunks were scored.

    Attributes:
        choice: None for a model that has one encoder alone.
        chunks: by the name of the encoder.
        fallbacks: chunks that another one scored than was chosen, by the reason.
    """

    choice: Choice | None
    chunks: Mapping[str, int]
    fallbacks: Mapping[str, int]

    @classmethod
    def of(cls, directory: Directory, scored: Iterable[Scored]) -> EncoderReport:
        """By the commits of the directory that chunks were scored in."""
        chunks, fallbacks = count_encoders(scored)
        return cls(chosen(directory), chunks, fallbacks)

    @property
    def report(self) -> dict[str, Any]:
        """For report.json."""
        choice = {"encoder": dataclasses.asdict(self.choice)} if self.choice else {}
        return {**choice, **({"chunks_by_encoder": dict(self.chunks)} if self.chunks else {})}

    @property
    def figures(self) -> dict[str, str]:
        """For the page."""
        if self.choice is None:
            return {}
        choice, trials = self.choice, {}
        for name, trial in choice.trials.items():
            speed = f"{trial.pairs_per_second:,.1f} pairs/s" if trial.pairs_per_second is not None else "not measured"
            off = f", {trial.largest_difference:.2g} off" if trial.largest_difference is not None else ""
            trials[f"encoder tried: {name}"] = f"out: {trial.reason}" if trial.reason else f"{speed}{off}"
        return {
            "encoder": f"{choice.encoder}, {choice.dtype} on {choice.device}",
            "padded tokens of a batch": f"{choice.max_tokens_per_batch:,}",
            **trials,
            **({"seconds to choose it": f"{choice.seconds:.1f}"} if choice.trials else {}),
            **({f"chunks by {name}": f"{count:,}" for name, count in self.chunks.items()} if self.fallbacks else {}),
        }

    @property
    def warnings(self) -> list[str]:
        """What a person should know: candidates that failed, chunks that another encoder scored."""
        trials = self.choice.trials if self.choice else {}
        chosen = self.choice.encoder if self.choice else "that was chosen"
        out = [f"encoder {name} was left out: {trial.reason}" for name, trial in trials.items() if trial.reason]
        return out + [
            f"{count:,} chunks were not scored by the encoder {chosen}: {reason}"
            for reason, count in self.fallbacks.items()
        ]


def count_encoders(scored: Iterable[Scored]) -> tuple[dict[str, int], dict[str, int]]:
    """Chunks by the encoder that scored them, and by the reason why that was another one than was chosen."""
    records = list(scored)
    return (
        dict(Counter(record.encoder for record in records if record.encoder)),
        dict(Counter(record.fallback for record in records if record.fallback)),
    )
