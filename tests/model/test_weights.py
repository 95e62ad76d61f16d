"""Checkpoints that cannot be scored with, refused from their files before any model is made."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from support.s3_server import S3Server

from tart_ray import EncT5ForSequenceClassification, Scorer
from tart_ray.errors import CheckpointError
from tart_ray.model.checkpoint import fingerprint_checkpoint, list_checkpoint
from tart_ray.model.fitness import check_checkpoint
from tart_ray.model.place import CheckpointPlace
from tart_ray.model.weights import find_tensors

Q = "encoder.block.1.layer.0.SelfAttention.q.weight"
OWN = "encoder.embed_tokens.weight"


@pytest.fixture
def copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


def to_bin(folder: Path, **options: Any) -> Path:
    """The same weights as torch.save writes them."""
    weights = {name: torch.from_numpy(weight) for name, weight in load_file(folder / "model.safetensors").items()}
    torch.save(weights | options, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder / "pytorch_model.bin"


def edit_weights(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    weights = {name: np.array(weight) for name, weight in load_file(folder / "model.safetensors").items()}
    edit(weights)
    save_file(weights, folder / "model.safetensors")


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def spoil(weights: dict[str, Any], value: float) -> None:
    weights[Q][3, 5] = value


def fewer_rows(weights: dict[str, Any], rows: int) -> dict[str, Any]:
    return {"shared.weight": weights["shared.weight"][:rows]}


def as_bfloat16(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = {name: weight.to(torch.bfloat16) for name, weight in load_file(folder / "model.safetensors").items()}
    weights[Q][1, 1] = float("nan")
    save_file(weights, folder / "model.safetensors")


def as_shards(folder: Path, *, lost: bool) -> None:
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    (folder / "model.safetensors").unlink()
    parts = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for file, held in parts.items():
        save_file({name: weights[name] for name in held}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, held in parts.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    if lost:
        (folder / "model-00002-of-00002.safetensors").unlink()


def cut(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


def other_architecture(folder: Path) -> None:
    save_file({"bert.embeddings.word_embeddings.weight": np.ones((4, 4), np.float32)}, folder / "model.safetensors")
    edit_config(folder, model_type="bert")


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "vocabulary": (lambda f: (f / "spiece.model").write_bytes(b"no model"), "not a sentencepiece model"),
    "empty vocabulary": (lambda f: (f / "spiece.model").write_bytes(b""), "spiece.model: "),
    "no vocabulary": (lambda f: (f / "spiece.model").unlink(), r"no spiece\.model"),
    "tokenizer config": (lambda f: (f / "tokenizer_config.json").write_text("{"), r"tokenizer_config\.json cannot be"),
    "added tokens": (lambda f: (f / "added_tokens.json").write_text("[]"), r"added_tokens\.json: got list"),
    "id of <s>": (lambda f: (f / "added_tokens.json").write_text('{"<s>": "x"}'), "is not what a T5 tokenizer writes"),
    "config": (lambda f: (f / "config.json").write_text("{"), r"config\.json cannot be read as JSON"),
    "config of another kind": (lambda f: edit_config(f, d_model="wide"), r"got \{'d_model': 'wide'\}, expected whole"),
    "three labels": (lambda f: edit_config(f, num_labels=3), "got num_labels 3, expected 2"),
    "three labels by name": (
        lambda f: edit_config(f, id2label={"0": "a", "1": "b", "2": "c"}),
        "got num_labels 3, expected 2",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no weights that can be read"),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), "no safetensors file, or was cut"),
    "header": (lambda f: (f / "model.safetensors").write_bytes(b"\x08" + bytes(7) + b"not json"), "header is broken"),
    "header's length": (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 64), "no safetensors file"),
    "cut": (lambda f: cut(f / "model.safetensors", 50_000), "got 50000 bytes, its header describes"),
    "cut .bin": (lambda f: cut(to_bin(f), 50_000), "torch did not write, or that were cut"),
    "a missing shard": (lambda f: as_shards(f, lost=True), r"names model-00002-of-00002\.safetensors, which are not"),
    "another width": (lambda f: edit_config(f, d_model=64), r"shared.weight: got \[256, 32\], expected \[256, 64\]"),
    "another width, .bin": (lambda f: (to_bin(f), edit_config(f, d_ff=32)), r"wi_0.weight: got \[64, 32\], expected"),
    "more layers": (lambda f: edit_config(f, num_layers=3), r"weights missing for encoder\.block\.2"),
    "no classifier": (lambda f: edit_weights(f, lambda w: w.pop("classifier.weight")), r"missing for classifier\.wei"),
    "other architecture": (other_architecture, "is it an EncT5 checkpoint.*model_type 'bert'"),
    "fewer rows than tokens": (
        lambda f: (edit_config(f, vocab_size=150), edit_weights(f, lambda w: w.update(fewer_rows(w, 150)))),
        "got vocab_size 150, expected 181 for its tokenizer",
    ),
    "NaN": (lambda f: edit_weights(f, lambda w: spoil(w, np.nan)), rf"NaN or infinite numbers in the weights {Q}"),
    "infinite": (lambda f: edit_weights(f, lambda w: spoil(w, -np.inf)), rf"infinite numbers in the weights {Q}"),
    "NaN, .bin": (lambda f: (edit_weights(f, lambda w: spoil(w, np.nan)), to_bin(f)), rf"numbers in the weights {Q}"),
    "NaN, bfloat16": (as_bfloat16, rf"numbers in the weights {Q}"),
    "two embeddings": (
        lambda f: edit_weights(f, lambda w: w.update({OWN: w["shared.weight"] + 1})),
        r"shared\.weight and encoder\.embed_tokens\.weight differ",
    ),
    "two embeddings, .bin": (
        lambda f: (edit_weights(f, lambda w: w.update({OWN: w["shared.weight"] * 2})), to_bin(f)),
        r"shared\.weight and encoder\.embed_tokens\.weight differ",
    ),
}  # fmt: skip
FOUND_WHEN_LOADED = ("NaN", "infinite", "two embeddings")  # where weights are elsewhere


def check(path: str | Path, **where: Any) -> None:
    place = CheckpointPlace(path, **where)
    check_checkpoint(dataclasses.replace(place, fingerprint=fingerprint_checkpoint(place)))


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_refused_by_name(copy: Path, damage: Callable[[Path], Any], message: str) -> None:
    check(copy)
    damage(copy)
    with pytest.raises(CheckpointError, match=message) as caught:
        check(copy)
    assert str(copy) in str(caught.value)


@pytest.mark.parametrize("name", ["cut", "cut .bin", "another width", "vocabulary", "NaN", "two embeddings, .bin"])
def test_in_object_storage_too_and_without_fetching_weights(
    copy: Path, name: str, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TART_RAY_CACHE", str(tmp_path / "cache"))
    damage, message = DAMAGE[name]
    damage(copy)
    bucket = s3.new_bucket()
    for file in copy.iterdir():
        s3.filesystem().pipe_file(f"{bucket}/m/{file.name}", file.read_bytes())
    where: dict[str, Any] = {"storage_options": s3.storage_options}
    if name.startswith(FOUND_WHEN_LOADED):
        check(f"s3://{bucket}/m", **where)
        with pytest.raises(CheckpointError, match=message):
            Scorer.from_pretrained(f"s3://{bucket}/m", device="cpu", **where)
    else:
        with pytest.raises(CheckpointError, match=message):
            check(f"s3://{bucket}/m", **where)
        assert not [*(tmp_path / "cache").rglob("*.safetensors"), *(tmp_path / "cache").rglob("*.bin")]


def keep(_: Path) -> None:
    """As it is."""


@pytest.mark.parametrize(
    "edit",
    [
        keep,
        to_bin,
        lambda f: as_shards(f, lost=False),
        lambda f: edit_weights(f, lambda w: w.update({OWN: w["shared.weight"].copy()})),
        lambda f: edit_weights(f, lambda w: w.update({OWN: w.pop("shared.weight")})),
        lambda f: to_bin(f, **{"lm_head.weight": torch.full((2,), float("nan")), "steps": 7}),
    ],
    ids=["safetensors", ".bin", "shards", "both embeddings", "the encoder's embedding", "what scoring does not read"],
)
def test_what_loads_is_accepted_with_every_tensor_at_its_place(copy: Path, edit: Callable[[Path], Any]) -> None:
    edit(copy)
    check(copy)
    sizes, open_file = list_checkpoint(CheckpointPlace(copy))
    tensors = find_tensors("it", sizes, open_file)
    assert tensors is not None
    loaded = EncT5ForSequenceClassification.from_pretrained(copy).state_dict()
    assert {*loaded} - {*tensors} <= {"shared.weight", OWN}
    assert {name: tensors[name].shape for name in loaded if name in tensors} == {
        name: tuple(weight.shape) for name, weight in loaded.items() if name in tensors
    }


def test_the_published_layout_is_accepted(shared_data: Path) -> None:
    check(shared_data / "tart-tiny")


def test_nothing_in_a_pickle_is_called(copy: Path) -> None:
    marker = copy / "ran"

    class Harm:
        def __reduce__(self) -> Any:
            return (Path.touch, (marker,))

    weights = {name: torch.from_numpy(weight) for name, weight in load_file(copy / "model.safetensors").items()}
    torch.save({**weights, "harm": Harm()}, copy / "pytorch_model.bin", pickle_module=pickle)
    (copy / "model.safetensors").unlink()
    check(copy)  # only torch can tell, and it refuses
    assert not marker.exists()
    with pytest.raises(CheckpointError, match="Python objects beside tensors"):
        EncT5ForSequenceClassification.from_pretrained(copy)
    assert not marker.exists()


def test_another_safetensors_file_is_not_taken_for_the_weights(copy: Path) -> None:
    save_file({"adapter": np.ones(3, np.float32)}, copy / "adapter_model.safetensors")
    weights = to_bin(copy)
    before = fingerprint_checkpoint(CheckpointPlace(copy))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert fingerprint_checkpoint(CheckpointPlace(copy)) != before


def test_looking_needs_no_torch(tiny_checkpoint: Path) -> None:
    code = (
        "import sys; from tart_ray.model.checkpoint import fingerprint_checkpoint as f\n"
        "from tart_ray.model.fitness import check_checkpoint as c\n"
        "from tart_ray.model.place import CheckpointPlace as P\n"
        f"c(P({str(tiny_checkpoint)!r}, fingerprint=f(P({str(tiny_checkpoint)!r})))); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
