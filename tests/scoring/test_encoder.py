"""The fast encoder on CPUs against the reference: same logits, whatever else is in the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.random_models import LENGTHS, all_rows, make_model, make_pairs

from tart_ray import EncT5ForSequenceClassification
from tart_ray.scoring.choosing import ChoosingScorer
from tart_ray.scoring.encoder import Group, PackedEncoder, equal_lengths, unit_rows
from tart_ray.scoring.projections import OneDnnProjection, TorchProjection, make_projection
from tart_ray.scoring.reference import ReferenceEncoder

SMALL = {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_heads": 6}  # flan-t5-small
BASE = {"d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12}  # flan-t5-base


def assert_like_reference(model: EncT5ForSequenceClassification, lengths: list[int]) -> None:
    pairs = make_pairs(lengths)
    expected = ReferenceEncoder(model)(pairs, all_rows(pairs))
    found = PackedEncoder(model)(pairs, all_rows(pairs))
    assert found.dtype == torch.float32
    assert len(np.unique(expected[:, 0].numpy())) == len(lengths)  # a wrong order would show
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 1}, {"num_labels": 1}, {"num_labels": 3}, {"num_heads": 3, "d_kv": 16}],
    ids=["tiny", "one layer", "one label", "three labels", "inner width unlike the model's"],
)
def test_logits_of_the_reference(options: dict[str, Any]) -> None:
    assert_like_reference(make_model(**options), LENGTHS)


@pytest.mark.parametrize("geometry", [SMALL, BASE], ids=["small", "base"])
def test_logits_of_the_reference_at_real_geometry(geometry: dict[str, int]) -> None:
    assert_like_reference(make_model(**geometry), [150, 40, 40, 7])


def test_pairs_longer_than_any_before() -> None:
    model = make_model()
    encoder = PackedEncoder(model)
    reference = ReferenceEncoder(model)
    for lengths in ([4, 2], [300, 70], [65]):  # the table of relative positions grows, and is used in part
        pairs = make_pairs(lengths)
        np.testing.assert_allclose(
            encoder(pairs, all_rows(pairs)), reference(pairs, all_rows(pairs)), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_scores_do_not_depend_on_the_batch(dtype: torch.dtype, tolerance: float) -> None:
    pairs = make_pairs(LENGTHS)
    encoder = PackedEncoder(make_model().to(dtype))
    alone = torch.cat([encoder(pairs, np.array([row])) for row in range(len(pairs))])
    draw = np.random.default_rng(2)
    for _ in range(5):
        rows = draw.permutation(len(pairs))[: draw.integers(1, len(pairs) + 1)]
        np.testing.assert_allclose(encoder(pairs, rows), alone[torch.from_numpy(rows)], atol=tolerance, rtol=0)


def mean_square(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).pow(2).mean())


def test_bfloat16_is_on_average_no_further_from_float32_than_transformers_in_bfloat16() -> None:
    distances: dict[str, list[float]] = {}
    for seed in range(4):
        pairs = make_pairs(np.random.default_rng(seed).integers(2, 120, 48).tolist())
        expected = ReferenceEncoder(make_model(seed=seed))(pairs, all_rows(pairs))
        halved = make_model(seed=seed).to(torch.bfloat16)
        with torch.inference_mode():
            alone = [halved(torch.from_numpy(pairs.row(row)).long()[None]).logits.float() for row in range(len(pairs))]
        found = {
            "ours": PackedEncoder(halved)(pairs, all_rows(pairs)),
            "the reference": ReferenceEncoder(halved)(pairs, all_rows(pairs)),  # its classifier in float32, as ours
            "transformers": torch.cat(alone),
        }
        for name, logits in found.items():
            distances.setdefault(name, []).append(mean_square(logits, expected))
    means = {name: np.mean(values) for name, values in distances.items()}
    assert means["ours"] <= means["the reference"]
    assert means["ours"] <= means["transformers"]


def test_the_reference_classifies_in_float32() -> None:
    pairs = make_pairs([20] * 200)
    model = make_model()
    with torch.inference_mode():
        plain = model(torch.from_numpy(pairs.input_ids).long().view(200, 20)).logits
    assert (ReferenceEncoder(model)(pairs, all_rows(pairs)) == plain).all()
    logits = ReferenceEncoder(model.to(torch.bfloat16))(pairs, all_rows(pairs))
    assert logits.dtype == torch.float32
    assert len(np.unique(logits[:, 1] - logits[:, 0])) == 200  # logits of 8 bits would tie


def test_a_consumed_model_gave_its_weights_away() -> None:
    pairs = make_pairs(LENGTHS)
    model = make_model()
    expected = PackedEncoder(model)(pairs, all_rows(pairs))
    encoder = PackedEncoder(model, consume=True)
    assert (encoder(pairs, all_rows(pairs)) == expected).all()
    in_layers = sum(weight.numel() for name, weight in model.encoder.block.named_parameters() if "layer.1" in name)
    norms = sum(block.layer[1].layer_norm.weight.numel() for block in model.encoder.block)
    assert in_layers == norms
    assert model.device.type == "cpu"
    with pytest.raises(RuntimeError, match="weights belong to a Scorer"):
        model(torch.tensor([[3, 1]]))


@pytest.mark.parametrize("proj", ["relu", "gated-silu"])
def test_other_feed_forwards_go_through_the_reference(proj: str) -> None:
    model = make_model(feed_forward_proj=proj)
    with pytest.raises(ValueError, match=f"feed_forward_proj='{proj}', expected 'gated-gelu'"):
        PackedEncoder(model)
    assert ChoosingScorer(model, max_length=200).encoder == "reference"


def test_groups_by_hand() -> None:
    # five of 4 tokens, at most 2 * 16 at once; one of 9, though 81 > 32; two of 2
    groups = equal_lengths(np.array([4, 4, 4, 4, 4, 9, 2, 2]), 32)
    assert groups == [Group(0, 2, 4), Group(8, 2, 4), Group(16, 1, 4), Group(20, 1, 9), Group(29, 2, 2)]
    part = Group(8, 2, 4).of(torch.arange(66).view(33, 2))
    assert part.shape == (2, 4, 2)
    assert part[1, 0].tolist() == [24, 25]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
@pytest.mark.parametrize("row", [0, 4])
@pytest.mark.parametrize("factor", [1.0, 3e-2, 1e-2, 1e-3, 0.0])  # epsilon is 0.1 %, 1 % of the mean square, as much …
def test_unit_rows_are_rms_norm_but_for_the_width(
    dtype: torch.dtype, tolerance: float, row: int, factor: float
) -> None:
    x_ND = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    x_ND[row] *= factor
    x_ND = x_ND.to(dtype)
    mean_square_N1 = x_ND.double().pow(2).mean(1, keepdim=True)
    expected = x_ND.double() / (mean_square_N1 + 1e-6).sqrt() / 8
    found = unit_rows(x_ND, 1e-6)
    assert found.dtype == dtype
    np.testing.assert_allclose(found.double(), expected, atol=1e-8, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unit_rows_of_a_view_and_beside_a_row_that_is_no_number(dtype: torch.dtype) -> None:
    x_ND = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = unit_rows(x_ND, 1e-6)
    assert (unit_rows(torch.cat([x_ND, x_ND], 1)[:, :64], 1e-6) == expected).all()
    spoiled = unit_rows(torch.cat([x_ND, torch.full_like(x_ND[:1], float("nan"))]), 1e-6)
    np.testing.assert_allclose(spoiled[:5].float(), expected.float(), rtol=2**-7, atol=0)
    assert spoiled[5].isnan().all()


ENDINGS: dict[str, Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "plain": lambda projection, x, other: projection(x),
    "gelu": lambda projection, x, other: projection.gelu(x),
    "times": lambda projection, x, other: projection.times(x, other),
    "plus": lambda projection, x, other: projection.plus(x, other),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_projections_agree(ending: str, dtype: torch.dtype, tolerance: float) -> None:
    draw = torch.Generator().manual_seed(0)
    weight, x, other = (torch.randn(shape, generator=draw).to(dtype) for shape in [(48, 80), (33, 80), (33, 48)])
    fast = make_projection(weight)
    if not isinstance(fast, OneDnnProjection):
        pytest.skip("this torch or processor has no oneDNN kernels for it")
    expected = ENDINGS[ending](TorchProjection(weight.double()), x.double(), other.double())
    np.testing.assert_allclose(ENDINGS[ending](fast, x, other).double(), expected, atol=tolerance, rtol=tolerance)


def test_no_fused_projections_where_torch_turns_them_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_acl_supported", lambda: True)  # Arm's library, on aarch64
    assert isinstance(make_projection(torch.ones(2, 3)), TorchProjection)
