"""`make demo`, on few queries."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

from support.job_files import read_output, report_of


def test_the_demo_ranks_and_tells_how_well(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.demo", "--output", str(tmp_path / "demo"), "--functions", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = read_output(tmp_path / "demo" / "run")
    assert len({row["query_id"] for row in rows}) == 8
    assert report_of(tmp_path / "demo" / "run")["counts"]["scored"] == len(rows)
    for kind in ("code", "documentation"):
        assert re.search(rf"asked for {kind} +\d\.\d{{3}} +\d\.\d{{3}}\n", done.stdout), done.stdout
    assert "under “Retrieve the Python function" in done.stdout
    assert "under “Retrieve the detailed documentation" in done.stdout
    (shows,) = [line.partition(":")[2] for line in done.stdout.splitlines() if line.startswith("one query:")]
    told = subprocess.run(shlex.split(shows), capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("query code:")
    assert "under “Retrieve the Python function" in told.stdout
