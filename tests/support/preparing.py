"""Prepares and tokenises a run in this one process, without Ray: ``python -m support.preparing CONFIG.json``.

Prints by how many MB the process's peak memory grew.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from support.specs import spec_of
from tart_ray.config import RerankConfig
from tart_ray.model.tokenizer import EncT5Tokenizer
from tart_ray.runs.run import Run
from tart_ray.runs.stage import R, Stage
from tart_ray.scores import prepare
from tart_ray.scores.encode import encode
from tart_ray.scores.plan import make_plan
from tart_ray.storage import Storage


def one_after_the_other(run: Run, stage: Stage[R], units: Sequence[str], work: Callable[[str], R]) -> dict[str, R]:
    """What `run_stage` does, without Ray."""
    return {unit: run.commit(stage, unit, work(unit)) for unit in units}


def peak() -> float:
    """Of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(config: RerankConfig) -> None:
    storage = Storage(config.storage)
    plan, tokenizer = make_plan(storage, config.input, windows=False), EncT5Tokenizer.from_pretrained(config.model.path)
    run = Run.at(storage, config.output.path, 3).begin({"job": "rerank"}, {})
    prepare.run_stage = one_after_the_other
    before = peak()
    prepared = prepare.prepare(run, plan)
    for chunk in prepared.chunks:
        encode(tokenizer, prepare.read_chunk(run, chunk.id), spec_of(config))
    print(f"{len(prepared.chunks)} chunks {peak() - before:.0f}")  # noqa: T201


if __name__ == "__main__":
    main(RerankConfig.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8")))
