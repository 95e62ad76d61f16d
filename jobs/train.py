"""Train an EncT5 to follow instructions, from a T5 or from scratch: `python -m jobs.train --config …`."""

from __future__ import annotations

import logging
import sys

from tart_ray.command_line import parse_config
from tart_ray.config import TrainConfig


def main() -> int:
    """Parse the configuration, run the job, return its exit code."""
    config, plan_only = parse_config(TrainConfig, "train")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    from tart_ray.pipeline import job, train  # after the configuration was found good: it loads Ray

    return job.exit_code_of(lambda: train.show(config) if plan_only else train.train(config, ends_process=True))


if __name__ == "__main__":
    sys.exit(main())
