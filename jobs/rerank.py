"""Score candidates with an instruction-following cross-encoder and rank them: `python -m jobs.rerank --config …`."""

import sys

from tart_ray.jobs_command import run_job

if __name__ == "__main__":
    sys.exit(run_job("rerank"))
