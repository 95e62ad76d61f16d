"""Score candidates with an instruction-following cross-encoder and rank them: `python -m jobs.rerank --config …`."""

from __future__ import annotations

import logging
import sys

from tart_ray.command_line import ExitCode, parse_config
from tart_ray.config import RerankConfig


def main() -> int:
    """Parse the configuration, run the job, return its exit code."""
    config, dry_run = parse_config(RerankConfig, "rerank")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    from tart_ray.pipeline import rerank

    try:
        return rerank.rerank(config)
    except rerank.BAD_CONFIGURATION as error:
        print(f"configuration error: {error}", file=sys.stderr)
        return ExitCode.BAD_CONFIGURATION


if __name__ == "__main__":
    sys.exit(main())
