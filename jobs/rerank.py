"""Score candidates with an instruction-following cross-encoder and rank them: `python -m jobs.rerank --config …`."""

from __future__ import annotations

import logging
import sys

from tart_ray.command_line import ExitCode, parse_config
from tart_ray.config import RerankConfig


def main() -> int:
    """Parse the configuration, run the job, return its exit code."""
    config, plan_only = parse_config(RerankConfig, "rerank")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    from tart_ray.pipeline import dry_run, rerank  # after the configuration was found good: it loads Ray

    try:
        if not plan_only:
            return rerank.rerank(config)
        for line in dry_run.describe(config):
            print(line)
        return ExitCode.DONE
    except rerank.BAD_CONFIGURATION as error:
        print(f"configuration error: {error}", file=sys.stderr)
        return ExitCode.BAD_CONFIGURATION
    except rerank.RunFailedError as error:
        print(f"the job failed: {error}\nrun the same command again to continue where it stopped", file=sys.stderr)
        return ExitCode.FAILED
    except Exception:
        logging.getLogger(__name__).exception("the job failed; run the same command again to continue where it stopped")
        return ExitCode.FAILED


if __name__ == "__main__":
    sys.exit(main())
