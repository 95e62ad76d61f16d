"""Whole jobs with cross-encoders other than EncT5, beside sentence-transformers' own predictions."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.collections import write_beir, write_run
from support.cross_encoders import make_bert, make_modern_bert, make_qwen3
from support.job_files import read_output, report_of, write_jsonl

import tart_ray
from tart_ray import Scorer
from tart_ray.errors import CheckpointError, ConfigurationError, ExitCode, RunConflictError
from tart_ray.reranking.job import rerank

CrossEncoder = pytest.importorskip("sentence_transformers", reason="of the extra cross-encoders").CrossEncoder
pytestmark = pytest.mark.usefixtures("cluster")

WORDS = "what is the capital of france paris city history question science dog fox document".split()
INSTRUCTION = "Retrieve a passage on history"


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    """60 pairs of 3 queries, some longer than fits, some with a title; as candidates."""
    rows = [
        {
            "query_id": f"q{query}",
            "query": " ".join(WORDS[query : query + 4]),
            "doc_id": f"d{document}",
            "title": WORDS[document % 13] if document % 3 else None,
            "text": " ".join(WORDS[(document * 7 + i) % 14] for i in range(1 + document % 4 * 30)),
        }
        for query in range(3)
        for document in range(20)
    ]
    write_jsonl(tmp_path / "candidates" / "a.jsonl", rows)
    return rows


def predicted(
    checkpoint: Path, rows: list[dict[str, Any]], max_length: int = 64, **options: Any
) -> dict[tuple[str, str], float]:
    model = CrossEncoder(str(checkpoint), device="cpu", max_length=max_length)
    pairs = [(row["query"], f"{row['title'] or ''} {row['text']}".strip()) for row in rows]
    raw = model.predict(pairs, activation_fn=torch.nn.Identity(), **options)
    margins = raw if raw.ndim == 1 else raw[:, 1] - raw[:, 0]
    return {(row["query_id"], row["doc_id"]): margin for row, margin in zip(rows, margins.tolist(), strict=True)}


def assert_margins(run: Path, expected: dict[tuple[str, str], float]) -> None:
    found = {(row["query_id"], row["doc_id"]): row["margin"] for row in read_output(run)}
    assert found.keys() == expected.keys()
    for key, margin in found.items():
        assert margin == pytest.approx(expected[key], abs=1e-5), key


@pytest.mark.parametrize("make", [make_bert, make_modern_bert, make_qwen3], ids=["bert", "modern-bert", "qwen3"])
def test_a_job_gives_the_librarys_margins(make: Any, rows: Any, tmp_path: Path, make_config: Any) -> None:
    checkpoint = make(tmp_path / "model")
    config = make_config(model={"path": str(checkpoint)}, input={"instruction": INSTRUCTION})
    assert rerank(config) == ExitCode.DONE
    chat = make is make_qwen3
    assert_margins(tmp_path / "run", predicted(checkpoint, rows, prompt=INSTRUCTION if chat else None))
    report = report_of(tmp_path / "run")
    assert report["counts"]["truncated"] > 0
    warned = [warning for warning in report["warnings"] if "reads no instruction" in warning]
    assert len(warned) == (0 if chat else 1)


def test_two_labels_a_template_and_what_belongs_to_a_runs_identity(rows: Any, tmp_path: Path, make_config: Any) -> None:
    checkpoint = make_bert(tmp_path / "model", labels=2)
    template = {"query": "{instruction} {query}"}
    config = make_config(model={"path": str(checkpoint), "template": template}, input={"instruction": INSTRUCTION})
    assert rerank(config) == ExitCode.DONE
    asked = [row | {"query": f"{INSTRUCTION} {row['query']}"} for row in rows]
    assert_margins(tmp_path / "run", predicted(checkpoint, asked))
    identity = json.loads((tmp_path / "run/manifest.json").read_text())["identity"]["model"]
    assert identity["family"] == "cross-encoder"
    assert identity["template"] == {**template, "document": "{title} {text}", "prompt": None}
    assert {"sentence-transformers", "tokenizers", "torch", "transformers"} < identity["versions"].keys()
    assert "sentencepiece" not in identity["versions"]
    with pytest.raises(RunConflictError, match=r"model\.template\.query"):
        rerank(make_config(model={"path": str(checkpoint)}, input={"instruction": INSTRUCTION}))
    plan = tart_ray.plan(config)
    assert "truncated at 64" in plan


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"long_documents": "maxp"}, r"model\.long_documents: got 'maxp', expected 'truncate': .* is not an EncT5"),
        ({"truncation": "only_document"}, r"model\.truncation: got 'only_document', expected 'longest_first'"),
        ({"split_special_tokens": True}, r"model\.split_special_tokens: got True, expected False"),
        ({"max_length": 512}, r"model\.max_length: got 512, and this checkpoint reads 128 tokens"),
    ],
)
def test_what_the_family_cannot_do_is_refused_before_any_work(
    model: Any, message: str, rows: Any, tmp_path: Path, make_config: Any
) -> None:
    checkpoint = make_bert(tmp_path / "model")
    with pytest.raises((ConfigurationError, CheckpointError), match=message):
        rerank(make_config(model={"path": str(checkpoint), **model}))
    assert not (tmp_path / "run").exists()


def test_a_template_for_an_enct5_and_code_of_a_checkpoint_are_refused(
    rows: Any, tmp_path: Path, make_config: Any
) -> None:
    with pytest.raises(ConfigurationError, match=r"model\.template: got a template for an EncT5, expected none"):
        rerank(make_config(model={"template": {"query": "{query}"}}))
    checkpoint = make_bert(tmp_path / "model")
    config = checkpoint / "config.json"
    config.write_text(config.read_text().replace('"model_type": "bert"', '"model_type": "NewModel"'))
    with pytest.raises(CheckpointError, match=r"got model_type 'NewModel', which .* code of a checkpoint is never run"):
        rerank(make_config(model={"path": str(checkpoint)}))
    shutil.copytree(make_qwen3(tmp_path / "chat"), tmp_path / "foreign")
    modules = tmp_path / "foreign" / "modules.json"
    modules.write_text(modules.read_text().replace("sentence_transformers.cross_encoder.modules", "theirs"))
    with pytest.raises(CheckpointError, match=r"got module theirs\.logit_score\.LogitScore, which"):
        rerank(make_config(model={"path": str(tmp_path / "foreign")}))


def test_an_evaluation_turns_no_template_around(tmp_path: Path) -> None:
    write_beir(tmp_path / "beir", {"d1": ("", "paris")}, {"q1": "what"}, {"q1": {"d1": 1}})
    task = {"name": "t", "path": str(tmp_path / "beir"), "template": "query_first", "instructions": ["Find"]}
    config = {
        "input": {"tasks": [task]},
        "model": {"path": str(make_bert(tmp_path / "model")), "max_length": 64},
        "output": {"path": str(tmp_path / "measured")},
    }
    with pytest.raises(ConfigurationError, match="t: template: got query_first, which is how an EncT5 is asked"):
        tart_ray.evaluate(config)


@pytest.mark.matrix  # a minute
def test_a_teacher_of_another_family_teaches_an_enct5(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Scored and mined, trained, evaluated; the corpus is relabelled by the teacher as well."""
    draw = random.Random(0)
    texts = {f"d{i}": " ".join(draw.choices(WORDS, k=6)) for i in range(40)}
    queries = {f"q{i}": " ".join(draw.sample(WORDS, 3)) for i in range(16)}
    run = {query: {doc: float(-place) for place, doc in enumerate(draw.sample([*texts], 8))} for query in queries}
    qrels = {query: {min(documents): 1} for query, documents in run.items()}
    write_beir(tmp_path / "beir", {doc: ("", text) for doc, text in texts.items()}, queries, qrels)
    write_run(tmp_path / "run.trec", run)
    candidates = {
        "candidates": str(tmp_path / "run.trec"),
        "queries": str(tmp_path / "beir/queries.jsonl"),
        "corpus": str(tmp_path / "beir/corpus.jsonl"),
        "instruction": INSTRUCTION,
    }
    teacher = {"path": str(make_qwen3(tmp_path / "teacher")), "max_length": 128}
    on_cpus = {"gpus_per_replica": 0, "replicas": {"max": 1}}
    mined = tart_ray.mine_negatives(
        {
            "input": candidates,
            "positives": {"qrels": str(tmp_path / "beir/qrels/test.tsv")},
            "mining": {"policies": [{"num_negatives": 7}]},
            "trainer": {"formats": ["flagembedding"], "with_scores": True},
            "model": teacher,
            "cluster": on_cpus,
            "output": {"path": str(tmp_path / "mined")},
        }
    )
    scored = {
        (row["query_id"], row["doc_id"]): row["margin"] for row in read_output(tmp_path / "mined/scoring", "scores")
    }
    asked = [{"query_id": q, "query": queries[q], "doc_id": d, "title": "", "text": texts[d]} for q, d in scored]
    expected = predicted(Path(teacher["path"]), asked, prompt=INSTRUCTION, max_length=128)
    assert scored == pytest.approx(expected, abs=1e-5)

    labels = {
        "input": {"run": str(tmp_path / "mined/scoring")},
        "labels": {"cuts": [0.0]},
        "output": {"path": str(tmp_path / "labels")},
        "cluster": on_cpus,
    }
    labelled = {
        (row["query_id"], row["doc_id"]): row["label"]
        for row in tart_ray.relabel(labels).read("labels").to_table().to_pylist()
    }
    assert labelled == {pair: int(margin >= 0) for pair, margin in scored.items()}

    trained = tart_ray.train(
        {
            "model": {"path": str(tiny_checkpoint)},
            "input": {"train": f"{mined.path}/trainer/flagembedding"},
            "training": {
                "loss": "margin_mse",
                "num_negatives": None,
                "max_steps": 80,
                "learning_rate": 3e-3,
                "dropout": 0.0,
                "log_every": 1,
            },
            "cluster": {"gpus_per_worker": 0},
            "output": {"path": str(tmp_path / "student")},
        }
    )
    before, after = (
        divergence(Scorer.from_pretrained(path, max_length=128), scored, queries, texts)
        for path in (tiny_checkpoint, f"{trained.path}/checkpoint")
    )
    assert after < 0.5 * before

    measured = tart_ray.evaluate(
        {
            "input": {
                "tasks": [
                    {
                        "name": "t",
                        "path": str(tmp_path / "beir"),
                        "first_stage": str(tmp_path / "run.trec"),
                        "instructions": [INSTRUCTION],
                    }
                ]
            },
            "model": {"path": f"{trained.path}/checkpoint", "max_length": 128},
            "cluster": on_cpus,
            "output": {"path": str(tmp_path / "measured")},
        }
    )
    assert measured.complete
    assert measured.counts["scored"] == len(scored)


def divergence(scorer: Any, teacher: dict[tuple[str, str], float], queries: Any, texts: Any) -> float:
    """Mean squared difference of margins, counted from each query's mean, of a model and its teacher."""
    margins = scorer.score([queries[q] for q, _ in teacher], [texts[d] for _, d in teacher], INSTRUCTION).margin
    gaps = dict(zip(teacher, margins - np.array([*teacher.values()]), strict=True))
    of_query = [np.var([gap for (query, _), gap in gaps.items() if query == q]) for q in queries]
    return float(np.mean(of_query))
