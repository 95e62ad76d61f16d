"""One replica's speed beside others': the same pairs, the same weights, in one run, without Ray.

    python -m benchmarks.scorer --geometry small                              # functions of the standard library
    python -m benchmarks.scorer --geometry base --collection DIR --vocabulary spiece.model      # DIR: BEIR, bm25.trec
    python -m benchmarks.scorer --geometry xl --device cuda --dtypes bfloat16 --methods fast --pairs 2000

Weights are random, so is the ranking. Each peer has a process of its own, as its users have, so that the allocator's
settings of one (`tart_ray.scoring.memory`) are not another's. After a warm-up every repetition runs each method once,
one after the other; shown are the median, the lowest and the highest of the repetitions, and medians of the ratios
within a repetition.

- loop: as the published TART code scores. One forward pass for each query over all its candidates, padded to the
  longest, eager attention, float32, tokenised call by call.
- st: sentence-transformers' CrossEncoder.predict with this EncT5 and its tokenizer, at its default batch size and at
  the best of some others, on the CPU by CPU time.
- reference: the Scorer with transformers' own layers on padded, length-sorted batches. fast: the Scorer as it is; on
  CUDA fast-packed and fast-padded, its two attentions.
- limit: what the matrix products of these pairs alone would take, attention included, padding and the last layer not,
  at the rate of the faster of torch's and oneDNN's product (on CUDA: of an 8192 x 8192 x 8192 product).

`drift` compares every method with the float32 reference on the pairs of the first queries, 100 or more: largest
differences, and Kendall's tau of the margins of a query. Where others use the machine, `--threads 1` and pairs per CPU
second say more than pairs per second.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import nn
from transformers import T5Config

from benchmarks.random_models import GEOMETRIES, make_random_model, needed_flops
from tart_ray.demo.checkpoint import make_untrained_checkpoint
from tart_ray.demo.corpus import build_collection, first_stage
from tart_ray.model.checkpoint_files import VOCAB_FILE
from tart_ray.model.enct5 import EncT5ForSequenceClassification
from tart_ray.model.texts import join_instruction
from tart_ray.model.tokenizer import EncT5Tokenizer
from tart_ray.scoring.batching import default_max_tokens
from tart_ray.scoring.cuda import CompiledEncoder, PackedAttention, PaddedAttention
from tart_ray.scoring.dtypes import DTYPES
from tart_ray.scoring.memory import keep_freed_memory
from tart_ray.scoring.projections import TorchProjection, make_projection
from tart_ray.scoring.reference import Encoder, ReferenceEncoder
from tart_ray.scoring.scorer import Scorer
from tart_ray.scoring.scores import Scores

INSTRUCTION = "Retrieve a passage that answers this question"
MAX_LENGTH = 512
NOT_PEERS = [("loop", "bfloat16")]  # the published code has float32 alone
METHODS = ("loop", "st", "reference", "fast")
BATCH_SIZES = {"cpu": (4, 8, 16), "cuda": (4, 8, 16, 64, 128, 256)}  # of sentence-transformers beside its default
DRIFT_PAIRS = 100  # at least

Pairs = list[tuple[str, list[str]]]  # queries and their candidates
Method = Callable[[], np.ndarray]


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        queries, vocabulary = read_pairs(arguments, Path(folder))
        workers: dict[str, ProcessPoolExecutor] = {}
        for peer in itertools.product(arguments.methods, arguments.dtypes):
            if peer in NOT_PEERS:
                continue
            worker = running.enter_context(
                ProcessPoolExecutor(1, get_context("spawn"), prepare, (arguments, queries, vocabulary, *peer))
            )
            workers |= dict.fromkeys(worker.submit(method_names).result(), worker)
        tokenizer = EncT5Tokenizer(vocabulary)
        expected = score_by_float32_reference(arguments, tokenizer, queries)
        logits = {name: worker.submit(measure, name).result()[2] for name, worker in workers.items()}  # the warm-up
        keep_freed_memory()
        limits = {dtype: make_limit(make_model(arguments, dtype), arguments.device) for dtype in arguments.dtypes}
        lengths = token_lengths(tokenizer, queries)
        needed = needed_flops(T5Config(**GEOMETRIES[arguments.geometry]), lengths)
        wall: dict[str, list[float]] = {}
        cpu: dict[str, list[float]] = {}
        for _ in range(arguments.repetitions):
            measured = {name: worker.submit(measure, name).result()[:2] for name, worker in workers.items()}
            for dtype, limit in limits.items():
                wall_seconds, cpu_seconds = limit()
                measured[f"limit {dtype}"] = wall_seconds * needed, cpu_seconds * needed
            for name, seconds in measured.items():
                for clock, value in zip((wall, cpu), seconds, strict=True):
                    clock.setdefault(name, []).append(value)
    report(arguments, lengths, wall, cpu, drift(logits, expected, queries))


_methods: dict[str, Method] = {}  # of a worker's process


def prepare(arguments: argparse.Namespace, queries: Pairs, vocabulary: Path, method: str, dtype: str) -> None:
    """Make what a worker measures: one kind of method with the model in one dtype."""
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    model = make_model(arguments, dtype)
    _methods.update(make_methods(arguments, method, dtype, model, EncT5Tokenizer(vocabulary), queries))


def method_names() -> list[str]:
    """The methods of this worker."""
    return [*_methods]


def measure(name: str) -> tuple[float, float, np.ndarray]:
    """Seconds on the wall and of the CPU, and the logits of all pairs."""
    started = time.perf_counter(), time.process_time()
    logits = _methods[name]()
    return time.perf_counter() - started[0], time.process_time() - started[1], logits


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=[*DTYPES])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--candidates", type=int, default=100, help="of a query")
    parser.add_argument("--collection", type=Path, help="a collection in BEIR's layout with a run, bm25.trec")
    parser.add_argument("--vocabulary", type=Path, help="T5's spiece.model; by default one is learned from the texts")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of torch; by default its own choice")
    parser.add_argument("--max-tokens", type=int, help="of a batch; by default the Scorer's")
    return parser.parse_args()


def read_pairs(arguments: argparse.Namespace, folder: Path) -> tuple[Pairs, Path]:
    """Queries with their candidates' texts, and a vocabulary, which is written to the folder where none is given."""
    if arguments.collection:
        by_id = {row["_id"]: row for row in _json_lines(arguments.collection / "corpus.jsonl")}
        texts = {key: f"{row.get('title', '')} {row['text']}".strip() for key, row in by_id.items()}
        queries = {row["_id"]: row["text"] for row in _json_lines(arguments.collection / "queries.jsonl")}
        run: dict[str, list[str]] = {}
        for line in (arguments.collection / "bm25.trec").read_text().splitlines():
            run.setdefault(line.split()[0], []).append(line.split()[2])
    else:
        collection = build_collection().sample(-(-arguments.pairs // arguments.candidates))
        queries = collection.queries
        texts = {key: f"{title} {text}" for key, (title, text) in collection.documents.items()}
        run = {query: [*found] for query, found in first_stage(collection, queries, k=arguments.candidates).items()}
    candidates = [(queries[query], [texts[document] for document in found]) for query, found in run.items()]
    pairs: Pairs = []
    left = arguments.pairs
    for query, documents in candidates:
        pairs.append((query, documents[: min(arguments.candidates, left)]))
        left -= len(pairs[-1][1])
        if left <= 0:
            break
    vocabulary = arguments.vocabulary
    if vocabulary is None:
        make_untrained_checkpoint(folder, texts.values())
        vocabulary = folder / VOCAB_FILE
    return pairs, vocabulary


def _json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def token_lengths(tokenizer: EncT5Tokenizer, queries: Pairs) -> np.ndarray:
    first, second = _flat(queries)
    return tokenizer.encode_pairs([join_instruction(INSTRUCTION, text) for text in first], second).lengths


def _flat(queries: Pairs) -> tuple[list[str], list[str]]:
    return [query for query, documents in queries for _ in documents], [
        d for _, documents in queries for d in documents
    ]


def make_model(arguments: argparse.Namespace, dtype: str) -> EncT5ForSequenceClassification:
    """The same random weights for every dtype."""
    return make_random_model(arguments.geometry, arguments.device).to(DTYPES[dtype])


def make_methods(
    arguments: argparse.Namespace,
    method: str,
    dtype: str,
    model: EncT5ForSequenceClassification,
    tokenizer: EncT5Tokenizer,
    queries: Pairs,
) -> dict[str, Method]:
    """What is measured, by name: functions that return the logits of all pairs, in order."""
    if method == "loop":
        return {f"loop {dtype}": partial(score_by_loop, model, tokenizer, queries)}
    if method == "st":
        predict = make_sentence_transformers(model, tokenizer, queries)
        best = fastest_batch_size(predict, model.device.type)
        return {f"st {dtype}, default": predict, f"st {dtype}, {best} a batch": partial(predict, best)}
    max_tokens = arguments.max_tokens or default_max_tokens(model.device.type)
    encoders: dict[str, Encoder | str] = {method: ReferenceEncoder(model) if method == "reference" else "auto"}
    if method == "fast" and arguments.device != "cpu":
        options = {"max_length": MAX_LENGTH, "max_tokens": max_tokens}
        encoders = {
            "fast-packed": CompiledEncoder(model, attention=PackedAttention, **options),
            "fast-padded": CompiledEncoder(model, attention=PaddedAttention, **options),
        }
    scorers = {
        name: Scorer(model, tokenizer, max_tokens_per_batch=max_tokens, encoder=encoder)
        for name, encoder in encoders.items()
    }
    return {f"{name} {dtype}": partial(score_by_scorer, scorer, queries) for name, scorer in scorers.items()}


def score_by_scorer(scorer: Scorer, queries: Pairs) -> np.ndarray:
    first, second = _flat(queries)
    return scorer.score(first, second, INSTRUCTION).logits


def score_by_float32_reference(arguments: argparse.Namespace, tokenizer: EncT5Tokenizer, queries: Pairs) -> np.ndarray:
    """Logits of the first queries' pairs, `DRIFT_PAIRS` or more."""
    ends = np.cumsum([len(documents) for _, documents in queries])
    first = queries[: int(np.searchsorted(ends, DRIFT_PAIRS)) + 1]
    model = make_model(arguments, "float32")
    return score_by_scorer(
        Scorer(model, tokenizer, max_tokens_per_batch=arguments.max_tokens, encoder=ReferenceEncoder(model)), first
    )


@torch.inference_mode()
def score_by_loop(model: EncT5ForSequenceClassification, tokenizer: EncT5Tokenizer, queries: Pairs) -> np.ndarray:
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    logits = []
    for query, documents in queries:
        texts = [join_instruction(INSTRUCTION, query)] * len(documents)
        features = tokenizer(
            texts, documents, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
        ).to(model.device)
        logits.append(model(**features).logits.float().cpu().numpy())
    model.set_attn_implementation(before)
    return np.concatenate(logits)


def make_sentence_transformers(
    model: EncT5ForSequenceClassification, tokenizer: EncT5Tokenizer, queries: Pairs
) -> Callable[..., np.ndarray]:
    """``predict(batch_size)`` of a CrossEncoder whose one module is the model with its tokenizer."""
    from sentence_transformers import CrossEncoder

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def preprocess(self, inputs: list[tuple[str, str]], **_: Any) -> Any:
            first, second = map(list, zip(*inputs, strict=True))
            return tokenizer(first, second, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")

        def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"scores": self.model(features["input_ids"], features["attention_mask"]).logits}

    encoder = CrossEncoder(modules=[Module()], device=str(model.device), activation_fn=nn.Identity(), num_labels=2)
    inputs = [(join_instruction(INSTRUCTION, query), document) for query, document in zip(*_flat(queries), strict=True)]
    return lambda size=32: encoder.predict(inputs, batch_size=size, show_progress_bar=False)


def fastest_batch_size(predict: Callable[..., np.ndarray], device_type: str) -> int:
    """After a warm-up; on the CPU by CPU time, which other processes disturb less."""
    clock = time.process_time if device_type == "cpu" else time.perf_counter

    def seconds(size: int) -> float:
        started = clock()
        predict(size)
        return clock() - started

    predict()
    return min(BATCH_SIZES[device_type], key=seconds)


def make_limit(model: EncT5ForSequenceClassification, device: str) -> Callable[[], tuple[float, float]]:
    """A function that returns seconds of a FLOP in matrix products, on the wall and of the CPU."""
    config, weight = model.config, model.shared.weight
    inner = config.num_heads * config.d_kv
    tokens = default_max_tokens("cpu")
    shapes = [(tokens, *pair) for pair in [(config.d_model, 3 * inner), (inner, config.d_model)]]
    shapes += [(tokens, config.d_model, config.d_ff)] * 2 + [(tokens, config.d_ff, config.d_model)]
    if device != "cpu":
        shapes = [(8_192, 8_192, 8_192)]
    products = []
    for count, width, out in shapes:
        x, weights = (torch.randn(*shape).to(weight) for shape in ((count, width), (out, width)))
        products.append((x, [TorchProjection(weights), make_projection(weights)]))
    flops = 2 * sum(math.prod(shape) for shape in shapes)

    @torch.inference_mode()
    def measure() -> tuple[float, float]:
        fastest = (math.inf, math.inf)
        for kind, _ in itertools.product(range(2), range(5)):
            started = time.perf_counter(), time.process_time()
            for x, kinds in products:
                kinds[kind](x)
            if device != "cpu":
                torch.cuda.synchronize()
            found = time.perf_counter() - started[0], time.process_time() - started[1]
            fastest = min(fastest[0], found[0]), min(fastest[1], found[1])
        return fastest[0] / flops, fastest[1] / flops

    return measure


def drift(logits: dict[str, np.ndarray], expected: np.ndarray, queries: Pairs) -> dict[str, dict[str, float]]:
    """Of every method from the float32 reference, whose logits are those of the first queries' pairs."""
    ends = np.cumsum([len(documents) for _, documents in queries])
    found = {}
    for name, every in logits.items():
        got = every[: len(expected)]
        margins = [np.split(_margin(scores), ends[ends < len(expected)]) for scores in (got, expected)]
        taus = [kendalltau(*both).statistic for both in zip(*margins, strict=True) if len(both[0]) > 1]
        found[name] = {
            "logit": float(np.abs(got - expected).max()),
            "probability": float(np.abs(Scores(got).score - Scores(expected).score).max()),
            "tau_mean": float(np.mean(taus)),
            "tau_min": float(np.min(taus)),
        }
    return found


def _margin(logits: np.ndarray) -> np.ndarray:
    return logits[:, 1] - logits[:, 0]


def report(
    arguments: argparse.Namespace,
    lengths: np.ndarray,
    wall: dict[str, list[float]],
    cpu: dict[str, list[float]],
    drifts: dict[str, dict[str, float]],
) -> None:
    """The table, the ratios and the JSON line."""
    count = len(lengths)
    spread = f"{lengths.min()} to {lengths.max()}, mean {lengths.mean():.0f}"
    print(
        f"{arguments.geometry}, {arguments.device}, {torch.get_num_threads()} threads, {count} pairs, tokens {spread}"
    )
    print(f"{'':28} {'pairs/s':>9} {'lowest':>9} {'highest':>9} {'per CPU s':>10}")
    speeds = {}
    for name, seconds in wall.items():
        rates = sorted(count / each for each in seconds)
        speeds[name] = {"pairs_per_second": statistics.median(rates), "lowest": rates[0], "highest": rates[-1]}
        speeds[name]["pairs_per_cpu_second"] = count / statistics.median(cpu[name])
        print(f"{name:28} {' '.join(f'{value:9.2f}' for value in speeds[name].values())}")
    ratios = {}
    for mine, other in itertools.product([name for name in wall if name.startswith("fast")], wall):
        if mine != other and (mine.split()[1] in other or other.startswith("loop")):
            both = [ratio(clock[other], clock[mine]) for clock in (wall, cpu)]
            ratios[f"{mine} / {other}"] = dict(zip(("wall", "cpu"), both, strict=True))
            print(f"{mine} / {other}: {both[0]:.2f} ({both[1]:.2f} by CPU time)")
    for name, values in drifts.items():
        print(f"drift of {name:24} {', '.join(f'{key} {value:.3g}' for key, value in values.items())}")
    options = {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()}
    options["threads"] = torch.get_num_threads()
    print(json.dumps({**options, "tokens": int(lengths.sum()), "speeds": speeds, "ratios": ratios, "drift": drifts}))


def ratio(theirs: list[float], mine: list[float]) -> float:
    """How many times as fast: the median over the repetitions."""
    return statistics.median(one / other for one, other in zip(theirs, mine, strict=True))


if __name__ == "__main__":
    sys.exit(main())
