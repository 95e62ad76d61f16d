"""The encoder for CUDA in its CPU form: same logits as the reference, few compilations, shapes by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.random_models import LENGTHS, all_rows, make_model, make_pairs

from tart_ray.scoring.batching import bucket_of, fitting_max_tokens, plan_batches
from tart_ray.scoring.cuda import CompiledEncoder, PackedAttention, PaddedAttention
from tart_ray.scoring.reference import ReferenceEncoder

ATTENTIONS = pytest.mark.parametrize("attention", [PackedAttention, PaddedAttention])


def as_it_is(layer: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return layer


def make_encoder(
    attention: Any, compile_layer: Any = as_it_is, *, max_length: int = 200, max_tokens: int = 640, **options: Any
) -> CompiledEncoder:
    limits: Any = {"max_length": max_length, "max_tokens": max_tokens}
    return CompiledEncoder(make_model(**options), attention=attention, compile_layer=compile_layer, **limits)


class Counting:
    """``compile_layer`` for a backend that counts its graphs and runs them as they are."""

    def __init__(self) -> None:
        self.compilations = 0

    def __call__(self, layer: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def backend(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
            self.compilations += 1
            return graph.forward

        return torch.compile(layer, backend=backend, dynamic=False, fullgraph=True)


@ATTENTIONS
@pytest.mark.parametrize("options", [{}, {"num_layers": 1}, {"num_heads": 3, "d_kv": 16}])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_logits_of_the_reference(attention: Any, options: dict[str, Any]) -> None:
    pairs = make_pairs(LENGTHS)
    expected = ReferenceEncoder(make_model(**options))(pairs, all_rows(pairs))
    encoder = make_encoder(attention, **options)
    np.testing.assert_allclose(encoder(pairs, all_rows(pairs)), expected, atol=1e-5, rtol=0)
    shuffled = np.random.default_rng(1).permutation(len(pairs))[:7]
    np.testing.assert_allclose(encoder(pairs, shuffled), expected[torch.from_numpy(shuffled)], atol=1e-5, rtol=0)


# packed: 640 tokens or 384, 256, 128; padded: 5, 3, 2 or 1 pairs of 128 tokens, 2 or 1 of 256
@pytest.mark.parametrize(("attention", "most"), [(PackedAttention, 4), (PaddedAttention, 6)])
def test_compiled_a_handful_of_times(attention: Any, most: int) -> None:
    counting = Counting()
    torch._dynamo.reset()
    encoder = make_encoder(attention, counting, num_layers=2)
    reference = ReferenceEncoder(make_model(num_layers=2))
    draw = np.random.default_rng(0)
    batches = 0
    for _ in range(3):
        pairs = make_pairs(draw.integers(1, 201, 20).tolist())
        for rows in plan_batches(pairs.lengths, 640):
            np.testing.assert_allclose(encoder(pairs, rows), reference(pairs, rows), atol=1e-5, rtol=0)
            batches += 1
    assert 1 < counting.compilations <= most < batches


def test_encoders_of_one_process_are_compiled_for_all_their_sizes() -> None:
    counting = Counting()
    torch._dynamo.reset()
    for options in ({"num_layers": 2}, {"num_layers": 2, "num_heads": 3}):  # ten sizes: more than dynamo's own limit
        encoder = make_encoder(PackedAttention, counting, max_length=128, max_tokens=2_048, **options)
        reference = ReferenceEncoder(make_model(**options))
        for count in (1, 2, 4, 8, 16):
            pairs = make_pairs([128] * count)
            np.testing.assert_allclose(
                encoder(pairs, all_rows(pairs)), reference(pairs, all_rows(pairs)), atol=1e-5, rtol=0
            )
    assert counting.compilations == 10


@ATTENTIONS
def test_batches_beyond_its_budget_are_split(attention: Any) -> None:
    counting = Counting()
    torch._dynamo.reset()
    encoder = make_encoder(attention, counting, max_length=128, max_tokens=256, num_layers=2)
    reference = ReferenceEncoder(make_model(num_layers=2))
    for count in range(1, 11):  # up to 1,280 tokens
        pairs = make_pairs([128] * count)
        np.testing.assert_allclose(
            encoder(pairs, all_rows(pairs)), reference(pairs, all_rows(pairs)), atol=1e-5, rtol=0
        )
    assert counting.compilations == 2  # 128 tokens and 256


@ATTENTIONS
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_pairs_longer_than_its_budget_go_alone(attention: Any) -> None:
    encoder = make_encoder(attention, max_tokens=128)
    pairs = make_pairs(LENGTHS)
    expected = ReferenceEncoder(make_model())(pairs, all_rows(pairs))
    np.testing.assert_allclose(encoder(pairs, all_rows(pairs)), expected, atol=1e-5, rtol=0)


@ATTENTIONS
def test_pairs_longer_than_it_was_made_for_are_refused(attention: Any) -> None:
    encoder = make_encoder(attention)
    pairs = make_pairs([5, 201, 3])
    with pytest.raises(ValueError, match="got a pair of 201 tokens, expected at most max_length=200"):
        encoder(pairs, all_rows(pairs))


def test_heads_too_narrow_for_flex_attention_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(d_kv=8)
    monkeypatch.setattr(type(model), "device", torch.device("cuda"))
    with pytest.raises(ValueError, match=r"d_kv=8, expected at least 16.*PaddedAttention"):
        CompiledEncoder(model, max_length=200, max_tokens=640, compile_layer=as_it_is)


@ATTENTIONS
def test_the_model_goes_on_working(attention: Any) -> None:
    model = make_model()
    pairs = make_pairs(LENGTHS)
    before = ReferenceEncoder(model)(pairs, all_rows(pairs))
    stored = sum(weight.untyped_storage().nbytes() for weight in model.parameters())
    encoder = CompiledEncoder(model, max_length=200, max_tokens=640, attention=attention, compile_layer=as_it_is)
    assert (ReferenceEncoder(model)(pairs, all_rows(pairs)) == before).all()
    storages = {weight.untyped_storage().data_ptr(): weight.untyped_storage().nbytes() for weight in model.parameters()}
    assert sum(storages.values()) <= stored  # views of the fused weights, no second copy
    assert encoder._weights[0][1].data_ptr() == model.encoder.block[0].layer[0].SelfAttention.q.weight.data_ptr()


def test_blocks_of_the_mask_by_hand() -> None:
    # tokens 0-99, 100-299, 300-309, filling to 384: blocks 0-127, 128-255, 256-383
    attention = PackedAttention(torch.zeros(1, 200, 200), 384)
    lengths = np.array([100, 200, 10])
    assert attention.places(lengths)[1] == 384
    mask = attention.inputs(lengths, torch.device("cpu"))
    assert mask.kv_num_blocks.tolist() == [[[3, 3, 3]]]  # all reach through the pair of 200 tokens
    one = attention.inputs(np.array([128, 130]), torch.device("cpu"))
    assert one.kv_num_blocks.tolist() == [[[1, 2, 2]]]
    assert [row[:count] for row, count in zip(one.kv_indices[0, 0].tolist(), [1, 2, 2], strict=True)] == [
        [0],
        [1, 2],
        [1, 2],
    ]


def test_filling_attends_to_its_own_block_alone() -> None:
    attention = PackedAttention(torch.zeros(1, 512, 512), 32_768)
    mask = attention.inputs(np.full(33, 512), torch.device("cpu"))  # filled up from 132 blocks to 256
    assert mask.kv_num_blocks.flatten().tolist() == [4] * 132 + [1] * 124
    assert mask.kv_indices[0, 0, 132:, 0].tolist() == [*range(132, 256)]
    # tokens 0-99, 100-259, filling to 512: the pair of 160 tokens is in the first three blocks
    few = PackedAttention(torch.zeros(1, 200, 200), 512).inputs(np.array([100, 160]), torch.device("cpu"))
    assert few.kv_num_blocks.flatten().tolist() == [3, 3, 3, 1]
    assert few.kv_indices[0, 0, 3, 0] == 3


def test_sizes_by_hand() -> None:
    assert [bucket_of(tokens, 1_024, 128) for tokens in (1, 128, 129, 257, 513, 1_024)] == [
        128,
        128,
        256,
        512,
        1_024,
        1_024,
    ]
    assert bucket_of(900, 1_000, 128) == 1_024
    with pytest.raises(ValueError, match="got a batch of 1001 tokens, expected at most 1000"):
        bucket_of(1_001, 1_000, 128)


@ATTENTIONS
def test_half_the_pairs_are_half_the_tokens(attention: Any) -> None:
    """Halving a budget must help where memory ran out."""
    made = attention(torch.zeros(1, 512, 512), 32_768)
    tokens = [made.places(np.full(count, 512))[1] for count in (64, 33, 32, 16, 9, 8, 4, 1)]
    assert tokens == [32_768, 32_768, 16_384, 8_192, 8_192, 4_096, 2_048, 2_048]


def test_a_budget_for_the_free_memory_by_hand() -> None:
    # half of 1,000 bytes holds 50 tokens of 10 bytes
    assert fitting_max_tokens(50, 1_000, 10) == 50
    assert fitting_max_tokens(64, 1_000, 10) == 32
    assert fitting_max_tokens(64, 0, 10) == 1
