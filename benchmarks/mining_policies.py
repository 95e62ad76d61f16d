"""Every mining policy on a collection in BEIR's layout: what it chooses, what it drops, and where it runs short.

    python -m benchmarks.mining_policies --collection DIR --model DIR

DIR holds a collection in BEIR's layout with a run `bm25.trec`; its qrels are the positives. Two runs are scored and
mined. In the first every pair of the run, under one instruction. In the second the first queries under two
instructions, with functions of the standard library among their candidates, for the policies that need documents of
another task. Thresholds on the margin are quantiles of the margins seen, for a small model's margins have no scale.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds

from tart_ray.config import MineConfig, RerankConfig
from tart_ray.demo.functions import describe_functions
from tart_ray.mining.job import mine_negatives
from tart_ray.reranking.job import rerank

CLUSTER = {"address": "local", "gpus_per_replica": 0, "replicas": {"max": 1}}
INSTRUCTIONS = {
    "abstract": "Retrieve a scientific paper abstract that answers this question",
    "code": "Retrieve a function that computes this",
}
QUERIES_OF_TWO_TASKS = 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collection", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--max-length", type=int, default=512)
    arguments = parser.parse_args()
    model = {"path": arguments.model, "max_length": arguments.max_length}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        one = mined(root / "one", model, candidates_of(arguments.collection), qrels(arguments.collection), policies_of)
        rows = list(pairs_of_two_tasks(arguments.collection))
        (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (root / "qrels.tsv").write_text("".join(of_two_tasks(arguments.collection)))
        two = mined(root / "two", model, {"candidates": str(root / "pairs.jsonl")}, root / "qrels.tsv", task_policies)
    for name, part in (("one task", one), ("two tasks", two)):
        print(f"{name}: {part['counts']}, {part['seconds']} s")
        for policy, found in part["policies"].items():
            print(f"  {policy:20} {found}")
    print(json.dumps({"one task": one, "two tasks": two}))
    return 0


def mined(root: Path, model: dict[str, Any], read: dict[str, Any], judged: Path, policies: Any) -> dict[str, Any]:
    """Score, then mine with each policy on its own; the reports' figures together."""
    scoring = {"input": read, "output": {"path": str(root / "run")}, "model": model, "cluster": CLUSTER}
    rerank(RerankConfig.model_validate(scoring))
    margins = ds.dataset(root / "run" / "scores").to_table(columns=["margin"])["margin"].to_numpy()
    result: dict[str, Any] = {"policies": {}}
    started = time.monotonic()
    for policy in policies(margins):
        output = root / policy["name"]
        config = {
            "input": {"run": str(root / "run")},
            "positives": {"qrels": str(judged)},
            "mining": {"policies": [policy]},
            "output": {"path": str(output)},
            "cluster": CLUSTER,
        }
        mine_negatives(MineConfig.model_validate(config))
        report = json.loads((output / "report.json").read_text())
        counts = report["counts"]
        result["counts"] = {name: counts[name] for name in ("pairs", "positives", "queries with candidates")}
        found = {name: counts[name] for name in ("queries with negatives", "new positives", "twins")}
        result["policies"][policy["name"]] = report["policies"][policy["name"]] | found
    result["seconds"] = round(time.monotonic() - started, 1)
    return result


def policies_of(margins: Any) -> Iterable[dict[str, Any]]:
    """Each policy that works on candidates of one task."""
    low, middle, high = (float(number) for number in np.quantile(margins, (0.1, 0.5, 0.9)))
    yield {"name": "top"}
    yield {"name": "rank window", "range_min": 10, "range_max": 50}
    yield {"name": "window too small", "range_min": 10, "range_max": 14}
    yield {"name": "max_score", "max_score": middle}
    yield {"name": "min_score", "min_score": middle}
    yield {"name": "absolute_margin", "absolute_margin": (high - low) / 10}
    yield {"name": "relative_margin", "score": "score", "relative_margin": 0.05}
    yield {"name": "positive_percentage", "score": "score", "positive_percentage": 0.95}
    yield {"name": "random", "sampling": "random"}
    yield {"name": "simans", "sampling": "simans"}
    yield {"name": "denoised", "negative_below": low, "positive_above": high}


def task_policies(margins: Any) -> Iterable[dict[str, Any]]:
    """The policies that need documents, or scores, of another task."""
    low, high = (float(number) for number in np.quantile(margins, (0.4, 0.6)))
    yield {"name": "other_task", "source": "other_task", "num_negatives": 1}
    yield {"name": "contrast", "source": "contrast", "contrast_low": low, "contrast_high": high}


def candidates_of(collection: Path) -> dict[str, Any]:
    """The collection's run, joined with its texts."""
    return {
        "candidates": str(collection / "bm25.trec"),
        "queries": str(collection / "queries.jsonl"),
        "corpus": str(collection / "corpus.jsonl"),
        "instruction": INSTRUCTIONS["abstract"],
    }


def qrels(collection: Path) -> Path:
    return next((collection / "qrels").glob("*.tsv"))


def pairs_of_two_tasks(collection: Path) -> Iterable[dict[str, Any]]:
    """The first queries under each instruction, with their candidates and as many functions."""
    queries = dict(texts(collection / "queries.jsonl"))
    corpus = dict(texts(collection / "corpus.jsonl"))
    functions = [*describe_functions(inspect.getsource(inspect) + inspect.getsource(textwrap))]
    for line in (collection / "bm25.trec").read_text().splitlines():
        query, _, document, _, score, _ = line.split()
        place = list(queries).index(query)
        if place >= QUERIES_OF_TWO_TASKS:
            continue
        function = functions[int(document) % len(functions)]
        for task, instruction in INSTRUCTIONS.items():
            asked = {"query_id": f"{query}-{task}", "query": queries[query], "instruction": instruction}
            asked |= {"query_task": task, "score": float(score)}
            yield {**asked, "doc_id": document, "text": corpus[document], "document_task": "abstract"}
            if int(document) % 10 == 0:
                yield {**asked, "doc_id": f"f{document}", "text": function.code, "document_task": "code"}


def of_two_tasks(collection: Path) -> Iterable[str]:
    """The collection's qrels for the queries under the instruction that they were judged for."""
    yield "query-id\tcorpus-id\tscore\n"
    for line in qrels(collection).read_text().splitlines()[1:]:
        query, document, relevance = line.split("\t")
        yield f"{query}-abstract\t{document}\t{relevance}\n"


def texts(path: Path) -> Iterable[tuple[str, str]]:
    for line in path.read_text().splitlines():
        row = json.loads(line)
        yield row["_id"], row["text"]


if __name__ == "__main__":
    sys.exit(main())
