"""`ray job submit` of the main experiment to a real local head with its token."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[2]
BINARIES = Path(sys.executable).parent
FLAGS = [
    "--model.width", "4", "--model.depth", "2", "--sweep.losses", "l1",
    "--sweep.inpainters", "unet", "--sweep.epochs", "1", "--winner.epochs", "0",
    "--tracking.pictures", "0",
]  # fmt: skip


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Head:
    """A head of our own: its folder, its token, its ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{free_port()}"
        home = folder / "user"
        home.mkdir()
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
        self.environment = kept | {
            "HOME": str(home),
            "RAYFILL_HOME": str(folder / "home"),
            "RAY_AUTH_MODE": "token",
            "RAY_TMPDIR": str(folder / "ray"),
            "OMP_NUM_THREADS": "1",
        }

    def command(self) -> list[str]:
        extra = {
            "--dashboard-agent-listen-port": free_port(),
            "--dashboard-agent-grpc-port": free_port(),
            "--metrics-export-port": free_port(),
            "--ray-client-server-port": free_port(),
            "--node-manager-port": free_port(),
            "--object-manager-port": free_port(),
            "--runtime-env-agent-port": free_port(),
            "--min-worker-port": 0,
            "--max-worker-port": 0,
            "--object-store-memory": 512 * 2**20,
        }
        return [
            str(BINARIES / "rayfill"),
            "head",
            f"--port={free_port()}",
            f"--dashboard-port={self.url.rpartition(':')[2]}",
            "--num-cpus=2",
            "--",
            *(f"{flag}={value}" for flag, value in extra.items()),
        ]

    def submit(self, *arguments: str, cwd: Path = ROOT) -> str:
        command = [str(BINARIES / "ray"), "job", "submit", "--address", self.url, *arguments]
        deadline = time.monotonic() + 120
        while True:
            done = subprocess.run(
                command,
                env=self.environment,
                cwd=cwd,
                capture_output=True,
                text=True,
                timeout=400,
                check=False,
            )
            # The API answers before the head's own agent has come up, and says so.
            if "No available agent" not in done.stderr or time.monotonic() > deadline:
                break
        output = done.stdout + done.stderr
        assert done.returncode == 0, output[-6000:]
        return output


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    # Ray's sockets need a short path.
    folder = Path("/tmp", f"rf-{os.getpid()}")
    folder.mkdir()
    started = Head(folder)
    process = subprocess.Popen(
        started.command(),
        env=started.environment,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(started, process)
        yield started
    finally:
        family = [process.pid]
        with contextlib.suppress(psutil.NoSuchProcess):
            family += [child.pid for child in psutil.Process(process.pid).children(True)]
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(head: Head, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "the head ended"
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{head.url}/api/version", timeout=5).status_code == 401:
                return
        time.sleep(0.2)
    raise TimeoutError("the head's job API did not come up within 120 s")


def test_the_job_api_needs_the_token(head: Head) -> None:
    token = head.folder / "user/.ray/auth_token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert httpx.get(f"{head.url}/api/jobs/").status_code == 401
    with_token = {"Authorization": f"Bearer {token.read_text().strip()}"}
    assert httpx.get(f"{head.url}/api/jobs/", headers=with_token).status_code == 200


FORMS = {
    "script": ["--", "experiments/attn_unet_sweep.py"],
    "working_dir": ["--working-dir", ".", "--", "experiments/attn_unet_sweep.py"],
    "python": ["--working-dir", ".", "--", "python", "experiments/attn_unet_sweep.py"],
}


@pytest.mark.parametrize(
    "form",
    [
        "working_dir",
        pytest.param("script", marks=pytest.mark.slow),
        pytest.param("python", marks=pytest.mark.slow),
    ],
)
def test_the_sweep_runs_as_a_job(head: Head, make_dataset: Any, form: str) -> None:
    flags = ["--name", f"job_{form}", "--data.uri", str(make_dataset()), *FLAGS]
    output = head.submit(*FORMS[form], *flags)
    assert f"job_{form}: held-out test split" in output
    assert "succeeded" in output
    assert (head.folder / f"home/runs/job_{form}/leaderboard.json").is_file()
    assert (head.folder / "home/mlflow.db").is_file()


@pytest.mark.slow
def test_workers_run_the_uploaded_code_not_the_installed(
    head: Head, make_dataset: Any, tmp_path: Path
) -> None:
    copy = tmp_path / "repository"
    ignored = shutil.ignore_patterns(".git", ".venv", "var", "__pycache__", "tests", ".*_cache")
    shutil.copytree(ROOT, copy, ignore=ignored)
    folder = copy / "platform/rayfill/runs/folder.py"
    installed = folder.read_text()
    edited = installed.replace('"history.json"', '"my-history.json"')
    assert edited != installed
    folder.write_text(edited)
    flags = ["--name", "edited", "--data.uri", str(make_dataset()), *FLAGS]
    head.submit(*FORMS["python"], *flags, cwd=copy)
    assert list((head.folder / "home/runs/edited").glob("*/my-history.json"))
