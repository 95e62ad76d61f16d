"""What mining costs on a finished score store: jobs.mine_negatives, three policies, one trainer file, no model.

    python -m benchmarks.mining --pairs 1000000

Candidates are those of benchmarks.data_plane, scored beforehand by a hash in place of EncT5, in another process. Every
query has one positive among its 100 candidates. Prints seconds by stage, pairs per second, and peak memory of the
driver and of the largest worker (resident less shared, sampled twice a second).
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

import numpy as np

from benchmarks.data_plane import CANDIDATES_PER_QUERY, WorkerMemory, make_input
from tart_ray.config import (
    ClusterConfig,
    MineConfig,
    MineInputConfig,
    MineOutputConfig,
    MiningConfig,
    ModelConfig,
    OutputConfig,
    PositivesConfig,
    ReplicasConfig,
    RerankConfig,
    TrainerConfig,
)
from tart_ray.mining.job import mine_negatives
from tart_ray.model.encoded import EncodedPairs
from tart_ray.reranking.job import rerank
from tart_ray.scoring.scores import Scores

CLUSTER = ClusterConfig(address="local", gpus_per_replica=0, cpus_per_replica=0.1, replicas=ReplicasConfig(max=1))
POLICIES: tuple[dict[str, Any], ...] = (
    {"name": "window", "num_negatives": 7, "range_min": 10, "range_max": 60, "sampling": "random"},
    {"name": "percentage", "num_negatives": 4, "score": "score", "positive_percentage": 0.95},
    {"name": "simans", "num_negatives": 4, "sampling": "simans"},
)


def hash_scorer() -> Any:
    """What loads, in place of a Scorer, a hash of the token ids as a margin from -8 to 8. Local: sent by value."""

    class HashScorer:
        max_tokens_per_batch = 2_048

        def score_encoded(self, pairs: EncodedPairs) -> Scores:
            weights = np.arange(len(pairs.input_ids)) - np.repeat(pairs.offsets[:-1], pairs.lengths) + 1
            sums = np.add.reduceat(pairs.input_ids.astype(np.int64) * weights, pairs.offsets[:-1])
            margin = sums * 2_654_435_761 % 2**32 / 2**28 - 8
            return Scores(np.stack([np.zeros_like(margin), margin], axis=1).astype(np.float32))

    return lambda _: HashScorer()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--documents", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with ProcessPoolExecutor(1, get_context("spawn")) as other:  # not to count in the driver's memory
            other.submit(make_scores, root, arguments.pairs, arguments.documents).result()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        config = MineConfig(
            input=MineInputConfig(run=str(root / "run")),
            positives=PositivesConfig(qrels=str(root / "qrels.trec")),
            mining=MiningConfig(policies=POLICIES),
            trainer=TrainerConfig(formats=("tevatron",)),
            output=MineOutputConfig(path=str(root / "mined")),
            cluster=CLUSTER,
        )
        started = time.monotonic()
        with WorkerMemory() as workers:
            code = mine_negatives(config)
        wall = time.monotonic() - started
        report = json.loads((root / "mined" / "report.json").read_text())
        nbytes = sum(path.stat().st_size for path in (root / "mined" / "trainer").rglob("*") if path.is_file())
    pairs = report["counts"]["pairs"]
    result: dict[str, Any] = {
        "pairs": pairs,
        "exit_code": int(code),
        "negatives": report["counts"]["negatives"],
        "seconds": report["seconds"],
        "wall_seconds": round(wall, 1),
        "pairs_per_second_mine": round(pairs / report["seconds"]["mine"]),
        "pairs_per_second_job": round(pairs / wall),
        "trainer_files_mb": round(nbytes / 1e6, 1),
        "driver_peak_mb_before_job": round(before / 1024),
        "driver_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "largest_worker_mb": round(workers.peak_bytes / 1e6),
    }
    for name, value in result.items():
        print(f"{name:28} {value}")
    print(json.dumps(result))


def make_scores(root: Path, pairs: int, documents: int) -> None:
    """Write candidates, score them, and judge one document of each query."""
    model = str(root / "model")
    config = RerankConfig(
        model=ModelConfig(path=model, max_length=64),
        input=make_input(root, model, "parquet", pairs, documents),
        output=OutputConfig(path=str(root / "run")),
        cluster=CLUSTER,
    )
    rerank(config, load=hash_scorer())
    draw = np.random.default_rng(0)  # the draws of write_input
    with (root / "qrels.trec").open("w") as file:
        for query in range(-(-pairs // CANDIDATES_PER_QUERY)):
            document = draw.choice(documents, CANDIDATES_PER_QUERY, replace=False)[0]
            file.write(f"q{query} 0 d{document} 1\n")


if __name__ == "__main__":
    sys.exit(main())
