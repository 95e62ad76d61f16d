"""The texts that a model reads: the query with its instruction in front, and what is refused as no text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def join_instruction(instruction: str | None, query: str) -> str:
    """``"{instruction} [SEP] {query}"``; ``[SEP]`` is plain text to T5.

    Where there is no instruction (None) it is the bare query. An empty one keeps its ``[SEP]``, as in the original.
    """
    return query if instruction is None else f"{instruction} [SEP] {query}"


def check_texts(name: str, texts: object, *, optional: bool = False) -> None:
    """Refuse what is no list of texts: what would be scored as the text "None" or "nan", or crash in native code.

    Args:
        name: of the argument, for the message.
        optional: None may stand for a text.

    Raises:
        TypeError: a text in place of a list, no list at all, or something else than a text in it.
        ValueError: a text with half of a surrogate pair, which no UTF-8 can say.
    """
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise TypeError(f"{name}: got {_shown(texts)}, expected a list of texts")
    for i, text in enumerate(texts):
        if text is None and optional:
            continue
        if not isinstance(text, str):
            raise TypeError(f"{name}[{i}]: got {_shown(text)}, expected a text{' or None' if optional else ''}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = text[error.start]
            raise ValueError(
                f"{name}[{i}]: got {half!r} at character {error.start}, half of a surrogate pair, expected Unicode; "
                "text.encode(errors='replace').decode() replaces it"
            ) from None


def check_pairs(
    queries: Sequence[str], documents: Sequence[str], instructions: Sequence[str | None] | str | None
) -> Sequence[str | None]:
    """The instruction of each pair, given one for all of them or one for each.

    Raises:
        TypeError: something else than a text in a list (None and NaN are none), or a text in place of a list.
        ValueError: lists of unequal length, or a text that is no Unicode. Both name argument and position.
    """
    check_texts("queries", queries)
    check_texts("documents", documents)
    if instructions is None or isinstance(instructions, str):
        check_texts("instructions", [instructions or ""])
        instructions = [instructions] * len(queries)
    else:
        check_texts("instructions", instructions, optional=True)
    if not len(queries) == len(documents) == len(instructions):
        raise ValueError(
            f"got {len(queries)} queries, {len(documents)} documents and {len(instructions)} instructions; "
            "expected as many of each"
        )
    return instructions


def _shown(value: object) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else f'{text[:60]}…'} ({type(value).__name__})"
