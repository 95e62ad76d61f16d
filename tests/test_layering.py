"""Who may import whom: the source is scanned, and clean processes say what an import loads."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "tart_ray").rglob("*.py"))

OF_JOBS = {"errors", "config", "tables", "storage", "input", "reports", "runs", "engine", "scores"}
# part of tart_ray -> exactly the parts that it imports beside itself: what a job's room shares lies below it
IMPORTS = {
    "errors": set(),
    "version": set(),
    "extras": set(),
    "file_versions": set(),
    "locations": {"errors"},
    "config": {"errors", "locations"},
    "storage": {"errors", "file_versions", "locations", "config"},
    "model": {"errors", "extras", "file_versions", "locations"},
    "scoring": {"model", "tables"},
    "adapters": {"scoring"},
    "tables": set(),
    "retrieval": {"errors"},
    "input": {"errors", "locations", "tables", "storage"},
    "runs": {"errors", "tables", "storage", "input"},
    "reports": set(),
    "engine": {"version", "errors", "locations", "config", "reports", "runs"},
    "scores": {"errors", "config", "tables", "storage", "model", "scoring", "input", "reports", "runs", "engine"},
    "reranking": OF_JOBS,
    "mining": OF_JOBS,
    "relabeling": OF_JOBS | {"locations"},
    "evaluation": OF_JOBS | {"retrieval"},
    "training": OF_JOBS | {"model", "retrieval", "scoring"},
    "results": {"errors", "locations", "input", "runs", "scores", "reranking", "mining", "relabeling"},
    "showing": {
        *("errors", "locations", "config", "tables", "storage", "input", "runs", "engine", "scores"),
        *("reranking", "relabeling", "training", "results"),
    },
    "configuring": {"errors", "config", "storage", "input", "runs", "evaluation", "training", "job_table"},
    "demo": {"model", "retrieval", "tables"},
    "job_table": {"errors", "extras", "config", "mining", "relabeling", "reranking", "evaluation", "training"},
    "api": {"errors", "config", "locations", "storage", "runs", "results", "job_table", "relabeling"},
    "jobs_command": {
        *("__init__", "errors", "locations", "extras", "config", "engine", "demo", "job_table", "showing"),
        "configuring",
    },
    "__init__": {"api", "config", "errors", "model", "scoring", "version"},
    "__main__": {"jobs_command"},
}  # fmt: skip
MAY_NOT_IMPORT = {
    "config": {"torch", "transformers", "pyarrow", "fsspec"},
    "job_table": {"torch", "transformers", "pyarrow"},
    "jobs_command": {"torch", "transformers", "pyarrow"},
    "tables": {"torch", "transformers", "fsspec"},
    "retrieval": {"torch", "transformers", "pyarrow", "fsspec"},
    "input": {"torch", "transformers"},
    "reports": {"torch", "transformers", "pyarrow", "fsspec"},
    "runs": {"torch", "transformers"},
    "engine": {"torch", "transformers"},
}
JOBS = ("reranking", "mining", "relabeling", "evaluation", "training")  # none of which imports another
EXTRAS = {
    "accelerate",
    "bm25s",
    "ir_measures",
    "mteb",
    "pyterrier",
    "scipy",
    "sentence_transformers",
    "sklearn",
}  # what a plain install does not bring


def imported_names(source: str, module: str, *, is_package: bool = False) -> Iterator[str]:
    """Full names that the source of ``module`` imports anywhere in it; ``from a import b`` gives ``a.b``.

    A string that is the name of a module of tart_ray counts: it is imported by that name, later.
    """
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and re.fullmatch(r"tart_ray(\.\w+)+", str(node.value)):
            yield str(node.value)


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
            parts.add(part if part in IMPORTS else "__init__")
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
        "from tart_ray import Scorer, engine\n"
        "def late():\n"
        "    from ..tables.schemas import SCORES\n"
        "    from . import batching\n"
        "if TYPE_CHECKING:\n"
        "    import torch\n"
        "LATER = 'tart_ray.runs.run', 'tart_ray.'\n"
    )
    assert set(imported_names(source, "tart_ray.scoring.scorer")) == {
        "ray.data",
        "os",
        "tart_ray.Scorer",
        "tart_ray.engine",
        "tart_ray.tables.schemas.SCORES",
        "tart_ray.scoring.batching",
        "torch",
        "tart_ray.runs.run",
    }
    assert set(imported_names("from .model import enct5", "tart_ray", is_package=True)) == {"tart_ray.model.enct5"}
    found = {"tart_ray.Scorer", "tart_ray.engine", "tart_ray.tables.schemas.SCORES", "raytracer.tart_ray", "tart_ray"}
    assert parts_imported(found) == {"__init__", "engine", "tables"}


PARTS = {part: [path for path in MODULES if part_of(path) == part] for part in map(part_of, MODULES)}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_imports_what_is_said_here_no_more_and_no_less(part: str) -> None:
    assert part in IMPORTS, f"{part} is new: say in IMPORTS what it imports"
    names = {name for path in PARTS[part] for name in imports_of(path)}
    assert parts_imported(names) - {part} == IMPORTS[part]
    libraries = {name.partition(".")[0] for name in names}
    assert "jobs" not in libraries
    assert not libraries & MAY_NOT_IMPORT.get(part, set())


def test_every_part_is_there() -> None:
    assert PARTS.keys() == IMPORTS.keys()


def test_only_the_engine_imports_ray() -> None:
    names = {path: imports_of(path) for path in MODULES}
    parts = {part_of(path) for path in MODULES if "ray" in {name.partition(".")[0] for name in names[path]}}
    assert parts == {"engine"}


@pytest.mark.parametrize("room", JOBS)
def test_within_the_room_of_a_job_only_job_and_stages_know_runs_and_the_engine(room: str) -> None:
    for path in PARTS[room]:
        if not re.fullmatch(r"job|stages(_\w+)?", path.stem):
            assert not parts_imported(imports_of(path)) & {"runs", "engine", "scores"}, path


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
        (
            "import tart_ray; tart_ray.errors.TartRayError",
            set(),
            {"torch", "transformers", "ray", "pyarrow", "pydantic"},
        ),
        (
            "import tart_ray; tart_ray.config.RerankConfig; assert {'config', 'errors'} < {*dir(tart_ray)}",
            {"pydantic"},
            {"torch", "transformers", "ray", "pyarrow"},
        ),
        ("from tart_ray import rerank", {"pydantic"}, {"torch", "transformers", "ray", "pyarrow", *EXTRAS}),
        (every_module_of("config"), {"pydantic"}, {"torch", "transformers", "ray", "pyarrow", "fsspec"}),
        (every_module_of("tables"), {"pyarrow"}, {"torch", "transformers", "ray"}),
        (every_module_of("retrieval"), {"bm25s", "ir_measures"}, {"torch", "ray", "pyarrow"}),
        (every_module_of("input"), {"pyarrow"}, {"torch", "transformers", "ray"}),
        (every_module_of("runs"), {"pyarrow"}, {"torch", "transformers", "ray"}),
        (every_module_of("reports"), {"jinja2"}, {"torch", "ray", "pyarrow", "matplotlib"}),
        (every_module_of("engine"), {"ray"}, {"torch", "transformers"}),
        (every_module_of("scores"), {"ray"}, {"torch"}),
        ("import tart_ray.mining.negatives, tart_ray.relabeling.labels", {"pyarrow"}, {"torch", "ray"}),
        (every_module_of("evaluation"), {"ir_measures"}, {"torch"}),
        ("import tart_ray.model.tokenizer", {"transformers"}, {"torch", "ray"}),
        (every_module_of("model") + "\nimport tart_ray.scoring.scorer", {"torch"}, {"ray", "pyarrow", "bm25s"}),
        ("import tart_ray.reranking.job, tart_ray.scores.estimate", {"ray"}, {"torch", "matplotlib"}),
        ("import tart_ray.reranking.job, tart_ray.mining.job", {"ray"}, EXTRAS),
        ("import jobs.rerank", {"pydantic"}, {"torch", "ray", *EXTRAS}),
        ("import jobs.demo", {"pydantic"}, {"torch", "ray", "pyarrow", *EXTRAS}),
        ("import tart_ray.mining.job", {"ray"}, {"torch"}),
        ("import jobs.mine_negatives", {"pydantic"}, {"torch", "ray"}),
        ("import tart_ray.evaluation.job", {"ray"}, {"torch"}),
        ("import jobs.evaluate", {"pydantic"}, {"torch", "ray"}),
        ("import tart_ray.relabeling.job", {"ray"}, {"torch", *EXTRAS}),
        ("import jobs.relabel", {"pydantic"}, {"torch", "ray"}),
        (every_module_of("training"), {"torch", "ray"}, {"bm25s"}),
        ("import tart_ray.training.loop", {"torch"}, {"ray", "bm25s", "ir_measures", "sklearn"}),
        ("import tart_ray.training.files", {"pyarrow"}, {"torch", "ray"}),
        ("import tart_ray.training.job", {"ray"}, {"torch", *EXTRAS}),
        ("import jobs.train", {"pydantic"}, {"torch", "ray"}),
    ],
    ids=[
        "tart_ray",
        "errors",
        "configurations",
        "API",
        "config",
        "tables",
        "retrieval",
        "input",
        "runs",
        "reports",
        "engine",
        "scores",
        "what scores mean",
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
