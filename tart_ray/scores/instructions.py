"""What to say where instructions are missing that the model would follow, or given to a model that reads none."""

from __future__ import annotations

from collections.abc import Iterator

from tart_ray.scores.plan import Plan
from tart_ray.scores.spec import ScoringSpec

BARE = 'the model was trained to follow one; input.instruction: "" says that none is meant'
READS_NONE = (
    'this model reads no instruction. model.template.query: "{instruction} {query}" would put it before the query'
)


def remarks_before(plan: Plan, spec: ScoringSpec) -> Iterator[str]:
    """Before any row is read."""
    instruction = plan.input.instruction
    if not spec.reads_instructions and instruction:
        yield f"input.instruction is not read: {READS_NONE}"
    if spec.reads_instructions and instruction is None and "instruction" not in plan.candidates.columns:
        yield f"no instruction: the candidates have no column instruction, and input.instruction is not set. {BARE}"


def remarks_after(plan: Plan, spec: ScoringSpec, *, pairs: int, bare: int) -> Iterator[str]:
    """Of pairs that were read.

    Args:
        bare: those of them without an instruction, or with an empty one.
    """
    if spec.reads_instructions and bare and plan.input.instruction != "":
        yield f"{bare:,} of {pairs:,} pairs have no instruction, or an empty one. {BARE}"
    if not spec.reads_instructions and bare < pairs:
        yield f"{pairs - bare:,} of {pairs:,} pairs have an instruction: {READS_NONE}"
