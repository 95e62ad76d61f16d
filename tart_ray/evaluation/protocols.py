"""The settings that figures were published with, by name: a figure of a run with others is another figure.

`tart` is that of the TART paper's tables, which read a pair as the model was trained. `followir` is that of FollowIR's
(Weller et al. 2024, arXiv:2403.15246), whose code gives TART-full 1,024 tokens, the query first, and cuts the document
alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tart_ray.config import EvaluateConfig
from tart_ray.errors import ConfigurationError
from tart_ray.evaluation.instructions import published
from tart_ray.evaluation.tasks import Task

TART = "tart"
A_RUN = "a run"
PROTOCOLS: Mapping[str, Mapping[str, Any]] = {
    TART: {
        "model.max_length": 512,
        "model.truncation": "longest_first",
        "model.long_documents": "truncate",
        "input.empty_documents": "score",
        "template": "instruction_first",
        "first_stage": A_RUN,
        "top_k": 100,
    },
    "followir": {
        "model.max_length": 1024,
        "model.truncation": "only_document",
        "model.long_documents": "truncate",
        "input.empty_documents": "score",
        "kind": "followir",
        "template": "query_first",
        "first_stage": A_RUN,
    },
}


def departures(protocol: str, config: EvaluateConfig, task: Task) -> list[str]:
    """Where a task's settings are not those of a protocol: ``key: got …, expected …``, in the order of the protocol."""
    settings: dict[str, Any] = {
        **{f"model.{name}": getattr(config.model, name) for name in ("max_length", "truncation", "long_documents")},
        "input.empty_documents": config.input.empty_documents,
        "kind": task.kind,
        "template": task.template,
        "first_stage": "bm25" if task.has_own_first_stage and task.first_stage is None else A_RUN,
        "top_k": task.top_k,
    }
    return [
        f"{key}: got {settings[key]}, expected {expected}"
        for key, expected in PROTOCOLS[protocol].items()
        if settings[key] != expected
    ]


def hold_to_protocol(config: EvaluateConfig, task: Task) -> Task:
    """The task, with what keeps its figures from being compared with the TART paper's.

    Raises:
        ConfigurationError: its settings are not those of the protocol that it names.
    """
    if task.protocol and (wrong := departures(task.protocol, config, task)):
        raise ConfigurationError(f"input.tasks: {task.name}: protocol {task.protocol}: {'; '.join(wrong)}")
    from_paper = tuple(departures(TART, config, task))
    has_figure = any(published(config.model.path, variant.preset) for variant in task.variants)
    hidden = from_paper and has_figure
    notes = (f"the published figure is not shown: {'; '.join(from_paper)}",) if hidden else ()
    return dataclasses.replace(task, departures=from_paper, notes=(*task.notes, *notes))
