"""`tart-ray <job>` and `python -m jobs.<job>`: one and the same, and what is said where an extra is not installed."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from support.job_files import write_jsonl

from tart_ray.extras import EXTRAS
from tart_ray.job_table import JOBS, Job
from tart_ray.jobs_command import COMMANDS, SUMMARIES

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OF_ADAPTERS = {"mteb", "pyterrier"}  # not in "all": no job needs them
MODULES = sorted({module for brought in EXTRAS.values() for module in brought.values()})


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Python with these arguments."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=os.environ | {"COLUMNS": "100"}, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip


def run_without_extras(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m module`` where nothing that only extras bring can be imported."""
    code = (
        "import runpy, sys\n"
        f"sys.modules.update(dict.fromkeys({MODULES}))\n"
        f"sys.argv[1:] = {[*arguments]}\n"
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    return run("-c", code)


def test_help_lists_the_jobs_without_loading_them() -> None:
    code = (
        "import json, sys\nfrom tart_ray.jobs_command import main\nmain(['--help'])\n"
        "print(json.dumps([name for name in ('ray', 'torch', 'pyarrow', 'bm25s') if name in sys.modules]))"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    *lines, loaded = done.stdout.splitlines()
    assert json.loads(loaded) == []
    parts = {part: lines[lines.index(f"{part}:") + 1 :] for part in ("jobs", "commands")}
    listed = {part: [line.split()[0] for line in of[: of.index("")]] for part, of in parts.items()}
    assert listed["jobs"] == ["rerank", "relabel", "mine_negatives", "evaluate", "train", "demo"]
    assert listed["commands"] == [*COMMANDS]
    assert all(len(line) <= 120 for line in lines)


def test_every_job_is_a_module_of_jobs_too() -> None:
    modules = {path.stem for path in (ROOT / "jobs").glob("*.py")} - {"__init__"}
    assert modules == set(SUMMARIES)
    for name in modules:
        assert f'run_job("{name}")' in (ROOT / "jobs" / f"{name}.py").read_text()


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_the_module_of_a_job_has_its_function_and_its_plan(job: Job[Any]) -> None:
    module = importlib.import_module(job.module)
    assert [callable(getattr(module, name)) for name in (job.name, "describe")] == [True, True]


@pytest.mark.parametrize("name", SUMMARIES)
def test_both_ways_take_the_same_options(name: str) -> None:
    module, command = run("-m", f"jobs.{name}", "--help"), run("-m", "tart_ray", name, "--help")
    assert (module.returncode, command.returncode) == (0, 0), module.stderr + command.stderr
    assert f"python -m jobs.{name}" in module.stdout
    named = module.stdout.replace(f"python -m jobs.{name}", f"tart-ray {name}")
    addresses = re.compile("0x[0-9a-f]+")  # of functions that check a type
    assert (
        addresses.sub("", command.stdout).split() == addresses.sub("", named).split()
    )  # lines are indented by the name


def test_a_job_may_be_written_with_a_hyphen() -> None:
    done = run("-m", "tart_ray", "mine-negatives")
    assert done.returncode == 2
    assert done.stderr.endswith("`tart-ray mine_negatives --help` describes every key\n")


@pytest.mark.parametrize(
    ("arguments", "got"), [(["rernk", "--config", "a.yaml"], "got the job 'rernk'"), ([], "got no job")]
)
def test_an_unknown_job_ends_with_2_and_those_available(arguments: list[str], got: str) -> None:
    done = run("-m", "tart_ray", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"tart-ray: {got}, expected one of: rerank, relabel, mine_negatives, evaluate, train, demo, "
        f"{', '.join(COMMANDS)}; tart-ray --help tells of each\n"
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_describes_its_options(name: str) -> None:
    done = run("-m", "tart_ray", name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: tart-ray {name}")


def test_whoever_reads_the_output_may_stop_early(tmp_path: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -m tart_ray schema rerank | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{\n", "")


def test_a_command_shows_no_secret_of_an_option_that_it_does_not_know() -> None:
    done = run("-m", "tart_ray", "show", "nowhere", "--storage.secrt", "hunter2")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean 'storage.secret'?" in done.stderr
    assert "hunter2" not in done.stderr


def test_the_release_is_told() -> None:
    import tart_ray

    assert run("-m", "tart_ray", "--version").stdout == f"tart-ray {tart_ray.__version__}\n"


def test_the_command_of_the_package_is_there() -> None:
    ((name, place),) = PROJECT["scripts"].items()
    module, _, function = place.partition(":")
    assert name == "tart-ray"
    assert callable(getattr(importlib.import_module(module), function))


def test_the_extras_are_those_of_the_package() -> None:
    extras = {
        name: {Requirement(text).name for text in needed} for name, needed in PROJECT["optional-dependencies"].items()
    }
    for name, brought in EXTRAS.items():
        assert extras[name] == set(brought), name
    assert extras.keys() == {*EXTRAS, *OF_ADAPTERS, "all", "dev"}
    (everything,) = (Requirement(text) for text in PROJECT["optional-dependencies"]["all"])
    assert (everything.name, everything.extras) == (PROJECT["name"], set(EXTRAS))
    assert f"{PROJECT['name']}[all]" in PROJECT["optional-dependencies"]["dev"]
    plain = {Requirement(text).name for text in PROJECT["dependencies"]}
    assert not plain & {package for brought in EXTRAS.values() for package in brought}


def test_scoring_from_python_needs_no_extra() -> None:
    code = (
        f"import sys\nsys.modules.update(dict.fromkeys({MODULES}))\nimport tart_ray\nfrom tart_ray import Scorer\n"
        "scorer = Scorer.from_pretrained('demo')\n"
        "print(scorer.score(['parse a url'], ['def urlparse(url): ...'], 'Find the code').margin.shape)"
    )
    done = run("-c", code)
    assert (done.returncode, done.stdout) == (0, "(1,)\n"), done.stderr


def test_reranking_needs_no_extra(tmp_path: Path) -> None:
    rows = [{"query_id": "q", "query": "parse a url", "doc_id": f"d{i}", "text": f"text {i}"} for i in range(3)]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    (tmp_path / "rerank.yaml").write_text(
        f"model: {{path: demo, max_length: 112}}\ninput: {{candidates: {tmp_path}/pairs.jsonl}}\n"
        f"output: {{path: {tmp_path}/run}}\ncluster: {{gpus_per_replica: 0}}\n"
    )
    done = run_without_extras("jobs.rerank", "--config", str(tmp_path / "rerank.yaml"), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "about 3 rows" in done.stdout


SAID_WITHOUT = {  # its extra, by each job
    "evaluate": "jobs.evaluate needs bm25s, ir-measures, scipy, which are not installed: "
    "pip install 'tart-ray[evaluate]', on every node",
    "relabel": "jobs.relabel with labels.by: calibrated needs scikit-learn, which is not installed: "
    "pip install 'tart-ray[relabel]', on every node",
    "train": "jobs.train with input.evaluation needs ir-measures, which is not installed: "
    "pip install 'tart-ray[train]', on every node",
    "demo": "jobs.demo needs bm25s, ir-measures, which are not installed: pip install 'tart-ray[demo]'",
}


def run_api_without_extras(expression: str) -> subprocess.CompletedProcess[str]:
    """An expression that raises a ConfigurationError, where nothing that only extras bring can be imported."""
    code = (
        "import sys, tart_ray\n"
        f"sys.modules.update(dict.fromkeys({MODULES}))\n"
        f"try: {expression}\n"
        "except tart_ray.errors.ConfigurationError as error: print(error)"
    )
    return run("-c", code)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("evaluate", {"input": {"tasks": [{"name": "t", "path": "t"}]}}),
        (
            "relabel",
            {
                "input": {"candidates": "a.jsonl"},
                "labels": {"by": "calibrated", "cuts": [0.5], "calibration": {"qrels": "qrels.tsv"}},
            },
        ),
        ("train", {"input": {"train": "a.jsonl", "evaluation": "b.jsonl"}, "model": {"path": "m"}}),
    ],
)
def test_a_function_without_its_extra_raises_the_same_sentence(name: str, config: dict[str, Any]) -> None:
    config = config | {"output": {"path": "run"}}
    for call in (f"tart_ray.{name}({config})", f"tart_ray.plan({config}, job={name!r})"):
        done = run_api_without_extras(call)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{SAID_WITHOUT[name]}\n"


def test_a_cross_encoder_without_its_extra_names_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    done = run_api_without_extras(f"tart_ray.Scorer.from_pretrained({str(tmp_path)!r})")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "a cross-encoder other than EncT5 needs accelerate, which is not installed: "
        "pip install 'tart-ray[cross-encoders]', on every node\n"
    )


CALIBRATED = "{by: calibrated, cuts: [0.5], calibration: {qrels: qrels.tsv}}"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("evaluate", ["--input.tasks", "[{name: t, path: t}]", "--output.path", "run"]),
        ("relabel", ["--input.candidates", "a.jsonl", "--output.path", "run", "--labels", CALIBRATED]),
        (
            "train",
            ["--input.train", "a.jsonl", "--input.evaluation", "b.jsonl", "--output.path", "run", "--model.path", "m"],
        ),
        ("demo", ["--output", "demo"]),
    ],
)
def test_a_missing_extra_ends_with_2_and_its_name(name: str, options: list[str]) -> None:
    done = run_without_extras(f"jobs.{name}", *options)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{SAID_WITHOUT[name]}\n")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (
            "relabel",
            ["--input.candidates", "nowhere.jsonl", "--output.path", "run", "--labels", "{cuts: [0.5]}", "--dry-run"],
        ),
        ("train", ["--input.train", "nowhere.jsonl", "--output.path", "run", "--model.path", "nowhere", "--dry-run"]),
    ],
)
def test_an_extra_is_asked_for_only_where_it_is_needed(name: str, options: list[str]) -> None:
    done = run_without_extras(f"jobs.{name}", *options)
    assert done.returncode == 2
    assert re.match(r"configuration error: .*nowhere", done.stderr), done.stderr
