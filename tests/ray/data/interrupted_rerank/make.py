"""Makes the files beside this one, as the release that is imported writes them: `python make.py EMPTY_FOLDER`.

A run of jobs.rerank that is interrupted while it scores, its input and its checkpoint. By the public API alone, so that
every release can make its own.
"""

from __future__ import annotations

import gzip
import json
import signal
import sys
import threading
import time
from pathlib import Path

import torch
from sentencepiece import SentencePieceTrainer
from transformers import T5Config

import tart_ray

WORDS = "wing flow heat plate shock layer jet body lift drag".split()
QUERIES = 11  # of 100 documents each: two chunks of 500 pairs, and one of 100


def make_checkpoint(folder: Path) -> None:
    """A vocabulary without rules of normalisation, which would be most of what is here, and a model of 9 kB."""
    vocabulary = folder / "vocabulary"
    SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS), *WORDS]), model_prefix=str(vocabulary), vocab_size=40,
        normalization_rule_name="identity", hard_vocab_limit=False, minloglevel=2,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = tart_ray.EncT5ForSequenceClassification(
        T5Config(vocab_size=160, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu")
    )
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(folder / "model")
    tart_ray.EncT5Tokenizer(vocabulary.with_suffix(".model")).save_pretrained(folder / "model")
    for file in folder.glob("vocabulary.*"):
        file.unlink()


def make_candidates(folder: Path) -> None:
    """No text twice in a query, so that no two pairs tie; one row without a text, and one that comes again."""
    rows = [
        {"query_id": f"q{q}", "query": f"{WORDS[q % 10]} {q}", "doc_id": f"{a}{b}", "text": f"{WORDS[a]} {WORDS[b]}"}
        for q in range(QUERIES)
        for a in range(10)
        for b in range(10)
    ]
    rows += [{**rows[0], "doc_id": "bad", "text": ""}, rows[0]]
    with gzip.open(folder / "candidates.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def interrupt_after_a_chunk(run: Path) -> None:
    while not any(run.glob("_commits/score/*.json")):
        time.sleep(0.001)
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def main(folder: Path) -> None:
    make_checkpoint(folder)
    make_candidates(folder)
    threading.Thread(target=interrupt_after_a_chunk, args=[folder / "run"], daemon=True).start()
    try:
        tart_ray.rerank({
            "model": {"path": str(folder / "model"), "max_length": 32},
            "input": {"candidates": str(folder / "candidates.jsonl.gz"), "instruction": "Find it"},
            "output": {"path": str(folder / "run")},
            "cluster": {"gpus_per_replica": 0, "replicas": {"max": 1}},
        })  # fmt: skip
    except KeyboardInterrupt:
        return
    sys.exit("the run was faster than its interrupt: once more")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
