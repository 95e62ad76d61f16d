"""What training starts from and ends in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import T5Config, T5EncoderModel

from tart_ray import EncT5ForSequenceClassification, EncT5Tokenizer, Scorer
from tart_ray.config import GeometryConfig
from tart_ray.errors import CheckpointError
from tart_ray.model.place import CheckpointPlace
from tart_ray.training.start import save_checkpoint, start_fresh, start_from_checkpoint

SMALL = GeometryConfig(num_layers=2, d_model=32, num_heads=4, d_kv=8, d_ff=64)


def test_a_new_model_looks_for_equal_tokens(tiny_checkpoint: Path) -> None:
    model, tokenizer = start_fresh(tiny_checkpoint, SMALL)
    assert model.shared.num_embeddings % 64 == 0
    assert model.shared.num_embeddings >= len(tokenizer)
    for block in model.encoder.block:
        attention = block.layer[0].SelfAttention
        torch.testing.assert_close(attention.q.weight, attention.k.weight)
        torch.testing.assert_close(attention.o.weight, -attention.v.weight.T)
        for head in attention.q.weight.view(4, 8, 32):
            torch.testing.assert_close(head @ head.T, torch.eye(8), atol=1e-5, rtol=0)
    layer = model.encoder.block[0].layer[0].SelfAttention
    bias = layer.compute_bias(5, 5)[0]  # (heads, 5, 5)
    at_zero = bias.diagonal(dim1=1, dim2=2)
    assert (at_zero[:2] < -8).all(), "half of the heads do not see the token itself"
    assert at_zero[2:].abs().max() < 2
    assert bias.triu(1).abs().max() < 2
    again, _ = start_fresh(tiny_checkpoint, SMALL)
    other, _ = start_fresh(tiny_checkpoint, SMALL, seed=1)
    assert torch.equal(again.shared.weight, model.shared.weight)
    assert not torch.equal(other.shared.weight, model.shared.weight)
    plain, _ = start_fresh(tiny_checkpoint, SMALL, mimetic=False)
    attention = plain.encoder.block[0].layer[0].SelfAttention
    assert not torch.allclose(attention.q.weight, attention.k.weight)


def test_a_token_of_the_query_attends_to_its_twin_in_the_document(tiny_checkpoint: Path) -> None:
    model, _ = start_fresh(tiny_checkpoint, GeometryConfig(num_layers=1, d_model=128, num_heads=4, d_kv=32, d_ff=64))
    model.set_attn_implementation("eager")
    ids = torch.tensor([[179, 5, 6, 7, 1, 20, 21, 6, 22, 23, 24, 1]])
    with torch.no_grad():
        attention = model.eval()(input_ids=ids, output_attentions=True).attentions[0][0]  # (heads, 12, 12)
    elsewhere, anywhere = attention[:2].mean(0), attention[2:].mean(0)
    assert elsewhere[2, 7] > 0.9
    assert elsewhere[7, 2] > 0.9
    assert elsewhere[1].max() < 0.9, "a token without a twin has nothing to look at"
    assert anywhere[2, [2, 7]].sum() > 0.9


def write_t5(folder: Path, tokenizer: EncT5Tokenizer, **changes: int) -> T5EncoderModel:
    sizes = {"vocab_size": 256, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4} | changes
    torch.manual_seed(3)
    model = T5EncoderModel(T5Config(feed_forward_proj="gated-gelu", **sizes))
    model.save_pretrained(folder)
    (folder / "spiece.model").write_bytes(tokenizer.vocab_file.read_bytes())
    return model


def test_a_t5_gives_its_encoder_and_gets_a_head_and_a_first_token(tiny_checkpoint: Path, tmp_path: Path) -> None:
    tokenizer = EncT5Tokenizer.from_pretrained(tiny_checkpoint)
    t5 = write_t5(tmp_path, tokenizer)
    model, found = start_from_checkpoint(CheckpointPlace(tmp_path))
    assert found.bos_token_id == tokenizer.bos_token_id
    given = t5.state_dict()
    for name, weight in model.state_dict().items():
        if name in ("shared.weight", "encoder.embed_tokens.weight"):
            changed = (weight != given["shared.weight"]).any(dim=1).nonzero().flatten().tolist()
            assert changed == [tokenizer.bos_token_id]
        elif not name.startswith("classifier"):
            assert torch.equal(weight, given[name]), name
    assert model.classifier.weight.shape == (2, 32)
    again, _ = start_from_checkpoint(CheckpointPlace(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_an_enct5_goes_on_as_it_is_and_others_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model, tokenizer = start_from_checkpoint(CheckpointPlace(tiny_checkpoint))
    expected = EncT5ForSequenceClassification.from_pretrained(tiny_checkpoint)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    write_t5(tmp_path / "few", tokenizer, vocab_size=64)
    with pytest.raises(CheckpointError, match="got 64 embedding rows, expected"):
        start_from_checkpoint(CheckpointPlace(tmp_path / "few"))
    expected.config.num_labels = 1
    one = EncT5ForSequenceClassification(expected.config)
    save_checkpoint(one, tokenizer, tmp_path / "one")
    with pytest.raises(CheckpointError, match="got 1 labels, expected 2"):
        start_from_checkpoint(CheckpointPlace(tmp_path / "one"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_checkpoint_has_the_published_layout_and_is_loaded(
    dtype: torch.dtype, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    model, tokenizer = start_fresh(tiny_checkpoint, SMALL)
    save_checkpoint(model, tokenizer, tmp_path / "saved", dtype=dtype)
    files = {file.name for file in (tmp_path / "saved").iterdir()}
    assert files == {
        "config.json", "model.safetensors", "spiece.model", "added_tokens.json", "special_tokens_map.json",
        "tokenizer_config.json",
    }  # fmt: skip
    with safe_open(tmp_path / "saved/model.safetensors", "pt") as weights:
        assert weights.metadata()["format"] == "pt"  # transformers of the original's time asks for it
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {dtype}  # noqa: SIM118
    config = json.loads((tmp_path / "saved/config.json").read_text())
    assert config["architectures"] == ["EncT5ForSequenceClassification"]
    assert config["model_type"] == "t5"
    assert model.config.dtype != torch.bfloat16
    assert model.shared.weight.dtype == torch.float32

    scores = Scorer.from_pretrained(tmp_path / "saved").score(["wing"], ["lift and drag"], "Find it")
    expected = Scorer(model.to(dtype).float().eval(), tokenizer).score(["wing"], ["lift and drag"], "Find it")
    assert scores.logits == pytest.approx(expected.logits, abs=1e-5)


def test_the_layout_is_that_of_the_published_checkpoint(shared_data: Path, tmp_path: Path) -> None:
    model, tokenizer = start_from_checkpoint(CheckpointPlace(shared_data / "tart-tiny"))
    save_checkpoint(model, tokenizer, tmp_path)
    published = {file.name for file in (shared_data / "tart-tiny").iterdir()}
    assert {file.name for file in tmp_path.iterdir()} == published - {"pytorch_model.bin"} | {"model.safetensors"}
    for name in ("added_tokens.json", "special_tokens_map.json"):
        assert json.loads((tmp_path / name).read_text()) == json.loads((shared_data / "tart-tiny" / name).read_text())
    before = json.loads((shared_data / "tart-tiny/config.json").read_text())
    after = json.loads((tmp_path / "config.json").read_text())
    told_otherwise = {"use_cache", "is_encoder_decoder", "torch_dtype", "transformers_version", "tie_word_embeddings"}
    different = {name for name in before if name not in told_otherwise and after.get(name) != before[name]}
    assert not different
    before, after = (Scorer.from_pretrained(path) for path in (shared_data / "tart-tiny", tmp_path))
    pair = (["what is lift"], ["the force on a wing"], "Retrieve a paragraph")
    assert after.score(*pair).logits.tolist() == before.score(*pair).logits.tolist()
