"""The options of trainers' formats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class FormatOptions:
    """What can be chosen within the formats.

    Attributes:
        score: the number that a format writes as score: ``margin`` or ``score``, the probability.
        with_scores: write scores, for distillation. Documents without a score are then left out.
        num_negatives: of ``n-tuple`` and ``colbert``, which need the same number everywhere: the first so many of each
            query. Queries with fewer are left out.
        join_instruction: write "instruction [SEP] query" for the query, in formats without a field for the instruction.
            None: in TART's own formats only.
        easy_policies: policies whose negatives are ``negative_ctxs`` of ``dpr``, ``dpr-jsonl`` and ``tart-dual``; those
            of all others are ``hard_negative_ctxs``.
        passage_prompt: of ``flagembedding-reranker``.

    Raises:
        ValueError: num_negatives is below 1.
    """

    score: Literal["margin", "score"] = "margin"
    with_scores: bool = False
    num_negatives: int | None = None
    join_instruction: bool | None = None
    easy_policies: tuple[str, ...] = ()
    passage_prompt: str = ""

    def __post_init__(self) -> None:
        if self.num_negatives is not None and self.num_negatives < 1:
            raise ValueError(f"num_negatives: got {self.num_negatives}, expected 1 or more")
