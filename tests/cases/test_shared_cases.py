"""Small inputs that once failed without a word, from a folder beside the project: each ends as it says it should.

What each is about has a test, with an input of its own, beside the code that it is about. These run the folder's
scripts as they stand, whole jobs in processes of their own: ``make cases``.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CASES = ROOT.parent / "shared" / "cases"

# Patterns that the output of each case has, in this order.
EXPECTED: dict[str, list[str]] = {
    "01-hive-underscore": ["read 8 = scored 8", "about 8 rows", "_year", "(No such file|FileNotFoundError|sees: 8)"],
    "03-scorer-none": [r"queries\[0\]: got None", r"queries\[0\]: got nan", r"documents\[1\]: got None"],
    "04-three-labels": ["CheckpointError .*num_labels 3"],
    "06-jsonl-drift": ["read 1,000 = scored 1,000 .*quarantined 0", "exit 0", "^1000 .*'lang'"],
    "07-nan-in-jsonl": ["read 3 = scored 3 .*quarantined 0"],
    "08-two-jobs-at-once": ["first: exit 0", "second: exit 0"],
    "10-reserved-and-unwanted-columns": [
        "-- rank", "about 8 rows", "-- tokens", "about 8 rows", "-- leftover", "about 8 rows", "-- clash",
        "about 16 rows",
        "-- its own output", "read 8 = scored 8", "about 8 rows",
    ],
    "11-advice-that-cannot-work": ["corpus.text: THEIR_NAME", "text ← contents", "pairs to score"],
    "13-why-no-line-can-be-read": ["got 4 columns, expected 2", "a JSON array", "got 4 columns", "got relevance '0.5'"],
    "14-ids-with-spaces": ["about 2 rows", "exit 0"],
    "16-not-damaged": ["column 'big' is left out: integers of 128 bits"],
    "17-tensor-column": ["read 8 = scored 8", "exit 0"],
    "19-first-stage-without-scores": [r"first stage \S+pairs.jsonl", r"first stage \S+lists.jsonl"],
    "22-query-id-twice": ["read 2 = scored 2", '"quarantined_queries_and_documents": 1'],
    "23-nan-first-stage-score": ["read 3 = scored 3 .*quarantined 0"],
}  # fmt: skip

pytestmark = [
    pytest.mark.cases,
    pytest.mark.skipif(not CASES.is_dir(), reason=f"{CASES.parent.name}/{CASES.name} is not beside the project"),
]


@pytest.mark.parametrize("case", EXPECTED)
def test_case(case: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    script = str(CASES / case / "run.sh")
    both: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    output = subprocess.run(["bash", script], cwd=ROOT, env=environment, text=True, check=False, **both).stdout
    place = 0
    for pattern in EXPECTED[case]:
        found = re.compile(pattern, re.MULTILINE).search(output, place)
        assert found, f"{pattern!r} is not in the rest of:\n{output}"
        place = found.end()


def test_no_case_is_left_out() -> None:
    assert sorted(EXPECTED) == sorted(folder.name for folder in CASES.iterdir())
