"""The main experiment as a user runs it: a process of its own, interrupted, resumed, finished."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow.tracking import MlflowClient

from rayfill.inference.inpainter import Inpainter
from rayfill.runs.registry import fetch_bundle, find_model

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "experiments" / "attn_unet_sweep.py"
EPOCHS = 4
TRIALS = ["01-l1", "02-log_mse"]
FLAGS = [
    "--model.width", "4", "--model.depth", "2", "--train.batch-size", "8",
    "--sweep.losses", "l1", "log_mse", "--sweep.inpainters", "unet",
    "--sweep.epochs", str(EPOCHS), "--sweep.scheduler", "none",
    "--tracking.pictures", "1",
]  # fmt: skip


def environment(home: Path) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    return inherited | {"RAYFILL_HOME": str(home), "OMP_NUM_THREADS": "1"}


def start(home: Path, dataset: Path, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), "--data.uri", str(dataset), *FLAGS, *flags],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_epochs(home: Path, count: int, process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Wait until trials have done ``count`` epochs in all; return what the sweep has started."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        done = sum(len(json.loads(f.read_text())) for f in home.glob("runs/*/*/history.json"))
        if done >= count:
            return psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.02)
    raise TimeoutError(f"no {count} epochs within 240 s")


def finish(home: Path, dataset: Path, *flags: str) -> str:
    process = start(home, dataset, *flags)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output[-4000:]
    # On a busy machine MLflow may have been too slow for a run that ended; nothing is lost then.
    replay = [sys.executable, "-c", "from rayfill.cli.main import main; main()", "replay"]
    subprocess.run(replay, env=environment(home), check=True, timeout=120)
    return output


def histories(home: Path) -> dict[str, list[float]]:
    return {
        file.parent.name: [entry["train/loss"] for entry in json.loads(file.read_text())]
        for file in sorted(home.glob("runs/attn_unet_sweep/*/history.json"))
    }


@pytest.mark.ray
@pytest.mark.parametrize(
    ("kill", "status", "winner_epochs"),
    [
        (signal.SIGINT, 130, 0),
        pytest.param(signal.SIGTERM, 143, 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, -9, 1, marks=pytest.mark.slow),
    ],
    ids=["SIGINT", "SIGTERM", "SIGKILL"],
)
def test_a_sweep_stopped_half_way_goes_on(
    tmp_path: Path, make_dataset: Any, kill: int, status: int, winner_epochs: int
) -> None:
    home, dataset = tmp_path / "home", make_dataset(train=64)
    winner = ("--winner.epochs", str(winner_epochs))
    process = start(home, dataset, *winner)
    started = wait_for_epochs(home, EPOCHS + 1, process)
    process.send_signal(kill)
    process.communicate(timeout=120)
    assert process.returncode == status
    assert started
    # Ray's agents notice within a minute or so that a killed driver is gone.
    _, left = psutil.wait_procs(started, timeout=150)
    assert not left
    before = histories(home)
    assert 1 <= len(before) < len(TRIALS) or min(map(len, before.values())) < EPOCHS

    for state in home.glob("runs/.ray-tune/**/*"):  # what Tune itself would restore from
        if state.is_file():
            state.write_bytes(state.read_bytes()[:20])
    output = finish(home, dataset, *winner, "--resume")

    after = histories(home)
    trials = [name for name in after if not name.startswith("winner")]
    assert trials == TRIALS
    assert all(len(after[name]) == EPOCHS for name in trials)
    for name, losses in before.items():
        assert after[name][: len(losses)] == losses  # what was done was not done again
    check_results(home, output, trials, winners=min(winner_epochs, 1))


def check_results(home: Path, output: str, trials: list[str], *, winners: int) -> None:
    uri = f"sqlite:///{home}/mlflow.db"
    client = MlflowClient(uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "attn_unet_sweep"]
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    children = {run.info.run_name: run for run in runs if run not in parents}
    assert len(children) == len(runs) - 1 == len(trials) + winners
    for name in trials:
        run = children[name]
        assert run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
        steps = [p.step for p in client.get_metric_history(run.info.run_id, "train/loss")]
        assert steps == list(range(1, EPOCHS + 1))
        assert client.list_artifacts(run.info.run_id, "images")
    board = json.loads((home / "runs/attn_unet_sweep/leaderboard.json").read_text())
    names = {entry["name"] for entry in board["entries"]}
    report = (home / "runs/attn_unet_sweep/report/report.html").read_text()
    assert all(name in report for name in names)
    kept = {file.path for file in client.list_artifacts(parents[0].info.run_id)}
    assert {"leaderboard.md", "report.html", "report.md"} <= kept
    assert {*trials, "telea", "navier_stokes"} < names
    assert "dataset_hash" in board["protocol"]
    assert "held-out test split" in output
    champion = find_model("rayfill", tracking_uri=uri)
    bundle = fetch_bundle(champion, tracking_uri=uri, cache_dir=home / "cache")
    assert Inpainter.from_bundle(bundle) is not None


@pytest.mark.ray
@pytest.mark.slow
def test_trials_of_two_workers_go_through_ray_train(tmp_path: Path, make_dataset: Any) -> None:
    home = tmp_path / "home"
    flags = ["--scaling.num-workers", "2", "--scaling.cpus-per-worker", "0.5"]
    flags += ["--winner.epochs", "1"]
    finish(home, make_dataset(), *flags)
    trials = {name: trace for name, trace in histories(home).items() if name[0] == "0"}
    assert list(trials) == TRIALS
    assert all(len(trace) == EPOCHS for trace in trials.values())
