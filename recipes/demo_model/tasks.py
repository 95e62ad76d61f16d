"""The tasks: each asks for one kind of answer, in several wordings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """``family``: where its entries come from. ``kind``: of the right answer.

    ``instructions``: the wordings trained with. ``unseen``: wordings for evaluation alone.
    """

    family: str
    kind: str
    instructions: tuple[str, ...]
    unseen: tuple[str, ...]


TASKS = {
    "python-code": Task(
        "python",
        "code",
        (
            "Retrieve the Python function that does what is described",
            "Find the source code that implements this",
            "Return a Python implementation of the following behaviour",
            "I want to see the code, not its documentation",
            "Find the function definition for this docstring",
            "Given a description, find the Python code",
            "Search for a code snippet that does this",
            "Which function does this? Show its source code",
        ),
        ("Look up the implementation in Python source code", "Retrieve code whose docstring this is"),
    ),
    "python-documentation": Task(
        "python",
        "documentation",
        (
            "Retrieve the detailed documentation of the Python function that is described",
            "Find the documentation that explains this, not the code",
            "Return the parameters, return values and notes for this summary",
            "I want to read the documentation of this function",
            "Find the rest of the docstring that begins with this summary",
            "Given the first sentence of a docstring, find its details",
            "Search the reference manual for an explanation in prose",
            "Which documentation belongs to this summary? Show the text",
        ),
        ("Look up the explanation in the reference documentation", "Retrieve the docstring details for this summary"),
    ),
    "debian-description": Task(
        "debian",
        "description",
        (
            "Retrieve the long description of the Debian package with this summary",
            "Find the software package that is summed up like this",
            "Return the description of a Debian package",
            "Which package is this? Show its description",
            "Given a one-line summary, find the package description",
            "Search the package archive for this software",
            "I want to know more about the package summed up here",
            "Find a program to install that is described like this",
        ),
        ("Look up the package description in the archive", "Retrieve details about a software package"),
    ),
    "manual-description": Task(
        "manual",
        "description",
        (
            "Retrieve the description section of the manual page for this command or function",
            "Find the manual page that explains this",
            "Return the text of the manual that describes what this does",
            "I want to read the manual about this, not its synopsis",
            "Given the name line of a manual page, find its description",
            "Search the Unix manual for an explanation",
            "What does the manual say about this?",
            "Which manual page is this? Show its description",
        ),
        ("Look up the explanation in the manual pages", "Retrieve what the man page describes"),
    ),
    "manual-usage": Task(
        "manual",
        "usage",
        (
            "Retrieve the synopsis and the options of this command or function",
            "Find how to call this: its synopsis in the manual",
            "Return the command line syntax and flags",
            "I want the usage line, not the description",
            "Given the name line of a manual page, find its synopsis",
            "Search the Unix manual for the options of this command",
            "How is this invoked? Show the arguments",
            "Which arguments and switches does this take?",
        ),
        ("Look up the invocation syntax in the manual pages", "Retrieve the flags and parameters"),
    ),
}
