"""Credentials in a URI: no command prints them, and none is left of them on the disk."""

from __future__ import annotations

import dataclasses
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from rayfill.config.run import ModelConfig, RunConfig, ScalingConfig, TrackingConfig, TrainConfig
from rayfill.runs.job import make_job
from rayfill.sweeps.plan import Plan, open_plan, plan_trials
from rayfill.training.launch import train_here

SECRET = "hush5ecret"


class Refusing(BaseHTTPRequestHandler):
    """An MLflow server that lets nobody in."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of such a server, with a password."""
    refusing = HTTPServer(("127.0.0.1", 0), Refusing)
    thread = Thread(target=refusing.serve_forever)
    thread.start()
    yield f"http://user:{SECRET}@127.0.0.1:{refusing.server_port}"
    refusing.shutdown()
    thread.join()
    refusing.server_close()


def run_rayfill(*args: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from rayfill.cli.main import main; main()", *args],
        cwd=home,
        env={**os.environ, "RAYFILL_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.mark.parametrize(
    "args",
    [
        pytest.param(("promote", "--list"), id="promote"),
        pytest.param(("serve", "--port", "8765"), id="serve"),
        pytest.param(("doctor",), id="doctor", marks=[pytest.mark.ray, pytest.mark.slow]),
        pytest.param(("ui",), id="ui"),
    ],
)
def test_no_command_prints_the_password_of_a_store(
    args: tuple[str, ...], server: str, tmp_path: Path
) -> None:
    done = run_rayfill(*args, home=tmp_path, MLFLOW_TRACKING_URI=server, COLUMNS="200")
    printed = done.stdout + done.stderr
    assert server.rpartition("@")[2] in printed
    assert SECRET not in printed
    assert "Traceback" not in printed


def test_prepare_does_not_print_the_keys_of_a_bucket(tmp_path: Path) -> None:
    bucket = f"s3://key:{SECRET}@bucket/photos?endpoint_override=127.0.0.1:1&scheme=http"
    done = run_rayfill("prepare", "folder", "--root", bucket, "--out", "x", home=tmp_path)
    assert done.returncode == 2
    assert "s3://bucket/photos?" in done.stderr
    assert SECRET not in done.stdout + done.stderr


def test_ui_hides_the_password_of_a_database_from_other_processes_too(tmp_path: Path) -> None:
    # Stands in for MLflow's server, and shows what a list of processes would.
    (tmp_path / "mlflow").mkdir()
    shown = "import os, sys; print(sys.argv, 'got:', os.environ['MLFLOW_BACKEND_STORE_URI'])"
    (tmp_path / "mlflow" / "__init__.py").touch()
    (tmp_path / "mlflow" / "__main__.py").write_text(shown)
    uri = f"postgresql://user:{SECRET}@db/runs"
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = run_rayfill("ui", "--tracking-uri", uri, home=tmp_path, PYTHONPATH=path)
    said, _, got = done.stdout.partition("got: ")
    assert "Runs of postgresql://db/runs on http://127.0.0.1:5000" in said
    assert "--port" in said
    assert SECRET not in said + done.stderr
    assert got.strip() == uri


def config_of(uri: str, *, folder: Path, data: Path) -> RunConfig:
    config = RunConfig(
        name="net",
        storage=str(folder / "runs"),
        model=ModelConfig(width=2, depth=2),
        train=TrainConfig(epochs=1, batch_size=8),
        scaling=ScalingConfig(use_gpu=False),
        tracking=TrackingConfig(uri=uri, pictures=1),
    )
    return dataclasses.replace(config, data=dataclasses.replace(config.data, uri=str(data)))


def test_a_run_writes_no_password_down(
    make_dataset: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("RAYFILL_HOME", str(tmp_path / "home"))
    uri = f"http://user:{SECRET}@127.0.0.1:1"
    with caplog.at_level(logging.WARNING):
        train_here(make_job(config_of(uri, folder=tmp_path, data=make_dataset())))
    assert "events are not in MLflow yet" in caplog.text
    assert SECRET not in caplog.text
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"journal.jsonl", "config.json", "meta.json"} <= {file.name for file in files}
    assert not [file for file in files if SECRET.encode() in file.read_bytes()]


def test_a_resumed_sweep_has_the_password_that_is_given_again(tmp_path: Path) -> None:
    uri = f"http://user:{SECRET}@host"
    trials = plan_trials(
        config_of(uri, folder=tmp_path, data=tmp_path), {"train.learning_rate": (1e-3, 1e-4)}
    )
    plan = Plan(name="s", storage=str(tmp_path), trials=trials)
    open_plan(plan, resume=False)
    assert "http://host" in (tmp_path / "s" / "plan.json").read_text()
    assert SECRET not in (tmp_path / "s" / "plan.json").read_text()
    assert open_plan(plan, resume=True).trials == trials
    elsewhere = [dataclasses.replace(t, tracking=TrackingConfig(uri="http://b")) for t in trials]
    resumed = open_plan(dataclasses.replace(plan, trials=elsewhere), resume=True)
    assert {trial.tracking.uri for trial in resumed.trials} == {"http://host"}
