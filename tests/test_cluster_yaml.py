"""cluster.yaml against Ray's own checks, EC2's model of a launch, and what the project needs of a node."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from botocore.loaders import Loader
from botocore.model import ServiceModel, Shape
from packaging.requirements import Requirement
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli

ROOT = Path(__file__).parents[1]
CLUSTER: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
NODE_TYPES: dict[str, Any] = CLUSTER["available_node_types"]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HOME = "/home/ubuntu/tart-ray"

PYTHON_TYPE = {"structure": dict, "list": list, "string": str, "integer": int, "boolean": bool, "timestamp": datetime}
RUN_INSTANCES = ServiceModel(Loader().load_service_model("ec2", "service-2"), "ec2").operation_model("RunInstances")
# Where a node_config and a RunInstances request differ: Ray draws SubnetId from a list, and sets these itself.
SET_BY_RAY = {"MinCount": 1, "MaxCount": 1, "SubnetId": "subnet-0"}
IMAGE_ID = re.compile(r"ami-([0-9a-f]{8}|[0-9a-f]{17})|resolve:ssm:/\S+|latest_dlami")  # the last one is Ray's own


def faults_of(value: Any, shape: Shape, path: str) -> list[str]:
    """What EC2, or botocore before it, would refuse; Ray passes a node_config on unchecked."""
    if type(value) is not PYTHON_TYPE[shape.type_name]:  # not isinstance: True is no integer
        return [f"{path}: expected {shape.type_name}, got {value!r}"]
    if shape.type_name == "list":
        return [fault for i, item in enumerate(value) for fault in faults_of(item, shape.member, f"{path}[{i}]")]
    if shape.type_name == "structure":
        unknown = [f"{path}.{key}: no such key" for key in value if key not in shape.members]
        missing = [f"{path}.{key}: missing" for key in shape.required_members if key not in value]
        known = ((value[key], member, f"{path}.{key}") for key, member in shape.members.items() if key in value)
        return unknown + missing + [fault for item in known for fault in faults_of(*item)]
    enum = getattr(shape, "enum", [])
    return [f"{path}: {value!r} is none of EC2's values"] if enum and value not in enum else []


def faults_in(node_config: dict[str, Any]) -> list[str]:
    faults = [f".{key}: Ray sets this itself" for key in SET_BY_RAY if key in node_config]
    request = node_config | SET_BY_RAY
    subnets = request.pop("SubnetIds", [])
    if type(subnets) is not list or not all(type(subnet) is str for subnet in subnets):
        faults.append(f".SubnetIds: expected list of string, got {subnets!r}")
    if type(image := request.get("ImageId", "latest_dlami")) is str and not IMAGE_ID.fullmatch(image):
        faults.append(f".ImageId: {image!r} names no image")
    return faults + faults_of(request, RUN_INSTANCES.input_shape, "")


def commands_of(role: str, kind: str) -> list[str]:
    """The commands of the head or the workers as Ray runs them, the shared ones first."""
    return prepare_config(CLUSTER)[f"{role}_{kind}_commands"]


def install_arguments(role: str) -> list[str]:
    (command,) = (command for command in commands_of(role, "setup") if "uv pip install" in command)
    return shlex.split(command)


roles = pytest.mark.parametrize("role", ["head", "worker"])
node_types = pytest.mark.parametrize("node_type", NODE_TYPES)


def test_ray_accepts_the_file() -> None:
    prepared = prepare_config(CLUSTER)
    validate_config(prepared)
    assert prepared["provider"]["type"] == "aws"
    assert set(CLUSTER) <= set(prepared)


@node_types
def test_ec2_accepts_the_node_config(node_type: str) -> None:
    assert faults_in(NODE_TYPES[node_type]["node_config"]) == []


@pytest.mark.parametrize(
    ("node_config", "fault"),
    [
        ({"InstanceTyp": "g6e.xlarge"}, ".InstanceTyp: no such key"),
        ({"InstanceType": "g6e.xlrage"}, ".InstanceType: 'g6e.xlrage' is none of EC2's values"),
        ({"InstanceMarketOptions": {"MarketTyp": "spot"}}, ".InstanceMarketOptions.MarketTyp: no such key"),
        ({"InstanceMarketOptions": "spot"}, ".InstanceMarketOptions: expected structure, got 'spot'"),
        (
            {"InstanceMarketOptions": {"MarketType": "sport"}},
            ".InstanceMarketOptions.MarketType: 'sport' is none of EC2's values",
        ),
        ({"BlockDeviceMappings": {"Ebs": {}}}, ".BlockDeviceMappings: expected list, got {'Ebs': {}}"),
        (
            {"BlockDeviceMappings": [{}, {"Ebs": {"VolumeSize": "200"}}]},
            ".BlockDeviceMappings[1].Ebs.VolumeSize: expected integer, got '200'",
        ),
        (
            {"BlockDeviceMappings": [{"Ebs": {"VolumeSize": True}}]},
            ".BlockDeviceMappings[0].Ebs.VolumeSize: expected integer, got True",
        ),
        ({"EbsOptimized": 1}, ".EbsOptimized: expected boolean, got 1"),
        ({"CreditSpecification": {}}, ".CreditSpecification.CpuCredits: missing"),
        ({"ImageId": "ami-of-your-region"}, ".ImageId: 'ami-of-your-region' names no image"),
        ({"SubnetIds": "subnet-0"}, ".SubnetIds: expected list of string, got 'subnet-0'"),
        ({"MaxCount": 3}, ".MaxCount: Ray sets this itself"),
    ],
)
def test_a_fault_in_a_node_config_is_named(node_config: dict[str, Any], fault: str) -> None:
    assert faults_in(node_config) == [fault]


@pytest.mark.parametrize(
    "node_config", [{}, {"ImageId": "latest_dlami"}, {"ImageId": "ami-0271ce88f6c03e149", "SubnetIds": ["subnet-0"]}]
)
def test_what_ray_adds_to_ec2s_keys_is_no_fault(node_config: dict[str, Any]) -> None:
    assert faults_in(node_config) == []


@node_types
def test_images_are_newer_than_rays_default(node_type: str) -> None:
    assert NODE_TYPES[node_type]["node_config"]["ImageId"].startswith("resolve:ssm:/aws/service/")


@node_types
def test_every_node_has_a_profile_and_so_s3(node_type: str) -> None:
    assert NODE_TYPES[node_type]["node_config"]["IamInstanceProfile"]["Name"]


def test_gpu_workers_are_spot_and_scale_from_none_to_eight() -> None:
    worker = prepare_config(CLUSTER)["available_node_types"]["gpu_worker"]
    assert worker["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert (worker["min_workers"], worker["max_workers"]) == (0, 8)


def test_cpu_workers_scale_from_none() -> None:
    worker = prepare_config(CLUSTER)["available_node_types"]["cpu_worker"]
    assert worker["min_workers"] == 0 < worker["max_workers"]


def test_all_types_fit_under_the_clusters_limit_together() -> None:
    types = prepare_config(CLUSTER)["available_node_types"].values()
    assert sum(node_type["max_workers"] for node_type in types) == CLUSTER["max_workers"]


def test_the_head_is_on_demand_and_takes_no_tasks() -> None:
    head = NODE_TYPES[CLUSTER["head_node_type"]]
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["resources"]["CPU"] == 0


@roles
def test_every_node_installs_the_project_where_it_is_mounted(role: str) -> None:
    arguments = install_arguments(role)
    project = Requirement(arguments[arguments.index("--editable") + 1].removeprefix(f"{Path(HOME).parent}/"))
    assert project.name == PROJECT["name"] == Path(HOME).name
    assert project.extras == {"all"} <= set(PROJECT["optional-dependencies"])  # any job may be submitted
    read_by_the_build = {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]}
    assert {f"{HOME}/{name}" for name in read_by_the_build} <= set(CLUSTER["file_mounts"])


@node_types
def test_no_node_type_replaces_the_setup(node_type: str) -> None:
    assert "worker_setup_commands" not in NODE_TYPES[node_type]


def test_the_head_installs_what_launches_workers() -> None:
    assert "boto3" in install_arguments("head")
    apart = [command for command in commands_of("head", "setup") if re.search(r"(?<!uv )pip install", command)]
    assert [command.rsplit(maxsplit=1)[1] for command in apart] == ["uv"]


@roles
def test_nodes_pin_ray_and_what_makes_the_scores_to_the_tested_versions(role: str) -> None:
    tested = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    required = {(requirement := Requirement(text)).name: requirement for text in PROJECT["dependencies"]}
    pins = [Requirement(argument) for argument in install_arguments(role) if "==" in argument]
    assert {pin.name for pin in pins} == {"ray", "torch", "transformers", "sentencepiece"}
    for pin in pins:
        (version,) = pin.specifier
        assert version.version == tested[pin.name].partition("+")[0]
        assert version.version in required[pin.name].specifier
        assert pin.extras == required[pin.name].extras


@roles
def test_torch_is_chosen_by_the_nodes_driver(role: str) -> None:
    assert "--torch-backend=auto" in install_arguments(role)
    assert not any("constraint" in command for command in commands_of(role, "setup"))


def test_mounts_hold_neither_git_nor_virtual_environments() -> None:
    mounted = [ROOT / local for local in CLUSTER["file_mounts"].values()]
    assert all(path.exists() for path in mounted)
    assert ROOT not in mounted
    assert not [found for path in mounted for name in (".git", ".venv") for found in path.rglob(name)]


def test_what_is_mounted_builds_the_whole_package_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    for remote, local in CLUSTER["file_mounts"].items():
        source, target = ROOT / local, tmp_path / Path(remote).relative_to(HOME)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(*CLUSTER["rsync_exclude"]))
        else:
            shutil.copy(source, target)
    build = "import setuptools.build_meta, sys; setuptools.build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, "dist"], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        built = {name for name in archive.namelist() if ".dist-info/" not in name}
        (licence,) = (archive.read(name) for name in archive.namelist() if name.endswith(".dist-info/licenses/LICENSE"))
        (commands,) = (archive.read(name) for name in archive.namelist() if name.endswith("/entry_points.txt"))
    found = (path for path in (ROOT / "tart_ray").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert built == {path.relative_to(ROOT).as_posix() for path in found}  # no `jobs`, which anyone may have
    assert {"tart_ray/py.typed", "tart_ray/demo/model/model.safetensors"} <= built
    assert licence == (ROOT / "LICENSE").read_bytes()
    assert commands.decode() == "[console_scripts]\ntart-ray = tart_ray.jobs_command:main\n"


@roles
def test_the_auth_mode_is_set_where_ray_starts_and_in_every_shell(role: str) -> None:
    (start,) = (command for command in commands_of(role, "start_ray") if "ray start" in command)
    assert "export RAY_AUTH_MODE=disabled" in start.partition("ray start")[0]
    assert any("export RAY_AUTH_MODE=disabled" in c and "~/.bashrc" in c for c in commands_of(role, "setup"))


@roles
def test_ray_starts_with_room_for_files_and_its_own_thread_counts(role: str) -> None:
    before, _, _ = commands_of(role, "start_ray")[-1].partition("ray start")
    assert "ulimit -n 65536;" in before
    assert "unset OMP_NUM_THREADS;" in before


@roles
def test_ray_start_knows_its_options(role: str) -> None:
    _, _, options = commands_of(role, "start_ray")[-1].partition("ray start ")
    start = cli.commands["start"].make_context("start", shlex.split(options), resilient_parsing=True)
    assert start.params["head"] is (role == "head")
    assert bool(start.params["autoscaling_config"]) is (role == "head")
    assert start.params["address"] == (None if role == "head" else "$RAY_HEAD_IP:6379")


@roles
def test_the_dashboard_is_not_open_to_the_network(role: str) -> None:
    assert not any("dashboard-host" in command for command in commands_of(role, "start_ray"))


@roles
@pytest.mark.parametrize("kind", ["setup", "start_ray"])
def test_bash_can_parse_the_commands(role: str, kind: str) -> None:
    commands = commands_of(role, kind)
    assert commands
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)


def test_an_idle_cluster_shrinks_and_leaves_nothing_to_pay_for() -> None:
    assert 0 < CLUSTER["idle_timeout_minutes"] <= 15
    assert CLUSTER["provider"]["cache_stopped_nodes"] is False
