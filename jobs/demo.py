"""Rank functions of the running Python's own standard library: `make demo`, `python -m jobs.demo`."""

import sys

from tart_ray.jobs_command import run_job

if __name__ == "__main__":
    sys.exit(run_job("demo"))
