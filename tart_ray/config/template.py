"""A configuration as YAML for people: what is set, and every other key with its default behind a #.

What is said of sections and keys is what ``--help`` says: their docstrings.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml  # type: ignore[import-untyped]
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tart_ray.config.keys import descriptions, expectation, item_section_of, section_of
from tart_ray.config.sections import Section

WIDTH = 100  # of comments
STEP = 2  # columns that a section is further in than what it is in


def commented(config_class: type[Section], values: Mapping[str, Any], notes: Mapping[str, str]) -> str:
    """The YAML text of a configuration.

    Args:
        values: that are set, section by section.
        notes: what else is to be said above a key, by its full name, such as ``input.instruction``.
    """
    return "\n".join(_section(config_class, values, notes, "", 0)) + "\n"


def _section(
    section: type[Section], values: Mapping[str, Any], notes: Mapping[str, str], prefix: str, column: int
) -> Iterator[str]:
    described = descriptions(section)
    for name, field in section.model_fields.items():
        place = f"{prefix}{name}"
        inner, item = section_of(field), item_section_of(field)
        mark = "" if name in values else "#"
        if inner is not None:
            if not prefix:
                yield ""
            yield from _comment((inner.__doc__ or "").partition("\n")[0], column)
            yield f"{' ' * column}{mark}{name}:"
            yield from _section(inner, values.get(name, {}), notes, f"{place}.", column + STEP)
            continue
        yield from _comment(f"{described.get(name, '')} ({expectation(field)})".lstrip(), column)
        yield from _comment(notes.get(place, ""), column)
        if item is not None and values.get(name):
            yield f"{' ' * column}{name}:"
            for value in values[name]:
                yield f"{' ' * (column + STEP)}-"
                yield from _section(item, value, notes, f"{place}.", column + 2 * STEP)
        else:
            yield f"{' ' * column}{mark}{name}: {_flow(values[name] if name in values else _default(field))}"


def _comment(text: str, column: int) -> Iterator[str]:
    start = f"{' ' * column}# "
    return iter(textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=start, break_on_hyphens=False))


def _default(field: FieldInfo) -> Any:
    return None if field.is_required() else _plain(field.get_default(call_default_factory=True))


def _plain(value: Any) -> Any:
    """A value of a configuration as YAML knows it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_defaults=True)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [*map(_plain, value)]
    return value


def _flow(value: Any) -> str:
    """A value in one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")
