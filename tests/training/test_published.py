"""TART-full's published recipe: which pairs it draws, how it starts, and the steps that transformers' Trainer makes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import SequentialSampler
from training.test_loop import make_queries
from training.test_sampling import make_queries as make_tasks
from transformers import Trainer, TrainingArguments

from tart_ray import EncT5Tokenizer
from tart_ray.config import PUBLISHED_RECIPE, TrainingConfig
from tart_ray.model.place import CheckpointPlace
from tart_ray.training import published
from tart_ray.training.examples import Query
from tart_ray.training.loop import train
from tart_ray.training.published import PairSampler
from tart_ray.training.sampling import Group
from tart_ray.training.start import save_checkpoint, start_from_checkpoint

PRESET = TrainingConfig(preset="tart")


def epoch(sampler: PairSampler, number: int = 0) -> list[Group]:
    start = number * sampler.steps_per_epoch
    return [group for step in range(start, start + sampler.steps_per_epoch) for group in sampler.groups(step)]


def drawn(groups: list[Group]) -> list[tuple[str, str, bool]]:
    return [(group.queries[0], group.documents[0], group.has_positive) for group in groups]


def kinds(groups: list[Group]) -> Counter[str]:
    return Counter(text.split("-")[1][0] for group in groups for text in group.documents)


def test_one_positive_four_negatives_and_unfollowing_documents_on_top_drawn_once() -> None:
    queries = make_tasks(30)  # with 1 or 2 positives, 6 negatives and 2 unfollowing documents each
    sampler = PairSampler(queries, PRESET)
    first, second = epoch(sampler), epoch(sampler, 1)
    assert kinds(first) == {"p": 30, "n": 120, "u": 30}, "up to 7,500 queries all have one unfollowing document"
    assert sampler.steps_per_epoch == 3  # of 64, 64 and 52 pairs
    assert [len(sampler.groups(step)) for step in range(3)] == [64, 64, 52]
    assert sorted(drawn(first)) == sorted(drawn(second))
    assert drawn(first) != drawn(second)
    assert {group.has_positive for group in first if "-p" in group.documents[0]} == {True}
    assert {group.has_positive for group in first if "-p" not in group.documents[0]} == {False}
    assert {text.split(" [SEP] ")[0] for group in first for text in group.queries} == {"Find it", "Get it", "Seek it"}
    assert drawn(epoch(PairSampler(queries, PRESET))) == drawn(first)


def test_of_many_unfollowing_queries_as_many_as_16_percent_of_the_task() -> None:
    large = [Query(f"q{i}", "large", (), (f"t-p{i}",), ("t-n",) * 4, (f"t-u{i}",)) for i in range(7_501)]
    small = [Query(f"r{i}", "small", (), (f"t-q{i}",), (), (f"t-v{i}",)) for i in range(100)]
    found = kinds(epoch(PairSampler(large + small, PRESET)))
    assert found["u"] == 6_000, "int(0.16 x 7,501 x 5 pairs)"
    assert found["v"] == 100, "a small task has one for each of its queries"
    assert (found["p"], found["q"], found["n"]) == (7_501, 100, 30_004)


def test_no_more_pairs_than_were_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "MAX_PAIRS", 100)
    assert len(epoch(PairSampler(make_tasks(30), PRESET))) == 100


def test_a_t5_keeps_its_row_of_the_start_token_and_gets_torchs_own_head(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model, tokenizer = start_from_checkpoint(CheckpointPlace(tiny_checkpoint))
    save_checkpoint(model, tokenizer, tmp_path / "t5")
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith("classifier")}
    model.save_pretrained(tmp_path / "t5", state_dict=weights)
    kept, _ = start_from_checkpoint(CheckpointPlace(tmp_path / "t5"), as_published=True)
    new, _ = start_from_checkpoint(CheckpointPlace(tmp_path / "t5"))
    row = tokenizer.bos_token_id
    assert torch.equal(kept.shared.weight, model.shared.weight)
    assert not torch.equal(new.shared.weight[row], model.shared.weight[row])
    bound = model.config.d_model**-0.5
    assert 0.8 * bound < float(kept.classifier.weight.detach().abs().max()) <= bound
    assert 0 < float(kept.classifier.bias.detach().abs().max()) <= bound
    assert float(new.classifier.bias.detach().abs().max()) == 0


class InOrder(Trainer):
    """Transformers' Trainer, with the pairs in the order in which they are given."""

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def test_steps_are_those_of_transformers_trainer(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Its defaults, as the authors' script leaves them, but for the number of pairs a step and the learning rate."""
    queries = make_queries(40)
    config = TrainingConfig(preset="tart", patience=None, max_steps=4).model_copy(update={"dropout": 0.0})
    ours, tokenizer = start_from_checkpoint(CheckpointPlace(tiny_checkpoint))
    train(ours, tokenizer, queries, config, max_length=48)

    sampler = PairSampler(queries, config)
    pairs = [pair for step in range(4) for pair in drawn(sampler.groups(step))]
    encoded = tokenizer.encode_pairs([query for query, _, _ in pairs], [text for _, text, _ in pairs], max_length=48)
    rows = [{"input_ids": encoded.row(i).tolist(), "labels": int(pairs[i][2])} for i in range(len(pairs))]
    theirs, _ = start_from_checkpoint(CheckpointPlace(tiny_checkpoint))
    theirs.config.dropout_rate = 0.0
    for module in theirs.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    arguments = TrainingArguments(
        str(tmp_path / "trainer"),
        per_device_train_batch_size=published.PAIRS_PER_STEP,
        learning_rate=5e-5,
        max_steps=4,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    InOrder(model=theirs, args=arguments, train_dataset=rows, data_collator=Pad(tokenizer)).train()  # type: ignore[arg-type]
    start, _ = start_from_checkpoint(CheckpointPlace(tiny_checkpoint))
    for name, weight in theirs.state_dict().items():
        moved = float((weight - start.state_dict()[name]).abs().max())
        apart = float((weight - ours.state_dict()[name]).abs().max())
        assert apart < 0.02 * max(moved, 5e-5), name


class Pad:
    """Batches of padded rows."""

    def __init__(self, tokenizer: EncT5Tokenizer) -> None:
        self._pad = tokenizer.pad_token_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids = [torch.tensor(row["input_ids"]) for row in rows]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=self._pad)
        lengths = torch.tensor([len(row) for row in ids])
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
        return {"input_ids": padded, "attention_mask": mask, "labels": torch.tensor([row["labels"] for row in rows])}


def test_the_preset_fixes_its_keys() -> None:
    config = TrainingConfig(preset="tart")
    assert {name: getattr(config, name) for name in PUBLISHED_RECIPE} == PUBLISHED_RECIPE
    assert (config.learning_rate, config.warmup_fraction, config.weight_decay, config.dtype) == (5e-5, 0, 0, "float32")
    with pytest.raises(ValueError, match=r"got \{'learning_rate': 0\.001\} beside preset tart"):
        TrainingConfig(preset="tart", learning_rate=1e-3)
    with pytest.raises(ValueError, match=r"got \{'queries_per_step': 8\} beside preset tart"):
        TrainingConfig(preset="tart", queries_per_step=8)
