"""Instructions by name, as the TART paper evaluated with them, and the figures that it published.

Source: Asai et al. 2022, Task-aware Retrieval with Instructions (https://arxiv.org/abs/2211.09260). The table of BEIR's
instructions is as later work transcribed it; those of FiQA and LoTTE are confirmed in the original repository. They are
parameters of the published results: another wording gives other results.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tart_ray.errors import InputError

Template = Literal["instruction_first", "query_first"]

SOURCE = "Asai et al. 2022, arXiv:2211.09260"

BEIR = {
    "trec-covid": "Retrieve Scientific paper paragraph to answer this question",
    "nfcorpus": "Retrieve Scientific paper paragraph to answer this question",
    "fiqa": "Find financial web article paragraph to answer",
    "arguana": "Retrieve an argument that counter argues the following paragraph",
    "webis-touche2020": "You have to retrieve an argument to this debate question",
    "dbpedia-entity": "Retrieve a Wikipedia introduction paragraph of the following entity",
    "scidocs": "Find scientific paper titles that are related to the following",
    "climate-fever": (
        "I want to know if the following claim is true or not. "
        "Retrieve a Wikipedia paragraph on climate change for this"
    ),
    "scifact": "Retrieve a scientific paper sentence to verify if the following claim is true",
}
X2 = {
    "wikiqa": "Retrieve an answer sentence from Wikipedia",
    "ambig": "Retrieve a question that is similar to this",
    "scifact": "Retrieve scientific evidence to verify this claim",
    "gooaq_technical": "Find a StackExchange forum that answers this question",
    "codesearch_py": "Retrieve a python code that implements the following feature",
    "linkso_py": "You have to find a python implementation of this",
}
LOTTE = "{prompt} from StackExchange {category} forum"

PRESETS: Mapping[str, str] = {
    **{f"beir/{name}": text for name, text in BEIR.items()},
    **{f"x2/{name}": text for name, text in X2.items()},
    "lotte": LOTTE,
}

FLAN_T5_XL, T0_3B = "facebook/tart-full-flan-t5-xl", "facebook/tart-full-t0-3b"
BEIR_AVERAGE = "beir average"
# checkpoint → preset → (measure, figure in percent); with the protocol of the paper: docs/evaluation.md
PUBLISHED: Mapping[str, Mapping[str, tuple[str, float]]] = {
    FLAN_T5_XL: {
        BEIR_AVERAGE: ("nDCG@10", 44.8),
        "beir/scifact": ("nDCG@10", 77.7),
        "beir/climate-fever": ("nDCG@10", 35.4),
        "beir/fiqa": ("nDCG@10", 41.8),
    },
    T0_3B: {"beir/webis-touche2020": ("nDCG@10", 31.2)},  # LoTTE's 75.7 is of all categories together
}


@dataclass(frozen=True)
class Variant:
    """One way to instruct the model on a task; its rankings are a run of this name.

    ``column``: of the queries, where each query has an instruction of its own. ``judged_by``: which of the task's qrels
    its ranking is measured with.
    """

    name: str
    instruction: str | None
    preset: str | None = None
    column: str | None = None
    judged_by: str = "all"


def make_variant(index: int, given: str | Mapping[str, str]) -> Variant:
    """The variant that an entry of ``instructions`` stands for: a text, or ``{preset: name, …what it needs}``.

    Raises:
        InputError: no such preset, or not what it needs.
    """
    name = f"reranked-{index + 1}"
    if isinstance(given, str):
        return Variant(name, given)
    values = dict(given)
    preset = values.pop("preset", None)
    if preset is None or preset not in PRESETS:
        raise InputError(f"instructions: got preset {preset!r}, available: {', '.join(PRESETS)}")
    template = PRESETS[preset]
    needed = {field for _, field, _, _ in string.Formatter().parse(template) if field}
    if set(values) != needed:
        raise InputError(
            f"instructions: preset {preset!r} ({template}): got {sorted(values)} beside it, "
            f"expected {sorted(needed) or 'nothing'}"
        )
    return Variant(name, template.format(**values), preset)


def instructed(template: Template, instruction: str | None, query: str) -> tuple[str | None, str]:
    """Instruction and query as the model is given them.

    ``instruction_first`` is how TART was trained, ``{instruction} [SEP] {query}``. ``query_first`` is the reversed
    ``{query} [SEP] {instruction}`` that FollowIR evaluated with; the model then sees it as one query.
    """
    if template == "instruction_first" or instruction is None:
        return instruction, query
    return None, f"{query} [SEP] {instruction}"


def published(model: str, preset: str | None) -> tuple[str, float] | None:
    """Measure and figure, a fraction of 1, that was published for a checkpoint and a preset; None where none was."""
    figure = PUBLISHED.get(model.rstrip("/"), {}).get(preset or "")
    return (figure[0], figure[1] / 100) if figure else None
