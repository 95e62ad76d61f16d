"""Trainer files are loaded as their trainers load them, several files of each, with a README among them.

By the trainer's own reader where its package is installed, else by what its reader does with a file, written down from
the source that each test names. sentence-transformers has tests of its own.
"""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tart_ray.mining.format_options import FormatOptions
from tart_ray.mining.groups import GROUPS
from tart_ray.mining.trainer_files import FORMATS, contents

# what other libraries warn of while they are imported and used is theirs
pytestmark = pytest.mark.filterwarnings("ignore")


def document(name: int, title: str, policy: str | None) -> dict[str, Any]:
    return {
        "doc_id": str(name),
        "title": title,
        "text": f"text {name}",
        "score": 0.5,
        "margin": float(-name),
        "policy": policy,
    }


# query 0 has one positive and two negatives, of which one is easy; 1 two and one; 2 has neither instruction nor title
GROUP_ROWS: list[dict[str, Any]] = [
    {
        "query_id": str(query),
        "query": f"query\u2028{query}",
        "instruction": "Find it" if query < 2 else None,
        "positives": [document(10 * query + 1 + i, "T" if query < 2 else "", None) for i in range(1 + query % 2)],
        "negatives": [document(10 * query + 5 + i, "", ("hard", "easy")[i]) for i in range(2 - query % 2)],
    }
    for query in range(3)
]


def write(folder: Path, name: str, **options: Any) -> Path:
    """The files of a format: two that hold rows, one that would hold none, and what a person may have put there."""
    folder.mkdir()
    for unit, rows in enumerate((GROUP_ROWS[:2], [], GROUP_ROWS[2:])):
        found = FORMATS[name].rows(pa.Table.from_pylist(rows, GROUPS), FormatOptions(**options)).rows
        path = folder / FORMATS[name].file_name(f"{unit:05}")
        if FORMATS[name].file == "parquet":
            pq.write_table(found, path)
        elif (text := contents(name, found)) is not None:
            path.write_bytes(text)
    (folder / "README.md").write_text("# What this is\n\nNegatives of last week.\n")
    return folder


@pytest.mark.parametrize("options", [{}, {"with_scores": True}, {"easy_policies": ("easy",)}], ids=str)
def test_dpr_reads_arrays(options: dict[str, Any], tmp_path: Path) -> None:
    """dpr/utils/data_utils.py, read_data_from_json_files; dpr/data/biencoder_data.py, JsonQADataset."""
    read = []
    for path in sorted(write(tmp_path / "dpr", "dpr", **options).glob("*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(data, list)
        read.append([check_dpr(example) for example in data])
    assert read == [["query\u20280", "query\u20281"], ["query\u20282"]]  # its releases differ in whether files add up


@pytest.mark.parametrize("options", [{}, {"with_scores": True}, {"easy_policies": ("easy", "hard")}], ids=str)
def test_dpr_reads_lines(options: dict[str, Any], tmp_path: Path) -> None:
    """dpr/data/biencoder_data.py, JsonlQADataset, which reads with jsonlines: lines end with \\n."""
    paths = sorted(write(tmp_path / "dpr", "dpr-jsonl", **options).glob("*.jsonl"))
    found = [check_dpr(json.loads(line)) for path in paths for line in path.open(encoding="utf-8", newline="\n")]
    assert found == ["query\u20280", "query\u20281", "query\u20282"]


def check_dpr(example: dict[str, Any]) -> str:
    """What JsonQADataset takes of an example, and BiEncoder.create_biencoder_input2 of that with its defaults."""
    passages = {
        kind: [(str(context["text"]), str(context["title"])) for context in example[f"{kind}_ctxs"]]
        for kind in ("positive", "negative", "hard_negative")
    }
    assert passages["positive"]
    assert (passages["hard_negative"] or passages["negative"])[:1]  # hard_negatives: 1 in its configuration
    assert "[SEP]" not in example["question"]  # a BERT tokenizer would make its special token of it
    question: str = example["question"]
    return question


@pytest.mark.parametrize("hard_ratio", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("easy_policies", [(), ("easy",), ("easy", "hard")], ids=str)
def test_tart_dual_draws_negatives_of_every_query(
    easy_policies: tuple[str, ...], hard_ratio: float, tmp_path: Path
) -> None:
    """TART/src/finetuning_data.py, Dataset: what it draws in training, and what it takes in evaluation.

    ``hard_ratio``: its --negative_hard_ratio, by default 0.
    """
    draw = random.Random(0)
    questions = []
    for path in sorted(write(tmp_path / "dual", "tart-dual", easy_policies=easy_policies).glob("*.jsonl")):
        for line in path.open(encoding="utf-8", newline="\n"):
            example = json.loads(line)
            questions.append(example["question"])
            gold = draw.choice(example["positive_ctxs"])
            hard, easy = example["hard_negative_ctxs"], example["negative_ctxs"]
            of_hard = min(int(draw.random() < hard_ratio), len(hard))
            negatives = draw.sample(hard, of_hard) + draw.sample(easy, min(1 - of_hard, len(easy)))
            assert len(negatives) == 1  # one for each query, or the contrast is among other queries' positives alone
            evaluated = example["negative_ctxs"][0]
            for context in (gold, evaluated, *negatives):
                assert isinstance(context["title"], str)
                assert isinstance(context["text"], str)
                assert context["text"]
    assert questions == ["Find it [SEP] query\u20280", "Find it [SEP] query\u20281", "query\u20282"]


def test_tart_full_loads_them_with_datasets(tmp_path: Path) -> None:
    """TART/finetuning_tart_full.py: a name that ends in json, the first two columns but label, two labels."""
    datasets = pytest.importorskip("datasets", reason="a development dependency")
    train_file = f"{write(tmp_path / 'full', 'tart-full')}/*.json"
    assert train_file.split(".")[-1] in ("csv", "json")
    rows = datasets.load_dataset("json", data_files={"train": train_file}, cache_dir=str(tmp_path / "cache"))["train"]
    first, second = [name for name in rows.column_names if name != "label"][:2]
    assert rows.features["label"].dtype not in ("float32", "float64")  # or it is taken for a regression
    assert sorted(rows.unique("label")) == [0, 1]
    assert len(rows) == 9
    assert (rows[0][first], rows[0][second]) == ("Find it [SEP] query\u20280", "T text 1")
    assert [row[first] for row in rows][-1] == "query\u20282"


def test_tevatron_trains_on_them(tmp_path: Path) -> None:
    """Its release 0.1.0; src/tevatron/retriever/dataset.py of later ones takes the same fields."""
    preprocessor = pytest.importorskip("tevatron.datasets.preprocessor", reason="tevatron is not installed")
    datasets = pytest.importorskip("datasets", reason="a development dependency")
    data = importlib.import_module("tevatron.data")
    files = sorted(map(str, write(tmp_path / "tevatron", "tevatron").glob("*.jsonl")))
    rows = datasets.load_dataset("json", data_files={"train": files}, cache_dir=str(tmp_path / "cache"))["train"]
    rows = rows.map(preprocessor.TrainPreProcessor(Words()), remove_columns=rows.column_names)
    arguments = SimpleNamespace(
        q_max_len=9, p_max_len=9, train_n_passages=3, positive_passage_no_shuffle=False,
        negative_passage_no_shuffle=False,
    )  # fmt: skip
    trainer = SimpleNamespace(state=SimpleNamespace(epoch=0), args=SimpleNamespace(seed=0))
    training = data.TrainDataset(arguments, rows, Words(), trainer)
    lengths = [
        (len(query), [len(passage) for passage in passages]) for query, passages in (training[i] for i in range(3))
    ]
    assert lengths == [(2, [3, 2, 2]), (2, [3, 2, 2]), (2, [2, 2, 2])]  # words; the third positive has no title


class Words:
    """A tokenizer of words, as far as Tevatron calls one."""

    def encode(self, text: str, **_: Any) -> list[int]:
        return [len(word) for word in text.split()]

    def encode_plus(self, ids: list[int], **_: Any) -> list[int]:
        return ids


@pytest.mark.parametrize("name", ["flagembedding", "flagembedding-reranker"])
@pytest.mark.parametrize("with_scores", [False, True])
def test_flagembedding_loads_the_directory(name: str, with_scores: bool, tmp_path: Path) -> None:
    pytest.importorskip("FlagEmbedding", reason="FlagEmbedding is not installed")
    of = "reranker" if name.endswith("reranker") else "embedder"
    module = importlib.import_module(f"FlagEmbedding.abc.finetune.{of}.AbsDataset")
    folder = write(tmp_path / "flag", name, with_scores=with_scores, passage_prompt="P: ")
    arguments = SimpleNamespace(
        train_data=[str(folder)], cache_path=str(tmp_path / "cache"), max_example_num_per_dataset=99, shuffle_ratio=0.0,
        knowledge_distillation=with_scores, train_group_size=3, query_max_len=9, passage_max_len=9,
        query_instruction_for_retrieval="default: ", query_instruction_for_rerank="default: ",
        query_instruction_format="{}|{}", passage_instruction_format="{}{}",
        passage_instruction_for_retrieval=None, passage_instruction_for_rerank="default: ",
    )  # fmt: skip
    kind = module.AbsEmbedderTrainDataset if of == "embedder" else module.AbsRerankerTrainDataset
    loaded = kind(arguments, None)
    loaded.create_one_example = lambda query, passage: (query, passage)
    assert len(loaded) == 3
    queries, sizes = set(), set()
    for i in range(3):
        if of == "embedder":
            query, passages, scores = loaded[i]
        else:
            pairs, scores = loaded[i]
            query, passages = pairs[0][0], [passage for _, passage in pairs]
            assert all(passage.startswith("P: ") for passage in passages)
        queries.add(query)
        sizes.add(len(passages))
        assert (scores is None) != with_scores
        assert scores is None or len(scores) == 3
    assert queries == {"Find it|query\u20280", "Find it|query\u20281", "|query\u20282"}
    assert sizes == {3}


@pytest.mark.parametrize("with_scores", [False, True])
def test_colbert_reads_triples(with_scores: bool, tmp_path: Path) -> None:
    """colbert/data/examples.py and the loop of colbert/training/lazy_batcher.py."""
    module = pytest.importorskip("colbert.data.examples", reason="colbert-ai is not installed", exc_type=ImportError)
    collection = [f"passage {i}" for i in range(30)]
    found = []
    for path in sorted(
        write(tmp_path / "colbert", "colbert", with_scores=with_scores, num_negatives=1).glob("*.jsonl")
    ):
        for query, *documents in module.Examples.cast(str(path), nway=2).tolist(0, 1):
            ids = [pid for pid, _ in documents] if with_scores else documents
            scores = [score for _, score in documents] if with_scores else []
            assert len(scores) in (0, len(ids))
            found.append((query, *(collection[pid] for pid in ids)))
    assert found == [
        (0, "passage 1", "passage 5"),
        (1, "passage 11", "passage 15"),
        (1, "passage 12", "passage 15"),
        (2, "passage 21", "passage 25"),
    ]


def test_gpl_reads_margins(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("gpl")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("gpl is not installed")
    module = loaded_alone(Path(spec.submodule_search_locations[0]) / "toolkit/dataset.py")
    files = sorted(write(tmp_path / "gpl", "margin-mse").glob("*.tsv"))
    together = tmp_path / "gpl-training-data.tsv"
    together.write_bytes(b"".join(path.read_bytes() for path in files))
    corpus = {str(i): {"title": "", "text": f"text {i}"} for i in range(30)}
    loaded = module.GenerativePseudoLabelingDataset(str(together), {str(i): f"query {i}" for i in range(3)}, corpus)
    assert len(loaded) == 2 + 2 + 2
    assert loaded[0].texts == ["query 0", "text 1", "text 5"]
    assert loaded[0].label == 4.0  # -1 - -5


def loaded_alone(path: Path) -> ModuleType:
    """A module of a package whose other modules need what this one does not."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
