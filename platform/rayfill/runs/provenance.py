"""What a result was made with: recorded as tags of every run."""

from __future__ import annotations

import functools
import importlib.metadata
import subprocess
from pathlib import Path
from typing import Literal

from rayfill.config.run import RunConfig
from rayfill.runs.folder import RunFolder

#: What a run is: a sweep (the parent of the others), one of its phases, trials or its winner, or a
#: run by itself.
RunKind = Literal["sweep", "phase", "trial", "winner", "single"]

_LIBRARIES = ("rayfill", "ray", "torch", "torchvision", "mlflow")


def provenance_tags(*, dataset_hash: str, seed: int) -> dict[str, str]:
    """Return code version, library versions, dataset hash and seed as MLflow tags."""
    versions = {f"version.{name}": version_of(name) for name in _LIBRARIES}
    return {
        **versions,
        "mlflow.source.git.commit": code_version(),
        # MLflow shows the commit beside a source, and not alone.
        "mlflow.source.name": "rayfill",
        "mlflow.source.type": "LOCAL",
        "dataset_hash": dataset_hash,
        "seed": str(seed),
    }


def run_tags(config: RunConfig, *, kind: RunKind, sweep: str, folder: RunFolder) -> dict[str, str]:
    """Return what to find a run by in MLflow, each key beginning with ``rayfill.``.

    Args:
        config: Of the run, with absolute paths.
        kind: What the run is.
        sweep: Name of its sweep, empty for a run by itself.
        folder: Of its checkpoints and results.
    """
    own = {
        "bundle": folder.bundle,
        "stage": config.train.stage,
        "model": config.model.name,
        "loss": config.loss.terms,
    }
    values = {
        "kind": kind,
        "sweep": sweep,
        "dataset": config.data.uri,
        "run_dir": folder.uri,
        **({} if kind == "sweep" else own),
    }
    return {f"rayfill.{key}": value for key, value in values.items() if value}


def version_of(distribution: str) -> str:
    """Return an installed distribution's version, or ``absent``."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


@functools.cache
def code_version() -> str:
    """Return the commit of the running code, ``-dirty`` behind it when changed, or ``unknown``."""
    root = Path(__file__).resolve().parents[3]

    def git(*arguments: str) -> str:
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(root), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return commit + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
