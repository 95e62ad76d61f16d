"""What everything but the model costs: jobs.rerank with a constant score in place of EncT5, tokenising included.

    python -m benchmarks.data_plane --pairs 200000                 # pairs with their texts, as Parquet
    python -m benchmarks.data_plane --pairs 1000000 --input trec   # a run, joined with queries and 100,000 documents

Documents are functions of the running Python's standard library. Prints seconds by stage, pairs per second of
preparing and scoring and of the whole job (Ray's start included), and peak memory of the driver and of the largest
worker (resident less shared, sampled twice a second).
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tart_ray.config import ClusterConfig, InputConfig, ModelConfig, OutputConfig, ReplicasConfig, RerankConfig
from tart_ray.demo.checkpoint import make_untrained_checkpoint
from tart_ray.demo.corpus import build_collection
from tart_ray.model.encoded import EncodedPairs
from tart_ray.reranking.job import rerank
from tart_ray.scoring.scores import Scores

CANDIDATES_PER_QUERY = 100


class ConstantScorer:
    """In place of a Scorer: every pair is as relevant as every other."""

    max_tokens_per_batch = 2_048

    def score_encoded(self, pairs: EncodedPairs) -> Scores:
        return Scores(np.zeros((len(pairs), 2), dtype=np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200_000)
    parser.add_argument("--documents", type=int, default=100_000, help="of the corpus that a TREC run is joined with")
    parser.add_argument("--input", choices=["parquet", "trec"], default="parquet")
    parser.add_argument("--model", help="a checkpoint whose vocabulary is used; by default one is made")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model = arguments.model or str(root / "model")
        with ProcessPoolExecutor(1, get_context("spawn")) as other:  # not to count in the driver's memory
            source = other.submit(
                make_input, root, model, arguments.input, arguments.pairs, arguments.documents
            ).result()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        config = RerankConfig(
            model=ModelConfig(path=model),
            input=source,
            output=OutputConfig(path=str(root / "run")),
            cluster=ClusterConfig(
                address="local", gpus_per_replica=0, cpus_per_replica=0.1, replicas=ReplicasConfig(max=1)
            ),
        )
        started = time.monotonic()
        with WorkerMemory() as workers:
            code = rerank(config, load=lambda _: ConstantScorer())  # type: ignore[arg-type,return-value]
        wall = time.monotonic() - started
        report = json.loads((root / "run" / "report.json").read_text())
    seconds = report["seconds"]
    pairs = report["counts"]["scored"]
    result: dict[str, Any] = {
        "pairs": pairs,
        "input": arguments.input,
        "exit_code": int(code),
        "tokens_per_pair": round(report["tokens"] / pairs, 1),
        "seconds": seconds,
        "wall_seconds": round(wall, 1),
        "pairs_per_second_prepare": round(pairs / seconds["prepare"]),
        "pairs_per_second_score": round(pairs / seconds["score"]),
        "pairs_per_second_job": round(pairs / wall),
        "driver_peak_mb_before_job": round(before / 1024),
        "driver_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "largest_worker_mb": round(workers.peak_bytes / 1e6),
    }
    for name, value in result.items():
        print(f"{name:28} {value}")
    print(json.dumps(result))


def make_input(root: Path, model: str, kind: str, pairs: int, documents: int) -> InputConfig:
    """Write the candidates, and a checkpoint for its vocabulary where there is none."""
    texts = [document.text for document in build_collection().documents.values()]
    if not Path(model).exists():
        make_untrained_checkpoint(Path(model), texts)
    return write_input(root, texts, kind, pairs, documents)


def write_input(root: Path, texts: list[str], kind: str, pairs: int, documents: int) -> InputConfig:
    """Write ``pairs`` candidates: every query has 100 distinct documents."""
    queries = -(-pairs // CANDIDATES_PER_QUERY)
    rng = np.random.default_rng(0)

    def text(document: int) -> str:
        return f"{document} {texts[document % len(texts)][:1_500]}"

    def candidates(query: int) -> list[int]:
        return rng.choice(documents, CANDIDATES_PER_QUERY, replace=False).tolist()

    def query_text(query: int) -> str:
        return f"function number {query} that reads a file and returns its lines"

    if kind == "parquet":
        (root / "candidates").mkdir()
        for part, start in enumerate(range(0, queries, 500)):
            rows = [
                {"query_id": f"q{q}", "query": query_text(q), "doc_id": f"d{d}", "text": text(d), "score": float(-r)}
                for q in range(start, min(start + 500, queries))
                for r, d in enumerate(candidates(q))
            ]
            pq.write_table(pa.Table.from_pylist(rows), root / "candidates" / f"{part:05d}.parquet")
        return InputConfig(candidates=str(root / "candidates"), instruction="Find the function that is described")
    with (root / "run.trec").open("w") as file:
        for q in range(queries):
            file.writelines(f"q{q} Q0 d{d} {r + 1} {-r} bm25\n" for r, d in enumerate(candidates(q)))
    with (root / "corpus.jsonl").open("w") as file:
        file.writelines(json.dumps({"_id": f"d{d}", "title": "", "text": text(d)}) + "\n" for d in range(documents))
    with (root / "queries.jsonl").open("w") as file:
        file.writelines(json.dumps({"_id": f"q{q}", "text": query_text(q)}) + "\n" for q in range(queries))
    return InputConfig(
        candidates=str(root / "run.trec"),
        queries=str(root / "queries.jsonl"),
        corpus=str(root / "corpus.jsonl"),
        instruction="Find the function that is described",
    )


class WorkerMemory:
    """Peak private memory of the largest Ray worker, from /proc."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> WorkerMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        page = resource.getpagesize()
        while not self._ended.wait(0.5):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    if (process / "cmdline").read_bytes().startswith(b"ray::"):
                        resident, shared = map(int, (process / "statm").read_text().split()[1:3])
                        self.peak_bytes = max(self.peak_bytes, (resident - shared) * page)
                except (FileNotFoundError, ProcessLookupError):
                    continue


if __name__ == "__main__":
    sys.exit(main())
