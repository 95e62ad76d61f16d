"""The settings that figures were published with, by name: a figure of a run with others is another figure.

`tart` is that of the TART paper's tables, which read a pair as the model was trained. `followir` is that of FollowIR's
(Weller et al. 2024, arXiv:2403.15246), whose code gives TART-full 1,024 tokens, the query first, and cuts the document
alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tart_ray.config import EvaluateConfig
from tart_ray.evaluation.datasets import Task

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
