from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rayfill.cli.main import _dispatch, guarded


@dataclasses.dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str


@pytest.fixture
def own_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a process of its own would have: a folder, an environment, signal handlers."""
    before = dict(os.environ)
    handler = signal.getsignal(signal.SIGTERM)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    for name in ("MLFLOW_TRACKING_URI", "RAYFILL_STORAGE", "RAYFILL_HOME", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "400")  # messages stay on a line, however long a folder's name
    yield
    signal.signal(signal.SIGTERM, handler)
    for name in set(os.environ) - set(before):
        del os.environ[name]


@pytest.fixture
def cli(own_process: None, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run ``rayfill ARGS`` as the entry point does, in this process."""

    def run(*args: Any) -> Done:
        capsys.readouterr()
        try:
            status = guarded(_dispatch, [str(arg) for arg in args])
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else -1
        printed = capsys.readouterr()
        return Done(status=status, out=printed.out, err=printed.err)

    return run


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make starting Ray an error."""

    def refuse(**_: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("rayfill.training.cluster.ray_cluster", refuse)
    monkeypatch.setattr("ray.init", refuse)
