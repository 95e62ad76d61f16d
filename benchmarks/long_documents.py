"""What a very long document costs under `long_documents: maxp`: jobs.rerank with a constant score in place of EncT5.

    python -m benchmarks.long_documents --megabytes 10 --documents 2

Documents are functions of the running Python's standard library, one behind the other. Prints windows, seconds, and
peak memory of the driver and of the largest worker (resident less shared, sampled twice a second).
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.data_plane import ConstantScorer, WorkerMemory
from tart_ray.config import ClusterConfig, InputConfig, ModelConfig, OutputConfig, ReplicasConfig, RerankConfig
from tart_ray.demo.checkpoint import make_untrained_checkpoint
from tart_ray.demo.corpus import build_collection
from tart_ray.reranking.job import rerank


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=10, help="of each document")
    parser.add_argument("--documents", type=int, default=1)
    parser.add_argument("--model", help="a checkpoint whose vocabulary is used; by default one is made")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model = arguments.model or str(root / "model")
        size = int(arguments.megabytes * 1e6)
        with ProcessPoolExecutor(1, get_context("spawn")) as other:  # not to count in the driver's memory
            other.submit(write_candidates, root / "candidates.parquet", model, size, arguments.documents).result()
        config = RerankConfig(
            model=ModelConfig(path=model, long_documents="maxp"),
            input=InputConfig(candidates=str(root / "candidates.parquet"), instruction="Find the function"),
            output=OutputConfig(path=str(root / "run")),
            cluster=ClusterConfig(address="local", gpus_per_replica=0, replicas=ReplicasConfig(max=1)),
        )
        started = time.monotonic()
        with WorkerMemory() as workers:
            code = rerank(config, load=lambda _: ConstantScorer())  # type: ignore[arg-type,return-value]
        wall = time.monotonic() - started
        report = json.loads((root / "run" / "report.json").read_text())
    result: dict[str, Any] = {
        "documents": report["counts"]["scored"],
        "megabytes": arguments.megabytes,
        "exit_code": int(code),
        "windows": report["windows"],
        "tokens": report["tokens"],
        "seconds": report["seconds"],
        "wall_seconds": round(wall, 1),
        "driver_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "largest_worker_mb": round(workers.peak_bytes / 1e6),
    }
    for name, value in result.items():
        print(f"{name:20} {value}")
    print(json.dumps(result))


def write_candidates(path: Path, model: str, size: int, documents: int) -> None:
    """Write documents of so many characters, and a checkpoint for its vocabulary where there is none."""
    texts = [document.text for document in build_collection().documents.values()]
    if not Path(model).exists():
        make_untrained_checkpoint(Path(model), texts)
    whole = "\n".join(texts)
    text = (whole * (size // len(whole) + 1))[:size]
    query = {"query_id": "q", "query": "a function that reads a file and returns its lines"}
    rows = [{**query, "doc_id": f"d{i}", "text": f"{i} {text}"} for i in range(documents)]
    pq.write_table(pa.Table.from_pylist(rows), path)


if __name__ == "__main__":
    sys.exit(main())
