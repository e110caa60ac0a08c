"""Runs as MLflow knows them: where their files are, and which of them were deleted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

from rayfill.runs.mlflow_store import asking, sqlite_file
from rayfill_data.errors import RayfillError, unknown_name

_MOST = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordedRun:
    """One run of MLflow."""

    run_id: str
    name: str
    experiment: str
    status: str
    started: str
    """Date and time."""
    parent_id: str
    run_dir: str
    """Folder or URI of its files, empty where it does not say."""
    kind: str
    """``sweep``, ``phase``, ``trial``, ``winner``, ``single``; empty of older versions."""
    metrics: Mapping[str, float]

    def describe(self) -> str:
        """Return when and where it ran."""
        return f"{self.started}  {self.status}  experiment {self.experiment}"

    def scores(self) -> str:
        """Return its last test or validation scores in a few words."""
        found = {k: v for k, v in self.metrics.items() if k in _SCORES and math.isfinite(v)}
        return ", ".join(f"{k} {v:.3f}" for k, v in found.items()) or "no score of its pictures"


_SCORES = ("test/hole_psnr", "test/psnr", "val/hole_psnr", "val/psnr")


class Store:
    """An MLflow store that is only read."""

    def __init__(self, uri: str) -> None:
        """Name the store; it is opened when it is asked."""
        self.uri = uri

    def run(self, run_id: str) -> RecordedRun:
        """Return a run by its id.

        Raises:
            RayfillError: there is none, it is deleted, or the store does not answer.
        """
        absent = RayfillError(
            f"There is no run {run_id} in {self.uri} (a deleted one is gone for good once `mlflow "
            "gc` has run). `rayfill ui` lists the runs."
        )
        with asking(self.uri, "for runs", absent=absent) as client:
            found = client.get_run(run_id)
        if found.info.lifecycle_stage == "deleted":
            raise RayfillError(self._deleted(found))
        return self._read(found)

    def named(self, name: str) -> list[RecordedRun]:
        """Return the runs of a name, newest first; none where there is no store.

        Raises:
            RayfillError: every run of that name is deleted, or the store does not answer.
        """
        return self._where("attributes.run_name", name)

    def in_folder(self, uri: str) -> list[RecordedRun]:
        """Return the runs whose files lie in a folder; as :meth:`named`."""
        return self._where("tags.`rayfill.run_dir`", uri)

    def _where(self, key: str, value: str) -> list[RecordedRun]:
        file = sqlite_file(self.uri)
        if file and not file.exists():
            return []
        from mlflow.entities import ViewType

        with asking(self.uri, "for runs") as client:
            experiments = [e.experiment_id for e in client.search_experiments()]
            quote = '"' if "'" in value else "'"
            found = client.search_runs(
                experiments,
                filter_string=f"{key} = {quote}{value}{quote}",
                run_view_type=ViewType.ALL,
                max_results=_MOST,
            )
        active = [run for run in found if run.info.lifecycle_stage != "deleted"]
        if found and not active:
            raise RayfillError(" ".join(self._deleted(run) for run in found))
        return [self._read(run) for run in active]

    def experiment(self, name: str) -> tuple[list[RecordedRun], int]:
        """Return the runs of an experiment, oldest first, and how many more are deleted.

        Raises:
            RayfillError: no such experiment, a deleted one, or the store does not answer.
        """
        from mlflow.entities import ViewType

        with asking(self.uri, "for runs") as client:
            experiment = client.get_experiment_by_name(name)
            names = [e.name for e in client.search_experiments()]
        if experiment is None:
            raise RayfillError(unknown_name("experiment", name, names))
        if experiment.lifecycle_stage == "deleted":
            raise RayfillError(
                f"Experiment {name!r} is deleted. Restore it with `MLFLOW_TRACKING_URI={self.uri} "
                f"mlflow experiments restore --experiment-id {experiment.experiment_id}`."
            )
        with asking(self.uri, "for runs") as client:
            found = client.search_runs(
                [experiment.experiment_id],
                run_view_type=ViewType.ALL,
                max_results=_MOST,
                order_by=["attributes.start_time ASC"],
            )
        active = [run for run in found if run.info.lifecycle_stage != "deleted"]
        return [self._read(run) for run in active], len(found) - len(active)

    def parents_of(self, run_ids: Collection[str]) -> set[str]:
        """Return the parents of runs, and the runs themselves that have none.

        Raises:
            RayfillError: the store does not answer.
        """
        with asking(self.uri, "for runs") as client:
            tags = {run_id: client.get_run(run_id).data.tags for run_id in run_ids}
        return {own.get("mlflow.parentRunId", run_id) for run_id, own in tags.items()}

    def _read(self, run: Any) -> RecordedRun:
        from datetime import UTC, datetime

        tags, params = run.data.tags, run.data.params
        started = datetime.fromtimestamp(run.info.start_time / 1000, tz=UTC)
        parent = tags.get("mlflow.parentRunId", "")
        return RecordedRun(
            run_id=run.info.run_id,
            name=run.info.run_name,
            experiment=self._experiment_name(run.info.experiment_id),
            status=run.info.status.lower(),
            started=f"{started:%Y-%m-%d %H:%M} UTC",
            parent_id=parent,
            run_dir=tags.get("rayfill.run_dir") or self._older_run_dir(run, params, parent),
            kind=tags.get("rayfill.kind", ""),
            metrics=run.data.metrics,
        )

    def _older_run_dir(self, run: Any, params: Mapping[str, str], parent: str) -> str:
        """Return the folder of a run recorded before runs said where theirs is."""
        if "storage" not in params:
            return ""
        group = []
        if parent:
            with asking(self.uri, "for runs") as client:
                group = [client.get_run(parent).info.run_name]
        return "/".join([params["storage"], *group, run.info.run_name])

    def _experiment_name(self, experiment_id: str) -> str:
        with asking(self.uri, "for runs") as client:
            return str(client.get_experiment(experiment_id).name)

    def _deleted(self, run: Any) -> str:
        return (
            f"Run {run.info.run_name!r} ({run.info.run_id}) is deleted. Restore it with "
            f"`MLFLOW_TRACKING_URI={self.uri} mlflow runs restore --run-id {run.info.run_id}` "
            "(until `mlflow gc` removes it for good), or leave it out."
        )
