"""Whatever a configuration says: it is a valid one, or the job ends with exit code 2 and says why."""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.fuzzing import FUZZED

from tart_ray.config import RerankConfig
from tart_ray.config.command_line import parse_config

VALID: dict[str, Any] = {
    "model": {
        "path": "some/model",
        "revision": None,
        "dtype": "auto",
        "max_length": 512,
        "long_documents": "truncate",
        "max_tokens_per_batch": "auto",
    },
    "input": {"candidates": "a.jsonl", "queries": None, "instruction": "Find it", "columns": {"text": "body"}},
    "output": {"path": "run", "partition_by": ["language"], "top_k": 100},
    "cluster": {"address": "auto", "replicas": {"min": 1, "max": 8}, "gpus_per_replica": 0.5, "cpus_per_replica": 1},
    "limits": {"max_quarantined_fraction": 0.01, "max_attempts_per_chunk": 3},
    "storage": {"endpoint_url": None, "anonymous": False, "key": "k", "secret": "s"},
    "plan": {"pairs_per_second": 100.0, "dollars_per_gpu_hour": 2},
}
KEYS = sorted({*VALID, *(key for section in VALID.values() for key in section), "min", "max", "nope"})
WORDS = [
    "auto",
    "",
    " ",
    "1",
    "1.5",
    "-1",
    "true",
    "null",
    "~",
    "[",
    "{a: 1}",
    "1e999",
    ".nan",
    "0x10",
    "2024-02-29",
    "é🌊",
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(WORDS)
    | st.text(max_size=10)
    | st.binary(max_size=4)
    | st.dates()
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | SCALARS.filter(lambda key: key == key), inner, max_size=4)
    ),
    max_leaves=8,
)


def check(text: str | bytes, *argv: str) -> None:
    """A configuration of the type, or exit code 2 with a message that names the problem."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
        told = io.StringIO()
        try:
            with contextlib.redirect_stderr(told):
                config, _ = parse_config(RerankConfig, "rerank", ["--config", str(file), *argv])
        except SystemExit as end:
            lines = told.getvalue().splitlines()
            outcome = (end.code, lines[0].startswith("configuration error: "), lines[0] != "configuration error: ")
            assert outcome == (2, True, True)
        else:
            assert RerankConfig.model_validate(config.model_dump()).model_dump() == config.model_dump()
            assert config.cluster.replicas.min <= config.cluster.replicas.max


def test_the_configuration_that_is_changed_is_valid(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(VALID))
    config, _ = parse_config(RerankConfig, "rerank", ["--config", str(tmp_path / "a.yaml")])
    assert (config.output.partition_by, config.plan.dollars_per_gpu_hour) == (["language"], 2)


@st.composite
def mutations(draw: st.DrawFn) -> dict[str, Any]:
    """`VALID` with a few keys changed, removed, added or renamed at any depth."""
    config = copy.deepcopy(VALID)
    for _ in range(draw(st.integers(1, 3))):
        place: Any = config
        for _ in range(draw(st.integers(0, 2))):
            inner = [value for value in place.values() if isinstance(value, dict) and value]
            place = draw(st.sampled_from(inner)) if inner else place
        key = draw(st.sampled_from(sorted(place, key=repr)) if place else st.sampled_from(KEYS))
        match draw(st.sampled_from(["change", "change", "change", "remove", "add", "rename"])):
            case "change":
                place[key] = draw(ANYTHING)
            case "remove":
                place.pop(key, None)
            case "add":
                place[draw(st.sampled_from(KEYS) | st.text(max_size=6))] = draw(ANYTHING)
            case "rename":
                place[draw(st.sampled_from(KEYS))] = place.pop(key, None)
    return config


@FUZZED
@given(mutations())
def test_fuzz_changes_of_a_valid_configuration(config: dict[str, Any]) -> None:
    check(yaml.safe_dump(config, allow_unicode=True))


@FUZZED
@given(ANYTHING)
def test_fuzz_any_document(document: Any) -> None:
    check(yaml.safe_dump(document, allow_unicode=True))


@FUZZED
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode(errors="surrogatepass")))
def test_fuzz_any_bytes(content: bytes) -> None:
    check(content)


@FUZZED
@given(st.data())
def test_fuzz_damaged_text(data: st.DataObject) -> None:
    text = yaml.safe_dump(VALID).encode()
    for _ in range(data.draw(st.integers(1, 3))):
        at, length = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 5))
        text = text[:at] + data.draw(st.binary(max_size=5)) + text[at + length :]
    check(text)


FLAGS = st.sampled_from(
    ["--model.max_length", "--output.top_k", "--output.partition_by", "--input.columns", "--cluster.replicas",
     "--cluster.replicas.min", "--limits.max_quarantined_fraction", "--storage.secret", "--nope", "--model", "--config"]
)  # fmt: skip
VALUES = st.sampled_from([*WORDS, "[a, b]", "{text: x}", "5"]) | st.text(max_size=8)


@FUZZED
@given(st.lists(FLAGS | VALUES, max_size=5))
def test_fuzz_command_line(argv: list[str]) -> None:
    if {"-h", "--help"} & {*argv}:
        pytest.skip("prints the help")
    check(yaml.safe_dump(VALID), *argv)
