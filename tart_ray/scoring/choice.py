"""The encoder that scores the pairs of a run, and why it does. Needs no torch: drivers read it too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

REFERENCE = "reference"


class NoEncoderError(RuntimeError):
    """No candidate gives the logits of the float32 reference."""


class DeviceFailedError(RuntimeError):
    """A trial has left the device in a state in which this process can compute nothing more on it."""


@dataclass(frozen=True)
class Trial:
    """What came of one candidate.

    ``largest_difference``: of a logit from the float32 reference; None where there are no logits to compare.
    ``rms_difference``: the root of the mean square of these differences, which decides nothing.
    ``pairs_per_second``: None where it was not measured. ``max_tokens_per_batch``: padded tokens, as it was tried.
    ``reason``: why it is out; None for one that is right.
    """

    largest_difference: float | None = None
    rms_difference: float | None = None
    pairs_per_second: float | None = None
    max_tokens_per_batch: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Choice:
    """The encoder that replicas take.

    ``encoder``: its name. ``device``: what it was chosen on, by name. ``dtype``: ``float32`` or ``bfloat16``.
    ``max_tokens_per_batch``: padded tokens. ``seconds``: that the trials took. ``trials``: by name of the candidate;
    empty where the configuration or the kind of device decided.
    """

    encoder: str
    device: str
    dtype: str
    max_tokens_per_batch: int
    seconds: float = 0.0
    trials: Mapping[str, Trial] = field(default_factory=dict)
