"""What a user is told of a task beside its figures."""

from __future__ import annotations

from collections.abc import Mapping

from tart_ray.evaluation.tasks import Task

COUNTED = {  # what to say of a count that is not 0, and the count that it is part of
    "queries_without_judgements": ("queries without a judgement in this split, left out", "queries"),
    "judged_queries_without_text": ("judged queries that the queries do not have, counted as 0", "judged_queries"),
    "judged_queries_without_candidates": ("judged queries without any candidate, counted as 0", "judged_queries"),
    "judged_queries_without_relevant": ("judged queries without a relevant document, counted as 0", "judged_queries"),
    "judged_queries_without_compared": ("judged queries that compare_with lacks, counted as 0", "judged_queries"),
    "queries_left_out_of_p_mrr": ("queries that a ranking lacks, left out of p-MRR", "judged_queries"),
    "relevant_documents_not_judged_again": (
        "relevant documents not judged under the changed instruction, not in p-MRR",
        None,
    ),
    "judged_documents_not_in_corpus": ("judged documents that the corpus does not have", "judged_documents"),
    "candidates_not_in_corpus": ("candidate documents that the corpus does not have, not scored", "candidates"),
    "other_queries_in_run": ("queries of the first stage's run without judgement or text, left out", None),
    "incomplete": ("pairs without a score under some instruction, not in the ensemble", None),
    "quarantined": ("bad rows of queries, judgements and runs, in quarantine", "read"),
    "quarantined_documents": ("bad rows of the corpus, in quarantine", None),
}


def notes_before(task: Task) -> list[str]:
    """What is known before any work."""
    is_bare = any(not variant.instruction and not variant.column for variant in task.variants)
    return [*task.all_notes, *(["no instruction: queries are scored bare"] if is_bare and not task.scores else [])]


def notes_after(task: Task, counts: Mapping[str, int]) -> list[str]:
    """The same, and what was counted."""
    counted = [(counts[name], text, whole) for name, (text, whole) in COUNTED.items() if counts.get(name)]
    return [
        *notes_before(task),
        *(f"{count:,}{f' of {counts[whole]:,}' if whole else ''} {text}" for count, text, whole in counted),
    ]
