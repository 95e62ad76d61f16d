"""Three runs of jobs.relabel over one corpus: all is scored, nothing has changed, one per cent has changed.

    python -m benchmarks.relabel --pairs 200000

A real but small EncT5 (untrained, 2 layers of width 64, float32 on one CPU replica), short texts, 100 candidates a
query, 20 instructions. The third run finds 1 % of the documents, the wording of one instruction and two queries
changed; which pairs that touches is counted here, independently of the job. A fourth run is given the same rows in
other files. Prints counts, seconds and differences of each run, peak memory of the driver and of the largest worker
(resident less shared, sampled twice a second), and whether the model was loaded.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import sys
import tempfile
import time
from collections.abc import Set
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.data_plane import CANDIDATES_PER_QUERY, WorkerMemory
from tart_ray.config import (
    ClusterConfig,
    LabelsConfig,
    ModelConfig,
    RelabelConfig,
    RelabelInputConfig,
    RelabelOutputConfig,
    ReplicasConfig,
    RerankConfig,
)
from tart_ray.demo.checkpoint import make_untrained_checkpoint
from tart_ray.relabeling.job import relabel
from tart_ray.scores.replica import load_scorer
from tart_ray.scoring.scorer import Scorer

WORDS = ("wing", "flow", "heat", "plate", "shock", "layer", "jet", "body", "lift", "drag", "panel", "flutter", "edge")
INSTRUCTIONS = 20
QUERIES_PER_FILE = 500
COUNTS = ("read", "labelled", "scored", "reused", "unchanged", "changed", "new", "gone", "quarantined")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200_000)
    parser.add_argument("--documents", type=int, default=20_000)
    arguments = parser.parse_args()
    queries = -(-arguments.pairs // CANDIDATES_PER_QUERY)
    documents: int = arguments.documents
    changed_documents = frozenset(range(0, documents, 100))
    changed_queries = frozenset({1, queries // 2})
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_untrained_checkpoint(root / "model", [text_of(d, changed=False) for d in range(2_000)])
        result: dict[str, Any] = {"pairs": queries * CANDIDATES_PER_QUERY}
        write_candidates(root, queries, documents)
        result["first"] = timed_run(root)
        result["second"] = timed_run(root)
        expected = write_candidates(root, queries, documents, changed_documents, 3, changed_queries)
        result["third"] = {"pairs_expected": expected, **timed_run(root)}
        write_candidates(root, queries, documents, changed_documents, 3, changed_queries, reverse=True)
        result["rewritten"] = timed_run(root)
    for name, run in result.items():
        print(f"{name:10} {run}")
    print(json.dumps(result))
    scored = [result[name]["scored"] for name in ("first", "third", "rewritten")]
    if scored != [result["pairs"], expected, 0] or result["second"]["did"] != "nothing":
        raise SystemExit(f"scored {scored}, expected {[result['pairs'], expected, 0]}, and nothing in the second run")


def text_of(document: int, *, changed: bool) -> str:
    """About eight words."""
    draw = np.random.default_rng(document)
    return " ".join([*draw.choice(WORDS, 8), str(document), *(["revised"] if changed else [])])


def write_candidates(
    root: Path,
    queries: int,
    documents: int,
    changed_documents: Set[int] = frozenset(),
    changed_instruction: int | None = None,
    changed_queries: Set[int] = frozenset(),
    *,
    reverse: bool = False,
) -> int:
    """Write all pairs anew; how many of them the changes touch."""
    texts = [text_of(document, changed=document in changed_documents) for document in range(documents)]
    draw = np.random.default_rng(0)
    touched = 0
    (root / "candidates").mkdir(exist_ok=True)
    for part, start in enumerate(range(0, queries, QUERIES_PER_FILE)):
        rows = []
        for query in range(start, min(start + QUERIES_PER_FILE, queries)):
            kind = query % INSTRUCTIONS
            instruction = f"Find kind {kind}" + (", and nothing else" if kind == changed_instruction else "")
            words = f"{WORDS[query % len(WORDS)]} number {query}" + (" again" if query in changed_queries else "")
            for document in draw.choice(documents, CANDIDATES_PER_QUERY, replace=False).tolist():
                touched += document in changed_documents or kind == changed_instruction or query in changed_queries
                ids = {"query_id": f"q{query}", "doc_id": f"d{document}"}
                rows.append({**ids, "query": words, "instruction": instruction, "text": texts[document]})
        table = pa.Table.from_pylist(rows[::-1] if reverse else rows)
        pq.write_table(table, root / "candidates" / f"{part:05d}.parquet")
    return touched


def load_and_tell(told: str, config: RerankConfig) -> Scorer:
    """The real Scorer; that it was loaded is written down."""
    Path(told).touch()
    return load_scorer(config)


def timed_run(root: Path) -> dict[str, Any]:
    """One run of the job."""
    loaded = root / "loaded"
    loaded.unlink(missing_ok=True)
    config = RelabelConfig(
        input=RelabelInputConfig(candidates=str(root / "candidates")),
        labels=LabelsConfig(by="quantiles", cuts=(0.5, 0.9)),
        output=RelabelOutputConfig(path=str(root / "labelled")),
        model=ModelConfig(path=str(root / "model"), max_length=64),
        cluster=ClusterConfig(
            address="local", gpus_per_replica=0, cpus_per_replica=0.5, replicas=ReplicasConfig(max=1)
        ),
    )
    pointer = root / "labelled" / "current.json"
    before = pointer.read_text() if pointer.exists() else None
    started = time.monotonic()
    with WorkerMemory() as workers:
        code = relabel(config, load=functools.partial(load_and_tell, str(loaded)))
    result: dict[str, Any] = {
        "exit_code": int(code),
        "wall_seconds": round(time.monotonic() - started, 1),
        "model_loaded": loaded.exists(),
        "driver_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "largest_worker_mb": round(workers.peak_bytes / 1e6),
    }
    if pointer.read_text() == before:
        return {"did": "nothing", **result}
    report = json.loads((root / "labelled" / json.loads(pointer.read_text())["path"] / "report.json").read_text())
    moves = {name: report["counts"][name] for name in COUNTS}
    return {"did": "a new version", **moves, "flips": report["flips"], "seconds": report["seconds"], **result}


if __name__ == "__main__":
    sys.exit(main())
