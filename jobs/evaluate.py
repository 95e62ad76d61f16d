"""Evaluate a model on retrieval tasks: `python -m jobs.evaluate --config …`."""

import sys

from tart_ray.jobs_command import run_job

if __name__ == "__main__":
    sys.exit(run_job("evaluate"))
