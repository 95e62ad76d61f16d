"""What a report says of mining: the sums over all buckets of queries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tart_ray.mining.settings import Settings, unmet_windows
from tart_ray.mining.stages import EXAMPLES, Mined
from tart_ray.mining.trainer_files import FORMATS
from tart_ray.reports.wording import number_of, under


def counts(mined: Sequence[Mined], read: int, quarantined: int) -> dict[str, int]:
    """Pairs, judgements and queries by what became of them.

    Args:
        read: judgements; ``quarantined``: of them, the bad ones.
    """
    of_queries = totals(mined, "counts")
    return {
        "read": read,
        "positives": sum(record.judged_positive for record in mined),
        "judged lower": sum(record.judgements - record.repeated - record.judged_positive for record in mined),
        "repeated": sum(record.repeated for record in mined),
        "quarantined": quarantined,
        "pairs": sum(record.rows for record in mined),
        "queries with candidates": of_queries["queries"],
        "queries with negatives": of_queries["kept"],
        "queries left out": of_queries["queries"] - of_queries["kept"],
        "queries without candidates": sum(record.without_candidates for record in mined),
        "positives of queries with candidates": of_queries["positives"],
        **{
            name: of_queries[name]
            for name in ("positives not scored", "new positives", "twins", "query itself", "negatives")
        },
    }


def totals(records: Iterable[Mined], name: str) -> Counter[str]:
    """The sum of the counts that each record has under a name."""
    counts: Counter[str] = Counter()
    for record in records:
        counts.update(getattr(record, name))
    return counts


def nothing_mined(mined: Iterable[Mined], settings: Settings) -> str:
    """Why no query has a negative."""
    reasons: Counter[str] = Counter()
    examples: list[tuple[str, ...]] = [(), ()]
    ranked = 0
    for record in mined:
        ranked += record.ranked
        reasons.update(record.left_out)
        examples = [old or new for old, new in zip(examples, record.examples, strict=True)]
    if not ranked and (why := unmet_windows(settings)):
        return f"no query has a negative: {dict(reasons)}. {why}"
    return (
        f"no query has a negative: {dict(reasons)}. A query of the candidates: {[*examples[0]]}, of the positives: "
        f"{[*examples[1]]}; expected query ids that both have, and policies that some candidates pass"
    )


def report(mined: Sequence[Mined], settings: Settings) -> dict[str, Any]:
    """What ``report.json`` says beside its counts."""
    names = ("counts", "left_out", "short_queries", "trainer_rows", "trainer_queries")
    sums = {name: totals(mined, name) for name in names}
    policies = {}
    for policy in settings.policies:
        start = f"{policy.name}: "
        of_policy = {name.removeprefix(start): n for name, n in sums["counts"].items() if name.startswith(start)}
        policies[policy.name] = {
            "chosen": of_policy.pop("chosen", 0),
            "queries with fewer than asked for": sums["short_queries"][policy.name],
            **{f"dropped by {name}": number for name, number in of_policy.items()},
        }
    return {
        "policies": policies,
        "left_out": dict(sums["left_out"]),
        "trainer_rows": dict(sums["trainer_rows"]),
        "trainer_queries": {name: sums["trainer_queries"][name] for name in settings.formats},
        "trainer_instructions": {
            name: FORMATS[name].where_instruction_is(settings.options) for name in settings.formats
        },
        "instructions": sorted({text for record in mined for text in record.instructions})[:EXAMPLES],
    }


def told(counted: Mapping[str, int], said: Mapping[str, Any], model: str) -> str:
    """What was mined, in a sentence.

    Args:
        counted: of `counts`; ``said``: of `report`.
        model: that scored the candidates.
    """
    queries = number_of(counted["queries with negatives"], "query", "queries")
    instructions = under(said["instructions"], all_known=len(said["instructions"]) < EXAMPLES)
    return (
        f"It chose {number_of(counted['negatives'], 'hard negative')} for {queries} of "
        f"{counted['queries with candidates']:,}, among {number_of(counted['pairs'], 'pair')} that {model} scored "
        f"{instructions}."
    )
