"""The epochs of a run as a small file beside its checkpoints, for whoever watches it."""

from __future__ import annotations

import json

from rayfill.runs.folders import read_file, write_file

_FILE = "history.json"


def write_history(run_dir: str, history: list[dict[str, float]]) -> None:
    """Write the metrics of every finished epoch, oldest first."""
    write_file(f"{run_dir}/{_FILE}", json.dumps(history).encode())


def read_history(run_dir: str) -> list[dict[str, float]]:
    """Return the metrics of every finished epoch, oldest first; none before the first epoch."""
    content = read_file(f"{run_dir}/{_FILE}")
    return json.loads(content) if content else []
