"""What a CPU makes of each encoder and dtype: pairs per CPU second of one thread, at the geometry of flan-t5-small.

    python -m benchmarks.processors
    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 python -m benchmarks.processors

The second command asks the libraries to do without AVX-512. Weights are random, pairs have 108 to 511 tokens. JSON on
the last line.
"""

from __future__ import annotations

import json
import time

import numpy as np
import torch

from benchmarks.random_models import VOCABULARY, make_random_model
from tart_ray.model.encoded import EncodedPairs
from tart_ray.scoring.candidates import device_name
from tart_ray.scoring.choosing import ChoosingScorer

PAIRS, ROUNDS = 32, 2


def main() -> None:
    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    lengths = draw.integers(108, 512, PAIRS)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    pairs = EncodedPairs(draw.integers(3, VOCABULARY, offsets[-1], np.int32), offsets, np.zeros(PAIRS, np.bool_))
    found: dict[str, float] = {}
    for dtype in (torch.float32, torch.bfloat16):
        for encoder in ("packed", "packed-torch", "reference"):
            model = make_random_model("small", "cpu").to(dtype)
            scorer = ChoosingScorer(model, max_length=512, encoder=encoder)
            scorer.score_encoded(pairs)
            seconds = []
            for _ in range(ROUNDS):
                started = time.process_time()
                scorer.score_encoded(pairs)
                seconds.append(time.process_time() - started)
            name = f"{scorer.encoder} {str(dtype).removeprefix('torch.')}"
            found[name] = round(PAIRS / min(seconds), 2)
            print(f"{name:24} {found[name]:8.2f} pairs/s", flush=True)
    print(json.dumps({"processor": device_name(torch.device("cpu")), "pairs_per_cpu_second": found}))


if __name__ == "__main__":
    main()
