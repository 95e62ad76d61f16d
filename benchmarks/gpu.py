"""Everything that is to be known of a replica on a GPU, in one command of less than nine minutes, without Ray.

    python -m benchmarks.gpu --output gpu.json         # on a machine with one GPU, with torch and transformers
    python -m benchmarks.gpu --device cpu --scale tiny # the same code, small, in less than two minutes

Weights are random. Each part has a time of its own and is `ok`, `partly` measured, `failed` (with the last lines of its
traceback), or `skipped` (with the reason); the JSON is on the last line, and in the file after each part. If a part
leaves the device unusable, the others run in a new process. Encoders that are wrong or fail are in `out`, by part.

- matmul: the rate of bare products, 8192 x 8192 x 8192 and of the model's own shapes.
- correctness_*: the candidates of `tart_ray.scoring.candidates`, tried as a replica would, at the geometries of
  flan-t5-small and flan-t5-xl (24 layers, d_model 2048, d_kv 64, d_ff 5120, 32 heads), in float32 and bfloat16.
- speed: pairs and tokens a second in bfloat16 at xl, of pairs that are token ids already, and the share of the matmul
  rate, by the FLOPs of `benchmarks.random_models.needed_flops`: that of the 8192 x 8192 x 8192 product, and that of the
  model's own shapes. At lengths of 64, 128, 300 and 512 tokens, and at a mix like that of Natural Questions' passages:
  log-normal, median 130 tokens, sigma 0.45, cut at 512. That mix is an ASSUMPTION: passages have about 100 words, and
  instruction and query come to them; it was not counted on the data.
- speed_texts: the same for `Scorer.score` on texts, tokenising included. The vocabulary is the demo's: it is smaller
  than T5's, so that a text of as many tokens is shorter. Lengths are met on average.
- chunk_gap: whether the device waits between two chunks: from the end of the last batch of one to the begin of the
  first of the next, by CUDA events (on CPUs by the clock), beside what it waits between the batches of a chunk.
- calibration: `Scorer.calibrate` with the default budget, and the memory that this takes, beside the estimate.
- out_of_memory: a budget that is far too large for the memory left: is it halved, are the scores right? On a CPU, whose
  memory is not limited, the encoder raises in its place.
- compile_time: the first batches in a new process with empty caches, and again in another with the caches of the first.
- loading_*: `Scorer.from_pretrained` of a checkpoint written here, and the peak of device memory beside the weights.
- choice: all that a replica would do at its start: trials, then the token budget.

On CPUs nothing is compiled: the layers of the encoders for CUDA run as they are (`"compiled": false` in the JSON).
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.parts import Part, Runner, to_json
from benchmarks.random_models import GEOMETRIES, VOCABULARY, make_random_model, needed_flops
from tart_ray.model.encoded import EncodedPairs
from tart_ray.model.enct5 import EncT5ForSequenceClassification
from tart_ray.model.tokenizer import EncT5Tokenizer
from tart_ray.scoring.batched import BatchedScorer
from tart_ray.scoring.candidates import candidates, compiled_candidates, device_name
from tart_ray.scoring.choice import Choice
from tart_ray.scoring.choosing import ChoosingScorer, suitable_max_tokens
from tart_ray.scoring.cuda import bytes_per_token
from tart_ray.scoring.dtypes import DTYPES
from tart_ray.scoring.reference import Encoder
from tart_ray.scoring.scorer import Scorer
from tart_ray.scoring.trials import OUT_OF_TIME, Expected, float32_logits, try_encoders

ROOT = Path(__file__).parents[1]
SECONDS = 495  # for all parts; with the start, and a part that takes too long, less than nine minutes
MIX_MEDIAN, MIX_SIGMA = 130, 0.45  # of the log-normal lengths, as a share of 512 at other scales
ROUNDS, LONG_ENOUGH = 3, 4.0  # of a measurement: so many, or so many seconds
INSTRUCTION = "Retrieve a passage that answers this question"
QUERY = "who was the first to fly across the ocean"
WORDS = "the of water river was built in year people first city war name music air return value list north".split()  # noqa: SIM905


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    ``small``, ``large``: geometries. ``lengths``: tokens of pairs. ``tokens``: of a measurement at one length.
    ``mix``, ``texts``: pairs with lengths of the mix, as ids and as texts. ``matmul``: rows and columns of a product.
    ``too_large``: padded tokens of a budget that does not fit, ``memory``: bytes that are left then.
    """

    small: str = "small"
    large: str = "xl"
    lengths: tuple[int, ...] = (64, 128, 300, 512)
    max_length: int = 512
    tokens: int = 131_072
    mix: int = 2_048
    texts: int = 8_192
    matmul: int = 8_192
    too_large: int = 524_288
    memory: int = 3 << 29


SCALES = {
    "full": Scale(),
    "tiny": Scale("tiny", "tiny", (8, 16, 40, 64), 64, 1_024, 64, 128, 128, 4_096, 0),
}


@dataclass
class Bench:
    """What the parts share.

    ``encoders``: of the large model in bfloat16, by name, made for ``budget`` padded tokens at once.
    """

    device: torch.device
    scale: Scale
    results: dict[str, Any]
    model: EncT5ForSequenceClassification | None = None
    encoders: dict[str, Encoder] = field(default_factory=dict)
    budget: int = 0

    @property
    def on_cuda(self) -> bool:
        return self.device.type == "cuda"

    def synchronize(self) -> None:
        if self.on_cuda:
            torch.cuda.synchronize(self.device)

    def make_model(self, geometry: str, **options: int) -> EncT5ForSequenceClassification:
        return make_random_model(geometry, str(self.device), **options)

    def makers(self, model: EncT5ForSequenceClassification, max_tokens: int) -> dict[str, Callable[[], Encoder]]:
        """The candidates; on CPUs those for CUDA as well, not compiled."""
        limits: Any = {"max_length": self.scale.max_length, "max_tokens": max_tokens}
        makers = candidates(model, **limits)
        if not self.on_cuda:
            for_cuda = compiled_candidates(model, **limits, compile_layer=as_it_is)
            makers |= {f"cuda-{name}": make for name, make in for_cuda.items()}
        return makers

    def large(self, part: Part) -> tuple[EncT5ForSequenceClassification, dict[str, Encoder]]:
        """The large model in bfloat16 and its encoders, made once and kept, so that each compiles a shape once."""
        if self.model is None:
            self.release()
            self.model = self.make_model(self.scale.large).to(torch.bfloat16)
            self.budget = self.suitable_budget(self.model)
            for name, make in self.makers(self.model, self.budget).items():
                try:
                    self.encoders[name] = make()
                except Exception as error:
                    part.found.setdefault("out", {})[name] = f"{type(error).__name__}: {error}"
        return self.model, self.encoders

    def suitable_budget(self, model: EncT5ForSequenceClassification) -> int:
        """Padded tokens of a batch, as a Scorer would have them that is alone on the device."""
        if self.on_cuda:
            torch.cuda.empty_cache()  # what torch keeps is not free
        return suitable_max_tokens(model)

    def release(self) -> None:
        """Give the memory back."""
        self.model = None
        self.encoders = {}
        gc.collect()
        if self.on_cuda:
            torch.cuda.empty_cache()


def as_it_is(layer: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return layer


def main() -> None:
    arguments = parse_arguments()
    device, scale = find_device(arguments.device), SCALES[arguments.scale]
    results: dict[str, Any] = json.loads(arguments.resume.read_text()) if arguments.resume else {}
    results |= {"device": str(device), "scale": arguments.scale, "compiled": device.type == "cuda"}
    output = arguments.output or Path(tempfile.mkdtemp()) / "gpu.json"
    bench = Bench(device, scale, results)
    runner = Runner(results, arguments.seconds, output, partial(works, bench), partial(restart, arguments, output))
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="           %(message)s")
    every = parts(bench)
    if unknown := {*arguments.parts} - {name for name, *_ in every}:
        sys.exit(f"no such parts: {sorted(unknown)}; there are {', '.join(name for name, *_ in every)}")
    for name, measure, most, least in every:
        if not arguments.parts or name in arguments.parts:
            runner.run(name, measure, most=most, least=least)
    report(runner)


def find_device(name: str) -> torch.device:
    """With its number, which some functions of torch.cuda want."""
    device = torch.device(name)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument("--parts", nargs="+", default=[], help="only these")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all parts")
    parser.add_argument("--output", type=Path, help="a file for the JSON, written after each part")
    parser.add_argument("--resume", type=Path, help="such a file: what is in it is not measured again")
    return parser.parse_args()


def parts(bench: Bench) -> list[tuple[str, Callable[[Part], None], float, float]]:
    """Name, function, the most seconds and the least; what matters most comes first."""
    small, large = bench.scale.small, bench.scale.large
    return [
        ("machine", partial(describe_machine, bench), 20, 0),
        ("matmul", partial(measure_matmul, bench), 25, 3),
        ("correctness_small_float32", partial(try_candidates, bench, small, "float32"), 70, 5),
        ("correctness_large_bfloat16", partial(try_candidates, bench, large, "bfloat16"), 90, 10),
        ("speed", partial(measure_speed, bench), 120, 10),
        ("chunk_gap", partial(measure_gap, bench), 30, 5),
        ("speed_texts", partial(measure_texts, bench), 80, 5),
        ("calibration", partial(measure_calibration, bench), 30, 5),
        ("out_of_memory", partial(run_out_of_memory, bench), 60, 5),
        ("compile_time", partial(measure_compilation, bench), 90, 10),
        ("loading_small", partial(measure_loading, bench, small), 30, 5),
        ("choice", partial(choose_like_a_replica, bench), 75, 10),
        ("loading_large", partial(measure_loading, bench, large), 60, 20 if large == "xl" else 3),
        ("correctness_small_bfloat16", partial(try_candidates, bench, small, "bfloat16"), 60, 5),
        ("correctness_large_float32", partial(try_candidates, bench, large, "float32"), 75, 10),
    ]


def works(bench: Bench) -> bool:
    """Whether the device computes: after an illegal access nothing does in this process."""
    try:
        return torch.ones(1, device=bench.device).sum().item() == 1
    except RuntimeError:
        return False


def restart(arguments: argparse.Namespace, output: Path) -> None:
    """Go on in a new process with what is measured yet."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", arguments.device, "--scale", arguments.scale]
    command += ["--seconds", str(arguments.seconds), "--output", str(output), "--resume", str(output)]
    command += ["--parts", *arguments.parts] if arguments.parts else []
    os.execv(sys.executable, command)  # noqa: S606


def report(runner: Runner) -> None:
    """A short summary, and the JSON."""
    for name, found in runner.parts.items():
        for candidate, reason in found.get("out", {}).items():
            runner.say(f"OUT in {name}: {candidate}: {reason[:300]}")
    runner.say(", ".join(f"{name} {found['status']}" for name, found in runner.parts.items()))
    runner.finish()


def describe_machine(bench: Bench, part: Part) -> None:
    names = ("torch", "transformers", "numpy", "sentencepiece", "pyarrow", "triton", "pytorch-triton")
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    part.found |= {"versions": versions, "python": platform.python_version(), "name": device_name(bench.device)}
    part.found |= {"cpus": os.cpu_count(), "threads": torch.get_num_threads(), "compiler": shutil.which("cc")}
    if bench.on_cuda:
        properties = torch.cuda.get_device_properties(bench.device)
        part.found |= {
            "memory_bytes": properties.total_memory,
            "free_bytes": torch.cuda.mem_get_info(bench.device)[0],
            "multiprocessors": properties.multi_processor_count,
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
        driver = ["nvidia-smi", "--query-gpu=driver_version,power.limit,clocks.max.sm", "--format=csv,noheader"]
        part.attempt("driver", lambda: subprocess.check_output(driver, text=True, timeout=10).strip())
    part.say(json.dumps(part.found))


def measure_matmul(bench: Bench, part: Part) -> None:
    """FLOPs a second: the fastest of ten products, or of as many as the time allows."""
    config, size, tokens = GEOMETRIES[bench.scale.large], bench.scale.matmul, min(bench.scale.tokens // 4, 32_768)
    width, inner, wide = config["d_model"], config["num_heads"] * config["d_kv"], config["d_ff"]
    own = [(tokens, width, 3 * inner), (tokens, inner, width), (tokens, width, 2 * wide), (tokens, wide, width)]

    def seconds(shape: tuple[int, int, int], dtype: torch.dtype) -> float:
        rows, shared, columns = shape
        x = torch.randn(rows, shared, device=bench.device).to(dtype)
        weight = torch.randn(columns, shared, device=bench.device).to(dtype)
        found = []
        for _ in range(10):
            bench.synchronize()
            started = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            bench.synchronize()
            found.append(time.perf_counter() - started)
        return min(found)

    def rate(shapes: list[tuple[int, int, int]], dtype: torch.dtype) -> float:
        return 2 * sum(a * b * c for a, b, c in shapes) / sum(seconds(shape, dtype) for shape in shapes)

    for name, dtype in reversed(DTYPES.items()):
        part.attempt(f"square_{name}", partial(rate, [(size, size, size)], dtype))
        part.attempt(f"own_shapes_{name}", partial(rate, own, dtype))
    for shape in own:
        part.attempt("x".join(map(str, shape)), partial(rate, [shape], torch.bfloat16))


def try_candidates(bench: Bench, geometry: str, dtype_name: str, part: Part) -> None:
    """Are their logits right?"""
    if bench.model is not None and geometry == bench.scale.large:
        bench.release()
    model = bench.make_model(geometry)
    expected = Expected.of(model, bench.scale.max_length)
    part.say("  the float32 reference is computed")
    model = model.to(DTYPES[dtype_name])
    budget = bench.suitable_budget(model)
    length = bench.scale.max_length // 4  # one shape: `measure_speed` says how fast they are
    speed_pairs = random_pairs(np.full(max(2 * budget // length, 1), length))
    choice, _ = try_encoders(
        bench.makers(model, budget),
        expected,
        speed_pairs,
        device=bench.device,
        dtype=model.dtype,
        max_tokens=budget,
        seconds=part.seconds_left(),
        on_trial=lambda name: part.say(f"  {name}: is tried"),
    )
    tell(part, choice)


def tell(part: Part, choice: Choice) -> None:
    part.found["choice"] = dataclasses.asdict(choice)
    part.found["out"] = {
        name: trial.reason for name, trial in choice.trials.items() if trial.reason not in (None, OUT_OF_TIME)
    }
    for name, trial in choice.trials.items():
        part.say(f"  {name}: difference {trial.largest_difference}, {trial.pairs_per_second} pairs/s, {trial.reason}")
    if any(trial.reason == OUT_OF_TIME for trial in choice.trials.values()):
        part.found["status"] = "partly"


def mixed_lengths(scale: Scale, count: int, seed: int = 0) -> np.ndarray:
    """Tokens of pairs, the assumption about Natural Questions' passages; (count,), int64."""
    draw = np.random.default_rng(seed)
    median = MIX_MEDIAN * scale.max_length / 512
    lengths = draw.lognormal(np.log(median), MIX_SIGMA, count)
    return np.clip(np.rint(lengths), 4, scale.max_length).astype(np.int64)


def mixed_pairs(scale: Scale, count: int, seed: int = 0) -> EncodedPairs:
    return random_pairs(mixed_lengths(scale, count, seed))


def random_pairs(lengths: np.ndarray) -> EncodedPairs:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.random.default_rng(0).integers(3, VOCABULARY, offsets[-1], np.int32)
    return EncodedPairs(ids, offsets, np.zeros(len(lengths), np.bool_))


def measure_speed(bench: Bench, part: Part) -> None:
    model, encoders = bench.large(part)
    mix = mixed_pairs(bench.scale, bench.scale.mix)
    every = {"mix": mix}
    every |= {str(n): random_pairs(np.full(max(bench.scale.tokens // n, 1), n)) for n in bench.scale.lengths}
    budget = bench.budget
    part.found["max_tokens_per_batch"] = budget
    for kind, pairs in every.items():
        for name, encoder in encoders.items():
            scorer = BatchedScorer(encoder, 2, budget)
            part.attempt(f"{kind} {name}", partial(_speed, bench, part, scorer, pairs, model.config))


def _speed(bench: Bench, part: Part, scorer: BatchedScorer, pairs: EncodedPairs, config: Any) -> dict[str, Any]:
    scorer.on_batch = part.check
    started = time.perf_counter()
    scorer.score_encoded(pairs)
    first = time.perf_counter() - started
    seconds: list[float] = []
    while len(seconds) < ROUNDS and sum(seconds) < LONG_ENOUGH:
        bench.synchronize()
        started = time.perf_counter()
        scorer.score_encoded(pairs)
        seconds.append(time.perf_counter() - started)
    return {
        **rates(bench, config, pairs.lengths, min(seconds)),
        "first_seconds": first,
        "slowest_seconds": max(seconds),
        "max_tokens_per_batch": scorer.max_tokens_per_batch,
    }


def rates(bench: Bench, config: Any, lengths: np.ndarray, seconds: float) -> dict[str, float]:
    """What so many seconds are for pairs of these lengths; shares of what `measure_matmul` has found."""
    flops = needed_flops(config, lengths) / seconds
    matmul = bench.results["parts"].get("matmul", {})
    shares = {
        f"share_of_{name}": flops / matmul[f"{name}_bfloat16"]
        for name in ("square", "own_shapes")
        if isinstance(matmul.get(f"{name}_bfloat16"), float)
    }
    return {
        "pairs_per_second": len(lengths) / seconds,
        "tokens_per_second": float(lengths.sum() / seconds),
        "flops_per_second": flops,
        **shares,
        "seconds": seconds,
        "pairs": len(lengths),
        "mean_tokens": float(lengths.mean()),
    }


def measure_texts(bench: Bench, part: Part) -> None:
    model, encoders = bench.large(part)
    scale = bench.scale
    tokenizer = EncT5Tokenizer.from_pretrained("demo")
    every = {"mix": mixed_lengths(scale, scale.texts)}
    every |= {str(n): np.full(max(scale.tokens // n, 1), n) for n in scale.lengths}
    for kind, wanted in every.items():
        queries, documents = make_texts(tokenizer, wanted, scale.max_length)
        joined = [f"{INSTRUCTION} [SEP] {query}" for query in queries]
        started = time.perf_counter()
        lengths = tokenizer.encode_pairs(joined, documents, max_length=scale.max_length).lengths
        part.found[f"{kind} tokenising alone"] = rates(bench, model.config, lengths, time.perf_counter() - started)
        for name, encoder in encoders.items():
            options: Any = {"max_length": scale.max_length, "max_tokens_per_batch": bench.budget}
            scorer = Scorer(model, tokenizer, encoder=encoder, **options)
            scorer.on_batch = part.check
            part.attempt(f"{kind} {name}", partial(_speed_of_texts, bench, scorer, queries, documents, lengths))


def _speed_of_texts(
    bench: Bench, scorer: Scorer, queries: list[str], documents: list[str], lengths: np.ndarray
) -> dict[str, float]:
    """The faster of two passes: in the first, shapes may be compiled that were not met yet."""
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        scorer.score(queries, documents, INSTRUCTION)
        seconds.append(time.perf_counter() - started)
    return rates(bench, scorer.model.config, lengths, min(seconds)) | {"first_seconds": seconds[0]}


def make_texts(tokenizer: EncT5Tokenizer, lengths: np.ndarray, max_length: int) -> tuple[list[str], list[str]]:
    """Queries and documents that come to about so many tokens, with the instruction."""
    draw = np.random.default_rng(0)
    sample = tokenizer.encode_pairs([f"{INSTRUCTION} [SEP] {QUERY}"] * 2, ["", " ".join(WORDS)], max_length=max_length)
    alone, with_words = sample.lengths
    by_word = max(with_words - alone, 1) / len(WORDS)
    counts = np.maximum((lengths - alone) / by_word, 1).astype(int)
    documents = [" ".join(WORDS[i] for i in draw.integers(0, len(WORDS), count)) for count in counts]
    return [f"{QUERY} {number}" for number in range(len(documents))], documents


class Marked:
    """An encoder that notes when the device begins and ends with each call, on the stream; on CPUs by the clock."""

    def __init__(self, encoder: Encoder, device: torch.device) -> None:
        self._encoder, self._device = encoder, device
        self.marks: list[tuple[Any, Any, float]] = []

    def __call__(self, pairs: EncodedPairs, rows: np.ndarray) -> torch.Tensor:
        before, started = self._now(), time.perf_counter()
        logits = self._encoder(pairs, rows)
        self.marks.append((before, self._now(), time.perf_counter() - started))
        return logits

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def gap(self, call: int) -> float:
        """Seconds from the end of a call to the begin of the next."""
        end, begin = self.marks[call][1], self.marks[call + 1][0]
        return float(end.elapsed_time(begin) / 1_000 if self._device.type == "cuda" else begin - end)


def measure_gap(bench: Bench, part: Part) -> None:
    """Two chunks, one after the other, and how long the device waits between them.

    A call begins on the stream when the host enters it: what the host does before the first kernel is in
    ``host_seconds_of_first_call``, an upper bound for what the device waits beyond the gap.
    """
    _, encoders = bench.large(part)
    chunks = [mixed_pairs(bench.scale, bench.scale.mix // 2, seed) for seed in (1, 2)]
    budget = bench.budget

    def measure(encoder: Encoder) -> dict[str, Any]:
        marked = Marked(encoder, bench.device)
        scorer = BatchedScorer(marked, 2, budget)
        scorer.on_batch = part.check
        for chunk in chunks:  # the warm-up
            scorer.score_encoded(chunk)
        marked.marks.clear()
        bench.synchronize()
        started = time.perf_counter()
        scorer.score_encoded(chunks[0])
        calls = len(marked.marks)
        scorer.score_encoded(chunks[1])
        seconds = time.perf_counter() - started
        within = [marked.gap(call) for call in range(len(marked.marks) - 1) if call != calls - 1]
        return {
            "gap_seconds": marked.gap(calls - 1),
            "host_seconds_of_first_call": marked.marks[calls][2],
            "longest_gap_within_a_chunk_seconds": max(within, default=None),
            "seconds_of_both_chunks": seconds,
            "batches": len(marked.marks),
        }

    for name, encoder in encoders.items():
        part.attempt(name, partial(measure, encoder))


def measure_calibration(bench: Bench, part: Part) -> None:
    model, encoders = bench.large(part)
    tokenizer = EncT5Tokenizer.from_pretrained("demo")
    budget = bench.budget
    part.found["estimated_bytes"] = budget * bytes_per_token(model)

    def measure(encoder: Encoder) -> dict[str, Any]:
        scorer = Scorer(
            model, tokenizer, max_length=bench.scale.max_length, max_tokens_per_batch=budget, encoder=encoder
        )
        scorer.on_batch = part.check
        held = _allocated(bench, reset=True)
        started = time.perf_counter()
        scorer.calibrate(bench.scale.max_length, tokenizer.eos_token_id)
        seconds = time.perf_counter() - started
        peak = torch.cuda.max_memory_allocated(bench.device) - held if bench.on_cuda else None
        return {"seconds": seconds, "from": budget, "to": scorer.max_tokens_per_batch, "peak_bytes": peak}

    for name, encoder in encoders.items():
        part.attempt(name, partial(measure, encoder))


def _allocated(bench: Bench, *, reset: bool = False) -> int:
    """Bytes on the device; the peak begins anew there if asked."""
    if not bench.on_cuda:
        return 0
    gc.collect()
    torch.cuda.empty_cache()
    if reset:
        torch.cuda.reset_peak_memory_stats(bench.device)
    return torch.cuda.memory_allocated(bench.device)


def run_out_of_memory(bench: Bench, part: Part) -> None:
    """In float32, so that scores can be compared closely; with what the scale leaves of the memory."""
    bench.release()
    scale = bench.scale
    model = bench.make_model(scale.small)
    lengths = np.full(scale.too_large // scale.max_length + 10, scale.max_length)
    lengths[::3] = scale.max_length // 3
    pairs = random_pairs(lengths)
    some = np.arange(0, len(pairs), max(len(pairs) // 40, 1))
    expected = float32_logits(model, pairs.take(some))
    part.found["simulated"] = not bench.on_cuda
    makers = bench.makers(model, scale.too_large)

    def measure(make: Callable[[], Encoder]) -> dict[str, Any]:
        encoder = make()
        scorer = BatchedScorer(encoder if bench.on_cuda else limited(encoder, 512), 2, scale.too_large)
        scorer.on_batch = part.check
        with memory_of(bench, scale.memory):
            started = time.perf_counter()
            logits = scorer.score_encoded(pairs).logits
            seconds = time.perf_counter() - started
        difference = float(np.abs(logits[some] - expected).max())
        halved = scorer.max_tokens_per_batch < scale.too_large
        right = bool(np.allclose(logits[some], expected, atol=1e-5, rtol=1e-5))
        found = {"from": scale.too_large, "to": scorer.max_tokens_per_batch, "halved": halved, "right": right}
        return found | {"largest_difference": difference, "seconds": seconds}

    for name, make in makers.items():
        part.attempt(name, partial(measure, make))
        _allocated(bench)


def limited(encoder: Encoder, most: int) -> Encoder:
    """An encoder whose memory runs out above so many padded tokens."""

    def encode(pairs: EncodedPairs, rows: np.ndarray) -> torch.Tensor:
        if len(rows) * pairs.lengths[rows].max() > most:
            raise torch.OutOfMemoryError
        return encoder(pairs, rows)

    return encode


@contextmanager
def memory_of(bench: Bench, left: int) -> Iterator[None]:
    """Leave so many bytes of device memory beyond those in use to this process."""
    if not bench.on_cuda:
        yield
        return
    _allocated(bench)
    total = torch.cuda.get_device_properties(bench.device).total_memory
    most = torch.cuda.memory_reserved(bench.device) + left
    torch.cuda.set_per_process_memory_fraction(min(most / total, 1.0), bench.device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, bench.device)


def measure_compilation(bench: Bench, part: Part) -> None:
    """The large model with two layers, of which one is compiled: the number of layers does not matter."""
    bench.release()
    with tempfile.TemporaryDirectory() as folder:
        caches = {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor", "TRITON_CACHE_DIR": f"{folder}/triton"}
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        given = json.dumps({"device": str(bench.device), "scale": bench.results["scale"]})
        command = [sys.executable, "-c", "from benchmarks.gpu import compile_once; compile_once()", given]

        def measure() -> Any:
            started = time.perf_counter()
            ran = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=max(part.seconds_left(), 1),
                env={**os.environ, **caches, "PYTHONPATH": path},
                cwd=ROOT,
                check=False,
            )
            if ran.returncode:
                raise RuntimeError(f"exit code {ran.returncode}: {ran.stderr[-2_000:]}")
            return json.loads(ran.stdout.splitlines()[-1]) | {"process_seconds": time.perf_counter() - started}

        part.attempt("cold", measure)
        part.attempt("warm", measure)


def compile_once() -> None:
    """In a process of its own: seconds of the first batch, of one of another size, and of the first one again."""
    given = json.loads(sys.argv[1])
    bench = Bench(find_device(given["device"]), SCALES[given["scale"]], {})
    scale = bench.scale
    model = bench.make_model(scale.large, num_layers=2).to(torch.bfloat16)
    budget = suitable_max_tokens(model)
    whole = random_pairs(np.full(max(budget // scale.max_length, 1), scale.max_length))
    makers = bench.makers(model, budget)
    sizes = {"first_seconds": len(whole), "other_size_seconds": max(len(whole) // 4, 1), "again_seconds": len(whole)}

    def measure(make: Callable[[], Encoder]) -> dict[str, float]:
        encoder = make()
        seconds = {}
        for name, count in sizes.items():
            started = time.perf_counter()
            encoder(whole, np.arange(count)).cpu()
            seconds[name] = time.perf_counter() - started
        return seconds

    found: dict[str, Any] = {}
    part = Part(found, SECONDS, lambda line: None)
    for name, make in makers.items():
        part.attempt(name, partial(measure, make))
    print(to_json(found))


def measure_loading(bench: Bench, geometry: str, part: Part) -> None:
    bench.release()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = bench.make_model(geometry)
        stored = sum(weight.numel() * weight.element_size() for weight in model.parameters())
        if shutil.disk_usage(folder).free < 1.5 * stored:
            part.found |= {"status": "skipped", "why": f"{stored} bytes do not fit into {tempfile.gettempdir()}"}
            return
        started = time.perf_counter()
        model.save_pretrained(folder, max_shard_size="1GB")
        EncT5Tokenizer.from_pretrained("demo").save_pretrained(folder)
        part.say(f"  {stored / 1e9:.2f} GB are written in {time.perf_counter() - started:.1f} s")
        del model
        held = _allocated(bench, reset=True)
        part.check()
        started = time.perf_counter()
        longest = bench.scale.max_length  # one pair a batch: the peak is that of loading, not of calibrating
        scorer = Scorer.from_pretrained(folder, device=bench.device, max_length=longest, max_tokens_per_batch=longest)
        bench.synchronize()
        dtype = torch.bfloat16 if bench.on_cuda else torch.float32
        weights = stored * dtype.itemsize // 4
        part.found |= {"seconds_to_load": time.perf_counter() - started, "weights_bytes": weights}
        if bench.on_cuda:
            peak = torch.cuda.max_memory_allocated(bench.device) - held
            part.found |= {"peak_bytes": peak, "held_bytes": torch.cuda.memory_allocated(bench.device) - held}
            part.found["peak_by_weights"] = peak / weights
        scores = scorer.score([QUERY], [" ".join(WORDS)], INSTRUCTION)
        part.found["finite"] = bool(np.isfinite(scores.logits).all())


def choose_like_a_replica(bench: Bench, part: Part) -> None:
    """Trials in the dtype of the device, then the budget of the chosen encoder."""
    bench.release()
    model = bench.make_model(bench.scale.large)
    longest = bench.scale.max_length
    expected = Expected.of(model, longest)
    model = model.to(torch.bfloat16 if bench.on_cuda else torch.float32)
    scorer = BenchScorer(model, max_length=longest, max_tokens_per_batch=None, expected=expected)
    scorer.makers = partial(bench.makers, model)
    before = scorer.max_tokens_per_batch
    choice = scorer.choose(
        mixed_pairs(bench.scale, bench.scale.mix), on_trial=lambda name: part.say(f"  {name}: is tried")
    )
    tell(part, choice)
    part.found["budget"] = {"from": before, "to": choice.max_tokens_per_batch, "seconds": choice.seconds}
    part.say(f"  {choice.encoder}: {choice.max_tokens_per_batch} tokens a batch, from {before}")


class BenchScorer(ChoosingScorer):
    """Tries the encoders for CUDA on CPUs as well."""

    makers: Callable[[int], dict[str, Callable[[], Encoder]]]

    def candidates(self, max_tokens: int) -> dict[str, Callable[[], Encoder]]:
        return self.makers(max_tokens)


if __name__ == "__main__":
    sys.exit(main())
