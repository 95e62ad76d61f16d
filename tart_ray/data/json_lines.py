"""JSON lines: what a line holds."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

NOT_A_NUMBER = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\b(?:NaN|Infinity)\b')  # strings are matched to skip them
MANY_DIGITS = re.compile(rb"\d{19}")


def parse(line: bytes) -> Any:
    """The value of one line, strictly JSON but for ``NaN``, ``Infinity`` and ``-Infinity``, which are null.

    Integers have any number of digits. Of a key that is given twice the last value counts.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        strict = NOT_A_NUMBER.sub(lambda match: match[0] if match[0].startswith(b'"') else b"null", line)
        if strict == line:
            raise
        line, value = strict, orjson.loads(strict)
    if MANY_DIGITS.search(line):  # orjson makes floats of integers beyond 64 bits
        try:
            value = json.loads(line)
        except RecursionError:
            raise ValueError("nested too deeply") from None
    return value
