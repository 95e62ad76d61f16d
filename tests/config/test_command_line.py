"""What users type, and what they are told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tart_ray.config import EvaluateConfig, RerankConfig, StorageConfig
from tart_ray.config.command_line import parse_config

BASE = "input: {candidates: a.jsonl}\noutput: {path: run}\n"


@pytest.fixture
def parse(tmp_path: Path) -> Any:
    def parse_text(text: str, *argv: str) -> tuple[RerankConfig, bool]:
        file = tmp_path / "config.yaml"
        file.write_text(text)
        return parse_config(RerankConfig, "rerank", ["--config", str(file), *argv])

    return parse_text


def test_a_small_file_is_enough(parse: Any) -> None:
    config, dry_run = parse(BASE)
    assert config == RerankConfig(input={"candidates": "a.jsonl"}, output={"path": "run"})
    assert (config.model.max_length, config.cluster.replicas.max, config.output.top_k, dry_run) == (512, 8, None, False)


def test_later_values_win(parse: Any, tmp_path: Path) -> None:
    file = BASE + "model: {max_length: 128, dtype: float32}\ncluster: {replicas: {max: 3}}\n"
    (tmp_path / "later.yaml").write_text("model: {max_length: 64}\n")
    more = ["--model.max_length", "256", "--cluster.replicas.min", "2", "--output.partition_by", "[lang, year]"]
    config, dry_run = parse(file, *more, "--input.columns", "{doc_id: pid}", "--output.top_k", "5", "--dry-run")
    assert (config.model.max_length, config.model.dtype, dry_run) == (256, "float32", True)
    assert (config.cluster.replicas.min, config.cluster.replicas.max, config.cluster.address) == (2, 3, "auto")
    assert (config.output.partition_by, config.output.top_k, config.output.path) == (["lang", "year"], 5, "run")
    assert config.input.columns == {"doc_id": "pid"}
    later = ["--config", str(tmp_path / "later.yaml")]
    assert parse(file, "--model.max_length", "256", *later)[0].model.max_length == 64
    assert parse(file, *later, "--model.max_length", "256")[0].model.max_length == 256


MODEL = "available: model.path, model.family, model.template.query, model.template.document, model.template.prompt, "


@pytest.mark.parametrize(
    ("text", "argv", "said"),
    [
        (BASE + "nope: 1\n", "", ["'nope'", "available: input.candidates, ", "plan.dollars_per_gpu_hour"]),
        (BASE + "nope: 1\nnone: 2\n", "", ["unknown key 'nope'", "unknown key 'none'"]),
        (BASE + "model: {paht: x}\n", "", ["got an unknown key 'paht' in model; did you mean 'path'?\n" + MODEL]),
        (BASE + "cluster: {replicas: {mix: 1}}\n", "", ["'mix' in cluster.replicas;", "cluster.replicas.max"]),
        (BASE, "--model.paht x", ["arguments: --model.paht ***; did you mean 'model.path'?\n" + MODEL]),
        (BASE, "--nope x", ["unrecognized arguments: --nope ***", "available: input.candidates, "]),
        (BASE, "stray", ["stray"]),
        (BASE + "input: {candidates: b}\n", "", ["the key 'input' is given twice, in line 1 and in line 3"]),
        (BASE + "model: {path: a, 'path': b}\n", "", ["the key 'path' is given twice, in line 3 and in line 3"]),
        (BASE + "model: {max_length: many}\n", "", ["model.max_length: got 'many', expected a valid integer"]),
        (BASE, "--model.max_length 7", ["model.max_length: got 7, expected greater than or equal to 8"]),
        (BASE, "--model.dtype float16", ["model.dtype: got 'float16', expected 'auto', 'float32' or 'bfloat16'"]),
        (BASE, "--limits.max_quarantined_fraction 2", ["max_quarantined_fraction: got 2, expected less than"]),
        (BASE, "--output.top_k 0", ["output.top_k: got 0, expected greater than 0"]),
        (BASE, "--cluster.replicas.min 9", ["cluster.replicas: got min 9 above max 8"]),
        (BASE + "cluster: {replicas: {min: 3, max: 2}}\n", "", ["cluster.replicas: got min 3 above max 2"]),
        (BASE, "--input.columns {docid:x}", ["input.columns.docid:x: got nothing, expected text"]),
        ("output: {path: run}\n", "", ["required: input.candidates", "available: input.candidates, input.queries,"]),
        ("input: {candidates: a}\n", "", ["required: output.path", "available: output.path, output.partition_by,"]),
        (BASE + "model:\n", "", ["model: got nothing, expected keys below it\n" + MODEL]),
        (BASE + "cluster: {replicas: null}\n", "", ["cluster.replicas: got nothing"]),
        (BASE + "model: []\n", "", ["model: got [], expected keys below it\n" + MODEL]),
        ("input:\noutput: {path: run}\n", "", ["input.candidates"]),
        ("", "", ["config.yaml: got nothing, expected sections with keys"]),
        ("just text", "", ["config.yaml: got str, expected sections"]),
        (BASE + "model: {path: 7}\n", "", ["model.path: got 7, expected text: put it in quotes"]),
        (BASE + "model: {max_tokens_per_batch: few}\n", "", ["got 'few', expected a", "or expected 'auto'"]),
        ("a: [1\n", "", ["config.yaml: not YAML: line 2, column 1"]),
        ("\x00", "", ["configuration error: "]),
    ],
)  # fmt: skip
def test_a_bad_configuration_ends_with_what_was_got_and_what_is_available(
    parse: Any, capsys: pytest.CaptureFixture[str], text: str, argv: str, said: list[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(text, *argv.split())
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("configuration error: ")
    assert printed.endswith("`python -m jobs.rerank --help` describes every key\n")
    assert [part for part in said if part not in printed] == [], printed
    assert not re.search(r"validation error|input_type|https?:", printed), printed


def test_a_key_that_is_given_twice_on_the_command_line(parse: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(BASE, "--input.columns", "{text: a, doc_id: b, text: c}")
    assert caught.value.code == 2
    assert "configuration error: argument --input.columns: the key 'text' is given twice" in capsys.readouterr().err


SECRET = "hunter2-q3"  # noqa: S105


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        ("", ["--storage.secrt", SECRET]),
        ("", [f"--storage.secrt={SECRET}"]),
        ("", ["--storage.secret=", SECRET]),
        ("", ["--storge.secret", SECRET]),
        ("", ["--secret", SECRET]),
        ("", ["--storage", SECRET]),
        ("", ["--storage", f"{{secrt: {SECRET}}}"]),
        ("", ["--storage.gs", SECRET]),
        ("", ["--storage.gs.token", SECRET, "--nope", "1"]),
        ("", ["--storage.endpoint_url", f"https://user:{SECRET}@host"]),
        ("", ["--storage.endpoint_url", f"https://host?sig={SECRET}"]),
        ("", ["--input.candidates", f"s3://AKIA:{SECRET}@bucket/x"]),
        ("", ["--model.path", f"https://host/x?X-Amz-Signature={SECRET}"]),
        ("", ["--output.path", f"az://container/x?sv=1&sig={SECRET}"]),
        ("", ["--config", f"https://user:{SECRET}@host/x.yaml"]),
        ("", ["--config", f"s3://AKIA:{SECRET}@bucket/x.yaml"]),
        ("", ["--output.top_k", f"s3://AKIA:{SECRET}@bucket/x"]),
        (f"storage: {{secret_key: {SECRET}}}\n", []),
        (f"storage: {SECRET}\n", []),
        (f"storage: [{SECRET}]\n", []),
        (f"storage: {{secret: [{SECRET}]}}\n", []),
        (f"storage: {{az: {SECRET}}}\n", []),
        (f"storage: {{az: {{sas_token: {SECRET}}}, nope: 1}}\n", []),
        (f"stroage: {{secret: {SECRET}}}\n", []),
        (f"stroage: {SECRET}\n", []),
        (f"storage:\n  secret: {SECRET}: x\n", []),
        (f"storage:\n  secret {SECRET}\n  key: x\n", []),
        (f"storage: {{secret: {SECRET}, secret: {SECRET}}}\n", []),
    ],
)
def test_no_message_shows_a_secret(parse: Any, capsys: pytest.CaptureFixture[str], text: str, argv: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(BASE + text, *argv)
    assert caught.value.code == 2
    printed = "".join(capsys.readouterr())
    assert "configuration error: " in printed
    assert SECRET not in printed


@pytest.mark.parametrize("place", ["gs://b/x.yaml", "foo://b/x.yaml", "s3:/b/x.yaml", "http://h/x.yaml", "s3://"])
def test_a_configuration_where_none_can_be_is_refused_in_one_sentence(
    place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_config(RerankConfig, "rerank", ["--config", place])
    assert caught.value.code == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert told[0].startswith("configuration error: cannot read the configuration: ")


def test_python_users_see_no_secret_either() -> None:
    for wrong in ({"secrt": SECRET}, {"secret": [SECRET]}, {"gs": SECRET}, {"endpoint_url": f"https://u:{SECRET}@h"}):
        with pytest.raises(ValidationError) as caught:
            StorageConfig.model_validate(wrong)
        assert SECRET not in str(caught.value)


def test_bad_tasks_of_an_evaluation_are_told_plainly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "evaluate.yaml"
    file.write_text("input: {tasks: [{path: beir, top_kk: 3}]}\noutput: {path: run}\n")
    with pytest.raises(SystemExit):
        parse_config(EvaluateConfig, "evaluate", ["--config", str(file)])
    printed = capsys.readouterr().err
    assert "required: input.tasks[0].name\n" in printed
    assert "got an unknown key 'top_kk' in input.tasks[0]; did you mean 'top_k'?\n" in printed
    assert not re.search(r"validation error|input_type|https?:|at least 1 item", printed), printed
    with pytest.raises(SystemExit):
        parse_config(EvaluateConfig, "evaluate", ["--input.tasks", "[]", "--output.path", "run"])
    assert "at least 1 item" in capsys.readouterr().err


def test_a_file_that_is_no_yaml_is_told_without_keys(parse: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("model: {path: a\ninput: b\n")
    printed = capsys.readouterr().err
    assert "line 2, column" in printed
    assert "available" not in printed


@pytest.mark.parametrize("name", ["missing.yaml", "", "model.yaml"])
def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_config(RerankConfig, "rerank", ["--config", str(tmp_path / name)])
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert str(tmp_path / name) in printed
    assert "available" not in printed


def test_nothing_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_config(RerankConfig, "rerank", [])
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert "input.candidates, output.path" in printed
    assert "available: input.candidates, " in printed
    assert "output.top_k" in printed


def test_help_describes_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_config(RerankConfig, "rerank", ["--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    for part in (
        "--cluster.replicas.min",
        "Documents kept per query in reranked/",
        "--storage.endpoint_url",
        "--dry-run",
    ):
        assert part in printed


def test_secrets_reach_the_filesystem_and_nothing_else(parse: Any, capsys: pytest.CaptureFixture[str]) -> None:
    secrets = {"key": "AKIA-visible", "secret": "hunter2", "token": "session-token"}
    text = BASE + "storage: {secret: hunter2, token: session-token, region: eu-west-1}\n"
    config, _ = parse(text, "--storage.key", "AKIA-visible", "--storage.endpoint_url", "http://host:1")
    options = config.storage.fsspec_options("s3://bucket/x")
    assert options == secrets | {
        "endpoint_url": "http://host:1", "anon": False, "client_kwargs": {"region_name": "eu-west-1"},
        "use_listings_cache": False, "max_concurrency": 1,
    }  # fmt: skip
    assert config.storage.fsspec_options("/local/file") == {}
    shown = [repr(config), str(config), str(config.model_dump(mode="json")), config.model_dump_json()]
    with pytest.raises(SystemExit):
        parse(text + "model: {paht: x}\n", "--storage.key", "AKIA-visible")
    with pytest.raises(SystemExit):
        parse(text, "--storage.key", "AKIA-visible", "--storage.anonymous", "maybe")
    shown += capsys.readouterr()
    assert [(secret, text) for secret in secrets.values() for text in shown if secret in text] == []


def test_the_environment_decides_where_the_configuration_is_silent() -> None:
    assert not {"key", "secret", "token"} & StorageConfig().fsspec_options("s3://bucket").keys()
    assert StorageConfig().fsspec_options("s3://bucket")["client_kwargs"] == {}


PROGRAM = """
import sys
from tart_ray.config.command_line import parse_config
from tart_ray.config import RerankConfig
config, _ = parse_config(RerankConfig, "rerank", sys.argv[1:])
print(config.input.candidates, config.model.max_length)
assert not {"ray", "torch", "transformers"} & sys.modules.keys()
"""


def run(environment: dict[str, str], *argv: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *argv], env=clean | environment, capture_output=True, text=True, timeout=120
    )


def test_a_configuration_in_object_storage(s3: Any) -> None:
    bucket = s3.new_bucket()
    s3.filesystem().pipe_file(f"{bucket}/jobs/nightly.yaml", BASE.encode() + b"model: {max_length: 99}\n")
    found = run(s3.environment, "--config", f"s3://{bucket}/jobs/nightly.yaml", "--input.candidates", "b.jsonl")
    assert (found.stdout, found.returncode) == ("b.jsonl 99\n", 0), found.stderr
    missing = run(s3.environment, "--config", f"s3://{bucket}/jobs/missing.yaml")
    assert missing.returncode == 2, missing.stderr
    assert missing.stderr.startswith("configuration error: ")
    assert "jobs/missing.yaml" in missing.stderr
    refused = run(s3.environment | {"AWS_SECRET_ACCESS_KEY": "wrong"}, "--config", f"s3://{bucket}/jobs/nightly.yaml")
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.startswith("configuration error: ")
    assert "Traceback" not in refused.stderr
