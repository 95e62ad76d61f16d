"""What is trained on: each entry's query under each of its tasks, with BM25's hard negatives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from recipes.demo_model.entries import Entry
from recipes.demo_model.tasks import TASKS
from tart_ray.demo.corpus import Collection, Document, first_stage
from tart_ray.tables.texts import document_text
from tart_ray.training.examples import Query

SAME_KIND, OTHER_KIND = 8, 4  # negatives kept of each query
RETRIEVED = 40


def make_queries(entries: Sequence[Entry]) -> Iterator[Query]:
    """One query per entry and kind of answer.

    Negatives are what BM25 finds for the query among these entries, of the kind that is asked for and of others;
    instruction-unfollowing negatives are the entry's own answers of other kinds.
    """
    collection = collect(entries)
    run = first_stage(collection, collection.queries, k=RETRIEVED)
    for (query_id, query), entry in zip(collection.queries.items(), entries, strict=True):
        found = [doc_id for doc_id in run[query_id] if doc_id.split("/")[0] != query_id]
        for name, task in TASKS.items():
            if task.family != entry.family or task.kind not in entry.answers:
                continue
            wanted = f"/{task.family}/{task.kind}"
            same = [doc_id for doc_id in found if doc_id.endswith(wanted)][:SAME_KIND]
            other = [doc_id for doc_id in found if not doc_id.endswith(wanted)][:OTHER_KIND]
            yield Query(
                text=query,
                task=name,
                instructions=task.instructions,
                positives=(document_text(entry.title, entry.answers[task.kind]),),
                negatives=tuple(document_text(*collection.documents[doc_id]) for doc_id in same + other),
                unfollowing=tuple(
                    document_text(entry.title, text) for kind, text in entry.answers.items() if kind != task.kind
                ),
            )


def collect(entries: Sequence[Entry]) -> Collection:
    """All answers as one corpus: document ids are ``number/family/kind``, query ids the entry's number."""
    documents = {
        f"{number}/{entry.family}/{kind}": Document(entry.title, text)
        for number, entry in enumerate(entries)
        for kind, text in entry.answers.items()
    }
    queries = {f"{number}": entry.query for number, entry in enumerate(entries)}
    return Collection(documents, queries, {})
