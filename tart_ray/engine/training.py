"""Ray Train: a group of workers that run one function together, and are started again when one of them dies."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray.train

from tart_ray.config import WorkersConfig
from tart_ray.engine.cluster import Room
from tart_ray.errors import RunFailedError


@dataclass(frozen=True)
class Worker:
    """One of the workers, whose processes torch.distributed connects.

    Attributes:
        device: a ``torch.device``.
    """

    rank: int
    size: int
    device: Any

    @classmethod
    def this(cls) -> Worker:
        """This process."""
        from ray.train.torch import get_device

        context = ray.train.get_context()
        return cls(context.get_world_rank(), context.get_world_size(), get_device())


def run_workers(
    work: Callable[[Any], None], argument: Any, config: WorkersConfig, name: str, max_failures: int
) -> None:
    """Call ``work(argument)`` in every worker, and wait for all.

    Args:
        name: of this start of the driver.
        max_failures: times that the group is started again.

    Raises:
        RunFailedError: workers died more often than they may.
    """
    from ray.train.torch import TorchTrainer  # torch takes seconds to import

    resources = {"CPU": float(config.cpus_per_worker), "GPU": float(config.gpus_per_worker)}
    with tempfile.TemporaryDirectory() as folder:  # for records of Ray Train, of this start alone
        trainer = TorchTrainer(
            lambda settings: work(settings["argument"]),
            train_loop_config={"argument": argument},
            scaling_config=ray.train.ScalingConfig(
                num_workers=config.workers,
                use_gpu=config.gpus_per_worker > 0,
                resources_per_worker={name: amount for name, amount in resources.items() if amount},
            ),
            run_config=ray.train.RunConfig(
                name=name,
                storage_path=folder,
                failure_config=ray.train.FailureConfig(max_failures=max_failures),
            ),
        )
        try:
            trainer.fit()
        except ray.train.WorkerGroupError as error:
            first = next(iter(error.worker_failures.values()))
            raise RunFailedError(f"training: {first}") from error
        except ray.train.TrainingFailedError as error:
            raise RunFailedError(f"training: {error}") from error


def room_for_workers(config: WorkersConfig) -> Room:
    """Of all workers."""
    return Room(
        f"{config.workers} workers (cluster.workers)",
        config.workers * config.cpus_per_worker,
        config.workers * config.gpus_per_worker,
        "cluster.gpus_per_worker: 0 trains on CPUs; cluster.workers may be fewer",
        state_api=True,  # without its answers, Ray Train's cleaner of placement groups logs a line a second
    )
