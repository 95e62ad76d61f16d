"""Evaluate a model on retrieval tasks: `python -m jobs.evaluate --config …`."""

from __future__ import annotations

import logging
import sys

from tart_ray.command_line import parse_config
from tart_ray.config import EvaluateConfig


def main() -> int:
    """Parse the configuration, run the job, return its exit code."""
    config, plan_only = parse_config(EvaluateConfig, "evaluate")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    from tart_ray.pipeline import evaluate, job  # after the configuration was found good: it loads Ray

    return job.exit_code_of(
        lambda: evaluate.show(config) if plan_only else evaluate.evaluate(config, ends_process=True)
    )


if __name__ == "__main__":
    sys.exit(main())
