"""Losses on numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from tart_ray.training.losses import LOSSES, count_terms

LOGITS = torch.tensor([[0.0, 2.0], [0.0, 1.0], [0.0, -1.0], [1.0, 1.0], [0.5, 0.0]])  # margins 2, 1, -1 | 0, -0.5
FIRST = torch.tensor([True, False, False, True, False])
SCORES = torch.tensor([5.0, 3.0, 3.0, 1.0, 1.0])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def kl(teacher: list[float], student: list[float]) -> float:
    def softmax(numbers: list[float]) -> list[float]:
        powers = [math.exp(number) for number in numbers]
        return [power / sum(powers) for power in powers]

    return sum(t * math.log(t / s) for t, s in zip(softmax(teacher), softmax(student), strict=True))


KL = kl([5, 3, 3], [2, 1, -1]) + kl([1, 1], [0, -0.5])


@pytest.mark.parametrize(
    ("name", "expected", "terms"),
    [
        ("cross_entropy", softplus(-2) + softplus(1) + softplus(-1) + softplus(0) + softplus(-0.5), 5),
        ("listwise", math.log(1 + math.exp(-1) + math.exp(-3)) + math.log(1 + math.exp(-0.5)), 2),
        ("kl_divergence", KL, 2),
        ("margin_mse", (1 - 2) ** 2 + (3 - 2) ** 2 + (0.5 - 0) ** 2, 3),
    ],
)
def test_losses(name: str, expected: float, terms: int) -> None:
    assert float(LOSSES[name](LOGITS, FIRST, SCORES)) == pytest.approx(expected, rel=1e-5)
    assert count_terms(name, [3, 2]) == terms
