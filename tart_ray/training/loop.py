"""The loop: steps of the optimizer over groups of pairs, on one device or several. Resumable; knows torch, not Ray.

A step depends on its number, the weights and the optimizer's state only (see `Sampler`; dropout is seeded by the step).
So a run that goes on from its last state ends, on one device, with the weights of a run that was never stopped.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from tart_ray.config import TrainingConfig
from tart_ray.errors import TrainingError
from tart_ray.model.enct5 import EncT5ForSequenceClassification
from tart_ray.model.tokenizer import EncT5Tokenizer
from tart_ray.model.truncation import DEFAULT_MAX_LENGTH
from tart_ray.scoring.reference import ReferenceEncoder
from tart_ray.scoring.scorer import Scorer
from tart_ray.training.batches import Microbatch, in_advance, make_batches
from tart_ray.training.examples import Query, fingerprint_queries
from tart_ray.training.losses import LOSSES, count_terms
from tart_ray.training.optimizer import learning_rate, make_optimizer
from tart_ray.training.published import PairSampler
from tart_ray.training.sampling import Group, Sampler
from tart_ray.training.state import StateFile
from tart_ray.training.workers import ALONE, Workers, without_exchange

if TYPE_CHECKING:
    from tart_ray.training.evaluate import Evaluation

log = logging.getLogger(__name__)

Report = Callable[[dict[str, Any]], None]
LOG_SECONDS = 10.0  # the longest time between lines of the log, unless a step takes longer
ANY_VALUE = {"log_every", "checkpoint_every"}  # settings that a run may go on with other values of


@dataclass
class Trained:
    """What training did.

    In rank 0 the model then has the weights of ``best_step``; without evaluation, and in other ranks, those of the last
    step.

    Attributes:
        steps: steps of the optimizer, in all starts of the run.
        pairs: pairs in these steps, of all workers.
        seconds: how long these steps took. Steps that were lost, and done again, do not count twice.
        best_ndcg_at_10: nDCG@10 of the best weights on the held-out queries; None without evaluation.
        best_accuracy: the share of held-out pairs whose label the best weights predict; None without evaluation.
        history: the step and the two figures of each evaluation.
        losses: a step, and the mean loss of those since the one before.
    """

    steps: int
    pairs: int
    seconds: float
    best_step: int
    best_ndcg_at_10: float | None
    best_accuracy: float | None
    history: list[dict[str, float]] = field(default_factory=list)
    losses: list[list[float]] = field(default_factory=list)


@dataclass
class _Window:
    """What happened since the last line of the log; ``loss`` is the sum over its steps, of shape (), on the device."""

    loss: torch.Tensor
    started: float = field(default_factory=time.monotonic)
    steps: int = 0
    pairs: int = 0

    def add(self, loss: torch.Tensor, pairs: int) -> None:
        self.loss = self.loss + loss
        self.steps += 1
        self.pairs += pairs

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


def train(
    model: EncT5ForSequenceClassification,
    tokenizer: EncT5Tokenizer,
    queries: Sequence[Query],
    config: TrainingConfig,
    *,
    evaluation: Sequence[Query] = (),
    state: StateFile | None = None,
    report: Report | None = None,
    workers: Workers = ALONE,
    max_length: int = DEFAULT_MAX_LENGTH,
) -> Trained:
    """Train the model in place, on its device; its weights are float32.

    Args:
        evaluation: held-out queries; the weights that are best on them are kept. Without any, the last weights are.
        state: where the state of the run is kept; if there is a state already, training goes on from it.
        report: called with the step and what is logged: loss, learning_rate, pairs_per_second and seconds_left, or the
            figures of an evaluation.
        max_length: of a pair in tokens; longer pairs are cut.

    Raises:
        ValueError: the examples cannot be trained on as configured.
        TrainingError: the state is of another run, workers are at different steps, or the loss is no longer finite.
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
            enable({"use_reentrant": False})  # older versions of transformers have the second name
        self.parameters = list(model.parameters())
        self.module: nn.Module = model  # what training calls: with several workers, it is wrapped in `run`
        self.optimizer = make_optimizer(model, config)
        scorer = Scorer(
            model,
            tokenizer,
            max_length=max_length,
            max_tokens_per_batch=config.max_tokens_per_batch,
            encoder=ReferenceEncoder(model),  # the fast ones copy the weights when they are made
        )
        self.evaluation: Evaluation | None = None
        if evaluation:
            from tart_ray.training.evaluate import Evaluation  # needs ir-measures, which is an extra

            self.evaluation = Evaluation(workers.share(evaluation), scorer)
        self.step = 0
        self.stale = 0  # evaluations since the best one
        self.best: dict[str, Any] | None = None
        self.history: list[dict[str, float]] = []
        self.losses: list[list[float]] = []
        self.pairs, self.seconds = 0, 0.0  # in all starts of the run

    def run(self) -> Trained:
        self._resume()
        self.workers.check_same_step(self.step, self.model.device)
        self.module = self.workers.connect(self.model)
        started, before = time.monotonic(), self.seconds
        zero = torch.zeros((), device=self.model.device)
        window = _Window(zero)
        self.model.train()
        for groups, batches in in_advance(self._make, range(self.step, self.sampler.steps)):
            loss = self._train_step(groups, batches)
            self.step += 1
            pairs = sum(map(len, groups))
            window.add(loss, pairs)
            self.pairs, self.seconds = self.pairs + pairs, before + time.monotonic() - started
            last = self.step == self.sampler.steps
            due = {name: last or self.step % getattr(self.config, name) == 0 for name in
                   ("log_every", "evaluate_every", "checkpoint_every")}  # fmt: skip
            if any(due.values()) and not math.isfinite(float(window.loss)):
                raise TrainingError(
                    f"step {self.step}: the loss or its gradient is not finite; lower training.learning_rate, "
                    "or use dtype float32"
                )
            if due["log_every"] or window.seconds > LOG_SECONDS:
                self._log_window(window)
                window = _Window(zero)
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
            losses=self.losses,
        )

    def _make(self, step: int) -> tuple[list[Group], list[Microbatch]]:
        """The groups of all workers in a step, and the batches of this worker.

        With fewer groups than workers, some workers have no share. They compute the first group too, since all workers
        must take part in the exchange of gradients, and `_train_step` gives it no weight.
        """
        groups = self.sampler.groups(step)
        share = self.workers.share(groups) or groups[:1]
        return groups, make_batches(share, self.tokenizer, self.config, self.max_length)

    def _train_step(self, groups: list[Group], batches: list[Microbatch]) -> torch.Tensor:
        """Make one step of the optimizer.

        Returns:
            The mean loss over the pairs, or groups, of all workers, of shape (); not finite if the gradient is not.
        """
        device = self.model.device
        torch.manual_seed(derived_seed(self.config.seed, self.step, self.workers.rank))
        terms = max(count_terms(self.config.loss, [len(group) for group in groups]), 1)
        weight = 1.0 if self.workers.share(groups) else 0.0
        total = torch.zeros((), device=device)
        for number, batch in enumerate(batches, 1):
            is_last = number == len(batches)
            with nullcontext() if is_last else without_exchange(self.module):  # the last batch exchanges all
                with self._autocast():
                    logits = self.module(input_ids=batch.ids.to(device), attention_mask=batch.mask.to(device)).logits
                first, scores = batch.first.to(device), batch.scores.to(device)
                loss = LOSSES[self.config.loss](logits.float(), first, scores) / terms * weight
                scaled = loss * self.workers.count  # the exchange makes the mean of the gradients, not their sum
                scaled.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        total = self.workers.sum(total)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        for settings in self.optimizer.param_groups:
            settings["lr"] = learning_rate(self.config, self.step, self.sampler.steps)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total + 0 * norm

    def _evaluate(self) -> bool:
        """Evaluate the weights, and keep them if they are the best; returns whether training should stop."""
        if self.evaluation is None:
            return False
        self.model.eval()
        with self._autocast():
            share = self.evaluation.figures()
        self.model.train()
        parts = [share.ndcg_at_10 * share.queries, share.queries, share.right, share.pairs]
        sums = self.workers.sum(torch.tensor(parts, dtype=torch.float64, device=self.model.device))
        figures = {"ndcg_at_10": float(sums[0] / sums[1]), "accuracy": float(sums[2] / sums[3])}
        self._log(**figures)
        self.history.append({"step": self.step, **figures})
        figure = self.config.select_by
        if self.best is None or figures[figure] > self.best[figure]:
            self.best, self.stale = {"step": self.step, **figures}, 0
            if self.workers.rank == 0:  # the only one that saves them
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
                "losses": self.losses,
                "pairs": self.pairs,
                "seconds": self.seconds,
            }
        )

    def _resume(self) -> None:
        if self.state_file is None or (state := self.state_file.load()) is None:
            return
        if state["identity"] != self.identity:
            raise TrainingError(
                f"{self.state_file.url}: is the state of a run with other examples or "
                "another configuration; go on with that one, or keep this one's state elsewhere"
            )
        self.model.load_state_dict(state["model"])
        if self.workers.rank and state["best"]:
            del state["best"]["model"]
        self.optimizer.load_state_dict(state["optimizer"])
        for name in ("step", "stale", "best", "history", "losses", "pairs", "seconds"):
            setattr(self, name, state.get(name, []))  # older releases kept no losses
        log.info("going on from step %d", self.step)
        if state["finished"]:
            self.sampler.steps = self.step

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.config.dtype == "bfloat16")

    def _log_window(self, window: _Window) -> None:
        seconds, loss = window.seconds, float(window.loss) / window.steps
        self.losses.append([self.step, loss])
        self._log(
            loss=loss,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            pairs_per_second=window.pairs / seconds,
            seconds_left=(self.sampler.steps - self.step) * seconds / window.steps,
        )

    def _log(self, **figures: float) -> None:
        if self.workers.rank:
            return
        shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        log.info("step %d of %d: %s", self.step, self.sampler.steps, shown)
        self.report({"step": self.step, **figures})


def set_dropout(model: EncT5ForSequenceClassification, rate: float) -> None:
    """Set the dropout rate of every layer."""
    model.config.dropout_rate = rate
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        elif isinstance(getattr(module, "dropout", None), float):  # attention layers
            module.dropout = rate


def derived_seed(*parts: int) -> int:
    """A seed made of several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])
