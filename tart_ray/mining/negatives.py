"""Mine hard negatives: which scored candidates of a query are good negatives to train on.

A miner can put a document that does answer the query among its negatives, a false negative, and teach a model the
wrong thing. Against that, whatever the policies say: no positive of a query is its negative; nor is a *twin*, a
document of another id with the text of one of the query's positives; nor is a document that a policy has made a new
positive; nor is the query itself, where the corpus holds it (duplicate questions, arguments and their
counter-arguments). The same document may be a negative of any number of other queries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.config import MiningPolicy
from tart_ray.mining.mined import LEFT_OUT, NO_POSITIVE, NOTHING_PASSES, POSITIVE_NOT_SCORED, SHORTFALLS, TOO_FEW, Mined
from tart_ray.mining.pairs import Bools, Floats, Ints, Pairs, codes_of, place_in_query
from tart_ray.mining.positives import require_columns, shared_keys
from tart_ray.tables.keys import gumbel, random_keys

# of what is mined: goes up when the same scores give other negatives, positives or trainer files
MINING_VERSION = 1


def mine(
    scores: pa.Table, positives: pa.Table, policies: MiningPolicy | Sequence[MiningPolicy], *, twins: bool = True
) -> Mined:
    """Choose the negatives of every query.

    Policies are applied in order; a document that one has chosen is not chosen again. What is asked for more than a
    query has is not made up: the query gets fewer, and is listed.

    A candidate is *the query itself*, unless it was judged a positive, if its id is the query's id, or its text, or
    its title and text together, is the query's text, compared as by `text_keys`; or, with ``twins``, if it is a copy
    of such a document. It becomes neither a negative nor a new positive.

    Args:
        scores: scored pairs (`tart_ray.tables.schemas.SCORES`), whole queries, in any order. ``query_id``, ``doc_id``
            and the columns that the policies name are needed; all others are carried through. Without ``query`` and
            ``text`` (or ``text_key``) only ids tell whether a document is the query itself.
        positives: ``query_id, doc_id``; optional ``relevance``, ``text``, ``title``. Every row is a positive: see
            `positives_from_qrels`. Of a pair that comes twice, the first row counts. Rows of other queries are
            ignored, so one table serves all buckets.
        policies: one or several, of different names.
        twins: keep copies of positives from being negatives. ``scores`` must then have ``text_key``, made by
            `text_keys` of the corpus, or ``text``. A positive that is not among the candidates is compared if
            ``positives`` has ``text_key`` or ``text``. False trusts the ids.

    Returns:
        `Mined`. Its ``counts`` have ``queries``, ``kept``, ``pairs``, ``positives``, ``positives not scored``,
        ``new positives``, ``twins``, ``query itself``, ``negatives``; for each policy ``<name>: <filter>``, pairs that
        this filter was the first to drop, and ``<name>: chosen``.

    Raises:
        ValueError: a column is missing, a pair of ids comes twice (an instruction needs query ids of its own), or
            two policies have one name.
    """
    chain = (policies,) if isinstance(policies, MiningPolicy) else tuple(policies)
    _check(scores, positives, chain, twins)
    pairs = Pairs(scores, positives, twins)
    counts = pairs.counts()
    new = np.full(pairs.size, -1)  # the policy that made a pair a positive
    for number, policy in enumerate(chain):
        if policy.positive_above is not None:
            above = pairs.number(policy.score) > policy.positive_above
            new[above & (new < 0) & ~pairs.positive & ~pairs.twin & ~pairs.itself] = number
    counts["new positives"] = int((new >= 0).sum())
    pairs.add_positives(new >= 0)
    counts["twins"] = int(pairs.twin.sum())
    counts["query itself"] = int(pairs.itself.sum())

    chosen = np.full(pairs.size, -1)
    shortfalls: list[pa.Table] = []
    negatives: list[Ints] = []
    for number, policy in enumerate(chain):
        taken = np.bincount(pairs.query[chosen >= 0], minlength=pairs.queries) if policy.fill else 0
        wanted = np.maximum(policy.num_negatives - taken, 0) * pairs.has_positive
        rows = _choose(pairs, policy, chosen < 0, wanted, counts)
        chosen[rows] = number
        negatives.append(rows)
        counts[f"{policy.name}: chosen"] = len(rows)
        shortfalls.append(_shortfalls(pairs, policy, wanted, rows))

    found = np.bincount(pairs.query[chosen >= 0], minlength=pairs.queries)
    unknown = pairs.has_positive & ~pairs.has_scored_positive & any(policy.needs_positive_score for policy in chain)
    reason = np.where(unknown, POSITIVE_NOT_SCORED, NOTHING_PASSES)
    reason = np.where(pairs.has_positive, reason, NO_POSITIVE)
    without = np.flatnonzero(found == 0)
    counts |= {"kept": pairs.queries - len(without), "negatives": int(found.sum())}
    left_out = pa.table(
        [
            pairs.ids.take(pa.array(without)),
            pa.nulls(len(without), pa.string()),
            pa.array(reason[without].tolist(), pa.string()),
        ],
        schema=LEFT_OUT,
    )
    rows = np.concatenate([np.empty(0, np.int64), *negatives])
    rows = rows[np.lexsort((chosen[rows], pairs.query[rows]))]  # stable: s stays in order
    names = pa.array([policy.name for policy in chain], pa.string())
    return Mined(
        negatives=pairs.with_rank(rows).append_column("policy", names.take(pa.array(chosen[rows]))),
        positives=pairs.positives_of(found > 0, new, names),
        left_out=pa.concat_tables([left_out, pairs.queries_themselves()]).sort_by(
            [("query_id", "ascending"), ("doc_id", "ascending")]
        ),
        shortfalls=pa.concat_tables([SHORTFALLS.empty_table(), *shortfalls]).sort_by(
            [("query_id", "ascending"), ("policy", "ascending")]
        ),
        counts=counts,
    )


def _choose(pairs: Pairs, policy: MiningPolicy, free: Bools, wanted: Ints, counts: dict[str, int]) -> Ints:
    """Rows that the policy chooses, by query and number from high to low."""
    passing = np.ones(pairs.size, bool)
    for name, passes in _filters(pairs, policy, free, passing):
        counts[f"{policy.name}: {name}"] = int((passing & ~passes).sum())
        passing &= passes
    order = pairs.order(policy.score)
    rows = order[passing[order]]
    if policy.sampling != "top":
        keys = random_keys(policy.seed, pairs.scores["query_id"].take(rows), pairs.scores["doc_id"].take(rows))
        if policy.sampling == "simans":
            distance = pairs.number(policy.score) - pairs.lowest_positive(policy.score)[pairs.query] - policy.simans_b
            keys = policy.simans_a * distance[rows] ** 2 - gumbel(keys)
        drawn = np.lexsort((pairs.document[rows], keys, pairs.query[rows]))
    else:
        drawn = np.arange(len(rows))
    kept = drawn[place_in_query(pairs.query[rows[drawn]], pairs.queries) < wanted[pairs.query[rows[drawn]]]]
    return rows[np.sort(kept)]


def _filters(pairs: Pairs, policy: MiningPolicy, free: Bools, passing: Bools) -> Iterator[tuple[str, Bools]]:
    """Each filter of the policy: its name and the pairs that pass it; ``passing`` holds what has passed all so far."""
    number, query = pairs.number(policy.score), pairs.query
    yield "query without a positive", pairs.has_positive[query]
    yield "positive", ~pairs.positive
    yield "twin", ~pairs.twin
    yield "query itself", ~pairs.itself
    yield "no number", ~np.isnan(number)
    if policy.source == "other_task":
        tasks = (pairs.scores[name].cast(pa.large_string()) for name in (policy.document_task, policy.query_task))
        differs = pc.not_equal(*tasks)
        yield "same task", np.asarray(pc.fill_null(differs, False).to_numpy(), dtype=bool)
    elif policy.source == "contrast":
        yield "no contrast", _contrasts(pairs, policy, number)
    if policy.needs_positive_score:
        lowest = pairs.lowest_positive(policy.score)
        yield "positive not scored", np.isfinite(lowest)[query]
        lowest = np.where(np.isfinite(lowest), lowest, np.nan)[query]
        if policy.absolute_margin is not None:
            yield "absolute_margin", number <= lowest - policy.absolute_margin
        if policy.relative_margin is not None:
            yield "relative_margin", number <= lowest - np.abs(lowest) * policy.relative_margin
        if policy.positive_percentage is not None:
            yield "positive_percentage", number < lowest - np.abs(lowest) * (1 - policy.positive_percentage)
    if policy.max_score is not None:
        yield "max_score", number <= policy.max_score
    if policy.min_score is not None:
        yield "min_score", number >= policy.min_score
    if policy.negative_below is not None:
        yield "negative_below", number < policy.negative_below
    if policy.has_window:
        if policy.rank_by == "remaining":
            rank = pairs.ranks(policy.score, among=passing).astype(np.float64)
        elif policy.rank_by == "margin":
            rank = pairs.ranks("margin").astype(np.float64)
        else:
            rank = pairs.number("first_stage_rank")
        range_max = math.inf if policy.range_max is None else policy.range_max
        yield "range", (rank > policy.range_min) & (rank <= range_max)
    yield "chosen before", free


def _contrasts(pairs: Pairs, policy: MiningPolicy, number: Floats) -> Bools:
    """Pairs with a low number, whose document has a high one for the same query under another instruction."""
    assert policy.contrast_low is not None
    assert policy.contrast_high is not None
    shared = shared_keys(pairs.scores, policy.same_query)
    at = pc.index_in(pairs.scores["query_id"], value_set=shared["query_id"].combine_chunks())
    _, (same,) = codes_of(shared["key"].take(at))
    instructions, (instruction,) = codes_of(pc.fill_null(pairs.scores["instruction"].cast(pa.large_string()), "\0"))
    pair = np.unique(same * (int(pairs.document.max(initial=0)) + 1) + pairs.document, return_inverse=True)[1]
    under = pair * len(instructions) + instruction
    high = np.unique(under[number >= policy.contrast_high])  # one entry for each pair and instruction
    instructions_with_high = np.bincount(high // max(len(instructions), 1), minlength=int(pair.max(initial=0)) + 1)
    others = instructions_with_high[pair] - np.isin(under, high)
    low: Bools = (number <= policy.contrast_low) & (others > 0)
    return low


def _shortfalls(pairs: Pairs, policy: MiningPolicy, wanted: Ints, rows: Ints) -> pa.Table:
    chosen = np.bincount(pairs.query[rows], minlength=pairs.queries)
    short = np.flatnonzero(chosen < wanted)
    unknown = ~pairs.has_scored_positive[short] & policy.needs_positive_score
    reasons = np.where(unknown, POSITIVE_NOT_SCORED, np.where(chosen[short] == 0, NOTHING_PASSES, TOO_FEW))
    return pa.table(
        [
            pairs.ids.take(pa.array(short)),
            pa.array([policy.name] * len(short), pa.string()),
            pa.array(wanted[short], pa.int32()),
            pa.array(chosen[short], pa.int32()),
            pa.array(reasons.tolist(), pa.string()),
        ],
        schema=SHORTFALLS,
    )


def _check(scores: pa.Table, positives: pa.Table, policies: tuple[MiningPolicy, ...], twins: bool) -> None:
    names = [policy.name for policy in policies]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"got policies named {names}, expected at least one, each with a name of its own")
    needed = {"query_id", "doc_id", "margin"}
    for policy in policies:
        needed.add(policy.score)
        if policy.source == "other_task":
            needed |= {policy.query_task, policy.document_task}
        elif policy.source == "contrast":
            needed |= {policy.same_query, "instruction"}
        if policy.needs_first_stage_ranks:
            needed.add("first_stage_rank")
    require_columns(scores, "scores", sorted(needed))
    for policy in policies:
        texts = {"other_task": [policy.query_task, policy.document_task], "contrast": [policy.same_query]}
        for name in texts.get(policy.source, []):
            if pa.types.is_nested(scores.schema.field(name).type):
                raise ValueError(f"{name} of the scores is {scores.schema.field(name).type}, expected text or a number")
    require_columns(positives, "positives", ("query_id", "doc_id"))
    if twins and not {"text", "text_key"} & set(scores.schema.names):
        raise ValueError(
            f"the scores have columns {scores.schema.names} and neither text nor text_key, by which copies of "
            "positives are found: join text_keys of the corpus, or give twins=False to trust the ids"
        )
