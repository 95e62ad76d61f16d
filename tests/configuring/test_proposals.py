"""Configurations proposed from a look at files, and those in configs/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.job_files import write_jsonl

from tart_ray.config.json_schema import schema_text
from tart_ray.config.yaml_text import read_yaml
from tart_ray.configuring.command import configuration
from tart_ray.configuring.proposals import column_names, guess_columns, propose
from tart_ray.errors import ConfigurationError, InputError
from tart_ray.job_table import JOBS
from tart_ray.jobs_command import main
from tart_ray.storage import Storage

ROOT = Path(__file__).parents[2]
EXAMPLES = {
    "rerank": ("rerank", "candidates.jsonl"),
    "mine": ("mine_negatives", "candidates.jsonl"),
    "relabel": ("relabel", "candidates.jsonl"),
    "evaluate": ("evaluate", "collection"),
    "train": ("train", "examples.jsonl"),
}
PAIR = {"query_id": "q", "query": "wing", "doc_id": "d", "text": "lift"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_are_what_init_writes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, remove configs/NAME.yaml and write it again: tart-ray init JOB configs/data/FILE --output …"""
    monkeypatch.chdir(ROOT)
    job, file = EXAMPLES[name]
    written = (ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8")
    assert written == configuration(Storage(), job, f"configs/data/{file}", f"{name}.yaml")
    assert written.startswith(f"# yaml-language-server: $schema=schemas/{job}.json\n")


@pytest.mark.parametrize("job", JOBS)
def test_the_schemas_beside_the_examples_are_those_of_the_code(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails: tart-ray schema JOB > configs/schemas/JOB.json"""
    assert main(["schema", job]) == 0
    assert (ROOT / "configs" / "schemas" / f"{job}.json").read_text(encoding="utf-8") == capsys.readouterr().out


@pytest.mark.parametrize("job", JOBS)
def test_without_a_file_there_is_something_to_fill_in(job: str) -> None:
    text = configuration(Storage(), job, None, "a.yaml")
    assert "FILL-IN-" in json.dumps(read_yaml(text)["input"])


def test_columns_by_other_names_are_found_and_mapped(place: Any) -> None:
    rows = [{"Question ID": 7, "question": "wing", "docno": "d", "Body": "lift", "headline": "Wings", "year": 1999}]
    url = place.put("in/a.parquet", pa.Table.from_pylist(rows))
    found = propose(place.storage, "rerank", url)
    assert found.values["input"]["columns"] == {
        "query_id": "Question ID", "query": "question", "doc_id": "docno", "text": "Body", "title": "headline",
    }  # fmt: skip
    assert "parquet, pairs, about 1 rows" in found.notes["input.candidates"]
    assert found.values["output"] == {"path": "a-rerank"}


def test_names_that_need_no_mapping_are_left_alone() -> None:
    assert guess_columns({"query_id", "query", "doc_id", "text", "body", "topic"}) == {}
    assert guess_columns({"qid", "query", "pid", "passage"}) == {"text": "passage"}


def test_an_instruction_is_asked_for_where_the_rows_have_none(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [PAIR])
    assert propose(Storage(), "rerank", str(tmp_path / "a.jsonl")).values["input"]["instruction"] == ""
    write_jsonl(tmp_path / "a.jsonl", [PAIR | {"instruction": "Find it"}])
    assert "instruction" not in propose(Storage(), "rerank", str(tmp_path / "a.jsonl")).values["input"]


def test_texts_that_candidates_lack_are_looked_for_beside_them(tmp_path: Path) -> None:
    (tmp_path / "a.trec").write_text("q Q0 d 1 2.0 x\n")
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "d", "text": "lift"}])
    given = propose(Storage(), "rerank", str(tmp_path / "a.trec")).values["input"]
    assert given["corpus"] == f"{tmp_path}/corpus.jsonl"
    assert given["queries"] == "FILL-IN-queries.jsonl"


def test_what_judges_candidates_is_found(tmp_path: Path) -> None:
    url = str(tmp_path / "a.jsonl")
    write_jsonl(tmp_path / "a.jsonl", [PAIR])
    assert propose(Storage(), "mine_negatives", url).values["positives"] == {"qrels": "FILL-IN-qrels.tsv"}
    (tmp_path / "qrels.tsv").write_text("q\td\t1\n")
    assert propose(Storage(), "mine_negatives", url).values["positives"] == {"qrels": f"{tmp_path}/qrels.tsv"}
    write_jsonl(tmp_path / "a.jsonl", [PAIR | {"relevance": 1}])
    assert propose(Storage(), "mine_negatives", url).values["positives"] == {"label_column": "relevance"}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text("{}")
    found = propose(Storage(), "mine_negatives", str(tmp_path / "run"))
    assert found.values["input"] == {"run": str(tmp_path / "run")}


def test_a_collection_is_described_by_what_is_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "my corpus"
    with pytest.raises(ConfigurationError, match=r"got no corpus.jsonl and no queries.jsonl, expected the directory"):
        propose(Storage(), "evaluate", str(folder))
    write_jsonl(folder / "corpus.jsonl", [{"_id": "d", "text": "lift"}])
    write_jsonl(folder / "queries.jsonl", [{"_id": "q", "text": "wing"}])
    (folder / "qrels").mkdir()
    (folder / "qrels" / "dev.tsv").write_text("q\td\t1\n")
    (task,) = propose(Storage(), "evaluate", str(folder)).values["input"]["tasks"]
    assert (task["name"], task["path"], task["split"]) == ("my-corpus", str(folder), "dev")


def test_a_file_that_the_job_cannot_read_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"color": "red", "size": 3}])
    with pytest.raises(InputError, match=r"missing column query_id, doc_id; available: \['color', 'size'\]"):
        propose(Storage(), "rerank", str(tmp_path / "a.jsonl"))
    with pytest.raises(InputError):
        propose(Storage(), "train", str(tmp_path / "a.jsonl"))


def test_directories_named_by_keys_are_columns_too(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "language=en" / "a.jsonl", ["{broken", PAIR])
    assert column_names(Storage(), str(tmp_path / "in")) == {*PAIR, "language"}


def test_init_writes_a_configuration_with_its_schema_and_nothing_over_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "a.jsonl", [PAIR])
    assert main(["init", "mine", "a.jsonl"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == (
        "wrote mine_negatives.yaml, and schemas/mine_negatives.json for editors"
    )
    schema = (tmp_path / "schemas" / "mine_negatives.json").read_text(encoding="utf-8")
    assert schema == schema_text(JOBS["mine_negatives"].config)
    before = (tmp_path / "mine_negatives.yaml").read_text()
    assert main(["init", "mine-negatives"]) == 2
    assert "mine_negatives.yaml: is there, and is not written over" in capsys.readouterr().err
    assert (tmp_path / "mine_negatives.yaml").read_text() == before
    with pytest.raises(SystemExit, match="2"):
        main(["init", "rernk"])
    assert "expected one of rerank, relabel" in capsys.readouterr().err
