"""The demo itself: it makes the collection, runs the job and shows what came out."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow.dataset as ds

from tart_ray.demo.checkpoint import MODEL_LENGTH
from tart_ray.demo.corpus import (
    INSTRUCTIONS,
    Collection,
    ask_twice,
    build_collection,
    first_stage,
    write_candidates,
    write_qrels,
)
from tart_ray.retrieval.measures import NDCG_AT_10, Run, mean

CONFIG = """\
# Written by the demo. Run it again with: {python} -m tart_ray rerank --config {folder}/rerank.yaml
model: {{path: demo, max_length: {length}}}
input: {{candidates: {folder}/candidates.jsonl}}  # each row has its instruction
output: {{path: {folder}/run}}
cluster: {{address: local, gpus_per_replica: 0, replicas: {{min: 1, max: 2}}}}
"""
SHOWN_DOCUMENTS = 3


def show(folder: Path, functions: int) -> int:
    """Make the collection, run the job as a user would, show what came out.

    Args:
        folder: for the input and the output; emptied first.
        functions: how many are asked for, each of them twice.

    Returns:
        The exit code of the job.

    Raises:
        FileNotFoundError: this Python came without the sources of its library.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    collection = ask_twice(build_collection(), functions)
    bm25 = first_stage(collection, collection.queries, k=50)
    pairs = write_candidates(folder / "candidates.jsonl", collection, bm25)
    write_qrels(folder / "qrels.tsv", collection)
    config = folder / "rerank.yaml"
    config.write_text(CONFIG.format(python=sys.executable, folder=folder, length=MODEL_LENGTH), encoding="utf-8")
    print(f"{len(collection.documents):,} documents, {len(collection.queries)} queries, {pairs:,} pairs to score\n")

    command = [sys.executable, "-m", "tart_ray", "rerank", "--config", str(config)]
    code = subprocess.run(command, check=False).returncode  # noqa: S603
    if code:
        return code
    run: dict[str, dict[str, float]] = {}
    for row in ds.dataset(folder / "run" / "reranked").to_table().to_pylist():
        run.setdefault(row["query_id"], {})[row["doc_id"]] = row["margin"]
    shown = show_one_query(collection, run)
    show_quality(collection, bm25, run)
    print(f"reranked:     {folder}/run/reranked/      read it with pyarrow, DuckDB or Spark")
    print(f"every score:  {folder}/run/scores/")
    print(f"report:       {folder}/run/report.html")
    print(f"one query:    {sys.executable} -m tart_ray show {folder}/run --query 'code:{shown}'")
    return 0


def show_one_query(collection: Collection, run: Run) -> str:
    """Print the first documents that the same words find under each instruction; the function that is asked for.

    Of the functions for which both right ones come first, the one whose margins leave least doubt, sentences before
    what is none; and how many such functions there are.
    """
    best = {query_id: sorted(hits, key=lambda i: -hits[i])[:SHOWN_DOCUMENTS] for query_id, hits in run.items()}
    asked = sorted({query_id.partition(":")[2] for query_id in collection.queries})
    right = [
        query for query in asked
        if all(best.get(f"{kind}:{query}", [""])[0] in collection.qrels[f"{kind}:{query}"] for kind in INSTRUCTIONS)
    ]  # fmt: skip

    def clearness(query: str) -> tuple[bool, float]:
        least = min(max(run[f"{kind}:{query}"].values()) for kind in INSTRUCTIONS)
        return collection.queries[f"code:{query}"].endswith("."), least

    shown = max(right, key=clearness, default=asked[0])
    print("\n" + textwrap.shorten(f"query: {collection.queries[f'code:{shown}']}", 110))
    for kind, instruction in INSTRUCTIONS.items():
        print(f"  under “{instruction}”")
        query_id = f"{kind}:{shown}"
        for rank, doc_id in enumerate(best.get(query_id, []), start=1):
            mark = "  ← what was asked for" if doc_id in collection.qrels[query_id] else ""
            print(f"    {rank}. margin {run[query_id][doc_id]:+7.3f}  {doc_id}{mark}")
    print(f"\nof {len(asked)} functions, the code and the documentation each came first when asked for: {len(right)}\n")
    return shown


def show_quality(collection: Collection, bm25: Run, run: Run) -> None:
    """Print nDCG@10 of the first stage and of the job, by what is asked for."""
    print(f"{NDCG_AT_10:24}{'BM25':>8}{'the job':>10}")
    for kind in INSTRUCTIONS:
        qrels = {query_id: judged for query_id, judged in collection.qrels.items() if query_id.startswith(f"{kind}:")}
        print(f"asked for {kind:14}{mean(NDCG_AT_10, qrels, bm25):8.3f}{mean(NDCG_AT_10, qrels, run):10.3f}")
    print()
