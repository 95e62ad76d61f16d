"""A retrieval collection made of the running Python's standard library: find the function that a docstring describes.

A document is a function's source without any docstring; a query is the first paragraph of the docstring that was
cut from it; each query has one relevant document. The same Python gives the same collection.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from tart_ray.demo.functions import describe_functions
from tart_ray.retrieval.bm25 import Bm25
from tart_ray.tables.texts import document_text

SKIPPED_FOLDERS = {"test", "tests", "idle_test"}  # site-packages and the like are no identifiers
NOT_DESCRIPTIVE = re.compile(r"(same as|see|like|override|deprecated|dummy|todo|xxx|fixme)\b|.*(->|>>>)", re.IGNORECASE)
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")  # the parts of snake_case and camelCase
MIN_QUERY_WORDS = 4
MIN_DOCUMENTATION_WORDS = 8
INSTRUCTIONS = {  # by the kind of document that they ask for
    "code": "Retrieve the Python function that does what is described",
    "documentation": "Retrieve the detailed documentation of the Python function that is described",
}


class Document(NamedTuple):
    """A function: ``title`` is its module's name, ``text`` its dedented source, or documentation."""

    title: str
    text: str


@dataclass(frozen=True)
class Collection:
    """Documents and queries by id; ``qrels[query_id][doc_id]`` is 1 for the relevant document, others are not in it.

    ``documentation``: what docstrings say after their first paragraph, by the document that they belong to; no part of
    the documents. ``instructions``: by query id, where queries have some of their own.
    """

    documents: dict[str, Document]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    documentation: dict[str, Document] = field(default_factory=dict)
    instructions: dict[str, str] = field(default_factory=dict)

    def sample(self, size: int = 200, *, seed: int = 0) -> Collection:
        """The same documents with ``size`` of the queries (all of them where there are fewer), the same for a seed."""
        chosen = sorted(random.Random(seed).sample(sorted(self.queries), min(size, len(self.queries))))  # noqa: S311
        return replace(self, queries={i: self.queries[i] for i in chosen}, qrels={i: self.qrels[i] for i in chosen})


def build_collection() -> Collection:
    """The collection of the running Python, without its tests and the packages installed beside it.

    Raises:
        FileNotFoundError: this Python came without the sources of its library.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    collection = collect_functions(_library_modules(root))
    if not collection.documents:
        raise FileNotFoundError(f"{root}: found no Python source there, expected the standard library")
    return collection


def collect_functions(modules: Iterable[tuple[str, str]]) -> Collection:
    """The collection of some modules, given as ``(name, source)``; a source that does not parse is passed over.

    Of functions with the same source, white space apart, the first stays; a further function of the same name gets
    ``#2``, ``#3`` … on its id. A query whose text stands for more than one function is dropped, its documents stay.
    """
    documents: dict[str, Document] = {}
    documentation: dict[str, Document] = {}
    queries: dict[str, str] = {}
    seen: set[str] = set()
    copies: Counter[str] = Counter()
    for module, source in modules:
        for name, docstring, text in describe_functions(source):
            if (squeezed := " ".join(text.split())) in seen:
                continue
            seen.add(squeezed)
            copies[name_in_full := f"{module}.{name}"] += 1
            doc_id = name_in_full if copies[name_in_full] == 1 else f"{name_in_full}#{copies[name_in_full]}"
            documents[doc_id] = Document(module, text)
            if query := first_paragraph(docstring):
                queries[doc_id] = query
            if (details := details_of(docstring)) and (squeezed := " ".join(details.split())) not in seen:
                seen.add(squeezed)
                documentation[doc_id] = Document(module, details)
    times = Counter(queries.values())
    kept = {doc_id: query for doc_id, query in queries.items() if times[query] == 1}
    # Not the document's id itself: BEIR's tools pass over a document that has its query's id.
    asked = {f"q:{i}": query for i, query in kept.items()}
    return Collection(documents, asked, {f"q:{i}": {i: 1} for i in kept}, documentation)


def ask_twice(collection: Collection, size: int, *, seed: int = 0) -> Collection:
    """Code and documentation in one corpus, where every query is asked under both `INSTRUCTIONS`.

    ``size`` functions that have both kinds are asked for (all of them where there are fewer): the query
    ``code:q:name`` wants the document ``name``, the query ``documentation:q:name`` wants ``name:documentation``.
    """
    documented = {q: i for q, judged in collection.qrels.items() for i in judged if i in collection.documentation}
    chosen = sorted(random.Random(seed).sample(sorted(documented), min(size, len(documented))))  # noqa: S311
    wanted = {f"code:{q}": documented[q] for q in chosen}
    wanted |= {f"documentation:{q}": f"{documented[q]}:documentation" for q in chosen}
    return Collection(
        collection.documents | {f"{i}:documentation": document for i, document in collection.documentation.items()},
        {query_id: collection.queries[query_id.partition(":")[2]] for query_id in wanted},
        {query_id: {doc_id: 1} for query_id, doc_id in wanted.items()},
        instructions={query_id: INSTRUCTIONS[query_id.partition(":")[0]] for query_id in wanted},
    )


def first_stage(collection: Collection, queries: Mapping[str, str], k: int = 50) -> dict[str, dict[str, float]]:
    """BM25 over title and text, whose words are the parts of names: by query id what `Bm25.search` finds."""
    texts = {doc_id: _parts_of_names(document_text(*document)) for doc_id, document in collection.documents.items()}
    index = Bm25(texts, word=r"\S+", stopwords=None)
    return {query_id: index.search(_parts_of_names(query), k) for query_id, query in queries.items()}


def write_candidates(path: Path, collection: Collection, run: Mapping[str, Mapping[str, float]]) -> int:
    """Write the run's pairs as JSONL: ``query_id, query, doc_id, title, text, score``, and ``instruction`` where the
    query has one of its own; returns their number.

    Raises:
        KeyError: the run holds a query or document that the collection lacks.
    """
    pairs = [(query_id, *hit) for query_id, hits in run.items() for hit in hits.items()]
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for query_id, doc_id, score in pairs:
            row = {"query_id": query_id, "query": collection.queries[query_id], "doc_id": doc_id}
            row |= collection.documents[doc_id]._asdict() | {"score": score}
            if query_id in collection.instructions:
                row["instruction"] = collection.instructions[query_id]
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return len(pairs)


def write_qrels(path: Path, collection: Collection) -> None:
    """Write the judgements as BEIR's TSV: a header, then ``query-id, corpus-id, score``."""
    rows = [f"{query}\t{doc}\t{grade}\n" for query, judged in collection.qrels.items() for doc, grade in judged.items()]
    path.write_text("query-id\tcorpus-id\tscore\n" + "".join(rows), encoding="utf-8", newline="\n")


def _library_modules(root: Path) -> Iterator[tuple[str, str]]:
    """Name and source of each module under ``root``, in the order of their paths."""
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if name.isidentifier() and name not in SKIPPED_FOLDERS)
        for path in sorted(Path(folder, name) for name in files if name.endswith(".py")):
            parts = path.relative_to(root).with_suffix("").parts
            try:
                source = importlib.util.decode_source(path.read_bytes())
            except (SyntaxError, UnicodeDecodeError):
                continue  # not in the encoding that it names
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), source


def first_paragraph(docstring: str) -> str | None:
    """The query that a docstring makes, on one line; None where it does not say what the function does."""
    text = " ".join(re.split(r"\n\s*\n", docstring.strip())[0].split())
    words = re.findall(r"[^\W\d_]{2,}", text)
    return None if len(words) < MIN_QUERY_WORDS or NOT_DESCRIPTIVE.match(text) or not text.isprintable() else text


def details_of(docstring: str) -> str | None:
    """What a docstring says after its first paragraph; None where that is little."""
    details = docstring.strip().partition("\n\n")[2].strip()
    return details if len(details.split()) >= MIN_DOCUMENTATION_WORDS else None


def _parts_of_names(text: str) -> str:
    return " ".join(WORD.findall(text))
