"""What a configuration could say of a user's file: found by looking at it as the jobs do."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from tart_ray.errors import ConfigurationError
from tart_ray.evaluation.layout import files_like
from tart_ray.input import text_files
from tart_ray.input.columns import Naming
from tart_ray.input.formats import format_of
from tart_ray.input.listing import list_files
from tart_ray.input.sources import Source, inspect_source
from tart_ray.runs.directory import MANIFEST
from tart_ray.storage import Storage, explained, join_url
from tart_ray.training.files import check_fields

OTHER_NAMES = {  # of columns, in lower case, words joined by _; aliases that every job takes are not among them
    "query_id": ("queryid", "question_id", "questionid", "topic_id", "topic", "search_id"),
    "query": ("question", "query_text", "search_query", "search_term", "q"),
    "doc_id": ("document_id", "docno", "passage_id", "product_id", "item_id", "document_no", "id"),
    "text": ("body", "passage", "passage_text", "document_text", "contents", "content", "document", "abstract"),
    "title": ("headline", "heading", "doc_title", "document_title"),
    "score": ("bm25", "bm25_score", "retrieval_score", "retriever_score", "similarity"),
    "instruction": ("task_instruction",),
}
LABELS = ("label", "relevance", "relevant", "is_relevant", "judgement", "grade")  # columns that may judge a candidate
SAMPLE_BYTES = 1 << 18
FILL_IN = "FILL-IN"  # begins the name of a file that nobody named
INSTRUCTION = 'To be filled in: a sentence that says what a relevant document is. "" says that none is meant.'
EXAMPLE_CUT = 0.0  # a margin of 0 is a probability of one half


@dataclass
class Proposal:
    """Values of a configuration, and what a person should know of some of them, by the full names of their keys."""

    values: dict[str, dict[str, Any]]
    notes: dict[str, str] = field(default_factory=dict)


def propose(storage: Storage, job: str, url: str | None) -> Proposal:
    """A configuration of a job over a file.

    Args:
        url: candidates for rerank, relabel and mine_negatives, which takes the output of jobs.rerank, too; the
            directory of a collection for evaluate; examples for train. None leaves their names to be filled in.

    Raises:
        InputError: the file is not what the job reads; says what was looked for and what is there.
        StorageError: it is not there.
    """
    proposal = _PROPOSALS[job](storage, url)
    name = PurePosixPath(url.rstrip("/")).name.partition(".")[0].strip("*") if url else "my"
    proposal.values["output"] = {"path": f"{name or 'my'}-{job.replace('_', '-')}"}
    return proposal


def column_names(storage: Storage, url: str) -> set[str]:
    """The names of the columns of files: those in the footer of the first Parquet file, or in the first lines."""
    files = list_files(storage, url).files
    kind, names = format_of(storage, files, "candidates"), {key for file in files for key, _ in file.keys}
    if kind == "parquet":
        with explained("read", files[0].url), storage.open(files[0]) as handle:
            return names | {*pq.read_schema(handle).names}
    for line in text_files.head(storage, files[0], SAMPLE_BYTES):
        try:
            names |= {*text_files.parse_line(kind, "candidates", line)}
        except text_files.BadLineError:
            continue
    return names


def guess_columns(names: Sequence[str] | set[str]) -> dict[str, str]:
    """Our name: their name, of columns whose names mean the same; those that need no mapping are left out."""
    known = {re.sub(r"\W+", "_", name.lower()): name for name in sorted(names)}
    guessed = {}
    for ours, others in OTHER_NAMES.items():
        found = next((known[other] for other in others if other in known), None)
        if found is not None and ours not in names:
            guessed[ours] = found
    return guessed


def _candidates(storage: Storage, url: str | None) -> tuple[Proposal, Source | None]:
    if url is None:
        values = {"candidates": f"{FILL_IN}-candidates.jsonl", "instruction": ""}
        return Proposal({"input": values}, {"input.instruction": INSTRUCTION}), None
    source = _inspect(storage, url)
    given: dict[str, Any] = {"candidates": url}
    proposal = Proposal({"input": given})
    for role, column in (("queries", "query"), ("corpus", "text")):
        if column not in source.columns:
            given[role] = _beside(storage, url, (f"{role}.jsonl", f"{role}.tsv", f"{role}.parquet"))
            proposal.notes[f"input.{role}"] = f"Needed: the candidates have no column {column!r}."
    if "instruction" not in source.columns or source.columns["instruction"] not in source.names:
        given["instruction"] = ""
        proposal.notes["input.instruction"] = INSTRUCTION
    guessed = guess_columns(source.names)
    if renamed := {ours: theirs for ours, theirs in guessed.items() if source.columns.get(ours) == theirs}:
        given["columns"] = renamed
        proposal.notes["input.columns"] = "Guessed from their names; please check."
    columns = ", ".join(source.names)
    proposal.notes["input.candidates"] = (
        f"Found: {source.format}, {source.shape}, about {source.rows:,} rows; {columns}."
    )
    return proposal, source


def _inspect(storage: Storage, url: str) -> Source:
    """The candidates with the columns that they have, or that are guessed."""
    guessed = guess_columns(column_names(storage, url))
    return inspect_source(storage, url, "candidates", Naming(preferred=guessed))


def _rerank(storage: Storage, url: str | None) -> Proposal:
    return _candidates(storage, url)[0]


def _relabel(storage: Storage, url: str | None) -> Proposal:
    proposal, _ = _candidates(storage, url)
    proposal.values["labels"] = {"cuts": [EXAMPLE_CUT]}
    proposal.notes["labels.cuts"] = "To be chosen: a margin of 0 is a probability of one half."
    return proposal


def _mine(storage: Storage, url: str | None) -> Proposal:
    if url is not None and storage.exists(join_url(url, MANIFEST)):
        proposal, source = Proposal({"input": {"run": url}}), None
    else:
        proposal, source = _candidates(storage, url)
    label = next((name for name in LABELS if source and source.shape == "pairs" and name in source.names), None)
    if label is not None:
        proposal.values["positives"] = {"label_column": label}
        proposal.notes["positives.label_column"] = "Guessed from its name; please check."
    else:
        names = ("qrels.tsv", "qrels.txt", "qrels.trec", "qrels/train.tsv", "qrels/test.tsv")
        proposal.values["positives"] = {"qrels": _beside(storage, url, names)}
    return proposal


def _evaluate(storage: Storage, url: str | None) -> Proposal:
    task: dict[str, Any] = {"name": "my-task", "path": url or f"{FILL_IN}-collection", "first_stage": "bm25"}
    if url is not None:
        missing = [name for name in ("corpus.jsonl", "queries.jsonl") if not files_like(storage, url, name)]
        if missing:
            raise ConfigurationError(
                f"{url}: got no {' and no '.join(missing)}, expected the directory of a collection as BEIR lays it "
                "out; docs/evaluation.md describes other kinds"
            )
        splits = [name.partition(".")[0] for name in storage.names(join_url(url, "qrels"))]
        if splits and "test" not in splits:
            task["split"] = splits[0]
        task["name"] = re.sub(r"[^A-Za-z0-9._-]+", "-", PurePosixPath(url.rstrip("/")).name).lstrip("._-") or "my-task"
    task["instructions"] = []
    note = "To be filled in: sentences that say what a relevant document is; none scores bare queries."
    return Proposal({"input": {"tasks": [task]}}, {"input.tasks.instructions": note})


def _train(storage: Storage, url: str | None) -> Proposal:
    if url is not None:
        check_fields(storage, {"train": url})
    given = {"train": url or f"{FILL_IN}-examples.jsonl"}
    return Proposal({"model": {"path": "google/flan-t5-base"}, "input": given})


def _beside(storage: Storage, url: str | None, names: Sequence[str]) -> str:
    """The first of these files that is in the directory of another one; a name to be filled in where none is."""
    if url is not None:
        folder = url.rstrip("/").rpartition("/")[0]
        places = [join_url(folder, name) if folder else name for name in names]
        if found := next((place for place in places if storage.exists(place)), None):
            return found
    return f"{FILL_IN}-{names[0]}"


_PROPOSALS: Mapping[str, Callable[[Storage, str | None], Proposal]] = {
    "rerank": _rerank,
    "relabel": _relabel,
    "mine_negatives": _mine,
    "evaluate": _evaluate,
    "train": _train,
}
