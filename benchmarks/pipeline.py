"""What jobs.rerank adds to the bare Scorer, on this machine.

    python -m benchmarks.pipeline                        # all four, tiny geometry
    python -m benchmarks.pipeline --parts ratio --geometry small --pairs 4000        # two minutes or more of scoring

- ratio: pairs/s of the score stage on one replica, on the wall from the first chunk's start to the last one's end, by
  pairs/s of the bare Scorer on the same pairs, in a process of its own with as many threads: end to end, texts to
  scores (`scorer`), and scoring alone, of pairs tokenised before, in chunks of the job's sizes (`score_encoded`). The
  job tokenises in tasks beside its replica, the Scorer in a thread, and the job's clock leaves the first chunk's
  tokenising out: `job / score_encoded` is what the hand-overs of chunks cost, if there are several.
- linear: pairs/s of the score stage for two sizes of input, and their ratio.
- startup: seconds from the command to the first scored chunk, and where they go.
- timeline: two replicas on two nodes: what each did when. A replica that is idle while chunks are left shows.

Candidates are those of benchmarks.data_plane.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import torch
from transformers import T5Config

from benchmarks.data_plane import write_input
from benchmarks.random_models import GEOMETRIES
from tart_ray import EncT5ForSequenceClassification, Scorer
from tart_ray.config import ClusterConfig, InputConfig, ModelConfig, OutputConfig, ReplicasConfig, RerankConfig
from tart_ray.demo.checkpoint import make_untrained_checkpoint
from tart_ray.demo.corpus import build_collection
from tart_ray.model.texts import join_instruction

PARTS = ("ratio", "linear", "startup", "timeline")
COLUMNS = 72  # of the timeline

Chunk = dict[str, Any]  # the record of a scored one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="tiny")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--pairs", type=int, default=20_000, help="of ratio, startup and timeline")
    parser.add_argument("--sizes", nargs=2, type=int, default=[20_000, 200_000], help="of linear")
    parser.add_argument("--threads", type=int, default=1, help="of a replica, and of the bare Scorer")
    arguments = parser.parse_args()
    texts = [document.text for document in build_collection().documents.values()]
    parts: dict[str, Callable[..., dict[str, Any]]] = dict(
        zip(PARTS, (measure_ratio, measure_linear, measure_startup, measure_timeline), strict=True)
    )
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        model = make_checkpoint(Path(folder, "model"), texts, arguments.geometry)
        for name in arguments.parts:
            root = Path(folder, name)
            root.mkdir()
            results[name] = parts[name](root, texts, model, arguments)
            print(f"{name}: {json.dumps(results[name], indent=2)}", flush=True)
    print(json.dumps({**vars(arguments), **results}))


def make_checkpoint(folder: Path, texts: list[str], geometry: str) -> Path:
    """A vocabulary learned from the texts, and random weights of the geometry."""
    make_untrained_checkpoint(folder, texts)
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    config = T5Config(**GEOMETRIES[geometry], vocab_size=vocabulary, feed_forward_proj="gated-gelu")
    torch.manual_seed(0)
    EncT5ForSequenceClassification(config).save_pretrained(folder)
    return folder


def measure_ratio(root: Path, texts: list[str], model: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    source = write_input(root, texts, "parquet", arguments.pairs, 100_000)
    chunks = chunks_of(run_job(root, source, model, arguments))
    by_job = pairs_per_second(chunks)
    sizes = json.dumps([chunk["rows"] for chunk in chunks])
    told = [str(model), source.candidates, str(source.instruction), arguments.dtype, sizes, str(arguments.threads)]
    bare = subprocess.run(  # after the job, so that neither takes the other's cores
        [sys.executable, "-c", BARE, *told], check=True, capture_output=True, text=True
    )
    by_scorer = json.loads(bare.stdout.splitlines()[-1])
    rates = {"job": by_job, **by_scorer}
    return {
        "chunks": len(chunks),
        "pairs_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        **{f"job / {name}": round(by_job / rate, 3) for name, rate in by_scorer.items()},
    }


BARE = """
import json, sys, torch
from benchmarks.pipeline import score_bare
torch.set_num_threads(int(sys.argv[6]))
print(json.dumps(score_bare(*sys.argv[1:5], json.loads(sys.argv[5]))))
"""


def score_bare(model: str, candidates: str, instruction: str, dtype: str, sizes: list[int]) -> dict[str, float]:
    """Pairs per second of a Scorer: from texts to scores, and of token ids in chunks of these sizes."""
    table = ds.dataset(candidates).to_table(columns=["query", "text"])
    queries, texts = table["query"].to_pylist(), table["text"].to_pylist()
    scorer = Scorer.from_pretrained(model, device="cpu", dtype=dtype)
    scorer.score(["warm"], ["up"])
    started = time.monotonic()
    scorer.score(queries, texts, instruction)
    end_to_end = time.monotonic() - started
    pairs = scorer.tokenizer.encode_pairs(
        [join_instruction(instruction, query) for query in queries], texts, max_length=scorer.max_length
    )
    chunks = [pairs.take(rows) for rows in np.split(np.arange(len(pairs)), np.cumsum(sizes)[:-1])]
    started = time.monotonic()
    for chunk in chunks:
        scorer.score_encoded(chunk)
    scoring = time.monotonic() - started
    return {"scorer": len(pairs) / end_to_end, "score_encoded": len(pairs) / scoring}


def measure_linear(root: Path, texts: list[str], model: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    rates = {}
    for size in arguments.sizes:
        (root / str(size)).mkdir()
        source = write_input(root / str(size), texts, "parquet", size, 100_000)
        rates[size] = round(pairs_per_second(chunks_of(run_job(root / str(size), source, model, arguments))), 1)
    small, large = rates.values()
    return {"pairs_per_second": rates, "ratio": round(large / small, 3)}


def measure_startup(root: Path, texts: list[str], model: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    source = write_input(root, texts, "parquet", min(arguments.pairs, 1_000), 100_000)
    started = time.time()
    run = run_job(root, source, model, arguments)
    first = min(chunks_of(run), key=lambda chunk: chunk["began"])
    report = json.loads((run / "report.json").read_text())["seconds"]
    loaded = first["began"]
    manifest = (run / "manifest.json").stat().st_mtime
    return {
        "to_manifest": round(manifest - started, 1),  # imports, configuration, listing the input, Ray's start, lease
        "prepare": round(report["prepare"], 1),
        "replica": round(loaded - manifest - report["prepare"], 1),  # its process, imports, the model, tokenising
        "first_chunk": round(first["seconds"], 1),
        "in_all": round(loaded + first["seconds"] - started, 1),
    }


def measure_timeline(root: Path, texts: list[str], model: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    source = write_input(root, texts, "parquet", arguments.pairs, 100_000)
    with two_nodes(arguments.threads) as address:
        chunks = chunks_of(run_job(root, source, model, arguments, address=address, replicas=2))
    begin = min(chunk["began"] for chunk in chunks)
    end = max(chunk["began"] + chunk["seconds"] for chunk in chunks)
    last_start = max(chunk["began"] for chunk in chunks)
    result: dict[str, Any] = {"chunks": len(chunks), "seconds": round(end - begin, 1), "replicas": {}}
    for replica in sorted({chunk["replica"] for chunk in chunks}):
        own = sorted(
            (chunk["began"], chunk["began"] + chunk["seconds"]) for chunk in chunks if chunk["replica"] == replica
        )
        line = ["."] * COLUMNS
        for number, (start, stop) in enumerate(own):
            first, last = (int((at - begin) / (end - begin) * (COLUMNS - 1)) for at in (start, stop))
            line[first : last + 1] = [str(number % 10)] * (last + 1 - first)
        print(f"{replica:28} {''.join(line)}")
        gaps = [following[0] - before[1] for before, following in itertools.pairwise(own)]
        idle = sum(gaps) + max(last_start - own[-1][1], 0)  # after its last chunk, as long as one had not begun
        result["replicas"][replica] = {
            "chunks": len(own),
            "busy": round(sum(stop - start for start, stop in own), 2),
            "idle_while_chunks_wait": round(idle, 2),
            "longest_gap": round(max(gaps, default=0.0), 3),
        }
    return result


@contextmanager
def two_nodes(threads: int) -> Iterator[str]:
    from ray.cluster_utils import Cluster

    node = {"num_cpus": threads + 1, "object_store_memory": 200 << 20}
    nodes = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    try:
        nodes.add_node(**node)
        nodes.wait_for_nodes()
        yield nodes.address
    finally:
        nodes.shutdown()


def run_job(
    root: Path,
    source: InputConfig,
    model: Path,
    arguments: argparse.Namespace,
    *,
    address: str = "local",
    replicas: int = 1,
) -> Path:
    """The directory of a finished run of jobs.rerank, in a process of its own."""
    config = RerankConfig(
        model=ModelConfig(path=str(model), dtype=arguments.dtype),
        input=source,
        output=OutputConfig(path=str(root / "run")),
        cluster=ClusterConfig(
            address=address,
            gpus_per_replica=0,
            cpus_per_replica=arguments.threads,
            replicas=ReplicasConfig(min=replicas, max=replicas),
        ),
    )
    (root / "rerank.yaml").write_text(config.model_dump_json(exclude_none=True))
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "jobs.rerank", "--config", str(root / "rerank.yaml")]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return root / "run"


def chunks_of(run: Path) -> list[Chunk]:
    """Records of the scored chunks."""
    return [json.loads(path.read_text()) for path in sorted(run.glob("_commits/score/*.json"))]


def pairs_per_second(chunks: list[Chunk]) -> float:
    """Of the score stage, from the start of the first chunk to the end of the last."""
    end = max(chunk["began"] + chunk["seconds"] for chunk in chunks)
    return float(np.sum([chunk["rows"] for chunk in chunks]) / (end - min(chunk["began"] for chunk in chunks)))


if __name__ == "__main__":
    sys.exit(main())
