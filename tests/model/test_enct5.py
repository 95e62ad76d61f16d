"""The model: golden logits, the checkpoints it loads, the ones it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import T5Config

from tart_ray import EncT5ForSequenceClassification, EncT5Tokenizer, Scorer
from tart_ray.errors import CheckpointError
from tart_ray.model.texts import join_instruction

TIED = ("shared.weight", "encoder.embed_tokens.weight")
TOLERANCE = {"cpu": 1e-5, "cuda": 1e-4}


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path) -> EncT5ForSequenceClassification:
    return EncT5ForSequenceClassification.from_pretrained(tiny_checkpoint).eval()


@pytest.fixture
def bare(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the small checkpoint without its weights."""
    ignore = shutil.ignore_patterns("*.safetensors", "*.bin")
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint", ignore=ignore))


def published_weights(model: EncT5ForSequenceClassification) -> dict[str, torch.Tensor]:
    """A state dict with both names of the embedding, as in the published checkpoint."""
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert set(TIED) <= set(weights)
    return weights


@torch.inference_mode()
def logits_of(model: EncT5ForSequenceClassification, tokenizer: EncT5Tokenizer) -> torch.Tensor:
    """Logits of a few pairs of unequal length, in one padded batch."""
    queries = ["wing flow", "heat", "shock layer test 7", ""]
    documents = ["plate heat flow body lift drag " * 3, "jet", "", "panel flutter"]
    features = tokenizer(queries, documents, padding=True, truncation=True, return_tensors="pt")
    logits: torch.Tensor = model(**features).logits
    return logits


def assert_same_model(folder: Path, expected: EncT5ForSequenceClassification) -> None:
    loaded = EncT5ForSequenceClassification.from_pretrained(folder)
    tokenizer = EncT5Tokenizer.from_pretrained(folder)
    assert torch.equal(logits_of(loaded, tokenizer), logits_of(expected, tokenizer))
    assert loaded.shared.weight.data_ptr() == loaded.encoder.embed_tokens.weight.data_ptr()
    assert not loaded.training


# Equal to the original


@torch.inference_mode()
def test_golden_logits(shared_data: Path, device: str) -> None:
    golden = json.loads((shared_data / "golden_pairs.json").read_text())
    tokenizer = EncT5Tokenizer.from_pretrained(shared_data / "tart-tiny")
    model = EncT5ForSequenceClassification.from_pretrained(shared_data / "tart-tiny").to(device)
    logits = []
    for start in range(0, len(golden), 8):
        pairs = golden[start : start + 8]
        features = tokenizer(
            [join_instruction(pair["instruction"], pair["query"]) for pair in pairs],
            [pair["document"] for pair in pairs],
            padding=True,
            truncation=True,
            return_tensors="pt",
        )
        logits.append(model(**features.to(device)).logits.cpu())
    expected = torch.tensor([pair["logits"] for pair in golden])
    torch.testing.assert_close(torch.cat(logits), expected, atol=TOLERANCE[device], rtol=0)


@torch.inference_mode()
def test_the_model_cards_example(shared_data: Path, device: str) -> None:
    example = json.loads((shared_data / "model_card_example.json").read_text())
    path = shared_data / "tart-tiny"
    tokenizer = EncT5Tokenizer.from_pretrained(path)
    model = EncT5ForSequenceClassification.from_pretrained(path).to(device)
    scorer = Scorer.from_pretrained(path, device=device, dtype="float32")
    model.eval()
    for case in example["cases"]:
        documents = [example["documents"][name] for name in case["candidates"]]
        queries = [f"{case['instruction']} [SEP] {example['query']}"] * len(documents)
        features = tokenizer(queries, documents, padding=True, truncation=True, return_tensors="pt").to(device)
        logits = model(**features).logits
        scores = scorer.score([example["query"]] * len(documents), documents, case["instruction"])
        torch.testing.assert_close(logits.cpu(), torch.from_numpy(scores.logits), atol=TOLERANCE[device], rtol=0)
        probability = torch.softmax(logits, dim=1)[:, 1].cpu()
        torch.testing.assert_close(probability, torch.from_numpy(scores.score), atol=TOLERANCE[device], rtol=0)


@torch.inference_mode()
def test_padding_does_not_change_logits(tiny: EncT5ForSequenceClassification, tiny_checkpoint: Path) -> None:
    tokenizer = EncT5Tokenizer.from_pretrained(tiny_checkpoint)
    alone = tokenizer("wing flow", "heat", return_tensors="pt")
    padded = tokenizer("wing flow", "heat", padding="max_length", max_length=100, return_tensors="pt")
    assert padded["input_ids"].shape == (1, 100) != alone["input_ids"].shape
    torch.testing.assert_close(tiny(**padded).logits, tiny(**alone).logits, atol=1e-5, rtol=0)


def test_loss_by_hand(tiny: EncT5ForSequenceClassification) -> None:
    ids = torch.tensor([[180, 5, 1, 6, 1], [180, 7, 1, 8, 1]])
    with torch.inference_mode():
        output = tiny(input_ids=ids, labels=torch.tensor([1, 0]))
        loss, logits = tiny(input_ids=ids, labels=torch.tensor([1, 0]), return_dict=False)[:2]
    chosen = torch.log_softmax(output.logits, dim=1)[[0, 1], [1, 0]]
    torch.testing.assert_close(output.loss, -chosen.mean())
    assert torch.equal(loss, output.loss)
    assert torch.equal(logits, output.logits)


# Layouts of the weights


def test_published_layout_loads_as_it_is_and_after_a_save(shared_data: Path, tmp_path: Path) -> None:
    published = shared_data / "tart-tiny"
    assert (published / "pytorch_model.bin").is_file()
    model, info = EncT5ForSequenceClassification.from_pretrained(published, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    model.save_pretrained(tmp_path)
    EncT5Tokenizer.from_pretrained(published).save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    assert_same_model(tmp_path, model)


def test_sharded_safetensors(tiny: EncT5ForSequenceClassification, bare: Path) -> None:
    tiny.save_pretrained(bare, max_shard_size="30KB")
    assert len(list(bare.glob("model-0*-of-0*.safetensors"))) > 2
    assert_same_model(bare, tiny)


def save_bin_shards(weights: Mapping[str, torch.Tensor], folder: Path, count: int) -> None:
    names = sorted(weights)
    weight_map = {}
    for number in range(count):
        file = f"pytorch_model-{number + 1:05}-of-{count:05}.bin"
        weight_map |= dict.fromkeys(names[number::count], file)
        torch.save({name: weights[name] for name in names[number::count]}, folder / file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def test_sharded_bin(tiny: EncT5ForSequenceClassification, bare: Path) -> None:
    save_bin_shards(published_weights(tiny), bare, 3)
    assert_same_model(bare, tiny)


@pytest.mark.parametrize("kept", TIED)
def test_one_name_of_the_embedding_is_enough(tiny: EncT5ForSequenceClassification, bare: Path, kept: str) -> None:
    weights = published_weights(tiny)
    (dropped,) = set(TIED) - {kept}
    del weights[dropped]
    torch.save(weights, bare / "pytorch_model.bin")
    assert_same_model(bare, tiny)


def test_weights_of_a_whole_t5_are_left_aside(tiny: EncT5ForSequenceClassification, bare: Path) -> None:
    extra = {"lm_head.weight": torch.zeros(2, 2), "decoder.block.0.layer.0.SelfAttention.q.weight": torch.zeros(2, 2)}
    torch.save(published_weights(tiny) | extra, bare / "pytorch_model.bin")
    assert_same_model(bare, tiny)


def test_float32_unless_asked_otherwise(tiny: EncT5ForSequenceClassification, bare: Path) -> None:
    halves = {name: tensor.bfloat16() for name, tensor in published_weights(tiny).items()}
    torch.save(halves, bare / "pytorch_model.bin")
    config = json.loads((bare / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    load = EncT5ForSequenceClassification.from_pretrained
    assert {tensor.dtype for tensor in load(bare).state_dict().values()} == {torch.float32}
    assert {tensor.dtype for tensor in load(bare, dtype=torch.bfloat16).state_dict().values()} == {torch.bfloat16}


# Checkpoints that are refused


def test_a_missing_classifier_is_refused(tiny: EncT5ForSequenceClassification, bare: Path) -> None:
    weights = published_weights(tiny)
    del weights["classifier.weight"], weights["classifier.bias"]
    torch.save(weights, bare / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"weights missing for \['classifier\.bias', 'classifier\.weight'\]"):
        EncT5ForSequenceClassification.from_pretrained(bare)


def test_a_plain_t5_can_be_the_start_of_training(tiny: EncT5ForSequenceClassification, bare: Path) -> None:
    weights = published_weights(tiny)
    del weights["classifier.weight"], weights["classifier.bias"]
    torch.save(weights, bare / "pytorch_model.bin")
    model = EncT5ForSequenceClassification.from_pretrained(bare, allow_missing_weights=True)
    assert torch.equal(model.shared.weight, tiny.shared.weight)
    assert model.classifier.weight.isfinite().all()
    assert not torch.equal(model.classifier.weight, tiny.classifier.weight)


def test_a_missing_layer_is_refused(tiny: EncT5ForSequenceClassification, bare: Path) -> None:
    weights = published_weights(tiny)
    del weights["encoder.block.1.layer.0.SelfAttention.k.weight"]
    torch.save(weights, bare / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"encoder\.block\.1\.layer\.0\.SelfAttention\.k\.weight"):
        EncT5ForSequenceClassification.from_pretrained(bare)


def test_no_embedding_is_refused(tiny: EncT5ForSequenceClassification, bare: Path) -> None:
    weights = {name: tensor for name, tensor in published_weights(tiny).items() if name not in TIED}
    torch.save(weights, bare / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"weights missing for .*shared\.weight"):
        EncT5ForSequenceClassification.from_pretrained(bare)


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_code_in_a_bin_does_not_run(tiny: EncT5ForSequenceClassification, bare: Path, tmp_path: Path) -> None:
    target = tmp_path / "ran"
    torch.save({**published_weights(tiny), "payload": Payload(target)}, bare / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="Python objects beside tensors"):
        EncT5ForSequenceClassification.from_pretrained(bare, weights_only=False)
    assert not target.exists()
    torch.load(bare / "pytorch_model.bin", weights_only=False)
    assert target.exists()  # the payload works where it is let


def test_no_weights(bare: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no weights that can be read .*found \[.*'config\.json'"):
        EncT5ForSequenceClassification.from_pretrained(bare)


def test_a_missing_shard(tiny: EncT5ForSequenceClassification, bare: Path) -> None:
    save_bin_shards(published_weights(tiny), bare, 2)
    (bare / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(CheckpointError, match=r"pytorch_model-00002-of-00002\.bin"):
        EncT5ForSequenceClassification.from_pretrained(bare)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_file_cut_short(tiny: EncT5ForSequenceClassification, bare: Path, file: str) -> None:
    tiny.save_pretrained(bare)
    torch.save(published_weights(tiny), bare / "pytorch_model.bin")
    if file == "pytorch_model.bin":
        (bare / "model.safetensors").unlink()
    whole = (bare / file).read_bytes()
    (bare / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="no weights that can be read"):
        EncT5ForSequenceClassification.from_pretrained(bare)


def test_weights_that_do_not_fit_the_configuration(tiny: EncT5ForSequenceClassification, bare: Path) -> None:
    torch.save(published_weights(tiny) | {"classifier.weight": torch.zeros(3, 32)}, bare / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=str(bare)):
        EncT5ForSequenceClassification.from_pretrained(bare)


def test_no_config(tiny: EncT5ForSequenceClassification, bare: Path) -> None:
    tiny.save_pretrained(bare)
    (bare / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json in it; found \[.*'model\.safetensors'"):
        EncT5ForSequenceClassification.from_pretrained(bare)


@pytest.mark.parametrize("path", ["{tmp}/nothing-here", "./nothing-here", "~/nothing-here", "nothing", "a/b/nothing"])
@pytest.mark.parametrize("load", [EncT5ForSequenceClassification, EncT5Tokenizer, Scorer])
def test_a_path_that_does_not_exist(load: Any, path: str, tmp_path: Path) -> None:
    expected = r"no such directory; expected a local directory, s3://bucket/prefix, a hub id .*, or demo"
    with pytest.raises(CheckpointError, match=expected):
        load.from_pretrained(path.format(tmp=tmp_path))


def test_a_configuration_makes_a_model_without_files() -> None:
    model = EncT5ForSequenceClassification(T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=16, num_layers=1))
    assert torch.equal(model.classifier.bias, torch.zeros(2))
    assert model.shared.weight is model.encoder.embed_tokens.weight
