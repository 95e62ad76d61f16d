"""The processes that train together: each computes its share of every step, and torch adds up their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tart_ray.errors import TrainingError

T = TypeVar("T")


@dataclass(frozen=True)
class Workers:
    """Which of ``count`` processes this one is. With several, torch.distributed must be set up already."""

    rank: int = 0
    count: int = 1

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """The items that this worker computes, out of those of a step."""
        return items[self.rank :: self.count]

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all workers of a tensor that has the same shape in each; it takes the place of ``values``."""
        if self.count > 1:
            torch.distributed.all_reduce(values)
        return values

    def check_same_step(self, step: int, device: torch.device) -> None:
        """Check that all workers go on from the same step.

        Raises:
            TrainingError: they do not.
        """
        if self.count == 1:
            return
        extremes = torch.tensor([step, -step], device=device)
        torch.distributed.all_reduce(extremes, torch.distributed.ReduceOp.MAX)
        last, first = int(extremes[0]), -int(extremes[1])
        if first != last:
            raise TrainingError(f"workers read states of the steps {first} and {last}; start again")

    def connect(self, model: nn.Module) -> nn.Module:
        """The module to call for training: with several workers, its gradients are the mean over all workers.

        All workers take over the weights of rank 0. The parameters stay those of ``model``, which keeps its names.
        """
        if self.count == 1:
            return model
        # each pass gives every parameter a gradient, so there are no unused ones to look for; views save a copy of them
        return DistributedDataParallel(model, gradient_as_bucket_view=True)


ALONE = Workers()


def without_exchange(module: nn.Module) -> AbstractContextManager[None]:
    """A context in which the gradients of what `Workers.connect` returned are added up in this process alone."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()
