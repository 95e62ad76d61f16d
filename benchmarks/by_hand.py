"""What a user writes to score pairs with Ray Data and a cross-encoder, without this project.

    python -m benchmarks.by_hand PAIRS.parquet MODEL OUTPUT

`benchmarks.cross_encoder` runs it beside jobs.rerank.
"""

import os
import sys

import ray
from ray.data import ActorPoolStrategy
from sentence_transformers import CrossEncoder

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class Score:
    """A replica."""

    def __init__(self, path: str) -> None:
        self.model = CrossEncoder(path, device="cpu", max_length=512)

    def __call__(self, batch: dict) -> dict:  # type: ignore[type-arg]
        pairs = list(zip(batch["query"], batch["text"], strict=True))
        batch["score"] = self.model.predict(pairs, batch_size=32, show_progress_bar=False)
        return batch


def main(pairs: str, model: str, output: str) -> None:
    ray.init(log_to_driver=False)
    pool = ActorPoolStrategy(size=1)
    scored = ray.data.read_parquet(pairs).map_batches(
        Score, fn_constructor_args=(model,), compute=pool, batch_size=512, num_cpus=1
    )
    scored.write_parquet(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
