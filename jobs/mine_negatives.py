"""Mine hard negatives for training from scored candidates: `python -m jobs.mine_negatives --config …`."""

import sys

from tart_ray.jobs_command import run_job

if __name__ == "__main__":
    sys.exit(run_job("mine_negatives"))
