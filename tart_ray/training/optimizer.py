"""The optimizer, and the learning rate of each step."""

from __future__ import annotations

import math

import torch
from torch import nn

from tart_ray.config import TrainingConfig


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW or Adafactor, with weight decay for the weights of linear layers only."""
    linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    decaying = [parameter for parameter in model.parameters() if id(parameter) in linear]
    others = [parameter for parameter in model.parameters() if id(parameter) not in linear]
    groups = [
        {"params": decaying, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if config.optimizer == "adafactor":
        return torch.optim.Adafactor(groups, lr=config.learning_rate)
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """The learning rate of a step, counted from 0: it rises to its peak in the warm-up, then follows the schedule."""
    warmup = round(config.warmup_fraction * steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    shape = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}
    return config.learning_rate * shape[config.schedule]
