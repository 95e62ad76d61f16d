"""Peak memory of loading a checkpoint of flan-t5-xl's geometry from shards: one copy of the weights, not two.

    python -m benchmarks.load_checkpoint            # needs 5 GB of disk and 6 GB of memory

Writes random weights in float32, in safetensors shards and in `pytorch_model-*.bin` shards, and loads each in a fresh
process, builds the fast encoder, and scores one pair. `anonymous_peak_mb` is memory that the process holds; pages of
the mapped file, which the kernel may drop, are only in `resident_peak_mb`. Each weight is brought into the layout of
the encoder singly, and leaves the model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import T5Config

from tart_ray.model.enct5 import EncT5ForSequenceClassification

XL = {"num_layers": 24, "d_model": 2048, "num_heads": 32, "d_kv": 64, "d_ff": 5120}
LOAD = """
import json, sys, threading, time
from pathlib import Path
import numpy as np
import torch
from tart_ray.model.enct5 import EncT5ForSequenceClassification
from tart_ray.model.encoded import EncodedPairs
from tart_ray.scoring.choosing import ChoosingScorer
def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
base, peak, ended = status("RssAnon"), 0, threading.Event()
def watch():
    global peak
    while not ended.wait(0.005):
        peak = max(peak, status("RssAnon"))
thread = threading.Thread(target=watch); thread.start()
started = time.monotonic()
model = EncT5ForSequenceClassification.from_pretrained(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
weights = sum(p.numel() * p.element_size() for p in model.parameters())
scorer = ChoosingScorer(model.eval(), max_length=512, consume=True)
seconds = time.monotonic() - started
scorer.score_encoded(EncodedPairs(np.ones(4, np.int32), np.array([0, 4]), np.zeros(1, bool)))  # touches every weight
ended.set(); thread.join()
print(json.dumps({"weights_mb": round(weights / 2**20), "anonymous_peak_mb": round((peak - base) / 1024),
                  "resident_peak_mb": round(status("VmHWM") / 1024), "seconds": round(seconds, 1)}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=XL["num_layers"], help="fewer for a quick look")
    arguments = parser.parse_args()
    config = T5Config(**XL | {"num_layers": arguments.layers}, vocab_size=32128, feed_forward_proj="gated-gelu")
    results = {}
    for layout in ("safetensors", "bin"):
        with tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(0)
            model = EncT5ForSequenceClassification(config)
            if layout == "safetensors":
                model.save_pretrained(folder, max_shard_size="1GB")
            else:
                save_bin_shards(model, Path(folder))
            del model
            for dtype in ("float32", "bfloat16"):
                command = [sys.executable, "-c", LOAD, folder, dtype]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                results[f"{layout} {dtype}"] = json.loads(output.splitlines()[-1])
                print(f"{layout} {dtype}: {results[f'{layout} {dtype}']}", flush=True)
    print(json.dumps(results))


def save_bin_shards(model: EncT5ForSequenceClassification, folder: Path, shards: int = 5) -> None:
    """The layout of older checkpoints: ``pytorch_model-00001-of-00005.bin`` and an index."""
    state = model.state_dict()
    names = list(state)
    size = -(-len(names) // shards)
    weight_map = {}
    for index in range(shards):
        part = f"pytorch_model-{index + 1:05d}-of-{shards:05d}.bin"
        chosen = names[index * size : (index + 1) * size]
        torch.save({name: state[name].clone() for name in chosen}, folder / part)
        weight_map |= dict.fromkeys(chosen, part)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    model.config.save_pretrained(folder)


if __name__ == "__main__":
    main()
