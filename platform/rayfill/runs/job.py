"""One run as it is sent to the process that trains it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rayfill.config.run import RunConfig, from_dict, to_dict
from rayfill.runs import places
from rayfill.runs.folder import RunFolder
from rayfill.runs.provenance import RunKind


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One run with every path absolute: what is sent to the process that trains it."""

    config: RunConfig
    run_dir: str
    tracker_dir: str
    parent: str = ""
    sweep: str = ""
    kind: RunKind = "single"

    @property
    def folder(self) -> RunFolder:
        """Where its files lie."""
        return RunFolder(self.run_dir)

    def to_dict(self) -> dict[str, Any]:
        """Return the job as plain values."""
        return {**dataclasses.asdict(self), "config": to_dict(self.config)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingJob:
        """Return the job that :meth:`to_dict` described."""
        return cls(**{**values, "config": from_dict(RunConfig, values["config"])})


def make_job(
    config: RunConfig, *, group: str = "", parent: str = "", kind: RunKind | None = None
) -> TrainingJob:
    """Return the job of a run, in its own folder under the storage (and the group's).

    A run of a group is a trial unless ``kind`` says otherwise.
    """
    parts = [part for part in (group, config.name) if part]
    return TrainingJob(
        config=config,
        run_dir="/".join([str(config.storage), *parts]),
        tracker_dir=str(places.home().joinpath("tracking", *parts)),
        parent=parent,
        sweep=group,
        kind=kind or ("trial" if group else "single"),
    )
