"""How the parts of a job grow with its input and its replicas, without a GPU. JSON on the last line.

    python -m benchmarks.scale --parts hand_over                # 8 and 32 replicas, five minutes
    python -m benchmarks.scale --parts hand_over --replicas 8 --seconds 2
    python -m benchmarks.scale --parts resume --commits 10000   # two minutes; 100000: seven

- hand_over: replicas that sleep for each chunk instead of scoring it, on a Ray with pretended CPUs. ``busy``: the share
  of the time from the begin of a replica's first chunk to the end of its last in which it scored, on average.
  ``gap_seconds``: between two chunks of a replica, on average and at most. ``idle_at_end_seconds``: from the end of a
  replica's last chunk to the end of the last of all. ``driver_cpu_ms_per_chunk``: while the stage of scoring ran.
- resume: how long a driver takes to know which chunks are done, on the S3 server of the tests, where ``--commits`` and
  the `TAIL` that no segment has are there and as many chunks are still to do. ``single_commits``: without segments.
  ``segments``: with them. ``finished``: of a stage that is complete. ``write``: what the driver takes to write the
  segments. Each reader is a process of its own; ``grown_mb``: by how much its peak memory grew.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import multiprocessing
import sys
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from tart_ray.config import ClusterConfig, InputConfig, ModelConfig, OutputConfig, ReplicasConfig, RerankConfig
from tart_ray.demo.checkpoint import make_untrained_checkpoint
from tart_ray.engine.cluster import chunkwise_execution
from tart_ray.model.encoded import EncodedPairs
from tart_ray.reranking.job import look
from tart_ray.runs.directory import COMMITS, RUN_ID, SEGMENT_UNITS, SEGMENTS
from tart_ray.runs.run import Run
from tart_ray.runs.segments import SegmentWriter
from tart_ray.scores.prepare import Chunk, prepare, read_chunk, write_chunk
from tart_ray.scores.scored import SCORE_CHUNKS, Scored
from tart_ray.scores.store import score
from tart_ray.scoring.scores import Scores
from tart_ray.storage import Storage
from tests.support.s3_server import serve

TAIL = SEGMENT_UNITS // 2


class SleepingScorer:
    """In place of a Scorer: a chunk takes so many seconds and no CPU."""

    max_tokens_per_batch = 1 << 20

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def score_encoded(self, pairs: EncodedPairs) -> Scores:
        if len(pairs) > 1:  # the first call is a try
            time.sleep(self._seconds)
        return Scores(np.zeros((len(pairs), 2), dtype=np.float32))


def load_sleeping(seconds: float, _: Any) -> SleepingScorer:
    return SleepingScorer(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=["hand_over", "resume"], default=["hand_over", "resume"])
    parser.add_argument("--replicas", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--seconds", type=float, default=8.0, help="of a chunk")
    parser.add_argument("--chunks", type=int, default=12, help="for each replica")
    parser.add_argument("--commits", type=int, nargs="+", default=[10_000], help="in segments")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    if "resume" in arguments.parts:
        for commits in arguments.commits:
            results[f"resume_{commits}"] = measure_resume(commits)
    if "hand_over" in arguments.parts:
        ray.init(num_cpus=2 * max(arguments.replicas), include_dashboard=False, log_to_driver=False)
        for replicas in arguments.replicas:
            with tempfile.TemporaryDirectory() as folder:
                results[f"hand_over_{replicas}"] = measure_hand_over(
                    Path(folder), replicas, arguments.seconds, replicas * arguments.chunks
                )
            print(f"{replicas} replicas: {json.dumps(results[f'hand_over_{replicas}'])}", flush=True)
    print(json.dumps({**vars(arguments), **results}))


def measure_resume(commits: int) -> dict[str, Any]:
    """Read the same commits without segments and with them."""
    with tempfile.TemporaryDirectory() as folder, serve(Path(folder)) as server:
        run = Run.at(Storage(server.config), f"s3://{server.new_bucket()}/run", 3).begin({}, {})
        units = [f"{bucket:05d}-{chunk:05d}" for bucket in range(2 * (commits + TAIL) // 50) for chunk in range(50)]
        done = units[: commits + TAIL]
        put_commits(run, done)
        found = {"write": in_a_process(write_segments, run, units, done)}
        found["finished"] = in_a_process(look_what_is_done, run, done[:commits], done[:commits])
        found["segments"] = in_a_process(look_what_is_done, run, units, done)
        print(f"{commits} commits: {json.dumps(found)}", flush=True)  # what follows takes long
        run.storage.remove_tree(run.url(COMMITS, SCORE_CHUNKS.name, SEGMENTS))
        return found | {"single_commits": in_a_process(look_what_is_done, run, units, done)}


def put_commits(run: Run, units: list[str]) -> None:
    """Commits as replicas write them."""
    filesystem, folder = run.storage.resolve(run.url(COMMITS, SCORE_CHUNKS.name))
    content = json.dumps(a_record().model_dump(mode="json") | {RUN_ID: run.id}).encode()
    for start in range(0, len(units), SEGMENT_UNITS):
        filesystem.pipe({f"{folder}/{unit}.json": content for unit in units[start : start + SEGMENT_UNITS]})


def a_record() -> Scored:
    work = {"tokens": 2_097_152, "padded_tokens": 2_103_296, "windows": 8_192, "seconds": 31.25, "began": 1.76e9}
    return Scored(**work, replica="ip-10-0-0-1:12345", encoder="packed", rows=8_192, quarantined=0, truncated=512)


def in_a_process(function: Any, *arguments: Any) -> dict[str, Any]:
    """What a function measures in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return dict(pool.submit(measured, function, *arguments).result())


def measured(function: Any, run: Run, *arguments: Any) -> dict[str, Any]:
    filesystem, _ = run.storage.resolve(run.path)
    requests: Counter[str] = Counter()
    filesystem.s3.meta.events.register("before-send.s3", lambda request, **_: requests.update([request.method]))
    peak, cpu, began = peak_mb(), time.process_time(), time.monotonic()
    function(run, *arguments)
    return {
        "seconds": round(time.monotonic() - began, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "requests": requests.total(),
        "peak_mb": round(peak_mb()),
        "grown_mb": round(peak_mb() - peak),
    }


def peak_mb() -> float:
    """Of this process; what `resource` tells begins with the peak of the process that started it."""
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024


def look_what_is_done(run: Run, units: list[str], done: list[str]) -> None:
    found = run.committed(SCORE_CHUNKS, units)
    if missing := [unit for unit in done if unit not in found]:
        raise RuntimeError(f"{len(missing)} commits were not found, such as {missing[0]}")


def write_segments(run: Run, units: list[str], done: list[str]) -> None:
    SegmentWriter(run, SCORE_CHUNKS, units, dict.fromkeys(done, a_record()), run.confirm)


def measure_hand_over(root: Path, replicas: int, seconds: float, chunks: int) -> dict[str, Any]:
    """Score copies of one small chunk."""
    make_untrained_checkpoint(root / "model", ["wing flow heat", "plate shock layer"] * 50)
    pairs = [{"query_id": "q", "query": "wing", "doc_id": f"d{pair}", "text": "flow"} for pair in range(64)]
    pq.write_table(pa.Table.from_pylist(pairs), root / "candidates.parquet")
    config = RerankConfig(
        model=ModelConfig(path=str(root / "model")),
        input=InputConfig(candidates=str(root / "candidates.parquet"), instruction=""),
        output=OutputConfig(path=str(root / "run")),
        cluster=ClusterConfig(gpus_per_replica=0, replicas=ReplicasConfig(min=replicas, max=replicas)),
    )
    task = look(config)
    run = Run.at(task.storage, config.output.path, 3).begin(task.identity, {})
    with chunkwise_execution():
        prepared = prepare(run, task.plan, (), task.spec)
        (only,) = prepared.chunks
        copies = [Chunk(f"00000-{index:05d}", only.rows) for index in range(chunks)]
        for copy in copies:
            write_chunk(run, copy.id, read_chunk(run, only.id))
        before = time.process_time()
        score(run, prepared.plan, task.spec, copies, functools.partial(load_sleeping, seconds))  # type: ignore[arg-type]
        cpu_seconds = time.process_time() - before
    return summarise(root / "run", cpu_seconds)


def summarise(run: Path, cpu_seconds: float) -> dict[str, Any]:
    commits = [json.loads(path.read_text()) for path in run.glob("_commits/score/*.json")]
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for commit in commits:
        spans[commit["replica"]].append((commit["began"], commit["began"] + commit["seconds"]))
    busy, gaps, idle = [], [], []
    end = max(span[1] for chunks in spans.values() for span in chunks)
    for chunks in spans.values():
        chunks.sort()
        busy.append(sum(last - first for first, last in chunks) / (chunks[-1][1] - chunks[0][0]))
        gaps += [after[0] - before[1] for before, after in itertools.pairwise(chunks)]
        idle.append(end - chunks[-1][1])
    return {
        "replicas": len(spans),
        "chunks": len(commits),
        "busy": round(float(np.mean(busy)), 4),
        "gap_seconds": {
            name: round(float(of(gaps)), 3) for name, of in (("median", np.median), ("mean", np.mean), ("most", max))
        },
        "idle_at_end_seconds": {"mean": round(float(np.mean(idle)), 2), "most": round(max(idle), 2)},
        "driver_cpu_ms_per_chunk": round(1000 * cpu_seconds / len(commits), 1),
    }


if __name__ == "__main__":
    sys.exit(main())
