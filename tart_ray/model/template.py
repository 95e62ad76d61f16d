"""How instruction, query, title and text become what a cross-encoder other than EncT5 reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Template:
    """Format strings, as of `str.format`; what they give is stripped of blanks at both ends.

    Attributes:
        query: the first text of a pair, of ``{instruction}`` and ``{query}``.
        document: the second, of ``{title}`` and ``{text}``.
        prompt: what the model is told beside the two, of ``{instruction}``; None leaves it to the checkpoint, which is
            also asked where a row has no instruction.
    """

    query: str = "{query}"
    document: str = "{title} {text}"
    prompt: str | None = None

    @property
    def reads_instructions(self) -> bool:
        """Whether rows that differ in their instruction alone can differ in their score."""
        return any("{instruction}" in part for part in (self.query, self.prompt or ""))

    def queries(self, queries: Sequence[str], instructions: Sequence[str | None]) -> list[str]:
        """The first text of each pair."""
        columns = zip(queries, instructions, strict=True)
        return [self.query.format(query=query, instruction=instruction or "").strip() for query, instruction in columns]

    def documents(self, texts: Sequence[str | None], titles: Sequence[str | None]) -> list[str]:
        """The second text of each pair; pairs of one document share the string."""
        columns = [*zip(texts, titles, strict=True)]
        known = {
            (text, title): self.document.format(text=text or "", title=title or "").strip()
            for text, title in {*columns}
        }
        return [known[document] for document in columns]

    def prompts(self, instructions: Sequence[str | None]) -> list[str | None]:
        """What the model is told with each pair; None: what the checkpoint says."""
        prompt = self.prompt
        if prompt is None:
            return [None] * len(instructions)
        needs_one = "{instruction}" in prompt
        return [prompt.format(instruction=given) if given or not needs_one else None for given in instructions]
