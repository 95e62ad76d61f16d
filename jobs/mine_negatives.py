"""Mine hard negatives for training from scored candidates: `python -m jobs.mine_negatives --config …`."""

from __future__ import annotations

import logging
import sys

from tart_ray.command_line import parse_config
from tart_ray.config import MineConfig


def main() -> int:
    """Parse the configuration, run the job, return its exit code."""
    config, plan_only = parse_config(MineConfig, "mine_negatives")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    from tart_ray.pipeline import job, mine  # after the configuration was found good: it loads Ray

    return job.exit_code_of(lambda: mine.show(config) if plan_only else mine.mine_negatives(config, ends_process=True))


if __name__ == "__main__":
    sys.exit(main())
