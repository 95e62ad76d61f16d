"""The JSON schema of a configuration, by which editors complete and check its YAML."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from tart_ray.config.keys import descriptions, item_section_of, section_of
from tart_ray.config.sections import Section

DIALECT = GenerateJsonSchema.schema_dialect


def schema_of(config_class: type[Section]) -> dict[str, Any]:
    """The schema, with what ``--help`` says of every key. What only a validator checks is not in it."""
    schema = config_class.model_json_schema()
    definitions = {config_class.__name__: schema, **schema["$defs"]}
    for section in {config_class, *_sections_below(config_class)}:
        definition, described = definitions[section.__name__], descriptions(section)
        definition["description"] = (section.__doc__ or "").partition("\n")[0]
        for key, value in definition["properties"].items():
            value |= {"description": described[key]} if key in described else {}
    return {"$schema": DIALECT, **schema}


def schema_text(config_class: type[Section]) -> str:
    """The same as the text of a file."""
    return json.dumps(schema_of(config_class), indent=1, ensure_ascii=False) + "\n"


def _sections_below(section: type[Section]) -> Iterator[type[Section]]:
    """Those that keys of a section hold, or hold lists of, at every depth."""
    for field in section.model_fields.values():
        if inner := section_of(field) or item_section_of(field):
            yield inner
            yield from _sections_below(inner)
