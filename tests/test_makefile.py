"""The Makefile has a rule for each target that it or the documentation names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
RULES = {*re.findall(r"^([a-z][a-z-]*):(?!=)", MAKEFILE, re.MULTILINE)}
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_every_phony_target_has_a_rule_and_the_other_way_round() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    assert {*phony.split()} == RULES


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_target_that_a_document_names_has_a_rule(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    code = [*re.findall(r"`([^`\n]+)`", text), *re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)]
    named = {target for part in code for target in re.findall(r"\bmake ([a-z][a-z-]*)", part)}
    assert named <= RULES, named - RULES


def test_the_documents_name_targets() -> None:
    assert {"demo", "test", "faults"} <= {
        target
        for path in DOCUMENTS
        for target in re.findall(r"\bmake ([a-z][a-z-]*)", path.read_text(encoding="utf-8"))
    }


def test_every_program_that_a_rule_runs_is_there() -> None:
    modules = {*re.findall(r"python -m ((?:benchmarks|jobs|recipes)\.\w+)", MAKEFILE)}
    assert "benchmarks.scorer" in modules
    for module in modules:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    for path in re.findall(r"\btests(?:/[\w.]+)*", MAKEFILE):
        assert (ROOT / path).exists(), path
