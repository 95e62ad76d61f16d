"""YAML as configurations are written in it: a key that is given twice is refused, and no message quotes a value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml  # type: ignore[import-untyped]

from tart_ray.errors import ConfigurationError


def read_yaml(text: str | bytes) -> Any:
    """The value of a YAML document; None where it is empty.

    Raises:
        ConfigurationError: it is not YAML, or a key is given twice, of which YAML's readers take the last value.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigurationError(f"not YAML: {place}{error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # control characters, a date such as 2024-13-45
        raise ConfigurationError(f"not YAML: {error or type(error).__name__}") from None
    for node in _nodes(root) if root is not None else ():
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
    return value


def _nodes(root: yaml.Node) -> Iterator[yaml.Node]:
    """All nodes of a document, each once: aliases make a graph of the tree."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node.value, list):
            waiting += [part for child in node.value for part in (child if isinstance(child, tuple) else (child,))]


def _check_keys(mapping: yaml.MappingNode) -> None:
    first: dict[str, int] = {}
    for key, _ in mapping.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        line = key.start_mark.line + 1
        if key.value in first:
            raise ConfigurationError(
                f"the key {key.value!r} is given twice, in line {first[key.value]} and in line {line}: put what "
                "belongs to it together"
            )
        first[key.value] = line
