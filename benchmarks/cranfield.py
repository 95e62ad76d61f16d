"""The Cranfield collection through jobs.rerank, and a check that every pair came out once.

    python -m benchmarks.cranfield --collection DIR --model DIR

DIR holds a collection in BEIR's layout with a run `bm25.trec`. Reads the result back with pyarrow and with DuckDB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import pyarrow.dataset as ds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collection", type=Path, required=True)
    parser.add_argument("--model", required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = {
            "model": {"path": arguments.model},
            "input": {
                "candidates": str(arguments.collection / "bm25.trec"),
                "queries": str(arguments.collection / "queries.jsonl"),
                "corpus": str(arguments.collection / "corpus.jsonl"),
                "instruction": "Retrieve a scientific paper abstract that answers this question",
            },
            "output": {"path": f"{folder}/run"},
            "cluster": {"address": "local", "gpus_per_replica": 0},
        }
        Path(folder, "rerank.yaml").write_text(json.dumps(config))
        started = time.monotonic()
        job = [sys.executable, "-m", "jobs.rerank", "--config", f"{folder}/rerank.yaml"]
        code = subprocess.run(job, check=False).returncode
        wall = time.monotonic() - started
        if code:
            return code
        report = json.loads(Path(folder, "run", "report.json").read_text())
        table = ds.dataset(f"{folder}/run/reranked").to_table()
        count = "select count(*), count(distinct (query_id, doc_id)), count(distinct query_id)"
        found = duckdb.sql(f"{count} from read_parquet('{folder}/run/reranked/*.parquet')").fetchall()[0]
    wanted = sum(1 for _ in (arguments.collection / "bm25.trec").open())
    result = {
        "pairs_wanted": wanted,
        "pyarrow_rows": len(table),
        "pyarrow_distinct_pairs": len({*zip(table["query_id"].to_pylist(), table["doc_id"].to_pylist(), strict=True)}),
        "duckdb_rows_pairs_queries": found,
        "wall_seconds": round(wall, 1),
        "counts": report["counts"],
        "seconds": report["seconds"],
        "padding": round(report["padding"], 4),
        "pairs_per_replica_second": round(report["pairs_per_replica_second"], 1),
    }
    for name, value in result.items():
        print(f"{name:28} {value}")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
