"""Configurations written for people, and their JSON schemas: what they say is what the jobs take."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from tart_ray.config import RerankConfig
from tart_ray.config.json_schema import schema_of, schema_text
from tart_ray.config.keys import descriptions, section_of, validate
from tart_ray.config.template import commented
from tart_ray.config.yaml_text import read_yaml
from tart_ray.job_table import JOBS

SMALLEST: dict[str, dict[str, Any]] = {
    "rerank": {"input": {"candidates": "a.jsonl"}, "output": {"path": "run"}},
    "relabel": {"input": {"candidates": "a.jsonl"}, "labels": {"cuts": [0.5, 2]}, "output": {"path": "run"}},
    "mine_negatives": {"input": {"run": "run"}, "positives": {"qrels": "q.tsv"}, "output": {"path": "mined"}},
    "evaluate": {"input": {"tasks": [{"name": "a", "path": "a"}, {"name": "b", "path": "b"}]}, "output": {"path": "r"}},
    "train": {"model": {"path": "t5"}, "input": {"train": "a.jsonl"}, "output": {"path": "run"}},
}


@pytest.mark.parametrize("job", JOBS)
def test_what_is_written_is_what_was_set(job: str) -> None:
    text = commented(JOBS[job].config, SMALLEST[job], {})
    assert read_yaml(text) == SMALLEST[job]
    validate(JOBS[job].config, read_yaml(text))


@pytest.mark.parametrize("job", JOBS)
def test_every_key_that_is_brought_in_has_its_default(job: str) -> None:
    text = commented(JOBS[job].config, SMALLEST[job], {})
    whole = re.sub(r"^( *)#(?=\w)", r"\1", text, flags=re.MULTILINE)
    assert whole != text
    assert validate(JOBS[job].config, read_yaml(whole)) == validate(JOBS[job].config, SMALLEST[job])


def test_comments_are_those_of_the_help_and_notes_stand_above_their_key() -> None:
    text = commented(RerankConfig, SMALLEST["rerank"], {"input.candidates": "Found: three rows."})
    lines = text.splitlines()
    at = lines.index("  candidates: a.jsonl")
    assert lines[at - 1] == "  # Found: three rows."
    said = " ".join(line.strip(" #") for line in lines)
    for section in ("input", "model", "cluster", "limits", "storage"):
        kind = section_of(RerankConfig.model_fields[section])
        assert kind is not None
        for name, words in descriptions(kind).items():
            assert section_of(kind.model_fields[name]) is not None or words in said, name


BAD: dict[str, dict[str, Any]] = {
    "an unknown key": {"input": {"candidates": "a", "candidate": "b"}},
    "a number for text": {"input": {"candidates": 7}},
    "a word that is none of the choices": {"model": {"dtype": "float16"}},
    "too few replicas": {"cluster": {"replicas": {"min": 0}}},
}


@pytest.mark.parametrize("job", JOBS)
def test_a_schema_takes_what_the_job_takes(job: str) -> None:
    schema = schema_of(JOBS[job].config)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(json.dumps(SMALLEST[job])), schema)
    assert json.loads(schema_text(JOBS[job].config)) == schema


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_schema_refuses_what_the_job_refuses(bad: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(SMALLEST["rerank"] | bad, schema_of(RerankConfig))


def test_a_schema_says_of_keys_what_the_help_says() -> None:
    schema = schema_of(JOBS["evaluate"].config)
    assert schema["$defs"]["ReplicasConfig"]["properties"]["max"]["description"] == "Replicas at most."
    assert schema["$defs"]["TaskConfig"]["properties"]["questions"]["description"] == "Of LoTTE."
    assert schema["$defs"]["MetricsConfig"]["description"] == "How sure figures are."
