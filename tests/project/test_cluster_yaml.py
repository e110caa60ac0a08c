"""cluster.yaml as `ray up` reads it, checked without a cloud."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    return config


@pytest.fixture(scope="module")
def prepared(written: dict[str, Any]) -> dict[str, Any]:
    """The file with everything that Ray fills in."""
    config: dict[str, Any] = prepare_config(written)
    return config


def commands(config: dict[str, Any], kind: str) -> str:
    return "\n".join(config[f"{kind}_start_ray_commands"])


def test_ray_up_accepts_it(prepared: dict[str, Any]) -> None:
    validate_config(prepared)


def test_ray_up_would_refuse_a_mistake(prepared: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="Additional properties are not allowed"):
        validate_config(prepared | {"worker_setup_comands": []})


def test_the_head_has_no_gpu_and_runs_no_trials(prepared: dict[str, Any]) -> None:
    assert prepared["head_node_type"] == "head"
    assert prepared["available_node_types"]["head"]["resources"] == {"CPU": 0}


def test_gpu_workers_grow_from_none(prepared: dict[str, Any]) -> None:
    (worker,) = [v for k, v in prepared["available_node_types"].items() if k != "head"]
    assert worker["min_workers"] == 0
    assert 0 < worker["max_workers"] <= prepared["max_workers"]
    assert worker["resources"]["GPU"] >= 1
    # Without it a run that asks for GPUs nobody has yet is refused instead of waited for.
    assert "RAYFILL_AUTOSCALING=1" in commands(prepared, "head")


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_every_node_asks_for_the_token(prepared: dict[str, Any], kind: str) -> None:
    (start,) = [c for c in prepared[f"{kind}_start_ray_commands"] if "ray start" in c]
    # Before the command it is set for, on one line, or it would not reach it.
    assert re.search(r"RAY_AUTH_MODE=token\b.* ray start ", start)
    assert "/home/ubuntu/.ray/auth_token" in prepared["file_mounts"]
    assert any("chmod 600 ~/.ray/auth_token" in c for c in prepared["setup_commands"])


def test_nothing_listens_to_the_world(written: dict[str, Any], prepared: dict[str, Any]) -> None:
    assert "--dashboard-host=127.0.0.1" in commands(prepared, "head")
    assert "0.0.0.0" not in yaml.safe_dump(written)
    # Ray's own security group opens SSH and the cluster itself; nothing is added to it.
    assert "security_group" not in prepared["provider"]
    for node in prepared["available_node_types"].values():
        assert not {"SecurityGroupIds", "NetworkInterfaces"} & set(node["node_config"])
    # MLflow listens on the private address, and answers to no other name.
    assert re.search(
        r"mlflow server --host \$HEAD_IP\b.*--allowed-hosts", commands(prepared, "head")
    )


def test_every_node_installs_as_a_newcomer_does(prepared: dict[str, Any]) -> None:
    assert "/home/ubuntu/rayfill" in prepared["file_mounts"]
    assert any("cd ~/rayfill && make install" in c for c in prepared["setup_commands"])
    assert not any("pip install" in c for c in prepared["setup_commands"])
    for kind in ("head", "worker"):
        starts = [c for c in prepared[f"{kind}_start_ray_commands"] if "ray st" in c]
        assert all("/rayfill/.venv/bin" in c for c in starts)


def test_the_upload_leaves_out_what_a_node_makes_itself(written: dict[str, Any]) -> None:
    assert {"**/.git", "**/.venv", "**/var"} <= set(written["rsync_exclude"])


def test_the_search_for_mlflow_does_not_find_the_shell_that_searches(
    prepared: dict[str, Any],
) -> None:
    """Pgrep -f sees the whole command it is part of: found there, the server never starts."""
    (command,) = [c for c in prepared["head_start_ray_commands"] if "pgrep" in c]
    pattern = re.search(r"pgrep -f '([^']+)'", command)
    assert pattern
    assert re.search(pattern[1], "python .venv/bin/mlflow server --host 10.0.0.1 --port 5000")
    assert not re.search(pattern[1], command)


@pytest.mark.parametrize("kind", ["head_start_ray", "worker_start_ray", "setup"])
def test_the_commands_are_shell(prepared: dict[str, Any], kind: str) -> None:
    for command in prepared[f"{kind}_commands"]:
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
