"""A sweep's folder: the one place that knows what its files are called."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

from rayfill.runs.folder import RunFolder
from rayfill_data.errors import RayfillError, redact_uri
from rayfill_data.storage import create_file, list_folders, read_file, write_file

#: Tables that a sweep ends with: for people, for programs, and every sample's values.
TABLE_TEXT, TABLE_DATA, SAMPLES = "leaderboard.md", "leaderboard.json", "samples.parquet"

_PLAN = "plan.json"
#: A run that goes on with the best trial is called after it.
WINNER = "winner-"


@dataclasses.dataclass(frozen=True)
class SweepFolder:
    """Where a sweep keeps its plan, its runs and its tables."""

    uri: str
    """A local path or a URI."""

    @property
    def name(self) -> str:
        """The sweep's own name."""
        return self.uri.rpartition("/")[2]

    def exists(self) -> bool:
        """Tell whether there is a planned sweep."""
        return read_file(self._plan) is not None

    def run(self, name: str) -> RunFolder:
        """Return the folder of one of its runs."""
        return RunFolder(f"{self.uri}/{name}")

    def runs(self) -> list[RunFolder]:
        """Return the folders that lie in it."""
        return [self.run(name) for name in list_folders(self.uri)]

    def planned_runs(self) -> list[RunFolder]:
        """Return the folders of the planned trials and of the winner trained longer."""
        trials = [str(trial["name"]) for trial in (self.plan() or {}).get("trials", ())]
        winners = [name for name in list_folders(self.uri) if name.startswith(WINNER)]
        return [self.run(name) for name in [*trials, *winners]]

    def plan(self) -> dict[str, Any] | None:
        """Return the plan in plain values, or None where there is none.

        Raises:
            RayfillError: it cannot be read.
        """
        content = read_file(self._plan)
        if content is None:
            return None
        try:
            plan = json.loads(content)
        except ValueError as error:
            raise self.damaged() from error
        if not isinstance(plan, dict):
            raise self.damaged()
        return plan

    def write_plan(self, plan: dict[str, Any]) -> None:
        """Write the plan down, whatever is there."""
        write_file(self._plan, _content(plan))

    def create_plan(self, plan: dict[str, Any]) -> bool:
        """Write the plan down unless there is one; return whether it was written."""
        return create_file(self._plan, _content(plan))

    def damaged(self) -> RayfillError:
        """Return the error of a plan that cannot be read."""
        return RayfillError(
            f"The plan {self._plan} is damaged or of another version of Rayfill; start the sweep "
            "anew without --resume."
        )

    def missing(self) -> RayfillError:
        """Return the error of a folder without a plan."""
        where, _, name = self.uri.rpartition("/")
        return RayfillError(f"There is no sweep {name!r} in {where}: it has no {_PLAN}.")

    def read(self, name: str) -> bytes | None:
        """Return one of the tables, or None where the sweep has not ended."""
        return read_file(f"{self.uri}/{name}")

    def write(self, name: str, content: bytes) -> None:
        """Write one of the tables."""
        write_file(f"{self.uri}/{name}", content)

    @property
    def _plan(self) -> str:
        return f"{self.uri}/{_PLAN}"


def sweeps_in(storage: str) -> list[SweepFolder]:
    """Return all sweeps that a folder of runs holds."""
    folders = [SweepFolder(f"{storage}/{name}") for name in list_folders(storage)]
    return [folder for folder in folders if folder.exists()]


def newest_sweep(name: str, *, storage: str) -> SweepFolder | None:
    """Return the newest sweep of a name (``NAME``, ``NAME-2`` ...), or None where there is none."""
    ours = re.compile(rf"{re.escape(name)}(-\d+)?")
    folders = [
        SweepFolder(f"{storage}/{found}")
        for found in list_folders(storage)
        if ours.fullmatch(found)
    ]
    planned = [folder for folder in folders if folder.exists()]
    return max(planned, key=lambda folder: sweep_number(folder, name=name), default=None)


def sweep_number(folder: SweepFolder, *, name: str) -> int:
    """Return which sweep of a name it is: 1 for ``NAME``, 2 for ``NAME-2``."""
    return int(folder.name[len(name) + 1 :] or 1)


def _content(plan: dict[str, Any]) -> bytes:
    return redact_uri(json.dumps(plan, indent=1)).encode()
