"""Score candidates with an instruction-following cross-encoder and rank them: `python -m jobs.rerank --config …`."""

from __future__ import annotations

import logging
import sys

from tart_ray.command_line import parse_config
from tart_ray.config import RerankConfig


def main() -> int:
    """Parse the configuration, run the job, return its exit code."""
    config, plan_only = parse_config(RerankConfig, "rerank")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    from tart_ray.pipeline import dry_run, job, rerank  # after the configuration was found good: it loads Ray

    return job.exit_code_of(lambda: dry_run.show(config) if plan_only else rerank.rerank(config, ends_process=True))


if __name__ == "__main__":
    sys.exit(main())
