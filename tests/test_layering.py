"""Who may import whom: the source is scanned, and clean processes say what an import loads."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "tart_ray").rglob("*.py"))

# part of tart_ray -> parts it may import beside itself
MAY_IMPORT = {
    "errors": set(),
    "__init__": {"api", "model", "scoring"},
    "api": {"command_line", "config", "data", "errors", "pipeline"},
    "locations": {"errors"},
    "config": {"locations"},
    "file_versions": set(),
    "command_line": {"errors", "config", "locations"},
    "jobs_command": {"__init__", "command_line", "config", "demo", "errors", "pipeline"},
    "__main__": {"jobs_command"},
    "model": {"errors", "file_versions", "locations"},
    "scoring": {"errors", "model"},
    "data": {"errors", "config", "file_versions", "locations"},
    "derive": {"errors", "data"},
    "evaluation": {"errors", "config", "data", "derive"},
    "training": {"errors", "config", "data", "model", "scoring"},
    "demo": {"model", "data"},
    "pipeline": {
        "errors", "locations",
        "__init__", "config", "command_line", "model", "scoring", "data", "derive", "evaluation", "training",
    },
}  # fmt: skip
MAY_NOT_LOAD = {
    "config": {"torch", "transformers", "ray", "pyarrow", "fsspec"},
    "command_line": {"torch", "transformers", "ray", "pyarrow"},
    "jobs_command": {"torch", "transformers", "ray", "pyarrow"},
    "data": {"torch", "transformers", "ray"},
    "derive": {"torch", "transformers", "ray"},
    "evaluation": {"torch", "transformers", "ray"},
}
EXTRAS = {"bm25s", "ir_measures", "scipy", "sklearn"}  # what a plain install does not bring


def imported_names(source: str, module: str, *, is_package: bool = False) -> Iterator[str]:
    """Full names that the source of ``module`` imports anywhere in it; ``from a import b`` gives ``a.b``."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imports_of(path: Path) -> set[str]:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return set(imported_names(path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py"))


def part_of(path: Path) -> str:
    return path.relative_to(ROOT / "tart_ray").parts[0].removesuffix(".py")


def parts_imported(names: set[str]) -> set[str]:
    """Parts of tart_ray among imported names; ``tart_ray`` and its public names are ``__init__``."""
    parts = set()
    for name in names:
        top, _, rest = name.partition(".")
        if top == "tart_ray":
            part = rest.partition(".")[0]
            parts.add(part if part in MAY_IMPORT else "__init__")
    return parts


def loads(statement: str) -> set[str]:
    """Top-level modules that a process has loaded after the statement."""
    code = f"{statement}\nimport json, sys; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout.splitlines()[-1]))


def test_the_scanner_sees_every_kind_of_import() -> None:
    source = (
        "import ray.data as rd, os\n"
        "from tart_ray import Scorer, pipeline\n"
        "def late():\n"
        "    from ..data.schema import SCORES\n"
        "    from . import batching\n"
        "if TYPE_CHECKING:\n"
        "    import torch\n"
    )
    assert set(imported_names(source, "tart_ray.scoring.scorer")) == {
        "ray.data",
        "os",
        "tart_ray.Scorer",
        "tart_ray.pipeline",
        "tart_ray.data.schema.SCORES",
        "tart_ray.scoring.batching",
        "torch",
    }
    assert set(imported_names("from .model import enct5", "tart_ray", is_package=True)) == {"tart_ray.model.enct5"}
    found = {"tart_ray.Scorer", "tart_ray.pipeline", "tart_ray.data.schema.SCORES", "raytracer.tart_ray", "tart_ray"}
    assert parts_imported(found) == {"__init__", "pipeline", "data"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_parts_import_only_what_is_below_them(path: Path) -> None:
    part = part_of(path)
    assert part in MAY_IMPORT, f"{part} is new: say in MAY_IMPORT what it may import"
    names = imports_of(path)
    assert parts_imported(names) <= {part, *MAY_IMPORT[part]}
    libraries = {name.partition(".")[0] for name in names}
    assert "jobs" not in libraries
    assert part == "pipeline" or "ray" not in libraries
    assert not libraries & MAY_NOT_LOAD.get(part, set())


def test_jobs_do_not_import_ray_themselves() -> None:
    names = {name for path in (ROOT / "jobs").glob("*.py") for name in imports_of(path)}
    assert any(name.startswith("tart_ray.") for name in names)
    assert "ray" not in {name.partition(".")[0] for name in names}


def every_module_of(part: str) -> str:
    return (
        f"import importlib, pkgutil, tart_ray.{part} as part\n"
        "for found in pkgutil.walk_packages(part.__path__, part.__name__ + '.'): importlib.import_module(found.name)"
    )


@pytest.mark.parametrize(
    ("statement", "loaded", "not_loaded"),
    [
        ("import tart_ray", set(), {"torch", "transformers", "ray", "pyarrow"}),
        ("import tart_ray.config", {"pydantic"}, {"torch", "transformers", "ray", "pyarrow"}),
        (every_module_of("data"), {"pyarrow"}, {"torch", "transformers", "ray"}),
        (every_module_of("derive"), {"pyarrow"}, {"torch", "transformers", "ray"}),
        (every_module_of("evaluation"), {"ir_measures"}, {"torch", "transformers", "ray"}),
        ("import tart_ray.model.tokenizer", {"transformers"}, {"torch", "ray"}),
        (every_module_of("model") + "\nimport tart_ray.scoring.scorer", {"torch"}, {"ray", "pyarrow", "bm25s"}),
        ("import tart_ray.pipeline.rerank, tart_ray.pipeline.dry_run", {"ray"}, {"torch"}),
        ("import tart_ray.pipeline.rerank, tart_ray.pipeline.mine", {"ray"}, EXTRAS),
        ("import jobs.rerank", {"pydantic"}, {"torch", "ray", *EXTRAS}),
        ("import jobs.demo", {"pydantic"}, {"torch", "ray", "pyarrow", *EXTRAS}),
        ("import tart_ray.pipeline.mine", {"ray"}, {"torch"}),
        ("import jobs.mine_negatives", {"pydantic"}, {"torch", "ray"}),
        ("import tart_ray.pipeline.evaluate", {"ray"}, {"torch"}),
        ("import jobs.evaluate", {"pydantic"}, {"torch", "ray"}),
        ("import tart_ray.pipeline.relabel", {"ray"}, {"torch", *EXTRAS}),
        ("import jobs.relabel", {"pydantic"}, {"torch", "ray"}),
        (every_module_of("training"), {"torch"}, {"ray"}),
        ("import tart_ray.training.loop", {"torch"}, {"ray", "bm25s", "ir_measures", "sklearn"}),
        ("import tart_ray.training.files", {"pyarrow"}, {"torch", "ray"}),
        ("import tart_ray.pipeline.train", {"ray"}, {"torch", *EXTRAS}),
        ("import jobs.train", {"pydantic"}, {"torch", "ray"}),
    ],
    ids=[
        "tart_ray",
        "config",
        "data",
        "derive",
        "evaluation",
        "tokenizer",
        "scoring",
        "driver",
        "drivers without extras",
        "job",
        "demo",
        "miner",
        "mining job",
        "evaluator",
        "evaluation job",
        "relabeller",
        "relabelling job",
        "training",
        "training loop",
        "examples",
        "trainer",
        "training job",
    ],
)
def test_what_an_import_loads(statement: str, loaded: set[str], not_loaded: set[str]) -> None:
    found = loads(statement)
    assert loaded <= found
    assert not not_loaded & found
