"""A run's folder: the one place that knows what its files are called."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rayfill.config.run import RunConfig
from rayfill_data.errors import RayfillError, redact_uri
from rayfill_data.storage import list_folders, read_file, write_file

#: Files of a model bundle.
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
#: Description of a checkpoint, a file of its folder.
CHECKPOINT_META = "meta.json"

_BEST, _CHECKPOINTS = "best", "checkpoints"
_HISTORY, _OUTCOME = "history.json", "outcome.json"

Status = Literal["finished", "stopped", "failed", "unfinished"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a trial ended: after its last epoch, stopped early by the scheduler, or by an error.

    One that the budget kept from ending is unfinished: nothing is written down of it, and a resumed
    sweep goes on with it.
    """

    status: Status
    epoch: int
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its checkpoints, its best model, its epochs and how it ended."""

    uri: str
    """A local path or a URI."""

    @property
    def name(self) -> str:
        """The folder's own name, which is the run's but for runs by another name."""
        return self.uri.rpartition("/")[2]

    @property
    def parent(self) -> str:
        """The folder it lies in: that of its sweep, or the storage."""
        return self.uri.rpartition("/")[0]

    @property
    def bundle(self) -> str:
        """Where the model bundle of its best epoch lies."""
        return f"{self.uri}/{_BEST}"

    @property
    def checkpoints(self) -> str:
        """Where its checkpoints lie."""
        return f"{self.uri}/{_CHECKPOINTS}"

    def exists(self) -> bool:
        """Tell whether anything was recorded here: an epoch, a model or an end."""
        files = (_HISTORY, f"{_BEST}/{CONFIG_FILE}", _OUTCOME)
        return any(read_file(f"{self.uri}/{name}") is not None for name in files)

    def bundle_config(self) -> dict[str, Any] | None:
        """Return what the best model's bundle says of itself, or None where there is none.

        Raises:
            RayfillError: it cannot be read.
        """
        config: dict[str, Any] | None = self._json(f"{_BEST}/{CONFIG_FILE}")
        return config

    def checkpoint_meta(self) -> dict[str, Any]:
        """Return what the newest checkpoint says of itself, empty where there is none.

        Only its description is read; who restores a checkpoint verifies the whole.

        Raises:
            RayfillError: it cannot be read.
        """
        for step in reversed(list_folders(self.checkpoints)):
            values = self._json(f"{_CHECKPOINTS}/{step}/{CHECKPOINT_META}")
            if values:
                return {**values["meta"], "epoch": values["epoch"]}
        return {}

    def history(self) -> list[dict[str, float]]:
        """Return the metrics of every finished epoch, oldest first; none before the first epoch.

        Raises:
            RayfillError: the file cannot be read.
        """
        return self._json(_HISTORY) or []

    def write_history(self, history: Sequence[Mapping[str, float]]) -> None:
        """Write the metrics of every finished epoch, oldest first."""
        write_file(f"{self.uri}/{_HISTORY}", json.dumps(list(history)).encode())

    def scores(self, metric: str) -> dict[int, float]:
        """Return the finite validation scores by epoch."""
        key = f"val/{metric}"
        return {
            int(entry["epoch"]): entry[key]
            for entry in self.history()
            if key in entry and math.isfinite(entry[key])
        }

    def outcome(self) -> Outcome | None:
        """Return how the run ended, or None while it has not.

        Raises:
            RayfillError: the file cannot be read.
        """
        values = self._json(_OUTCOME)
        try:
            return Outcome(**values) if values else None
        except TypeError as error:
            raise self._damaged(_OUTCOME) from error

    def write_outcome(self, outcome: Outcome) -> None:
        """Write down how the run ended."""
        said = redact_uri(json.dumps(dataclasses.asdict(outcome)))
        write_file(f"{self.uri}/{_OUTCOME}", said.encode())

    def _json(self, name: str) -> Any:
        content = read_file(f"{self.uri}/{name}")
        if content is None:
            return None
        try:
            return json.loads(content)
        except ValueError as error:
            raise self._damaged(name) from error

    def _damaged(self, name: str) -> RayfillError:
        return RayfillError(
            f"{self.uri}/{name} is damaged. Restore it from a copy, or delete the run's folder and "
            "train it again: what else lies there is whole."
        )


def continued_epochs(config: RunConfig) -> int:
    """Return how many epochs a run takes over from the one it goes on from."""
    parent = config.train.continue_from
    return int(RunFolder(parent).checkpoint_meta().get("epoch", 0)) if parent else 0
