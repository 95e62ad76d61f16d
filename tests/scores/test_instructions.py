"""Missing instructions are told unless somebody said that none is meant; so are those that a model does not read."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pyarrow as pa
import pytest

from tart_ray.config import ClusterConfig, InputConfig, LimitsConfig, ModelConfig, StorageConfig, TemplateConfig
from tart_ray.model.template import Template
from tart_ray.scores.instructions import remarks_after, remarks_before
from tart_ray.scores.plan import Plan
from tart_ray.scores.prepare import _with_instruction
from tart_ray.scores.spec import ScoringSpec

ROWS = pa.table({"query_id": ["a", "b", "c"], "instruction": pa.array(["Find it", None, ""], pa.large_string())})


@pytest.mark.parametrize(
    ("default", "expected"),
    [
        (None, ["Find it", None, ""]),
        ("", ["Find it", None, ""]),  # none, and nothing that stands for it
        ("Find all", ["Find it", "Find all", ""]),
    ],
)
def test_an_empty_default_is_none(default: str | None, expected: list[str | None]) -> None:
    assert _with_instruction(ROWS, default)["instruction"].to_pylist() == expected
    bare = ROWS.drop_columns(["instruction"])
    assert _with_instruction(bare, default)["instruction"].to_pylist() == [default or None] * 3


def plan_and_spec(instruction: str | None, *columns: str, template: Template | None = None) -> tuple[Plan, ScoringSpec]:
    plan = Plan.__new__(Plan)
    candidates = SimpleNamespace(columns={name: name for name in columns})
    object.__setattr__(plan, "input", InputConfig(candidates="x", instruction=instruction))
    object.__setattr__(plan, "candidates", candidates)
    family = "enct5" if template is None else "cross-encoder"
    parts = {} if template is None else dataclasses.asdict(template)
    model = ModelConfig(family=family, template=TemplateConfig(**parts))
    return plan, ScoringSpec(model, ClusterConfig(), LimitsConfig(), StorageConfig())


def test_rows_without_an_instruction_are_told_unless_that_is_meant() -> None:
    (told,) = remarks_after(*plan_and_spec(None), pairs=1_500, bare=20)
    assert told.startswith("20 of 1,500 pairs have no instruction, or an empty one. ")
    assert [*remarks_after(*plan_and_spec("Find it"), pairs=1_500, bare=20)] == [told]
    assert [*remarks_after(*plan_and_spec(""), pairs=1_500, bare=20)] == []
    assert [*remarks_after(*plan_and_spec(None), pairs=1_500, bare=0)] == []
    (told,) = remarks_before(*plan_and_spec(None))
    assert told.startswith("no instruction: the candidates have no column instruction")
    assert [*remarks_before(*plan_and_spec(""))] == [*remarks_before(*plan_and_spec(None, "instruction"))] == []


def test_a_model_that_reads_no_instruction_is_told_of_those_it_is_given() -> None:
    reads_none, reads = Template(), Template(query="{instruction} {query}")
    (told,) = remarks_before(*plan_and_spec("Find it", template=reads_none))
    assert told.startswith("input.instruction is not read: this model reads no instruction. model.template.query")
    (told,) = remarks_after(*plan_and_spec(None, template=reads_none), pairs=10, bare=4)
    assert told.startswith("6 of 10 pairs have an instruction: this model reads no instruction")
    for nothing in (None, ""):
        assert [*remarks_before(*plan_and_spec(nothing, template=reads_none))] == []
        assert [*remarks_after(*plan_and_spec(nothing, template=reads_none), pairs=10, bare=10)] == []
    assert [*remarks_before(*plan_and_spec("Find it", template=reads))] == []
    assert len([*remarks_after(*plan_and_spec(None, template=reads), pairs=10, bare=4)]) == 1
