"""The functions in a module's source, each parted into its docstring and the code that the docstring describes."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from typing import NamedTuple

Function = ast.FunctionDef | ast.AsyncFunctionDef


class DescribedFunction(NamedTuple):
    """``name``: qualified (``Class.method``). ``docstring``: cleaned of its indentation. ``code``: the source.

    The source is dedented, has its decorators, and lacks the function's docstring and those of what is defined in it.
    """

    name: str
    docstring: str
    code: str


def describe_functions(source: str) -> Iterator[DescribedFunction]:
    """The functions and methods of a module's source that have a docstring and a body beside it, in source order.

    Nested ones too, each on its own. A source that does not parse has none.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of the sources, such as invalid escapes
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    lines = source.encode().split(b"\n")  # ast counts columns in UTF-8 bytes, and \n alone ends a line
    for name, function in _walk_functions(tree, ""):
        if (docstring := ast.get_docstring(function)) and not all(map(_is_filler, function.body)):
            yield DescribedFunction(name, docstring, _cut_docstrings(lines, function))


def _walk_functions(node: ast.AST, scope: str) -> Iterator[tuple[str, Function]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield scope + child.name, child
            yield from _walk_functions(child, f"{scope}{child.name}.<locals>.")
        elif isinstance(child, ast.ClassDef):
            yield from _walk_functions(child, f"{scope}{child.name}.")
        elif isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield from _walk_functions(child, scope)


def _is_filler(statement: ast.stmt) -> bool:
    """A docstring, ``...`` or ``pass``."""
    constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return constant or isinstance(statement, ast.Pass)


def _cut_docstrings(lines: list[bytes], function: Function) -> str:
    """The function's source, dedented, without its docstring and those of the functions and classes in it."""
    kept = lines[: function.end_lineno]
    kept[-1] = kept[-1][: function.end_col_offset]
    owners = [
        node for node in ast.walk(function) if isinstance(node, Function | ast.ClassDef) and ast.get_docstring(node)
    ]
    for owner in sorted(owners, key=lambda node: node.body[0].lineno, reverse=True):
        docstring = owner.body[0]
        first, last = docstring.lineno - 1, (docstring.end_lineno or docstring.lineno) - 1
        before, after = kept[first][: docstring.col_offset], kept[last][docstring.end_col_offset :].strip()
        after = b"..." if len(owner.body) == 1 else after.removeprefix(b";").lstrip()
        rest = before + after if after and not after.startswith(b"#") else b""
        kept[first : last + 1] = [rest] if rest else []
    start = min(node.lineno for node in (function, *function.decorator_list)) - 1
    indent = kept[start][: len(kept[start]) - len(kept[start].lstrip())]
    return b"\n".join(line.removeprefix(indent) for line in kept[start:]).decode()
