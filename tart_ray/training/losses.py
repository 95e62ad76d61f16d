"""Losses of groups of pairs. Each is a sum, so that a step's loss does not depend on how it is cut into batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def cross_entropy(logits: torch.Tensor, first: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Two-label cross-entropy, as in the published recipe, summed over pairs.

    Args:
        logits: float (n, 2).
        first: bool (n,), the positives.
    """
    return functional.cross_entropy(logits, first.long(), reduction="sum")


def listwise(logits: torch.Tensor, first: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """-log softmax of the positive's margin among the margins of its group, summed over groups.

    Args:
        logits: float (n, 2).
        first: bool (n,), the positives, each of which begins a group.
    """
    return -functional.log_softmax(_by_group(margins(logits), first, float("-inf")), dim=1)[:, 0].sum()


def margin_mse(logits: torch.Tensor, first: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """``((m⁺ - m⁻) - (t⁺ - t⁻))²`` of the student's margins and the teacher's, summed over (positive, negative) pairs.

    Hofstätter et al., *Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation*, 2020.

    Args:
        logits: float (n, 2).
        first: bool (n,), the positives, each of which begins a group.
        scores: float (n,), the teacher's margins.
    """
    of_group = first.cumsum(0) - 1
    difference = margins(logits) - scores
    return (difference[first][of_group] - difference)[~first].square().sum()


def kl_divergence(logits: torch.Tensor, first: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """``KL(softmax(t) ‖ softmax(m))`` of the teacher's margins and the student's in a group, summed over groups.

    Args:
        logits: float (n, 2).
        first: bool (n,), the positives, each of which begins a group.
        scores: float (n,), the teacher's margins.
    """
    filler = -1e6  # of no weight in a softmax, and of finite gradient
    student = functional.log_softmax(_by_group(margins(logits), first, filler), dim=1)
    teacher = functional.log_softmax(_by_group(scores, first, filler), dim=1)
    return functional.kl_div(student, teacher, reduction="sum", log_target=True)


def margins(logits: torch.Tensor) -> torch.Tensor:
    """``logits[:, 1] - logits[:, 0]``, (n,)."""
    return logits[:, 1] - logits[:, 0]


def count_terms(name: str, sizes: list[int]) -> int:
    """The number of terms that a step's loss is the mean of, given the number of pairs in each of its groups."""
    return {
        "cross_entropy": sum(sizes),
        "listwise": len(sizes),
        "margin_mse": sum(sizes) - len(sizes),
        "kl_divergence": len(sizes),
    }[name]


def _by_group(values: torch.Tensor, first: torch.Tensor, filler: float) -> torch.Tensor:
    """The values of each group, padded on the right with ``filler``, (groups, pairs of the largest group)."""
    row = first.cumsum(0) - 1
    starts = first.nonzero()[:, 0]
    column = torch.arange(len(values), device=values.device) - starts[row]
    table = values.new_full((len(starts), int(column.max()) + 1), filler)
    return table.index_put((row, column), values)


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "listwise": listwise,
    "margin_mse": margin_mse,
    "kl_divergence": kl_divergence,
}
