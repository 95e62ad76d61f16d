"""The loop: steps of the optimizer over groups of pairs, on one device or several; resumable, without Ray.

A step depends on its number, the weights and the optimizer's state alone (see `Sampler`; dropout is seeded by step),
so a run that goes on from its last state ends, on one device, in the weights of a run that was never stopped.
"""

from __future__ import annotations

import io
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed
from torch import nn

from tart_ray.config import TrainingConfig
from tart_ray.errors import TrainingError
from tart_ray.model.enct5 import EncT5ForSequenceClassification
from tart_ray.model.tokenizer import EncT5Tokenizer
from tart_ray.model.truncation import DEFAULT_MAX_LENGTH
from tart_ray.scoring.reference import ReferenceEncoder
from tart_ray.scoring.scorer import Scorer
from tart_ray.storage import Storage
from tart_ray.training.examples import Query, fingerprint_queries
from tart_ray.training.losses import LOSSES, count_terms
from tart_ray.training.published import PairSampler
from tart_ray.training.sampling import Group, Sampler, plan_microbatches

if TYPE_CHECKING:
    from tart_ray.training.evaluate import Evaluation

log = logging.getLogger(__name__)

Report = Callable[[dict[str, Any]], None]
AHEAD = 2  # steps whose batches are made while one is computed
LOG_SECONDS = 10.0  # at most, between lines of the log; a step that takes longer is told of at its end
ANY_VALUE = {"log_every", "checkpoint_every"}  # of the configuration: a run may go on with others


@dataclass(frozen=True)
class Workers:
    """Which of the processes that share each step this one is. With several, torch.distributed is set up already."""

    rank: int = 0
    count: int = 1


@dataclass(frozen=True)
class StateFile:
    """Where the state of a run is kept, to go on from: a local path or a URL. Written as a whole or not at all.

    ``confirm`` is called before each write, and raises where another process has gone on with the run.
    """

    storage: Storage
    url: str
    confirm: Callable[[], None] = lambda: None

    def load(self) -> dict[str, Any] | None:
        """The last state; None where there is none."""
        if not self.storage.exists(self.url):
            return None
        found: dict[str, Any] = torch.load(io.BytesIO(self.storage.read(self.url)), map_location="cpu")
        return found

    def save(self, state: dict[str, Any]) -> None:
        """Replace the state."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self.confirm()
        self.storage.write(self.url, buffer.getbuffer())


@dataclass
class Trained:
    """What training did.

    The model of rank 0 holds the weights of ``best_step``; without evaluation, and in other ranks, of the last step.

    Attributes:
        steps: that were made, in all starts of the run.
        pairs: that were seen, by all workers.
        seconds: that they took, without those that a kill made undone.
        best_ndcg_at_10: of the best weights, on the held-out queries; None without evaluation.
        best_accuracy: the like: how many pairs have the label that the model gives them.
        history: what was reported at each evaluation.
    """

    steps: int
    pairs: int
    seconds: float
    best_step: int
    best_ndcg_at_10: float | None
    best_accuracy: float | None
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Microbatch:
    """Pairs that go through the model at once: ids and mask int64 (n, length), first bool (n,), scores float (n,)."""

    ids: torch.Tensor
    mask: torch.Tensor
    first: torch.Tensor
    scores: torch.Tensor


def train(
    model: EncT5ForSequenceClassification,
    tokenizer: EncT5Tokenizer,
    queries: Sequence[Query],
    config: TrainingConfig,
    *,
    evaluation: Sequence[Query] = (),
    state: StateFile | None = None,
    report: Report | None = None,
    workers: Workers = Workers(),
    max_length: int = DEFAULT_MAX_LENGTH,
) -> Trained:
    """Train the model, in float32 on its device, in place.

    Args:
        evaluation: held-out queries; the best weights on them are kept. Without any, the last are.
        state: goes on from it where there is one, and keeps it up to date.
        report: called with step, loss, learning_rate and pairs_per_second as they are logged, and with the figures of
            each evaluation.
        max_length: tokens of a pair; longer ones are cut.

    Raises:
        ValueError: the examples cannot be trained on as configured.
        TrainingError: the state is another run's, or the loss is not finite any more.
    """
    return _Loop(model, tokenizer, queries, config, evaluation, state, report, workers, max_length).run()


class _Loop:
    def __init__(
        self,
        model: EncT5ForSequenceClassification,
        tokenizer: EncT5Tokenizer,
        queries: Sequence[Query],
        config: TrainingConfig,
        evaluation: Sequence[Query],
        state: StateFile | None,
        report: Report | None,
        workers: Workers,
        max_length: int,
    ) -> None:
        self.model, self.tokenizer, self.config, self.workers = model, tokenizer, config, workers
        self.max_length = max_length
        self.sampler = PairSampler(queries, config) if config.preset == "tart" else Sampler(queries, config)
        self.report = report or (lambda _: None)
        self.state_file = state
        self.identity = {
            "config": config.model_dump(mode="json", exclude=ANY_VALUE),
            "max_length": max_length,
            "queries": fingerprint_queries(queries),
            "evaluation": fingerprint_queries(evaluation),
        }
        if model.device.type == "cpu":
            model.set_attn_implementation("eager")  # 1.2 times as fast as SDPA there
        if config.dropout is not None:
            set_dropout(model, config.dropout)
        if config.gradient_checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})  # the second name is that of older versions of transformers
        self.parameters = list(model.parameters())
        self.optimizer = make_optimizer(model, config)
        scorer = Scorer(
            model,
            tokenizer,
            max_length=max_length,
            max_tokens_per_batch=config.max_tokens_per_batch,
            encoder=ReferenceEncoder(model),  # the others have the weights of when they were made
        )
        self.evaluation: Evaluation | None = None
        if evaluation:
            from tart_ray.training.evaluate import Evaluation  # ir-measures: an extra, which only this needs

            self.evaluation = Evaluation(evaluation[workers.rank :: workers.count], scorer)
        self.step = 0
        self.stale = 0  # evaluations since the best one
        self.best: dict[str, Any] | None = None
        self.history: list[dict[str, float]] = []
        self.pairs, self.seconds = 0, 0.0  # up to the state that this start went on from

    def run(self) -> Trained:
        self._resume()
        self._agree()
        started, before = time.monotonic(), self.seconds
        window, made, seen, losses = started, 0, 0, torch.zeros((), device=self.model.device)
        self.model.train()
        for groups, batches in self._batches():
            loss = self._train_step(groups, batches)
            self.step += 1
            count = sum(map(len, groups))
            losses, made, seen = losses + loss, made + 1, seen + count
            self.pairs, self.seconds = self.pairs + count, before + time.monotonic() - started
            last = self.step == self.sampler.steps
            due = {name: last or self.step % getattr(self.config, name) == 0 for name in
                   ("log_every", "evaluate_every", "checkpoint_every")}  # fmt: skip
            if any(due.values()) and not math.isfinite(float(losses)):
                raise TrainingError(
                    f"step {self.step}: the loss or its gradient is not finite; lower training.learning_rate, "
                    "or use dtype float32"
                )
            now = time.monotonic()
            if due["log_every"] or now - window > LOG_SECONDS:
                self._log(
                    loss=float(losses) / made,
                    learning_rate=self.optimizer.param_groups[0]["lr"],
                    pairs_per_second=seen / (now - window),
                    seconds_left=(self.sampler.steps - self.step) * (now - window) / made,
                )
                window, made, seen, losses = now, 0, 0, torch.zeros_like(losses)
            stop = due["evaluate_every"] and self._evaluate()
            if due["checkpoint_every"] or stop:
                self._save(finished=last or stop)
            if stop:
                break
        self.model.eval()
        if self.best is not None and self.workers.rank == 0:
            self.model.load_state_dict(self.best["model"])
        return Trained(
            steps=self.step,
            pairs=self.pairs,
            seconds=self.seconds,
            best_step=self.best["step"] if self.best else self.step,
            best_ndcg_at_10=self.best["ndcg_at_10"] if self.best else None,
            best_accuracy=self.best["accuracy"] if self.best else None,
            history=self.history,
        )

    def _batches(self) -> Iterator[tuple[list[Group], list[Microbatch]]]:
        """Groups of all workers and batches of this one, of each step that is left; the next is made meanwhile."""
        with ThreadPoolExecutor(1) as executor:
            waiting: deque[Future[tuple[list[Group], list[Microbatch]]]] = deque()
            for step in range(self.step, self.sampler.steps):
                waiting.append(executor.submit(self._make, step))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _make(self, step: int) -> tuple[list[Group], list[Microbatch]]:
        groups = self.sampler.groups(step)
        own = groups[self.workers.rank :: self.workers.count]
        if not own:
            return groups, []
        pairs = self.tokenizer.encode_pairs(
            [text for group in own for text in group.queries],
            [text for group in own for text in group.documents],
            max_length=self.max_length,
        )
        sizes = np.array([len(group) for group in own])
        first = np.zeros(len(pairs), bool)
        first[np.cumsum(sizes) - sizes] = [group.has_positive for group in own]
        scores = np.zeros(len(pairs), np.float32)
        if self.config.loss == "margin_mse":
            scores[:] = [score for group in own for score in group.scores]
        units = np.ones(len(pairs), np.int64) if self.config.loss == "cross_entropy" else sizes
        batches = []
        for rows in plan_microbatches(pairs.lengths, units, self.config.max_tokens_per_batch):
            lengths = pairs.lengths[rows]
            ids = np.full((len(rows), int(lengths.max())), self.tokenizer.pad_token_id, np.int64)
            for target, row in zip(ids, rows.tolist(), strict=True):
                found = pairs.row(row)
                target[: len(found)] = found
            mask = np.arange(ids.shape[1]) < lengths[:, None]
            arrays = (ids, mask.astype(np.int64), first[rows], scores[rows])
            batches.append(Microbatch(*map(torch.from_numpy, arrays)))
        return groups, batches

    def _train_step(self, groups: list[Group], batches: list[Microbatch]) -> torch.Tensor:
        """One step of the optimizer; this worker's part of the mean loss."""
        device = self.model.device
        torch.manual_seed(derived_seed(self.config.seed, self.step, self.workers.rank))
        terms = max(count_terms(self.config.loss, [len(group) for group in groups]), 1)
        total = torch.zeros((), device=device)
        for batch in batches:
            with self._autocast():
                logits = self.model(input_ids=batch.ids.to(device), attention_mask=batch.mask.to(device)).logits
            first, scores = batch.first.to(device), batch.scores.to(device)
            loss = LOSSES[self.config.loss](logits.float(), first, scores) / terms
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        if self.workers.count > 1:
            for parameter in self.parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                torch.distributed.all_reduce(parameter.grad)
            torch.distributed.all_reduce(total)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        for settings in self.optimizer.param_groups:
            settings["lr"] = learning_rate(self.config, self.step, self.sampler.steps)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total + 0 * norm  # not finite where the gradient is not

    def _evaluate(self) -> bool:
        """Evaluate, keep the best weights; whether training should stop."""
        if self.evaluation is None:
            return False
        self.model.eval()
        with self._autocast():
            own = self.evaluation.figures()
        self.model.train()
        parts = [own.ndcg_at_10 * own.queries, own.queries, own.right, own.pairs]
        summed = torch.tensor(parts, dtype=torch.float64, device=self.model.device)
        if self.workers.count > 1:
            torch.distributed.all_reduce(summed)
        figures = {"ndcg_at_10": float(summed[0] / summed[1]), "accuracy": float(summed[2] / summed[3])}
        self._log(**figures)
        self.history.append({"step": self.step, **figures})
        chosen = self.config.select_by
        if self.best is None or figures[chosen] > self.best[chosen]:
            self.best, self.stale = {"step": self.step, **figures}, 0
            if self.workers.rank == 0:  # which alone saves them
                weights = self.model.state_dict().items()
                self.best["model"] = {name: weight.detach().cpu().clone() for name, weight in weights}
        else:
            self.stale += 1
        return self.config.patience is not None and self.stale >= self.config.patience

    def _save(self, *, finished: bool) -> None:
        if self.state_file is None or self.workers.rank:
            return
        self.state_file.save(
            {
                "identity": self.identity,
                "finished": finished,
                "step": self.step,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "best": self.best,
                "stale": self.stale,
                "history": self.history,
                "pairs": self.pairs,
                "seconds": self.seconds,
            }
        )

    def _resume(self) -> None:
        if self.state_file is None or (found := self.state_file.load()) is None:
            return
        if found["identity"] != self.identity:
            raise TrainingError(
                f"{self.state_file.url}: is the state of a run with other examples or "
                "another configuration; go on with that one, or keep this one's state elsewhere"
            )
        self.model.load_state_dict(found["model"])
        if self.workers.rank and found["best"]:
            del found["best"]["model"]
        self.optimizer.load_state_dict(found["optimizer"])
        for name in ("step", "stale", "best", "history", "pairs", "seconds"):
            setattr(self, name, found[name])
        log.info("going on from step %d", self.step)
        if found["finished"]:
            self.sampler.steps = self.step

    def _agree(self) -> None:
        """All workers begin at one step, with the weights of rank 0."""
        if self.workers.count == 1:
            return
        steps = torch.tensor([self.step, -self.step], device=self.model.device)
        torch.distributed.all_reduce(steps, torch.distributed.ReduceOp.MAX)
        if int(steps[0]) != -int(steps[1]):
            raise TrainingError(f"workers read states of the steps {-int(steps[1])} and {int(steps[0])}; start again")
        for parameter in self.parameters:
            torch.distributed.broadcast(parameter.data, 0)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.config.dtype == "bfloat16")

    def _log(self, **figures: float) -> None:
        if self.workers.rank:
            return
        shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        log.info("step %d of %d: %s", self.step, self.sampler.steps, shown)
        self.report({"step": self.step, **figures})


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW or Adafactor; weights of linear layers alone decay."""
    linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    decaying = [parameter for parameter in model.parameters() if id(parameter) in linear]
    others = [parameter for parameter in model.parameters() if id(parameter) not in linear]
    groups = [
        {"params": decaying, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if config.optimizer == "adafactor":
        return torch.optim.Adafactor(groups, lr=config.learning_rate)
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """Of a step, counted from 0: it rises to its peak in the warm-up, and then falls to 0 at the end of training."""
    warmup = round(config.warmup_fraction * steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    shape = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}
    return config.learning_rate * shape[config.schedule]


def set_dropout(model: EncT5ForSequenceClassification, rate: float) -> None:
    """Give every layer this dropout."""
    model.config.dropout_rate = rate
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        elif isinstance(getattr(module, "dropout", None), float):  # of attention
            module.dropout = rate


def derived_seed(*parts: int) -> int:
    """One seed of several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])
