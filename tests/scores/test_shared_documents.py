"""A long document that is a candidate of many queries, in memory for one of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from support.job_files import write_jsonl

PAIRS, SIZE = 600, 1_000_000
TESTS = Path(__file__).parents[1]


def test_a_long_document_of_many_pairs_is_held_once(tmp_path: Path, tiny_checkpoint: Path) -> None:
    text = ("wing flow heat plate shock layer " * (SIZE // 33 + 1))[:SIZE]
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "long", "text": text}, {"_id": "short", "text": "flow"}])
    write_jsonl(tmp_path / "queries.jsonl", [{"_id": f"q{i}", "text": f"query {i}"} for i in range(PAIRS)])
    lines = [
        f"q{i} Q0 {document} {rank} 1 x\n" for i in range(PAIRS) for rank, document in enumerate(["long", "short"])
    ]
    (tmp_path / "candidates.run").write_text("".join(lines), encoding="utf-8")
    read = {"candidates": "candidates.run", "queries": "queries.jsonl", "corpus": "corpus.jsonl"}
    config = {
        "model": {"path": str(tiny_checkpoint)},
        "input": {name: str(tmp_path / file) for name, file in read.items()} | {"instruction": "Find it"},
        "output": {"path": str(tmp_path / "run")},
    }
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "support.preparing", str(tmp_path / "config.json")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
        check=True,
        capture_output=True,
        text=True,
    )
    chunks, _, megabytes = done.stdout.split()
    assert int(chunks) > 1
    assert float(megabytes) < PAIRS * SIZE / 1e6 / 3  # all of its copies together had 600 MB, several times over
