"""The tree of errors is as its page says."""

from __future__ import annotations

import inspect
import pickle
import re

from tart_ray import errors
from tart_ray.errors import RunFailedError, TartRayError


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    assert errors.__doc__
    told, above = {}, []
    for branch, name, code in re.findall(r"^ {4}([│├└─ ]*)(\w+Error) +(\d)", errors.__doc__, re.MULTILINE):
        above[len(branch) // 4 :] = [name]
        told[name] = ([*above[:-1]][-1:], int(code))
    kinds = {kind.__name__: kind for _, kind in inspect.getmembers(errors, inspect.isclass)}
    found = {name: kind for name, kind in kinds.items() if issubclass(kind, TartRayError)}
    parents = {
        name: [base.__name__ for base in kind.__bases__ if base.__name__ in found] for name, kind in found.items()
    }
    assert told == {name: (parents[name], kind.exit_code) for name, kind in found.items()}


def test_errors_come_whole_out_of_other_processes() -> None:
    error = pickle.loads(pickle.dumps(RunFailedError("why", "what to do")))  # noqa: S301
    assert (str(error), error.advice, error.exit_code) == ("why", "what to do", 1)
