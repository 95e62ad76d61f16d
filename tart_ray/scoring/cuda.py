"""The fast encoder on CUDA: compiled layers over batches of few shapes. No part of it has run on a GPU yet.

Three attentions with one signature, all with T5's bias of relative positions:

- `PackedAttention`: pairs stand one behind the other, FlexAttention keeps them apart and adds the bias.
- `FlashPackedAttention`: the same, by the kernels of FlashAttention 4 in place of Triton's.
- `PaddedAttention`: pairs are padded to a common length, torch's fused attention adds bias and mask as one tensor.

Which one is fastest is found out on the device, see `tart_ray.scoring.trials`. Everything else works token by token and
is the same for all. torch.compile compiles *one layer*, which all layers share, once for each shape of a batch: batches
are filled up to a few shapes, and filling costs what tokens do. The last layer, which matters for position 0 alone, is
not compiled and has no filling.

All run on CPUs too, where their tests compare them with the reference.

Shapes: N tokens of the batch with filling, B pairs, T tokens of a pair, D d_model, H heads, K d_kv, I = H * K,
F d_ff, C labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, FlexKernelOptions, flex_attention
from transformers.models.t5.modeling_t5 import T5Block

from tart_ray.model.encoded import EncodedPairs
from tart_ray.model.enct5 import EncT5ForSequenceClassification
from tart_ray.scoring.batching import bucket_of
from tart_ray.scoring.encoder import classify, position_bias, require_gated_gelu, rms_norm

BLOCK = 128  # tokens of a block of FlexAttention's mask
LENGTH_STEP = 128  # padded lengths are multiples of it
NARROWEST_HEAD = 16  # d_kv that FlexAttention's kernel takes
MOST_COMPILATIONS = 256  # of all encoders in the process, which share the code of their layer; dynamo's own limit is 8

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Attention(Protocol):
    """How the tokens of a batch stand in memory, and how those of a pair see each other."""

    def most_pairs(self, lengths: npt.NDArray[np.int64]) -> int:
        """How many of these pairs go through the layers at once."""
        ...

    def places(self, lengths: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], int]:
        """Position of each pair's first token, (B,), and the number of tokens with filling, N."""
        ...

    def inputs(self, lengths: npt.NDArray[np.int64], device: torch.device) -> Any:
        """What `attend` needs to know of the batch, made once for all layers."""
        ...

    def attend(self, q_NHK: torch.Tensor, k_NHK: torch.Tensor, v_NHK: torch.Tensor, inputs: Any) -> torch.Tensor:
        """Attention without scale, (N, H, K). Traced by torch.compile."""
        ...


class PackedAttention:
    """Pairs one behind the other; a token sees those of its own pair.

    Args:
        bias_HTT: bias of relative positions for the longest pair there can be.
        max_tokens: of a batch, at least those of the longest pair; token counts are rounded up to it, to a half of it,
            and so on.
    """

    kernel_options: ClassVar[FlexKernelOptions | None] = None

    def __init__(self, bias_HTT: torch.Tensor, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._reach = bias_HTT.shape[1] + BLOCK  # in blocks at a pair's ends the bias of farther tokens is asked for
        last = bias_HTT.shape[1] - 1
        # bias[h, i, j] depends on j - i alone: the last row backwards to 0, then the first row
        by_distance = torch.cat([bias_HTT[:, last, :last], bias_HTT[:, 0, :]], dim=1)
        by_distance_HR = F.pad(by_distance, (self._reach - last, self._reach - last))

        def add_bias(
            score: torch.Tensor, batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
        ) -> torch.Tensor:
            distance = (key - query).clamp(-self._reach, self._reach)
            return score + by_distance_HR[head, distance + self._reach]

        self._add_bias = add_bias

    def most_pairs(self, lengths: npt.NDArray[np.int64]) -> int:
        return self._max_tokens // int(lengths.max())

    def places(self, lengths: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], int]:
        ends = np.cumsum(lengths)
        return ends - lengths, bucket_of(int(ends[-1]), self._max_tokens, BLOCK)

    def inputs(self, lengths: npt.NDArray[np.int64], device: torch.device) -> BlockMask:
        """Which blocks of tokens see each other; of the filling behind the last pair a block sees itself alone."""
        first, tokens = self.places(lengths)
        edges = np.arange(0, tokens, BLOCK)
        filled = int(lengths.sum())
        starts = np.concatenate([first, [filled], edges[edges > filled]])
        ends = np.append(starts[1:], tokens)
        pair_N = np.repeat(np.arange(len(starts)), ends - starts)
        from_block = starts[pair_N[edges]] // BLOCK  # the first block that a block's first token sees
        to_block = (ends[pair_N[edges + BLOCK - 1]] - 1) // BLOCK  # the last one that its last token sees
        count = to_block - from_block + 1
        indices = np.minimum(from_block[:, None] + np.arange(len(edges)), len(edges) - 1)
        pair = _to_device(pair_N.astype(np.int32), device)

        def same_pair(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            return pair[query] == pair[key]

        return BlockMask.from_kv_blocks(
            _to_device(count.astype(np.int32), device)[None, None],
            _to_device(indices.astype(np.int32), device)[None, None],
            BLOCK_SIZE=BLOCK,
            mask_mod=same_pair,
            seq_lengths=(tokens, tokens),
            compute_q_blocks=False,
        )

    def attend(self, q_NHK: torch.Tensor, k_NHK: torch.Tensor, v_NHK: torch.Tensor, inputs: BlockMask) -> torch.Tensor:
        q, k, v = (x.transpose(0, 1)[None] for x in (q_NHK, k_NHK, v_NHK))
        context = flex_attention(
            q, k, v, score_mod=self._add_bias, block_mask=inputs, scale=1.0, kernel_options=self.kernel_options
        )
        assert isinstance(context, torch.Tensor)
        return context[0].transpose(0, 1)


class FlashPackedAttention(PackedAttention):
    """`PackedAttention` by FlashAttention 4, for which FlexAttention needs the package flash-attn-4."""

    kernel_options = FlexKernelOptions(BACKEND="FLASH")


class PaddedAttention:
    """Pairs padded to a multiple of 128 tokens, and filled up with empty ones to one of five counts for that length.

    Args:
        bias_HTT: bias of relative positions for the longest pair there can be, whose length is a multiple of 128.
        max_tokens: of a batch, at least those of the longest pair.
    """

    def __init__(self, bias_HTT: torch.Tensor, max_tokens: int) -> None:
        self._bias_HTT, self._max_tokens = bias_HTT, max_tokens

    def _shape(self, lengths: npt.NDArray[np.int64]) -> tuple[int, int]:
        return bucket_of(len(lengths), self.most_pairs(lengths), 1), _padded_length(lengths)

    def most_pairs(self, lengths: npt.NDArray[np.int64]) -> int:
        return self._max_tokens // _padded_length(lengths)

    def places(self, lengths: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], int]:
        pairs, length = self._shape(lengths)
        return np.arange(len(lengths)) * length, pairs * length

    def inputs(self, lengths: npt.NDArray[np.int64], device: torch.device) -> torch.Tensor:
        """Bias, and minus infinity where there is no token: (pairs, H, T, T)."""
        pairs, length = self._shape(lengths)
        filled = np.full(pairs, length)  # empty pairs see their own padding, nothing else would be a number
        filled[: len(lengths)] = lengths
        is_token = torch.arange(length, device=device) < _to_device(filled, device)[:, None]
        bias_1HTT = self._bias_HTT[None, :, :length, :length]
        return torch.where(is_token[:, None, None, :], bias_1HTT, float("-inf"))

    def attend(
        self, q_NHK: torch.Tensor, k_NHK: torch.Tensor, v_NHK: torch.Tensor, inputs: torch.Tensor
    ) -> torch.Tensor:
        shape = (len(inputs), inputs.shape[-1], *q_NHK.shape[1:])
        q, k, v = (x.reshape(shape).transpose(1, 2) for x in (q_NHK, k_NHK, v_NHK))
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=inputs, scale=1.0)
        return context.transpose(1, 2).reshape(q_NHK.shape)


def _padded_length(lengths: npt.NDArray[np.int64]) -> int:
    return -(-int(lengths.max()) // LENGTH_STEP) * LENGTH_STEP


class CompiledEncoder:
    """Logits of encoded pairs, in the dtype and on the device of the model.

    Args:
        model: in evaluation mode, with a gated GELU. Its projections are fused in place: the model's own forward pass
            goes on working, on views of the fused weights.
        max_length: tokens of the longest pair there can be.
        max_tokens: of a batch, padded; larger ones are split. One pair of ``max_length`` fits in any case.
        attention: one of the three.
        compile_layer: of the one function that all layers share.

    Raises:
        ValueError: the model has another feed-forward, or heads too narrow for `PackedAttention` on CUDA; when called,
            a pair is longer than ``max_length``.
    """

    def __init__(
        self,
        model: EncT5ForSequenceClassification,
        *,
        max_length: int,
        max_tokens: int,
        attention: type[PackedAttention] | type[PaddedAttention] = PackedAttention,
        compile_layer: Callable[[Callable[..., torch.Tensor]], Callable[..., torch.Tensor]] | None = None,
    ) -> None:
        require_gated_gelu(model)
        width = model.config.d_kv
        if attention is PackedAttention and model.device.type == "cuda" and width < NARROWEST_HEAD:
            raise ValueError(
                f"got a model with d_kv={width}, expected at least {NARROWEST_HEAD}, the least that FlexAttention's "
                "kernel takes; PaddedAttention takes every width"
            )
        self._model = model
        self._heads, self._epsilon = model.config.num_heads, model.config.layer_norm_epsilon
        self._max_length = max_length
        self._weights = [fuse(block) for block in model.encoder.block]
        longest = -(-max_length // LENGTH_STEP) * LENGTH_STEP
        self._bias_HTT = position_bias(model, longest)
        self._attention: Attention = attention(self._bias_HTT, max(max_tokens, longest))
        compile_layer = compile_layer or (lambda layer: torch.compile(layer, dynamic=False, fullgraph=True))
        self._layer = compile_layer(self._one_layer)
        self._many_compilations = torch._dynamo.config.patch(recompile_limit=MOST_COMPILATIONS)  # each one made leaks

    @torch.inference_mode()
    def __call__(self, pairs: EncodedPairs, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        lengths = pairs.lengths[rows]
        if lengths.max() > self._max_length:
            raise ValueError(f"got a pair of {lengths.max()} tokens, expected at most max_length={self._max_length}")
        most = self._attention.most_pairs(lengths)
        parts = [self._encode(pairs, rows[start : start + most]) for start in range(0, len(rows), most)]
        return torch.cat(parts)

    def _encode(self, pairs: EncodedPairs, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        lengths = pairs.lengths[rows]
        first_B, tokens = self._attention.places(lengths)
        ids_N = np.full(tokens, self._model.config.pad_token_id, dtype=np.int32)
        for start, row in zip(first_B.tolist(), rows.tolist(), strict=True):
            ids = pairs.row(row)
            ids_N[start : start + len(ids)] = ids
        device = self._model.device
        inputs = self._attention.inputs(lengths, device)
        hidden_ND = F.embedding(_to_device(ids_N, device), self._model.shared.weight)
        with self._many_compilations:
            for weights in self._weights[:-1]:
                hidden_ND = self._layer(hidden_ND, *weights, inputs)
        hidden_BD = self._last_layer(hidden_ND, first_B, lengths)
        return classify(self._model, hidden_BD)

    def _one_layer(
        self,
        hidden_ND: torch.Tensor,
        norm_D: torch.Tensor,
        qkv: torch.Tensor,
        out: torch.Tensor,
        forward_norm_D: torch.Tensor,
        up: torch.Tensor,
        down: torch.Tensor,
        inputs: Any,
    ) -> torch.Tensor:
        qkv_NI = F.linear(rms_norm(hidden_ND, norm_D, self._epsilon), qkv)
        q_NHK, k_NHK, v_NHK = qkv_NI.view(len(qkv_NI), 3, self._heads, -1).unbind(1)
        context_NI = self._attention.attend(q_NHK, k_NHK, v_NHK, inputs).flatten(1)
        hidden_ND = hidden_ND + F.linear(context_NI, out)
        return hidden_ND + self._feed_forward(hidden_ND, forward_norm_D, up, down)

    def _feed_forward(
        self, hidden_ND: torch.Tensor, norm_D: torch.Tensor, up: torch.Tensor, down: torch.Tensor
    ) -> torch.Tensor:
        gate_NF, up_NF = F.linear(rms_norm(hidden_ND, norm_D, self._epsilon), up).chunk(2, dim=-1)
        return F.linear(F.gelu(gate_NF, approximate="tanh") * up_NF, down)

    def _last_layer(
        self, hidden_ND: torch.Tensor, first: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
    ) -> torch.Tensor:
        """Hidden states of position 0, (B, D): one query for each pair. N is without filling here."""
        norm_D, qkv, out, forward_norm_D, up, down = self._weights[-1]
        device = hidden_ND.device
        pair = np.repeat(np.arange(len(lengths)), lengths)
        position = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        pair_N, position_N = _to_device(pair, device), _to_device(position, device)
        first_B = _to_device(first, device)
        normed_ND = rms_norm(hidden_ND[first_B[pair_N] + position_N], norm_D, self._epsilon)
        inner = len(qkv) // 3
        q_BHK = F.linear(rms_norm(hidden_ND[first_B], norm_D, self._epsilon), qkv[:inner])
        q_BHK = q_BHK.view(len(lengths), self._heads, -1)
        k_NHK, v_NHK = F.linear(normed_ND, qkv[inner:]).view(len(pair), 2, self._heads, -1).unbind(1)
        scores_NH = (q_BHK[pair_N].float() * k_NHK.float()).sum(-1) + self._bias_HTT[:, 0].T[position_N]
        most_BH = scores_NH.new_full((len(lengths), self._heads), float("-inf"))
        most_BH.scatter_reduce_(0, pair_N[:, None].expand_as(scores_NH), scores_NH, "amax")
        weights_NH = torch.exp(scores_NH - most_BH[pair_N])
        total_BH = torch.zeros_like(most_BH).index_add_(0, pair_N, weights_NH)
        weights_NH = weights_NH / total_BH[pair_N]
        context_BHK = torch.zeros_like(q_BHK, dtype=torch.float32)
        context_BHK.index_add_(0, pair_N, weights_NH[..., None] * v_NHK.float())
        hidden_BD = hidden_ND[first_B] + F.linear(context_BHK.flatten(1).to(hidden_ND.dtype), out)
        return hidden_BD + self._feed_forward(hidden_BD, forward_norm_D, up, down)


def bytes_per_token(model: EncT5ForSequenceClassification) -> int:
    """Of device memory that a layer needs: hidden states twice; queries, keys, values, context; F three times."""
    config = model.config
    values = 2 * config.d_model + 4 * config.num_heads * config.d_kv + 3 * config.d_ff
    return int(values * model.shared.weight.element_size())


def fuse(block: T5Block) -> tuple[torch.Tensor, ...]:
    """Weights of a layer as `CompiledEncoder` wants them; the block's own become views of the fused ones."""
    attention, forward = block.layer[0], block.layer[1]
    own, dense = attention.SelfAttention, forward.DenseReluDense
    qkv = _side_by_side(own.q, own.k, own.v)
    up = _side_by_side(dense.wi_0, dense.wi_1)
    weights = (attention.layer_norm.weight, qkv, own.o.weight, forward.layer_norm.weight, up, dense.wo.weight)
    return tuple(weight.detach() for weight in weights)


def _side_by_side(*linears: nn.Linear) -> torch.Tensor:
    fused = torch.cat([linear.weight.detach() for linear in linears])
    parts = torch.split(fused, [linear.out_features for linear in linears])
    for linear, part in zip(linears, parts, strict=True):
        linear.weight = nn.Parameter(part, requires_grad=False)
    return fused


def _to_device(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """A copy that the host does not wait for, from memory that the device can read."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
