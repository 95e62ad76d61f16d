"""What of a configuration a person chose."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


def changed(section: BaseModel) -> dict[str, Any]:
    """What differs from the defaults, or has none, as JSON by the keys of YAML: ``model.max_length``."""
    shown = section.model_dump(mode="json")
    found: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            found |= {f"{name}.{key}": inner for key, inner in changed(value).items()}
        elif field.is_required() or value != field.get_default(call_default_factory=True):
            found[name] = shown[name]
    return found
