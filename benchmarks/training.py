"""Forward and backward passes of training: precision, attention and length side by side, on one CPU thread.

Seconds are those of the process's CPU time, so that other work on the machine does not count.

    python -m benchmarks.training --lengths 64 128
"""

from __future__ import annotations

import argparse
import itertools
import json
import time

import torch
from transformers import T5Config

from tart_ray.config import GeometryConfig
from tart_ray.model.enct5 import EncT5ForSequenceClassification
from tart_ray.training.losses import cross_entropy

TOKENS = 4_096  # of a batch


def pairs_per_cpu_second(length: int, dtype: str, attention: str, repeats: int) -> float:
    """Of a model with 4 layers of width 256, without dropout and the optimizer's step."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=8_192, feed_forward_proj="gated-gelu", dropout_rate=0.0, **GeometryConfig().model_dump()
    )
    model = EncT5ForSequenceClassification._from_config(config, attn_implementation=attention).train()
    ids = torch.randint(3, 8_000, (TOKENS // length, length))
    mask = torch.ones_like(ids)
    mask[:, -length // 10 :] = 0
    first = torch.arange(len(ids)) % 5 == 0

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = model(input_ids=ids, attention_mask=mask).logits
        (cross_entropy(logits.float(), first, first) / len(ids)).backward()
        model.zero_grad()

    step()
    started = time.process_time()
    for _ in range(repeats):
        step()
    return len(ids) * repeats / (time.process_time() - started)


def main() -> None:
    """Measure every combination; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for length, dtype, attention in itertools.product(arguments.lengths, ("float32", "bfloat16"), ("sdpa", "eager")):
        name = f"{length} tokens, {dtype}, {attention}"
        found[name] = round(pairs_per_cpu_second(length, dtype, attention, arguments.repeats), 1)
        print(f"{name}: {found[name]} pairs per CPU second", flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
