"""`make demo`: jobs.rerank on the running Python's own standard library. Downloads nothing.

A query is what a docstring says of a function, the candidates are BM25's best 50 functions. The model is small and
UNTRAINED: it shows the whole path, its ranking is noise.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow.dataset as ds

from tart_ray.demo.checkpoint import make_untrained_checkpoint
from tart_ray.demo.corpus import Collection, build_collection, first_stage, write_candidates, write_qrels
from tart_ray.demo.quality import ndcg_at_10

CONFIG = """\
# Written by `make demo`. Run it again with: python -m jobs.rerank --config {folder}/rerank.yaml
model: {{path: {folder}/untrained-model}}
input:
  candidates: {folder}/candidates.jsonl
  instruction: Retrieve the Python function that does what is described
output: {{path: {folder}/run}}
cluster: {{address: local, gpus_per_replica: 0, replicas: {{min: 1, max: 2}}}}
"""
SHOWN_QUERIES, SHOWN_DOCUMENTS = 2, 3


def main() -> int:
    """Make the collection and the model, run the job as a user would, show what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="emptied first")
    parser.add_argument("--queries", type=int, default=200)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder: Path = arguments.output
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    collection = build_collection().sample(arguments.queries)
    bm25 = first_stage(collection, collection.queries, k=50)
    pairs = write_candidates(folder / "candidates.jsonl", collection, bm25)
    write_qrels(folder / "qrels.tsv", collection)
    make_untrained_checkpoint(folder / "untrained-model", [document.text for document in collection.documents.values()])
    config = folder / "rerank.yaml"
    config.write_text(CONFIG.format(folder=folder), encoding="utf-8")
    print(f"{len(collection.documents):,} functions, {len(collection.queries)} queries, {pairs:,} pairs to score\n")

    code = subprocess.run([sys.executable, "-m", "jobs.rerank", "--config", str(config)], check=False).returncode  # noqa: S603
    if code:
        return code
    reranked = ds.dataset(folder / "run" / "reranked").to_table().to_pylist()
    run: dict[str, dict[str, float]] = {}
    for row in reranked:
        run.setdefault(row["query_id"], {})[row["doc_id"]] = row["margin"]
    show(collection, run)
    print(f"nDCG@10 of BM25:                 {ndcg_at_10(bm25, collection.qrels):.3f}")
    print(f"nDCG@10 of the untrained model:  {ndcg_at_10(run, collection.qrels):.3f} (noise, as it must be)\n")
    print(f"reranked:     {folder}/run/reranked/      read it with pyarrow, DuckDB or Spark")
    print(f"every score:  {folder}/run/scores/")
    print(f"report:       {folder}/run/report.html")
    return 0


def show(collection: Collection, run: dict[str, dict[str, float]]) -> None:
    """Print the first documents of a few queries."""
    for query_id in sorted(run)[:SHOWN_QUERIES]:
        print(textwrap.shorten(f"query: {collection.queries[query_id]}", 110))
        best = sorted(run[query_id].items(), key=lambda hit: -hit[1])[:SHOWN_DOCUMENTS]
        for rank, (doc_id, margin) in enumerate(best, start=1):
            mark = "  ← the function that it describes" if doc_id in collection.qrels[query_id] else ""
            print(f"  {rank}. margin {margin:+.3f}  {doc_id}{mark}")
        print()


if __name__ == "__main__":
    sys.exit(main())
