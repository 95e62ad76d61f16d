"""The keys of a configuration: their names, what they take, and what is wrong with a value."""

from __future__ import annotations

import difflib
import reprlib
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import SecretStr, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from tart_ray.config.sections import Section
from tart_ray.errors import ConfigurationError
from tart_ray.locations import printable

Config = TypeVar("Config", bound=Section)

BETWEEN = "\n\n"  # the errors of one configuration
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 200, 200


def validate(config_class: type[Config], values: Mapping[str, Any]) -> Config:
    """The configuration that has these values.

    Raises:
        ConfigurationError: unknown or missing keys, values of the wrong type or that do not go together; says for each
            what was got, what was expected and what is available. No value below ``storage`` and none of an unknown
            key is shown: it may be a secret.
    """
    fields = config_class.model_fields.items()
    empty: dict[str, Any] = {name: {} for name, field in fields if field.is_required() and section_of(field)}
    try:
        return config_class.model_validate({**empty, **values})
    except ValidationError as error:
        raise ConfigurationError(BETWEEN.join(_sentences(config_class, error))) from None


def section_of(field: FieldInfo) -> type[Section] | None:
    """The class of the section that a field holds; None where it holds a value."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def item_section_of(field: FieldInfo) -> type[Section] | None:
    """The class of the sections that a field holds a list of; None where it holds none."""
    kinds = get_args(field.annotation)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


def sections_of(config_class: type[Section], prefix: str = "") -> Iterator[tuple[str, type[Section]]]:
    """The names of the sections below a class, at every depth, with their classes."""
    for name, field in config_class.model_fields.items():
        if section := section_of(field):
            yield prefix + name, section
            yield from sections_of(section, f"{prefix}{name}.")


def keys_of(section: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """The names of the keys in and below a section, such as ``cluster.replicas.max``, with their fields."""
    for name, field in section.model_fields.items():
        inner = section_of(field)
        yield from keys_of(inner, f"{prefix}{name}.") if inner else [(prefix + name, field)]


def descriptions(section: type[Section]) -> dict[str, str]:
    """What the docstrings of a section and of those that it extends say of its keys."""
    from docstring_parser import parse as parse_docstring  # for --help alone

    return {
        found.arg_name: " ".join((found.description or "").split())
        for base in reversed(section.__mro__)
        if issubclass(base, Section)
        for found in parse_docstring(base.__doc__ or "").params
    }


def takes_text(field: FieldInfo) -> bool:
    """Whether all that a key takes, null aside, is text: then what is typed is not read as YAML."""
    return all(
        kind in (str, SecretStr, type(None)) or (get_origin(kind) is Literal and isinstance(get_args(kind)[0], str))
        for kind in _alternatives(field.annotation)
    )


def takes_null(field: FieldInfo) -> bool:
    """Whether a key can be null."""
    return type(None) in _alternatives(field.annotation)


def expectation(field: FieldInfo) -> str:
    """What a key takes, in words, such as "whole number, at least 8, or auto"."""
    kind: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    return _in_words(TypeAdapter(kind).json_schema())


def _alternatives(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for inner in get_args(annotation) for kind in _alternatives(inner)]
    return [annotation]


_WORDS = {
    "array": "list",
    "boolean": "true or false",
    "integer": "whole number",
    "null": "null",
    "number": "number",
    "object": "keys and values",
    "string": "text",
}
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
}


def _in_words(schema: Mapping[str, Any]) -> str:
    """A JSON schema of one value in words."""
    if "anyOf" in schema:
        return ", or ".join(_in_words(inner) for inner in schema["anyOf"])
    if "$ref" in schema:  # a section, as an item of a list
        return "keys and values"
    if "enum" in schema or "const" in schema:
        values = [*map(str, schema.get("enum", [schema.get("const")]))]
        return f"one of {', '.join(values)}" if len(values) > 1 else values[0]
    words = _WORDS[schema["type"]]
    items = [*schema.get("prefixItems", ()), *([schema["items"]] if isinstance(schema.get("items"), Mapping) else [])]
    if items:
        words += " of " + " and ".join(_in_words(item) for item in items)
    bounds = [text.format(schema[name]) for name, text in _BOUNDS.items() if name in schema]
    return ", ".join([words, *([" and ".join(bounds)] if bounds else [])])


def _sentences(config_class: type[Section], error: ValidationError) -> Iterator[str]:
    """One for each place that is wrong, and one for all that is missing."""
    faults: dict[str, list[Any]] = {}
    above: dict[str, str] = {}  # the section that each place is in
    sections: dict[str, type[Section]] = {}  # its class
    for fault in error.errors(include_url=False):
        place, in_section, section = _resolve(config_class, fault["loc"])
        faults.setdefault(place, []).append(fault)
        above[place], sections[place] = in_section, section

    def available(place: str) -> str:
        keys = keys_of(sections[place], f"{above[place]}." if above[place] else "")
        return f"available: {', '.join(key for key, _ in keys)}"

    missing = [place for place, (fault, *_) in faults.items() if fault["type"] == "missing"]
    if missing:
        yield "\n".join([f"required: {', '.join(missing)}", *dict.fromkeys(map(available, missing))])
    for place, (fault, *others) in faults.items():
        kind = fault["type"]
        if kind == "missing" or (kind == "too_short" and any(other.startswith(f"{place}[") for other in faults)):
            continue  # pydantic counts the good items of a list alone
        if kind == "extra_forbidden":
            name = str(fault["loc"][-1])
            where = f" in {above[place]}" if above[place] else ""
            yield f"got an unknown key {name!r}{where}{nearest(name, sections[place].model_fields)}\n{available(place)}"
        elif kind == "model_type":
            yield f"{place}: got {_shown(place, fault['input'])}, expected keys below it\n{available(place)}"
        elif kind == "value_error":  # of a validator of ours, which says what it got
            message = str(fault["ctx"]["error"])
            yield message if message.startswith(place) else f"{place}: {message}"
        else:
            expected = " or ".join(map(_expected, (fault, *others)))
            comma = "," if expected.startswith("expected") else ":"
            yield f"{place}: got {_shown(place, fault['input'])}{comma} {expected}"


def nearest(name: str, known: Iterable[str]) -> str:
    """What may have been meant by a name that is not known, as the end of a sentence; nothing if nothing is near."""
    found = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def _expected(fault: Any) -> str:
    if fault["type"] == "literal_error":
        return f"expected {fault['ctx']['expected']}"
    if fault["type"] == "string_type":
        return "expected text" if fault["input"] is None else "expected text: put it in quotes"
    return str(fault["msg"]).replace("Input should be", "expected")


def _shown(place: str, value: Any) -> str:
    if place.partition(".")[0] == "storage":
        return f"a {type(value).__name__} that is not shown"
    return "nothing" if value is None else printable(_SHORT.repr(value))


def _resolve(config_class: type[Section], location: tuple[int | str, ...]) -> tuple[str, str, type[Section]]:
    """The key that pydantic's location means, without pydantic's names for the members of a union.

    Returns:
        Its name, the name of the section that it is in (or is, where the location is one), and that section's class.
    """
    section: type[Section] | None = config_class
    field: FieldInfo | None = None
    place, above, innermost = "", "", config_class
    for part in location:
        if isinstance(part, int):
            place += f"[{part}]"
        elif section is not None:
            above, innermost = place, section
            place += f".{part}" if place else part
            field = section.model_fields.get(part)
            section = _class_in(field)
        elif field is not None and get_origin(field.annotation) is dict:
            place += f".{part}"
            field = None
    return (place, place, section) if section is not None else (place, above, innermost)


def _class_in(field: FieldInfo | None) -> type[Section] | None:
    """The section that a field holds, or holds several of."""
    return None if field is None else section_of(field) or item_section_of(field)
