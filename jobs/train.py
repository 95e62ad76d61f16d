"""Train an EncT5 to follow instructions, from a T5 or from scratch: `python -m jobs.train --config …`."""

import sys

from tart_ray.jobs_command import run_job

if __name__ == "__main__":
    sys.exit(run_job("train"))
