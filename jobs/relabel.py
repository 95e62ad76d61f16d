"""Give a corpus of (query, document) new labels, scoring only what changed: `python -m jobs.relabel --config …`."""

import sys

from tart_ray.jobs_command import run_job

if __name__ == "__main__":
    sys.exit(run_job("relabel"))
