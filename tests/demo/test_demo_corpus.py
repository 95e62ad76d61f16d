"""The demonstration's collection, first stage and checkpoint."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tart_ray import Scorer
from tart_ray.demo.checkpoint import MODEL_LENGTH, make_untrained_checkpoint
from tart_ray.demo.corpus import (
    INSTRUCTIONS,
    Collection,
    Document,
    ask_twice,
    build_collection,
    collect_functions,
    first_stage,
    write_candidates,
    write_qrels,
)
from tart_ray.demo.functions import describe_functions
from tart_ray.model.place import DEMO_MODEL
from tart_ray.retrieval.measures import NDCG_AT_10, mean

QUERY = "Say what this function does."


@pytest.fixture(scope="module")
def library() -> Collection:
    return build_collection()


@pytest.fixture(scope="module")
def small() -> Collection:
    source = (
        'def read_rows(path):\n    """Load all lines from the file."""\n    return open_file(path).lines()\n'
        'def dropColumn(table, name):\n    """Remove one column from a table."""\n    del table[name]\n'
    )
    return collect_functions([("rows", source)])


def code_of(source: str) -> dict[str, str]:
    return {function.name: function.code for function in describe_functions(source)}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param('def f(x):\n    """Doc."""\n    return x\n', "def f(x):\n    return x", id="plain"),
        pytest.param(
            'def f():\n    """Doc.\n\n    More of it:\nat the margin.\n    """\n\n    return 1  # one\n',
            "def f():\n\n    return 1",
            id="several lines",
        ),
        pytest.param('def f(): "doc"; return 1\n', "def f(): return 1", id="one line"),
        pytest.param('def f(): """doc\n   goes on"""; return 1\n', "def f(): return 1", id="one line, long docstring"),
        pytest.param('def f():\n    "doc"; x = 1\n    return x\n', "def f():\n    x = 1\n    return x", id="semicolon"),
        pytest.param('def f():\n    "doc"  # why\n    return 1\n', "def f():\n    return 1", id="comment behind it"),
        pytest.param(
            'def f():\n    # é\n    ("do"\n     "c")\n    g()\n', "def f():\n    # é\n    g()", id="parentheses"
        ),
        pytest.param('def é(a="é"): "é"; return "é"\n', 'def é(a="é"): return "é"', id="columns are bytes"),
        pytest.param(
            '@wraps(\n    g\n)\n@other\nasync def f():\n    """Doc."""\n    await g()\n',
            "@wraps(\n    g\n)\n@other\nasync def f():\n    await g()",
            id="decorators, async",
        ),
        pytest.param(
            'def f():\n    """Doc."""\n    s = """\n  text"""\n    return s\n',
            'def f():\n    s = """\n  text"""\n    return s',
            id="another string",
        ),
        pytest.param('def f():\n    x = 1\n    """No docstring."""\n', None, id="no docstring"),
        pytest.param('def f():\n    """Doc."""\n', None, id="only a docstring"),
        pytest.param('def f():\n    """Doc."""\n    ...\n    pass\n', None, id="only filler"),
        pytest.param('def f(:\n    """Doc."""\n    return 1\n', None, id="does not parse"),
        pytest.param('def f():\n    """Doc: \\d"""\n    return "\\d"\n', 'def f():\n    return "\\d"', id="warns"),
    ],
)
def test_docstring_is_cut_exactly(source: str, expected: str | None) -> None:
    assert list(code_of(source).values()) == ([] if expected is None else [expected])


def test_nested_functions_stand_on_their_own_and_leave_no_docstring() -> None:
    source = '''class A:
    class B:
        """A class."""
        def outer(self):
            """Outer."""
            def inner():
                """Inner."""
                return 1
            class Empty:
                """Empty."""
            return inner

if True:
    def low():
        """Low."""
        return 2
'''
    assert code_of(source) == {
        "A.B.outer": "def outer(self):\n    def inner():\n        return 1\n"
        "    class Empty:\n        ...\n    return inner",
        "A.B.outer.<locals>.inner": "def inner():\n    return 1",
        "low": "def low():\n    return 2",
    }


def function(name: str, docstring: str, body: str = "return 1") -> str:
    return f'def {name}():\n    """{docstring}"""\n    {body}\n'


def test_query_document_and_judgement() -> None:
    collection = collect_functions([("pkg.mod", function("f", "Say what\n    this function  does.\n\n    And more."))])
    assert collection.documents == {"pkg.mod.f": Document("pkg.mod", "def f():\n    return 1")}
    assert collection.queries == {"q:pkg.mod.f": QUERY}
    assert collection.qrels == {"q:pkg.mod.f": {"pkg.mod.f": 1}}
    assert collection.documentation == {}, "two words are too little"


def test_queries_asked_twice_want_the_code_or_the_documentation() -> None:
    details = "Arguments:\n    x: what it is about\n\nIt never fails, whatever x is."
    source = (
        function("f", f"{QUERY}\n\n    {details}")
        + function("g", f"Say it again and again.\n\n    {details}", "return 2")
        + function("h", "Say it without any more words.", "return 3")
    )
    library = collect_functions([("m", source)])
    assert library.documentation == {"m.f": Document("m", details)}, "of equal ones the first stays"
    twice = ask_twice(library, 10)
    assert twice.documents == library.documents | {"m.f:documentation": Document("m", details)}
    assert twice.queries == {"code:q:m.f": QUERY, "documentation:q:m.f": QUERY}
    assert twice.qrels == {"code:q:m.f": {"m.f": 1}, "documentation:q:m.f": {"m.f:documentation": 1}}
    assert twice.instructions == {f"{kind}:q:m.f": words for kind, words in INSTRUCTIONS.items()}


def test_functions_that_are_asked_for_are_drawn(library: Collection) -> None:
    twice = ask_twice(library, 20, seed=1)
    assert len(twice.queries) == len(twice.qrels) == 40
    assert all(judged.keys() <= twice.documents.keys() for judged in twice.qrels.values())
    assert twice == ask_twice(library, 20, seed=1) != ask_twice(library, 20, seed=2)


@pytest.mark.parametrize(
    "docstring",
    ["Too short.", "f(x) -> the sum of some numbers", ">>> a = the_sum(of, some, x)", "Same as the other one."],
)
def test_docstring_that_does_not_describe_makes_no_query(docstring: str) -> None:
    collection = collect_functions([("m", function("f", docstring))])
    assert list(collection.documents) == ["m.f"]
    assert collection.queries == {}
    assert collection.qrels == {}


def test_same_source_is_kept_once() -> None:
    again = (
        function("f", "Say it in other words.").replace("    return", "      return").replace('    """', '      """')
    )
    collection = collect_functions([("a", function("f", QUERY)), ("b", again)])
    assert list(collection.documents) == ["a.f"]
    assert collection.queries == {"q:a.f": QUERY}


def test_query_that_occurs_twice_is_dropped() -> None:
    source = function("f", QUERY) + function("g", QUERY) + function("h", "Say what nobody else says.")
    collection = collect_functions([("m", source)])
    assert list(collection.documents) == ["m.f", "m.g", "m.h"]
    assert list(collection.queries) == list(collection.qrels) == ["q:m.h"]


def test_same_name_gets_a_number() -> None:
    source = "".join(function("f", f"Version {i} of the function.", f"return {i}") for i in range(3))
    assert list(collect_functions([("m", source)]).documents) == ["m.f", "m.f#2", "m.f#3"]


def test_library_gives_a_collection(library: Collection) -> None:
    assert len(library.documents) > 1_000
    assert len(library.queries) > 1_000
    assert library.queries.keys() == library.qrels.keys()
    assert all(judged.keys() <= library.documents.keys() for judged in library.qrels.values())
    assert "json.decoder.JSONDecoder.decode" in library.documents
    assert not {document.title.split(".")[0] for document in library.documents.values()} & {"test", "numpy", "torch"}
    assert build_collection() == library


def test_library_documents_parse_and_hold_no_docstring(library: Collection) -> None:
    for document in library.documents.values():
        for node in ast.walk(ast.parse(document.text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                assert ast.get_docstring(node) is None


def test_sample_is_repeatable(library: Collection) -> None:
    sample = library.sample(20, seed=1)
    assert len(sample.queries) == len(sample.qrels) == 20
    assert sample == library.sample(20, seed=1) != library.sample(20, seed=2)
    assert sample.documents == library.documents
    assert library.sample(10**6).queries == library.queries


def test_first_stage_finds_parts_of_names(small: Collection) -> None:
    run = first_stage(small, {"a": "COLUMN to drop", "b": "nothing here", "c": "???", "d": "rows path"})
    assert [list(hits) for hits in run.values()] == [["rows.dropColumn"], [], [], ["rows.read_rows", "rows.dropColumn"]]
    assert [len(hits) for hits in first_stage(small, {"d": "rows path"}, k=1).values()] == [1]


def test_first_stage_over_the_library_is_better_than_chance(library: Collection) -> None:
    sample = library.sample(50)
    run = first_stage(sample, sample.queries)
    assert all(list(hits.values()) == sorted(hits.values(), reverse=True) for hits in run.values())
    assert max(map(len, run.values())) == 50
    assert 0.2 < mean(NDCG_AT_10, sample.qrels, run) < 0.7


def test_files(small: Collection, tmp_path: Path) -> None:
    run = {"q:rows.dropColumn": {"rows.dropColumn": 1.5, "rows.read_rows": 0.25}}
    assert write_candidates(tmp_path / "candidates.jsonl", small, run) == 2
    rows = [json.loads(line) for line in (tmp_path / "candidates.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows[0] == {
        "query_id": "q:rows.dropColumn",
        "query": "Remove one column from a table.",
        "doc_id": "rows.dropColumn",
        "title": "rows",
        "text": "def dropColumn(table, name):\n    del table[name]",
        "score": 1.5,
    }
    write_candidates(tmp_path / "own.jsonl", replace(small, instructions={"q:rows.dropColumn": "Find code."}), run)
    own = [json.loads(line) for line in (tmp_path / "own.jsonl").read_text(encoding="utf-8").splitlines()]
    assert own == [row | {"instruction": "Find code."} for row in rows]
    write_qrels(tmp_path / "qrels.tsv", small)
    assert (tmp_path / "qrels.tsv").read_text(encoding="utf-8").splitlines() == [
        "query-id\tcorpus-id\tscore",
        "q:rows.read_rows\trows.read_rows\t1",
        "q:rows.dropColumn\trows.dropColumn\t1",
    ]


def test_checkpoint_scores_and_is_repeatable(small: Collection, tmp_path: Path) -> None:
    texts = [document.text for document in small.documents.values()]
    before = torch.get_rng_state()
    for name, seed in [("first", 0), ("again", 0), ("other", 1)]:
        make_untrained_checkpoint(tmp_path / name, texts, seed=seed)
    assert torch.equal(torch.get_rng_state(), before)
    queries, documents = ["Remove one column.", "Load lines", "ünknown 文"], [*texts, ""]
    first, again, other = (
        Scorer.from_pretrained(tmp_path / name, device="cpu").score(queries, documents, "Find code.").logits
        for name in ("first", "again", "other")
    )
    assert first.shape == (3, 2)
    assert np.isfinite(first).all()
    assert len(set(first[:, 1].tolist())) == 3
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_checkpoint_is_in_the_published_layout(
    library: Collection, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make_untrained_checkpoint(tmp_path, [document.text for document in library.documents.values()])
    scorer = Scorer.from_pretrained(tmp_path, device="cpu")
    tokenizer = scorer.tokenizer
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer.bos_token_id == 4_100  # pieces, then a hundred sentinels
    assert scorer.model.config.vocab_size == 4_160
    assert tokenizer.decode(tokenizer("return self")["input_ids"], skip_special_tokens=True) == "return self"
    assert "trainer" not in capfd.readouterr().err


def test_the_shipped_model_is_small_and_follows_instructions_where_bm25_cannot(library: Collection) -> None:
    files = [path for path in DEMO_MODEL.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 10_000_000
    collection = ask_twice(library, 60)
    bm25 = first_stage(collection, collection.queries)
    pairs = [(query_id, doc_id) for query_id, hits in bm25.items() for doc_id in hits]
    margins = Scorer.from_pretrained("demo", max_length=MODEL_LENGTH, device="cpu").score(
        [collection.queries[query_id] for query_id, _ in pairs],
        [" ".join(collection.documents[doc_id]) for _, doc_id in pairs],
        [collection.instructions[query_id] for query_id, _ in pairs],
    ).margin.tolist()  # fmt: skip
    run: dict[str, dict[str, float]] = {}
    for (query_id, doc_id), margin in zip(pairs, margins, strict=True):
        run.setdefault(query_id, {})[doc_id] = margin
    of_model, of_bm25 = (mean(NDCG_AT_10, collection.qrels, found) for found in (run, bm25))
    assert of_model > of_bm25
