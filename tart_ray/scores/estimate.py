"""What scoring would read and take, from the input's listing and a sample of it. Starts nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.config import PlanConfig
from tart_ray.engine.progress import duration
from tart_ray.input.quarantine import READ, Quarantine
from tart_ray.input.readers import read_split
from tart_ray.input.sources import Source, table_schema
from tart_ray.scores.encode import encode, load_tokenizer
from tart_ray.scores.instructions import remarks_after, remarks_before
from tart_ray.scores.plan import Plan
from tart_ray.scores.spec import ScoringSpec
from tart_ray.scoring.batching import default_max_tokens, padded_tokens
from tart_ray.storage import Storage

SAMPLE_PAIRS = 2_048


def describe(storage: Storage, plan: Plan, spec: ScoringSpec, prices: PlanConfig) -> Iterator[str]:
    """Lines that say what scoring the input of a plan would do, as they are known.

    Raises:
        InputError: the input cannot be read as configured.
    """
    for role, source in plan.sources.items():
        size = f"{source.nbytes / 1e6:,.1f} MB"
        yield f"{role}: {len(source.files):,} files, {source.format}, {size}, about {source.rows:,} rows: {source.url}"
        yield f"  columns: {', '.join(f'{ours} ← {theirs}' for ours, theirs in source.columns.items())}"
        if source.extras.names:
            shown = (name if name == theirs else f"{name} ← {theirs}" for name, theirs in source.carried.items())
            yield f"  carried through: {', '.join(shown)}"
        yield from (f"  note: {note}" for note in source.notes)
    remarks = [*remarks_before(plan, spec)]
    yield from (f"warning: {remark}" for remark in remarks)
    pairs = plan.candidates.rows
    yield f"pairs: about {pairs:,} in about {-(-pairs // plan.pairs_per_chunk):,} chunks of whole queries"

    samples = {role: _sample(storage, source) for role, source in plan.sources.items()}
    for role, (_, quarantine) in samples.items():
        if quarantine.overruled:
            told = f"values of {role} that their key=value directories overrule, in the sample"
            yield f"  {told}: {quarantine.overruled:,}"
    bad = {role: quarantine for role, (_, quarantine) in samples.items() if quarantine.rows}
    for role, quarantine in bad.items():
        yield f"  bad rows in the sample of {role}: {len(quarantine)}, the first: {quarantine.rows[0]['reason']}"
    sample = _pairs(plan, {role: table for role, (table, _) in samples.items()})
    if not len(sample):
        yield "no good row in the sample: nothing to reckon with"
        return
    bare = pc.sum(pc.equal(pc.fill_null(sample["instruction"], ""), "")).as_py()
    if not remarks:
        in_sample = remarks_after(plan, spec, pairs=len(sample), bare=bare)
        yield from (f"warning: in the sample, {remark}" for remark in in_sample)
    encoded, left_out = encode(load_tokenizer(spec), sample, spec)
    for reason, rows in Counter(left_out.values()).items():
        yield f"  bad rows in the sample: {rows:,}: {reason}"
    if not len(encoded):
        return
    lengths = encoded.lengths
    windows = len(encoded.rows) / max(len(encoded), 1) * pairs
    budget = spec.model.max_tokens_per_batch
    tokens = default_max_tokens(spec.device) if budget == "auto" else budget
    padding = 1 - lengths.sum() / max(padded_tokens(encoded.rows.lengths, tokens), 1)
    yield (
        f"tokens: {lengths.mean():,.0f} a pair, {np.percentile(lengths, 95):,.0f} at the 95th percentile "
        f"(sample of {len(sample):,} pairs); {encoded.truncated.mean():.1%} truncated at {spec.model.max_length}; "
        f"about {lengths.mean() * pairs:,.0f} in all, {padding:.1%} padding"
    )
    if plan.windows:
        yield f"windows: {windows / pairs:,.2f} a pair, about {windows:,.0f} in all"
    yield from cost(spec, prices, windows)


def cost(spec: ScoringSpec, prices: PlanConfig, windows: float) -> Iterator[str]:
    """Replicas, time and price of scoring so many windows, as far as they are told; under truncate a pair is one."""
    replicas = spec.cluster.replicas
    yield f"replicas: {replicas.min} to {replicas.max}, {spec.model.dtype}, on {spec.device}"
    speed, price = prices.pairs_per_second, prices.dollars_per_gpu_hour
    if speed is None:
        yield "time: not known without plan.pairs_per_second (of one replica)"
        return
    seconds = windows / speed
    yield f"time: {duration(seconds / replicas.max)} with {replicas.max} replicas at {speed:,.0f} pairs/s each"
    if price is None:
        yield "cost: not known without plan.dollars_per_gpu_hour"
        return
    hours = seconds / 3600 * spec.cluster.gpus_per_replica
    yield f"cost: ${hours * price:,.2f} for {hours:,.2f} GPU-hours at ${price:,.2f}"


def _sample(storage: Storage, source: Source) -> tuple[pa.Table, Quarantine]:
    quarantine = Quarantine(READ)
    tables = (table for split in source.splits for table in read_split(storage, source, split, quarantine))
    first = next((table for table in tables if len(table)), table_schema(source).empty_table())
    return first.slice(0, SAMPLE_PAIRS), quarantine


def _pairs(plan: Plan, samples: dict[str, pa.Table]) -> pa.Table:
    """Pairs of about the right lengths: texts that are joined elsewhere are taken from the samples in turn."""
    rows = samples["candidates"]
    columns = {name: rows[name] for name in ("query", "text", "title", "instruction") if name in rows.schema.names}
    for role, names in (("queries", ("query",)), ("corpus", ("text", "title"))):
        found = samples.get(role)
        if found is None:
            continue
        if role == "corpus":
            found = found.filter(pc.is_valid(found["text"]))
        if not len(found):
            return rows.slice(0, 0)
        turn = pa.array(np.arange(len(rows)) % len(found))
        columns |= {name: found[name].take(turn) for name in names if name in found.schema.names}
    own = columns.get("instruction", pa.nulls(len(rows), pa.large_string()))
    default = plan.input.instruction or None
    columns["instruction"] = own if default is None else pc.fill_null(own, pa.scalar(default, pa.large_string()))
    return pa.table(columns)
