"""The recipes in schedules/: the shell script is run, the RayJob's entrypoint and environment are submitted."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.job_submission import JobStatus, JobSubmissionClient
from support.s3_jobs import ROOT, put, small_job
from support.s3_server import S3Server

SCHEDULES = ROOT / "schedules"
CONFIG = "s3://bucket/relabel.yaml"  # as it is written in the files


def rayjob() -> tuple[dict[str, Any], dict[tuple[str, str], dict[str, Any]]]:
    """The RayJob, and all objects by kind and name."""
    objects = list(yaml.safe_load_all((SCHEDULES / "rayjob.yaml").read_text()))
    named = {(found["kind"], found["metadata"]["name"]): found for found in objects}
    assert len(named) == len(objects)
    job: dict[str, Any] = yaml.safe_load(named["ConfigMap", "relabel"]["data"]["rayjob.yaml"])
    return job, named


@pytest.mark.matrix
def test_the_cron_script_and_the_rayjob_on_a_local_head(
    s3: S3Server, tiny_checkpoint: Path, environment: dict[str, str], head: str
) -> None:
    bucket = s3.new_bucket()
    config = small_job(s3, bucket, tiny_checkpoint, queries=4, documents=20)
    put(s3, f"{bucket}/relabel.yaml", config | {"labels": {"cuts": [0.0]}})
    cron = [
        str(SCHEDULES / "cron.sh"),
        f"s3://{bucket}/relabel.yaml",
        "--labels.cuts",
        "[0.5]",
        "--labels.score",
        "score",
    ]
    done = subprocess.run(
        cron, env=environment | {"RAY_ADDRESS": head}, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "read 80 = labelled 80 (scored 80, scored before 0)" in done.stdout
    files = s3.filesystem()
    first = json.loads(files.cat(f"{bucket}/run/current.json"))["run"]

    job, _ = rayjob()
    entrypoint = job["spec"]["entrypoint"].replace("/opt/tart-ray", str(ROOT))
    assert CONFIG in entrypoint
    variables = yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"]
    client = JobSubmissionClient(head)
    id_ = client.submit_job(
        entrypoint=entrypoint.replace(CONFIG, f"s3://{bucket}/relabel.yaml"),
        runtime_env={"env_vars": variables | {"AWS_DEFAULT_REGION": "us-east-1"}},
    )
    while not client.get_job_status(id_).is_terminal():
        time.sleep(0.1)  # between looks at a job that is running
    said = client.get_job_logs(id_)
    assert client.get_job_status(id_) == JobStatus.SUCCEEDED, said
    assert "read 80 = labelled 80 (scored 0, scored before 80)" in said  # by another number, so another version
    second = json.loads(files.cat(f"{bucket}/run/current.json"))["run"]
    assert json.loads(files.cat(f"{bucket}/run/runs/{second}/manifest.json"))["identity"]["base"] == first


@pytest.mark.parametrize(
    ("codes", "ends_with", "tries"), [("1 1 1 1", 1, 3), ("1 0", 0, 2), ("137 0", 0, 2), ("2 0", 2, 1), ("4", 4, 1)]
)
def test_what_can_be_continued_is_tried_again_and_nothing_else(
    codes: str, ends_with: int, tries: int, tmp_path: Path
) -> None:
    """`python` is a script that ends with one code after the other."""
    (tmp_path / "codes").write_text("\n".join(codes.split()) + "\n")
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ncode=$(head -1 {tmp_path}/codes)\n'
        f"sed -i 1d {tmp_path}/codes\nexit $code\n"
    )
    python.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PAUSE": "0"}
    done = subprocess.run(["bash", SCHEDULES / "relabel.sh", "a.yaml", "--x", "y z"], env=environment, check=False)
    assert done.returncode == ends_with
    assert (tmp_path / "calls").read_text() == "-m jobs.relabel --config a.yaml --x y z\n" * tries


@pytest.mark.parametrize("missing", ["argument", "address"])
def test_the_cron_script_says_what_it_lacks(missing: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"RAY_ADDRESS": "http://localhost:1"} if missing == "argument" else {}
    options = [] if missing == "argument" else [CONFIG]
    done = subprocess.run(
        [SCHEDULES / "cron.sh", *options], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert {"argument": "usage: cron.sh CONFIG", "address": "RAY_ADDRESS: set it"}[missing] in done.stderr


def test_the_rayjob_fits_together() -> None:
    job, objects = rayjob()
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert "name" not in job["metadata"], "each run needs a name of its own"
    spec = job["spec"]
    assert spec["shutdownAfterJobFinishes"]
    assert spec["backoffLimit"] == 0
    assert set(yaml.safe_load(spec["runtimeEnvYAML"])) == {"env_vars"}
    assert all(isinstance(value, str) for value in yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"].values())
    cluster = spec["rayClusterSpec"]
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"ray=={cluster['rayVersion']}" in constraints
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert len({group["template"]["spec"]["containers"][0]["image"] for group in groups}) == 1
    assert all(("ServiceAccount", group["template"]["spec"]["serviceAccountName"]) in objects for group in groups)
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]

    cron = objects["CronJob", "relabel"]["spec"]
    assert len(cron["schedule"].split()) == 5
    assert cron["concurrencyPolicy"] == "Forbid"
    pod = cron["jobTemplate"]["spec"]["template"]["spec"]
    (container,), (volume,) = pod["containers"], pod["volumes"]
    assert volume["configMap"]["name"] == "relabel"
    assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/relabel"}]
    assert container["args"] == ["create", "-f", "/relabel/rayjob.yaml"]  # create: apply refuses generateName
    account = pod["serviceAccountName"]
    binding = objects["RoleBinding", "relabel-create"]
    assert {"kind": "ServiceAccount", "name": account} in binding["subjects"]
    (rule,) = objects["Role", binding["roleRef"]["name"]]["rules"]
    assert rule == {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create"]}


def test_the_scripts_can_be_executed() -> None:
    assert os.access(SCHEDULES / "cron.sh", os.X_OK)
    for script in SCHEDULES.glob("*.sh"):
        subprocess.run(["bash", "-n", script], check=True)
