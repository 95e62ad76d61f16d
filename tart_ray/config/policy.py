"""MiningPolicy: which candidates of a query may become negatives, how many, and how they are chosen."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt, model_validator

from tart_ray.config.sections import Section

NonNegativeFiniteFloat = Annotated[FiniteFloat, Field(ge=0)]


class MiningPolicy(Section):
    """Which candidates of a query may become negatives, how many, and how they are chosen.

    A candidate must pass every filter that is set. Below, s is its number, P the **lowest** number among the query's
    scored positives (with several, the one that is easiest to mistake), r its rank from 1. Comparisons are made in
    float64 on the stored values.

    Attributes:
        name: what the ``policy`` column of the negatives says.
        num_negatives: at most so many for each query.
        fill: count what earlier policies chose towards ``num_negatives``: choose only what is missing.
        score: the column that is s: ``margin``, logits[1] - logits[0] in (-inf, inf), which never ties where the
            model does not; or ``score``, the probability in [0, 1]. A share of P (relative_margin,
            positive_percentage) means little for margins, where zero is no natural origin: use ``score`` with
            them, or absolute_margin, which for margins is a factor of e^m in the odds.
        source: which candidates are looked at.
            ``candidates``: all.
            ``other_task``: instruction-unfollowing negatives of TART: documents from another task's corpus that were
            retrieved for the query, here those whose ``document_task`` differs from ``query_task``, both known.
            TART's scripts take one for a query.
            ``contrast``: pairs that satisfy the query but break this instruction: s <= contrast_low, while the
            same document for the same query under another instruction has s >= contrast_high.
        query_task, document_task: names of the columns that ``other_task`` compares. For candidates that were
            scored under another task's instruction, the query's own instruction and ``instruction``.
        same_query: the column whose value is shared by the query ids that are one query under several instructions
            (its text, say). All of them must be in the table: the caller's buckets must be by `shared_keys`.
        contrast_low, contrast_high: low < high; ``contrast`` needs both.
        rank_by: the rank that the window applies to: ``first_stage_rank``, the retriever's (a candidate without one
            never passes a window), ``margin``, the model's among all candidates of the query, or ``remaining``, by s
            among the candidates that pass every other filter, positives excluded.
        range_min, range_max: range_min < r <= range_max: the first range_min are skipped, as by the slice
            ``[range_min:range_max]`` (FlagEmbedding's hn_mine, sentence-transformers).
        max_score: s <= max_score (TopK-Abs of NV-Retriever).
        min_score: s >= min_score.
        absolute_margin: m: s <= P - m (TopK-MarginPos of NV-Retriever).
        relative_margin: m >= 0: s <= P - |P| * m (sentence-transformers). |P|, so that the threshold lies below P for
            negative P too.
        positive_percentage: p in (0, 1]: s < P - |P| * (1 - p), which is s < p * P for P >= 0 (TopK-PercPos of
            NV-Retriever, there 0.95); for negative P as far below P as it would be for |P|.
        negative_below: s < negative_below, a hard negative (denoising of RocketQA and TART: probability 0.1).
        positive_above: candidates with s > positive_above become new positives of the query (there 0.9), twins of
            its positives excepted. They do not count for P. What lies between the two is dropped; twins of new
            positives are no negatives either.
        sampling: ``top``: the largest s (ties: better first-stage rank, then smaller doc_id); ``random``: uniform;
            ``simans``: without replacement with weights exp(-a * (s - P - b)^2) (SimANS, whose paper takes the
            number of one positive for P).
        simans_a, simans_b: a > 0, how fast weights fall, and b, where they are largest, counted from P.
        seed: in [0, 2**64). The random key of a pair is a function of seed, query_id and doc_id alone, so a sample
            depends neither on the order of rows nor on the number of workers, and a larger ``num_negatives`` keeps
            what a smaller one chose.

    Raises:
        pydantic.ValidationError: a ValueError; a parameter out of its range, with what was got and what is expected.

    Beside ``sentence_transformers.util.mine_hard_negatives`` (6.2): max_score, min_score, absolute_margin,
    relative_margin and "top" keep the same pairs, and it too takes the lowest of several positives. It ranks what
    remains after its filters (``rank_by="remaining"``), out of the nearest range_max + (the largest number of
    positives of any query) texts. Documents are its texts, so an exact copy of a positive is that positive, while one
    that differs in case or spaces is a negative. Its random choices come from Python's global generator.

    References: TART arXiv:2211.09260; NV-Retriever arXiv:2407.15831; SimANS arXiv:2210.11773; RocketQA
    arXiv:2010.08191.
    """

    name: Annotated[str, Field(pattern="^[^:]+$")] = "hard"
    num_negatives: PositiveInt = 7
    fill: bool = False
    score: Literal["margin", "score"] = "margin"
    source: Literal["candidates", "other_task", "contrast"] = "candidates"
    query_task: str = "query_task"
    document_task: str = "document_task"
    same_query: str = "query"
    contrast_low: FiniteFloat | None = None
    contrast_high: FiniteFloat | None = None
    rank_by: Literal["first_stage_rank", "margin", "remaining"] = "first_stage_rank"
    range_min: NonNegativeInt = 0
    range_max: PositiveInt | None = None
    max_score: FiniteFloat | None = None
    min_score: FiniteFloat | None = None
    absolute_margin: FiniteFloat | None = None
    relative_margin: NonNegativeFiniteFloat | None = None
    positive_percentage: Annotated[FiniteFloat, Field(gt=0, le=1)] | None = None
    negative_below: FiniteFloat | None = None
    positive_above: FiniteFloat | None = None
    sampling: Literal["top", "random", "simans"] = "top"
    simans_a: Annotated[FiniteFloat, Field(gt=0)] = 1.0
    simans_b: FiniteFloat = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0

    @model_validator(mode="after")
    def _fit_together(self) -> MiningPolicy:
        low, high = self.contrast_low, self.contrast_high
        below, above = self.negative_below, self.positive_above
        needed = [
            (self.range_max is None or self.range_max > self.range_min, "range_max", "more than range_min"),
            (below is None or above is None or below <= above, "negative_below", "at most positive_above"),
            (self.source != "contrast" or low is not None, "contrast_low", "a number, with source 'contrast'"),
            (self.source != "contrast" or high is not None, "contrast_high", "a number, with source 'contrast'"),
            (low is None or high is None or low < high, "contrast_high", "more than contrast_low"),
        ]
        for holds, name, expected in needed:
            if not holds:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected {expected}")
        return self

    @property
    def needs_positive_score(self) -> bool:
        """Whether the policy cannot be applied to a query none of whose positives is scored."""
        margins = (self.absolute_margin, self.relative_margin, self.positive_percentage)
        return self.sampling == "simans" or any(margin is not None for margin in margins)

    @property
    def has_window(self) -> bool:
        """Whether only some ranks pass."""
        return self.range_min > 0 or self.range_max is not None

    @property
    def needs_first_stage_ranks(self) -> bool:
        """Whether the ranks of its window are the retriever's."""
        return self.has_window and self.rank_by == "first_stage_rank"
