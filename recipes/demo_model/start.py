"""The weights that training starts from: attention that already looks for a query's words in the document.

A small cross-encoder spends most of a short training on discovering three things: which tokens are the query's and
which the document's, that equal tokens on both sides matter, and that rare ones matter more. Here they are written
into the first weights, in the magnitudes that T5 starts with, and everything stays trainable:

- an embedding holds what a token goes with (from co-occurrence in training pairs), a random code that tells it from
  all others, and how rare it is;
- layer 0 marks what stands behind the first ``</s>`` (the document) and behind ``[SEP]`` (query or document);
- in layer 1, tokens of one side look for their twins on the other side and note how rare the twin is, or nothing,
  and ``<s>`` averages what the instruction, the query and the document are about, each by itself;
- in the last layer, ``<s>`` averages the notes of the query's tokens, and the classifier reads that average.

The other heads begin as in Trockman and Kolter, *Mimetic Initialization of Self-Attention Layers* (2023), quietly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from scipy.sparse.linalg import svds
from torch import nn
from transformers import T5Config
from transformers.models.t5.modeling_t5 import T5Attention

from recipes.demo_model.entries import Entry
from recipes.demo_model.vocabulary import SEPARATOR
from tart_ray.model.enct5 import EncT5ForSequenceClassification
from tart_ray.model.tokenizer import EncT5Tokenizer

GEOMETRY = {"num_layers": 3, "d_model": 256, "num_heads": 8, "d_kv": 32, "d_ff": 384}
MEANING, CODE = 128, 104  # dimensions of an embedding: co-occurrence, random code; features follow
CONTENT = MEANING + CODE
ONE, IS_START, IS_END, IS_SEPARATOR, RARITY, IN_DOCUMENT, BEHIND_SEPARATOR, FOUND, SCORE, BALLAST = range(
    CONTENT, CONTENT + 10
)
SEGMENT_HEAD, SEPARATOR_HEAD, READING_HEAD = 0, 1, 7
TOPIC_HEADS = {0: (-0.11, -0.11), 1: (0.12, 0.0), 7: (-0.11, 0.11)}  # of layer 1: instruction, document, query
MATCHING_HEADS = {2: CONTENT, 3: CONTENT, 4: CONTENT, 5: MEANING, 6: MEANING}  # by how many dimensions they compare
MARK = 8.0  # of a special token
FORWARD = 16  # relative position buckets from here on are of keys behind the query; bucket 0 is distance 0
FAR = -30.0  # a bias that outweighs any content
DOCUMENT_TOKENS = 128  # of an answer, that co-occurrence is counted in


def make_start(tokenizer: EncT5Tokenizer, entries: Sequence[Entry], *, seed: int = 0) -> EncT5ForSequenceClassification:
    """The model before training; float32."""
    rows = -(-len(tokenizer) // 64) * 64
    config = T5Config(vocab_size=rows, feed_forward_proj="gated-gelu", dropout_rate=0.0, **GEOMETRY)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = EncT5ForSequenceClassification(config)
        _embed(model.shared.weight, tokenizer, *count_pairs(tokenizer, entries))
        _connect(model)
    return model


def count_pairs(
    tokenizer: EncT5Tokenizer, entries: Sequence[Entry]
) -> tuple[sparse.csr_matrix, npt.NDArray[np.float64]]:
    """How many pairs have one token in the query and another in the answer, and how many answers have a token."""
    texts = [(entry.query, f"{entry.title} {text}") for entry in entries for text in entry.answers.values()]
    queries = _incidence(tokenizer, [query for query, _ in texts])
    answers = _incidence(tokenizer, [answer for _, answer in texts])
    return (queries.T @ answers).tocsr(), np.asarray(answers.sum(0)).ravel()


def meanings(counts: sparse.csr_matrix, dimensions: int, *, seed: int = 0) -> npt.NDArray[np.float32]:
    """Vectors of norm 1, float32 (tokens, dimensions): a truncated SVD of positive pointwise mutual information.

    Levy and Goldberg, *Neural Word Embedding as Implicit Matrix Factorization* (2014). Counts are taken both ways, so
    a query's token and what it goes with in answers become alike.
    """
    both = (counts + counts.T).tocoo()
    frequency = np.asarray(both.sum(0)).ravel()
    smoothed = np.maximum(frequency, 1) ** 0.75
    information = np.log(both.data * smoothed.sum() / (frequency[both.row] * smoothed[both.col]))
    kept = (information > 0) & (both.data > 2)
    matrix = sparse.csr_matrix((information[kept], (both.row[kept], both.col[kept])), both.shape)
    start = np.random.default_rng(seed).normal(size=matrix.shape[0])
    left, values, _ = svds(matrix, dimensions, v0=start)
    vectors = left * np.sqrt(values)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    normed: npt.NDArray[np.float32] = (vectors / np.maximum(norms, 1e-6)).astype(np.float32)
    return normed


@torch.no_grad()
def _embed(
    weight: torch.Tensor, tokenizer: EncT5Tokenizer, counts: sparse.csr_matrix, in_answers: npt.NDArray[np.float64]
) -> None:
    size = weight.shape[1]
    pieces = len(in_answers)
    weight.normal_()
    weight[:pieces, :MEANING] = torch.from_numpy(meanings(counts, MEANING)) * MEANING**0.5
    weight[:, CONTENT:] = 0.0
    weight[:, ONE] = 3.0
    rarity = np.log((in_answers.max() + 1) / (in_answers + 1))
    weight[:pieces, RARITY] = torch.from_numpy(rarity / rarity.max() * 3.0).float()
    separator = tokenizer.encode_texts([SEPARATOR])[0][-1]
    for token, mark in (
        (tokenizer.bos_token_id, IS_START),
        (tokenizer.eos_token_id, IS_END),
        (separator, IS_SEPARATOR),
    ):
        weight[token] = 0.0
        weight[token, ONE], weight[token, mark] = 3.0, MARK
    norm = size**0.5 * 1.05  # all alike, so that the layer norm changes none more than another
    weight[:, BALLAST] = (norm**2 - weight.square().sum(1)).clamp(min=0).sqrt()
    weight.mul_(size**0.5 / weight.norm(dim=1, keepdim=True))


@torch.no_grad()
def _connect(model: EncT5ForSequenceClassification) -> None:
    config = model.config
    for block in model.encoder.block:
        attention, feed_forward = block.layer[0].SelfAttention, block.layer[1].DenseReluDense
        for head in range(config.num_heads):
            rows = _rows(head, config.d_kv)
            nn.init.orthogonal_(attention.q.weight[rows])
            nn.init.orthogonal_(attention.v.weight[rows])
        attention.k.weight.copy_(attention.q.weight)
        attention.o.weight.copy_(-0.1 * attention.v.weight.T)
        feed_forward.wo.weight.mul_(0.3)
    first, second, last = (model.encoder.block[i].layer[0].SelfAttention for i in (0, 1, config.num_layers - 1))
    bias = first.relative_attention_bias.weight
    bias.zero_()
    for head in (SEGMENT_HEAD, SEPARATOR_HEAD):
        bias[FORWARD:, head] = FAR
        bias[0, head] = FAR
    for head in MATCHING_HEADS:
        bias[0, head] = FAR

    for head, mark, place in ((SEGMENT_HEAD, IS_END, IN_DOCUMENT), (SEPARATOR_HEAD, IS_SEPARATOR, BEHIND_SEPARATOR)):
        q, k, v, o = _clear(first, head, config.d_kv)
        q[0, ONE] = 1.0
        k[0, mark], k[0, IS_START] = 0.7, 0.4
        v[0, mark], v[0, IS_START] = 0.5, -0.5
        o[place, 0] = 1.0

    for head, dimensions in MATCHING_HEADS.items():
        q, k, v, o = _clear(second, head, config.d_kv)
        nn.init.orthogonal_(q[2:, :dimensions])
        q[2:, :dimensions] *= (CONTENT / dimensions) ** 0.5
        k.copy_(q)
        q[0, IN_DOCUMENT], k[0, IN_DOCUMENT] = -0.8, 0.8
        q[1, ONE], k[1, IS_START] = 1.0, 0.6
        v[0, RARITY] = 1.0
        o[FOUND, 0] = 1.0

    topic = nn.init.orthogonal_(torch.empty(config.d_kv, MEANING))
    for slot, (head, (in_document, behind_separator)) in enumerate(TOPIC_HEADS.items()):
        q, k, v, o = _clear(second, head, config.d_kv)
        q[0, IS_START] = 1.0
        k[0, IN_DOCUMENT], k[0, BEHIND_SEPARATOR] = in_document, behind_separator
        k[0, IS_START], k[0, IS_END], k[0, IS_SEPARATOR] = -0.15, -0.15, -0.15
        v[:, :MEANING] = topic
        o[slot * config.d_kv : (slot + 1) * config.d_kv] = torch.eye(config.d_kv) * 2.0  # <s> has no content of its own

    q, k, v, o = _clear(last, READING_HEAD, config.d_kv)
    q[0, IS_START] = 1.0
    k[0, IN_DOCUMENT], k[0, BEHIND_SEPARATOR] = -0.15, 0.15
    v[0, FOUND] = 1.0
    o[SCORE, 0] = 1.0
    model.classifier.weight.normal_(std=0.02)
    model.classifier.weight[1, SCORE] += 0.5
    model.classifier.weight[0, SCORE] -= 0.5


def _clear(attention: T5Attention, head: int, width: int) -> tuple[torch.Tensor, ...]:
    """Views of the head's q, k, v (width, d_model) and o (d_model, width), emptied."""
    rows = _rows(head, width)
    views = (*(getattr(attention, name).weight[rows] for name in "qkv"), attention.o.weight[:, rows])
    for view in views:
        view.zero_()
    return views


def _rows(head: int, width: int) -> slice:
    return slice(head * width, (head + 1) * width)


def _incidence(tokenizer: EncT5Tokenizer, texts: Sequence[str]) -> sparse.csr_matrix:
    """(texts, tokens): 1 where a text has a token among its first ones."""
    rows = [sorted({*ids[:DOCUMENT_TOKENS]}) for ids in tokenizer.encode_texts(texts)]
    ends = np.cumsum([0, *map(len, rows)])
    columns = np.fromiter((token for row in rows for token in row), np.int32, ends[-1])
    return sparse.csr_matrix((np.ones(len(columns), np.float32), columns, ends), (len(rows), len(tokenizer)))
