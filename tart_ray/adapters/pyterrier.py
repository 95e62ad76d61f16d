"""A Scorer as a transformer of PyTerrier: a pipeline's last stage, ``retriever >> get_text >> reranker``."""

from __future__ import annotations

from tart_ray.scoring.ranking import Document, RanksDocuments

try:
    import pandas as pd
    import pyterrier as pt
except ImportError as error:
    raise ImportError("pyterrier is not installed: pip install 'tart-ray[pyterrier]'") from error


class Reranker(pt.Transformer):
    """Ranks the documents of each query by margin.

    It reads the columns ``qid, query, docno`` and ``text``, a ``title`` where there is one, and an ``instruction``,
    which wins over the one given here. It sets ``score``, the margin, and ``rank``, from 0 as everywhere in PyTerrier;
    other columns stay, and rows keep their order.

    Args:
        scorer: what scores.
        instruction: for rows without one of their own.
    """

    def __init__(self, scorer: RanksDocuments, instruction: str | None = None) -> None:
        self.scorer = scorer
        self.instruction = instruction

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """The frame with ``score`` and ``rank``.

        Raises:
            pyterrier.validate.InputValidationError: a column is missing.
            TypeError: a query or a text is none, such as None or NaN.
        """
        pt.validate.result_frame(inp, extra_columns=["query", "text"], context=self)
        documents: list[Document] = inp["text"].tolist()
        if "title" in inp.columns:
            titles = _texts_or_none(inp["title"])
            documents = [{"title": title, "text": text} for title, text in zip(titles, documents, strict=True)]
        instructions = [self.instruction] * len(inp)
        if "instruction" in inp.columns:
            instructions = [own or self.instruction for own in _texts_or_none(inp["instruction"])]
        scores = self.scorer.score(inp["query"].tolist(), documents, instructions)
        return pt.model.add_ranks(inp.assign(score=scores.margin))


def _texts_or_none(column: pd.Series) -> list[str | None]:
    """The values of a column, in which pandas writes missing texts in several ways."""
    return [None if missing else text for text, missing in zip(column, column.isna(), strict=True)]
