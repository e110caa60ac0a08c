"""An append-only journal of tracking events on local disk, and how far it has been sent."""

from __future__ import annotations

import json
import time
import uuid
from collections import deque
from pathlib import Path
from typing import Any

from rayfill_data.errors import redact_uri
from rayfill_data.storage import write_file

_STATE = "state.json"


def recorded_run(folder: Path) -> str:
    """Return the MLflow run that the journal in ``folder`` writes to, empty while it has none."""
    return str(_read_json(folder / _STATE).get("run_id", ""))


class Journal:
    """Events in ``journal.jsonl``; ``state.json`` holds the run id and the number already sent.

    A line cut short by a crash is dropped when the journal is opened again: the event it began was
    never acknowledged to anybody.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "files").mkdir(parents=True, exist_ok=True)
        self._path = folder / "journal.jsonl"
        self._state_path = folder / _STATE
        state = _read_json(self._state_path)
        self.run_id: str = state.get("run_id", "")
        self._sent: int = state.get("sent", 0)
        self._metrics: set[tuple[str, int]] = set()
        self.started = False
        self._unsent: deque[dict[str, Any]] = deque()
        self._count = 0
        self._load()
        self._file = self._path.open("a", encoding="utf-8")

    @property
    def unsent_count(self) -> int:
        """Number of events that MLflow has not taken yet."""
        return len(self._unsent)

    def append(self, kind: str, **fields: Any) -> None:
        """Write an event to disk and queue it."""
        event = {"kind": kind, "time_ms": time.time_ns() // 1_000_000, **fields}
        line = redact_uri(json.dumps(event, separators=(",", ":")))
        self._file.write(f"{line}\n")
        self._file.flush()
        event = json.loads(line)
        self._index(event)
        self._unsent.append(event)

    def next_unsent(self) -> dict[str, Any]:
        """Return the oldest event that has not been sent."""
        return self._unsent[0]

    def mark_sent(self, event: dict[str, Any]) -> None:
        """Note that the oldest unsent event has been taken."""
        assert self._unsent[0] is event
        self._unsent.popleft()
        self._sent += 1
        self._save_state()

    def remember_run(self, run_id: str) -> None:
        """Note the MLflow run that this journal writes to."""
        self.run_id = run_id
        self._save_state()

    def has_metric(self, key: str, step: int) -> bool:
        """Return whether the journal holds this metric at this step."""
        return (key, step) in self._metrics

    def new_file(self, suffix: str) -> Path:
        """Return a fresh path for a picture that an event refers to."""
        return self.folder / "files" / f"{uuid.uuid4().hex}{suffix}"

    def file(self, name: str) -> Path:
        """Return the path of a picture that an event refers to."""
        return self.folder / "files" / name

    def close(self) -> None:
        """Close the file; the journal can be opened again."""
        self._file.close()

    def _load(self) -> None:
        if not self._path.exists():
            return
        whole = b""
        for line in self._path.read_bytes().splitlines(keepends=True):
            try:
                event = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            whole += line
            self._index(event)
            if self._count > self._sent:
                self._unsent.append(event)
        if len(whole) != self._path.stat().st_size:
            write_file(str(self._path), whole)

    def _index(self, event: dict[str, Any]) -> None:
        self._count += 1
        if event["kind"] == "start":
            self.started = True
        elif event["kind"] == "metrics":
            self._metrics.update((key, event["step"]) for key in event["values"])

    def _save_state(self) -> None:
        state = {"run_id": self.run_id, "sent": self._sent}
        # At every event, and training waits meanwhile: too often to flush the disk.
        write_file(str(self._state_path), json.dumps(state).encode(), durable=False)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}
