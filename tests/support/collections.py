"""Collections as users have them: made of Python's own library, and small ones by hand."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from support.job_files import write_jsonl
from tart_ray.demo.corpus import collect_functions

MODULES = (
    "argparse ast base64 bisect calendar cmd codecs collections configparser contextlib copy csv datetime difflib enum "
    "fractions ftplib functools getpass glob gzip hashlib heapq hmac html ipaddress keyword linecache locale mailbox "
    "netrc platform plistlib poplib pprint queue random sched secrets shelve shlex shutil smtplib socket statistics "
    "string stringprep tarfile tempfile textwrap timeit tokenize trace tracemalloc types uuid warnings wave weakref"
).split()

Qrels = Mapping[str, Mapping[str, int]]


def write_beir(
    folder: Path,
    documents: Mapping[str, tuple[str, str]],
    queries: Mapping[str, str],
    qrels: Qrels,
    split: str = "test",
) -> None:
    """A collection in BEIR's layout; documents are (title, text)."""
    rows = [{"_id": name, "title": title, "text": text} for name, (title, text) in documents.items()]
    write_jsonl(folder / "corpus.jsonl", rows)
    write_jsonl(folder / "queries.jsonl", [{"_id": name, "text": text} for name, text in queries.items()])
    write_qrels(folder / "qrels" / f"{split}.tsv", qrels)


def write_qrels(path: Path, qrels: Qrels) -> None:
    """Judgements in BEIR's layout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{query}\t{doc}\t{grade}\n" for query, judged in qrels.items() for doc, grade in judged.items()]
    path.write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))


def write_run(path: Path, run: Mapping[str, Mapping[str, float]]) -> None:
    """A TREC run."""
    lines = [f"{query} Q0 {doc} 0 {score!r} x\n" for query, docs in run.items() for doc, score in docs.items()]
    path.write_text("".join(lines))


def read_trec(path: Path) -> dict[str, dict[str, float]]:
    """A TREC run as any reader of such files sees it."""
    run: dict[str, dict[str, float]] = {}
    for line in path.read_text().splitlines():
        query, _, doc, _, score, _ = line.split()
        run.setdefault(query, {})[doc] = float(score)
    return run


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """BEIR's judgements."""
    qrels: dict[str, dict[str, int]] = {}
    for line in path.read_text().splitlines()[1:]:
        query, doc, grade = line.split("\t")
        qrels.setdefault(query, {})[doc] = int(grade)
    return qrels


def module_sources() -> Iterator[tuple[str, str]]:
    """Names and sources of some modules of Python's library."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for name in MODULES:
        places = (root / f"{name}.py", root / name / "__init__.py")
        yield name, next(path for path in places if path.exists()).read_text(encoding="utf-8")


def write_functions(folder: Path, queries: int = 12, others: int = 300) -> None:
    """Find the function that a docstring describes."""
    whole = collect_functions(module_sources())
    some = whole.sample(queries)
    kept = {doc for judged in some.qrels.values() for doc in judged} | set(list(whole.documents)[:others])
    documents = {name: (document.title, document.text) for name, document in whole.documents.items() if name in kept}
    write_beir(folder, documents, some.queries, some.qrels)


def write_topics(folder: Path, queries: int = 12) -> None:
    """Find the chapter of Python's reference manual that has a heading."""
    documents: dict[str, tuple[str, str]] = {}
    headings: dict[str, str] = {}
    for name, text in sorted(topics.items()):
        heading, _, rest = text.strip().partition("\n")
        documents[name] = ("", " ".join(rest.replace("*", "").split()))
        headings[f"q-{name}"] = heading
    asked = dict(list(headings.items())[:queries])
    write_beir(folder, documents, asked, {query: {query[2:]: 1} for query in asked})


def write_modules(folder: Path, queries: int = 12) -> None:
    """Find the module whose documentation begins with a sentence."""
    documents: dict[str, tuple[str, str]] = {}
    asked: dict[str, str] = {}
    for name, source in module_sources():
        tree = ast.parse(source)
        first, _, rest = (ast.get_docstring(tree) or "").partition("\n")
        names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        documents[name] = (name, f"{' '.join(rest.split())} {' '.join(names)}"[:2_000])
        if len(first.split()) > 3 and len(asked) < queries:
            asked[f"about-{name}"] = first
    write_beir(folder, documents, asked, {query: {query.removeprefix("about-"): 1} for query in asked})


LOTTE_QRELS = {"0": {"0": 1, "3": 1}, "1": {"2": 1}, "2": {"9": 1}, "3": {"1": 1}}


def write_lotte(folder: Path) -> None:
    """LoTTE's files; ids are integers from 0, and the questions of the search and forum files differ."""
    folder.mkdir(parents=True)
    passages = ["alpha one", "beta two", "gamma three", "delta four", "wing", "heat", "jet", "lift", "drag", "tail"]
    (folder / "collection.tsv").write_text("".join(f"{pid}\t{text}\n" for pid, text in enumerate(passages)))
    for kind in ("search", "forum"):
        rows = [{"qid": int(q), "query": f"{kind} {q}", "answer_pids": [*map(int, d)]} for q, d in LOTTE_QRELS.items()]
        write_jsonl(folder / f"qas.{kind}.jsonl", rows)
        (folder / f"questions.{kind}.tsv").write_text("".join(f"{q}\t{kind} question {q}\n" for q in LOTTE_QRELS))


def write_followir(folder: Path) -> None:
    """Two queries whose changed instruction makes d1 irrelevant, and d3 of the second."""
    documents = {f"d{i}": ("", f"{'wing ' * i}flow {i}") for i in range(1, 7)}
    original: Any = {"t1": {"d1": 1, "d2": 1}, "t2": {"d1": 2, "d3": 1, "d4": 0}}
    changed: Any = {"t1": {"d1": 0, "d2": 1}, "t2": {"d1": 0, "d3": 0, "d4": 0}}
    write_beir(folder, documents, {}, {})
    keys = ("instruction_og", "instruction_changed")
    rows = [{"_id": q, "text": f"flow of {q}", **{key: f"{key} of {q}" for key in keys}} for q in original]
    write_jsonl(folder / "queries.jsonl", rows)
    write_qrels(folder / "qrels_og" / "test.tsv", original)
    write_qrels(folder / "qrels_changed" / "test.tsv", changed)
