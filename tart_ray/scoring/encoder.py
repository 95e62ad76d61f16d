"""The fast encoder on CPUs: EncT5's forward pass over pairs that stand one behind the other, without padding.

What it does less of than the reference: no padding; queries, keys and values in one product, in the first layer once
for each distinct token; gate, product and sum inside the matrix products (see `projections`); the gains of norms inside
the weights that follow; relative positions looked up once; and the last layer, of which the classifier sees position 0
alone, is computed for that position alone. Eager: nothing is compiled, any shape goes.

Shapes: N tokens of the batch, U distinct ones of them, B pairs, n pairs of one length, T tokens of a pair, D d_model,
H heads, h = n * H, K d_kv, I = H * K, C labels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.t5.modeling_t5 import T5Block, T5LayerFF

from tart_ray.model.encoded import EncodedPairs
from tart_ray.model.enct5 import EncT5ForSequenceClassification
from tart_ray.scoring.memory import keep_freed_memory
from tart_ray.scoring.projections import Projection, make_projection

SCORES_AT_ONCE = 1 << 20  # elements of attention scores: more leave the caches
POSITIONS_STEP = 64

Project = Callable[..., Projection]  # `project` with its options set, but for the gain


@dataclass(frozen=True)
class Group:
    """Pairs of one length that stand behind each other: tokens ``[start, start + count * length)``."""

    start: int
    count: int
    length: int

    def of(self, x_NX: torch.Tensor) -> torch.Tensor:
        """Its part of a tensor over tokens, (count, length, …), a view."""
        return x_NX[self.start : self.start + self.count * self.length].view(self.count, self.length, *x_NX.shape[1:])


def equal_lengths(lengths: npt.NDArray[np.int64], largest: int) -> list[Group]:
    """Runs of equal length, in parts whose ``count * length**2`` is at most ``largest``, or of one pair."""
    groups = []
    start = 0
    for length, run in itertools.groupby(lengths.tolist()):
        left = len(list(run))
        while left:
            count = min(left, max(largest // length**2, 1))
            groups.append(Group(start, count, length))
            start += count * length
            left -= count
    return groups


class PackedEncoder:
    """Logits of encoded pairs on the CPU, in the dtype of the model.

    Args:
        model: in evaluation mode, on the CPU, with a gated GELU (T5 1.1, flan-t5, TART).
        consume: take each weight out of the model once it is in the layout that the kernels want, so that memory
            holds one copy. The model's own forward pass cannot be used any more.
        projection: makes a projection of a weight (out, in); by default the fastest one for the processor.

    Raises:
        ValueError: the model has another feed-forward.
    """

    def __init__(
        self,
        model: EncT5ForSequenceClassification,
        *,
        consume: bool = False,
        projection: Callable[[torch.Tensor], Projection] = make_projection,
    ) -> None:
        require_gated_gelu(model)
        self._model = model
        self._epsilon = model.config.layer_norm_epsilon
        self._heads = model.config.num_heads
        *blocks, last = model.encoder.block
        project_as_asked = partial(project, make=projection, consume=consume)
        self._layers = [_Layer(block, self._heads, self._epsilon, project_as_asked) for block in blocks]
        self._last = _LastLayer(last, self._heads, self._epsilon, project_as_asked)
        if consume:
            model.encoder.forward = _refuse
        self._bias_HTT = torch.empty(self._heads, 0, 0)
        keep_freed_memory()

    @torch.inference_mode()
    def __call__(self, pairs: EncodedPairs, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        order = np.argsort(-pairs.lengths[rows], kind="stable")
        packed = pairs.take(rows[order])
        groups = equal_lengths(packed.lengths, SCORES_AT_ONCE // self._heads)
        bias_HTT = self._position_bias(int(packed.lengths.max()))
        ids_U, place_N = torch.unique(torch.from_numpy(packed.input_ids), return_inverse=True)
        embedded_UD = F.embedding(ids_U, self._model.shared.weight)
        hidden_ND = embedded_UD[place_N]
        for number, layer in enumerate(self._layers):
            qkv_NI = layer.qkv(hidden_ND) if number else layer.qkv(embedded_UD)[place_N]
            hidden_ND = layer(hidden_ND, qkv_NI, groups, bias_HTT)
        first_B = torch.from_numpy(packed.offsets[:-1])
        logits_BC = classify(self._model, self._last(hidden_ND, first_B, groups, bias_HTT))
        result_BC = torch.empty_like(logits_BC)
        result_BC[torch.from_numpy(order)] = logits_BC
        return result_BC

    def _position_bias(self, length: int) -> torch.Tensor:
        """Bias of relative positions, (H, length, length): a corner of one that is kept for the longest pair yet."""
        if self._bias_HTT.shape[1] < length:
            self._bias_HTT = position_bias(self._model, -(-length // POSITIONS_STEP) * POSITIONS_STEP)
        return self._bias_HTT[:, :length, :length]


def _refuse(*_: object, **__: object) -> None:
    raise RuntimeError(
        "this model's weights belong to a Scorer, in another layout; for the model itself load another one, with "
        "EncT5ForSequenceClassification.from_pretrained, or give it to Scorer(model, tokenizer)"
    )


class _Layer:
    """One layer for every token."""

    def __init__(self, block: T5Block, heads: int, epsilon: float, project: Project) -> None:
        attention, forward = block.layer[0], block.layer[1]
        own = attention.SelfAttention
        self._heads, self._epsilon = heads, epsilon
        self._qkv = project(own.q, own.k, own.v, gain=attention.layer_norm.weight)
        self._out = project(own.o)
        self._feed_forward = _FeedForward(forward, epsilon, project)

    def qkv(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Queries, keys and values, (N, 3 * I): of each token by itself."""
        return self._qkv(unit_rows(hidden_ND, self._epsilon))

    def __call__(
        self, hidden_ND: torch.Tensor, qkv_NI: torch.Tensor, groups: list[Group], bias_HTT: torch.Tensor
    ) -> torch.Tensor:
        context_NI = hidden_ND.new_empty(len(qkv_NI), qkv_NI.shape[1] // 3)
        for group in groups:
            qkv_nT3HK = group.of(qkv_NI).view(group.count, group.length, 3, self._heads, -1)
            q_nHTK, k_nHTK, v_nHTK = qkv_nT3HK.permute(2, 0, 3, 1, 4)
            bias = bias_HTT[:, : group.length, : group.length]
            context_nHTK = attend(q_nHTK, k_nHTK, v_nHTK, bias)
            context_nTHK = context_nHTK.transpose(1, 2)
            group.of(context_NI).view(context_nTHK.shape).copy_(context_nTHK)
        return self._feed_forward(self._out.plus(context_NI, hidden_ND))


class _LastLayer:
    """The last layer for position 0 of each pair.

    With one query a pair, keys and values of all tokens need not be computed: ``q · (W x) = (W' q) · x`` and
    ``sum p (W x) = W (sum p x)``, for each head.
    """

    def __init__(self, block: T5Block, heads: int, epsilon: float, project: Project) -> None:
        attention, forward = block.layer[0], block.layer[1]
        own = attention.SelfAttention
        self._epsilon = epsilon
        self._norm = attention.layer_norm.weight
        self._q = project(own.q)
        self._k_HKD = own.k.weight.detach().view(heads, -1, own.q.in_features)
        self._v_HKD = own.v.weight.detach().view(heads, -1, own.q.in_features)
        self._out = project(own.o)
        self._feed_forward = _FeedForward(forward, epsilon, project)

    def __call__(
        self, hidden_ND: torch.Tensor, first_B: torch.Tensor, groups: list[Group], bias_HTT: torch.Tensor
    ) -> torch.Tensor:
        """Hidden states of position 0, (B, D)."""
        heads = len(self._k_HKD)
        normed_ND = rms_norm(hidden_ND, self._norm, self._epsilon)
        q_HBK = self._q(normed_ND[first_B]).view(len(first_B), heads, -1).transpose(0, 1)
        key_BHD = torch.bmm(q_HBK, self._k_HKD).transpose(0, 1)
        pooled = []
        pair = 0
        for group in groups:
            x_nTD = group.of(normed_ND)
            scores_nHT = key_BHD[pair : pair + group.count] @ x_nTD.transpose(1, 2)
            weights_nHT = torch.softmax(scores_nHT.float() + bias_HTT[:, 0, : group.length], -1)
            pooled.append(weights_nHT.to(x_nTD.dtype) @ x_nTD)
            pair += group.count
        pooled_HBD = torch.cat(pooled).transpose(0, 1)
        context_BI = torch.bmm(pooled_HBD, self._v_HKD.transpose(1, 2)).transpose(0, 1).flatten(1)
        return self._feed_forward(self._out.plus(context_BI, hidden_ND[first_B]))


class _FeedForward:
    """``x + wo(gelu(wi_0(norm(x))) * wi_1(norm(x)))``."""

    def __init__(self, layer: T5LayerFF, epsilon: float, project: Project) -> None:
        dense = layer.DenseReluDense
        self._epsilon = epsilon
        self._gate = project(dense.wi_0, gain=layer.layer_norm.weight)
        self._up = project(dense.wi_1, gain=layer.layer_norm.weight)
        self._down = project(dense.wo)

    def __call__(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        unit_ND = unit_rows(hidden_ND, self._epsilon)
        return self._down.plus(self._up.times(unit_ND, self._gate.gelu(unit_ND)), hidden_ND)


def attend(q_nHTK: torch.Tensor, k_nHTK: torch.Tensor, v_nHTK: torch.Tensor, bias_HTT: torch.Tensor) -> torch.Tensor:
    """T5's attention among the tokens of each pair, (n, H, T, K): no scale, a bias of relative positions."""
    bias_hTT = bias_HTT.expand(len(q_nHTK), -1, -1, -1).flatten(0, 1)  # no copy for one pair
    q_hTK, k_hTK, v_hTK = (x.flatten(0, 1) for x in (q_nHTK, k_nHTK, v_nHTK))
    weights_hTT = torch.softmax(torch.baddbmm(bias_hTT, q_hTK, k_hTK.transpose(1, 2)), -1)
    return torch.bmm(weights_hTT, v_hTK).view(q_nHTK.shape)


def classify(model: EncT5ForSequenceClassification, hidden_BD: torch.Tensor) -> torch.Tensor:
    """Logits (B, C) in float32: in bfloat16 they would tie where the model does not."""
    normed_BD = rms_norm(
        hidden_BD.float(), model.encoder.final_layer_norm.weight.float(), model.config.layer_norm_epsilon
    )
    return F.linear(normed_BD, model.classifier.weight.float(), model.classifier.bias.float())


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """T5's layer norm: no mean, no bias, the mean square in float32."""
    return F.rms_norm(x, weight.shape, weight, epsilon)


def unit_rows(x_ND: torch.Tensor, epsilon: float) -> torch.Tensor:
    """``x / sqrt(sum(x²) + D * epsilon)``, (N, D): T5's layer norm but for its gain and sqrt(D).

    These stand in the weights of what follows (`project`), so that they cost no pass over memory. In bfloat16 the
    kernel of weight normalisation needs one pass where `rms_norm` needs five; it knows no epsilon, so a batch with a
    row that is small enough for epsilon to matter in 8 bits, or is no number, goes the long way.
    """
    least = x_ND.shape[1] * epsilon
    if x_ND.dtype == torch.bfloat16:
        unit_ND: torch.Tensor
        ones_N1 = x_ND.new_ones(len(x_ND), 1)
        unit_ND, norm_N1 = torch._weight_norm_interface(x_ND.contiguous(), ones_N1, 0)  # it checks no strides
        if norm_N1.min() ** 2 > 1_000 * least:
            return unit_ND
    square_N1: torch.Tensor = torch.linalg.vector_norm(x_ND, dim=1, keepdim=True, dtype=torch.float32).square_()
    return (x_ND * square_N1.add_(least).rsqrt_()).to(x_ND.dtype)


def position_bias(model: EncT5ForSequenceClassification, length: int) -> torch.Tensor:
    """Bias of relative positions for pairs of up to ``length`` tokens, (H, length, length), in the model's dtype."""
    bias: torch.Tensor = model.encoder.block[0].layer[0].SelfAttention.compute_bias(length, length)
    return bias[0].detach().to(model.shared.weight.dtype).contiguous()


def project(
    *linears: nn.Linear,
    make: Callable[[torch.Tensor], Projection],
    consume: bool,
    gain: torch.Tensor | None = None,
) -> Projection:
    """One projection that gives what these give, side by side.

    Args:
        make: of the weight that these have together, (out, in).
        gain: of the layer norm before them, (D,), which is multiplied into the weights, with the sqrt(D) that
            `unit_rows` leaves out.
        consume: take the weights out of these.
    """
    weights = [linear.weight.detach() for linear in linears]
    if gain is not None:
        factor_D = gain.detach().float() * len(gain) ** 0.5
        weights = [(weight * factor_D).to(weight.dtype) for weight in weights]
    weight = torch.cat(weights) if len(weights) > 1 else weights[0]
    projection = make(weight)
    if consume:
        for linear in linears:
            linear.weight = nn.Parameter(weight.new_empty(0), requires_grad=False)
    return projection


def require_gated_gelu(model: EncT5ForSequenceClassification) -> None:
    if not has_gated_gelu(model):
        raise ValueError(
            f"got a model with feed_forward_proj={model.config.feed_forward_proj!r}, expected 'gated-gelu'; "
            "the reference encoder runs every T5"
        )


def has_gated_gelu(model: EncT5ForSequenceClassification) -> bool:
    """Whether the feed-forward is that of T5 1.1 and its children, which the fast encoders are made for."""
    return bool(model.config.is_gated_act and model.config.dense_act_fn == "gelu_new")
