"""Give a corpus of (query, document) new labels, scoring only what changed: `python -m jobs.relabel --config …`."""

from __future__ import annotations

import logging
import sys

from tart_ray.command_line import parse_config
from tart_ray.config import RelabelConfig


def main() -> int:
    """Parse the configuration, run the job, return its exit code."""
    config, plan_only = parse_config(RelabelConfig, "relabel")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    from tart_ray.pipeline import job, relabel  # after the configuration was found good: it loads Ray

    return job.exit_code_of(lambda: relabel.show(config) if plan_only else relabel.relabel(config, ends_process=True))


if __name__ == "__main__":
    sys.exit(main())
