"""Runs as MLflow knows them: where their files are, and which of them were deleted."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayfill.mlflow_store import open_store
from rayfill_data.errors import RayfillError, unknown_name

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_SQLITE = "sqlite:///"
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
        """Name the store; it is opened when it is first asked."""
        self.uri = uri
        self._opened: MlflowClient | None = None

    def run(self, run_id: str) -> RecordedRun:
        """Return a run by its id.

        Raises:
            RayfillError: there is none, it is deleted, or the store does not answer.
        """
        from mlflow.exceptions import MlflowException

        client = self._client()
        try:
            with _asking(self.uri):
                found = client.get_run(run_id)
        except RayfillError as error:
            cause = error.__cause__
            if isinstance(cause, MlflowException) and (
                cause.error_code == "RESOURCE_DOES_NOT_EXIST"
            ):
                raise RayfillError(
                    f"There is no run {run_id} in {self.uri} (a deleted one is gone for good once "
                    "`mlflow gc` has run). `rayfill ui` lists the runs."
                ) from error
            raise
        if found.info.lifecycle_stage == "deleted":
            raise RayfillError(self._deleted(found))
        return self._read(found)

    def named(self, name: str) -> list[RecordedRun]:
        """Return the runs of a name, newest first.

        Raises:
            RayfillError: every run of that name is deleted, or the store does not answer.
        """
        from mlflow.entities import ViewType

        client = self._client()
        with _asking(self.uri):
            experiments = [e.experiment_id for e in client.search_experiments()]
            quote = '"' if "'" in name else "'"
            found = client.search_runs(
                experiments,
                filter_string=f"attributes.run_name = {quote}{name}{quote}",
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

        client = self._client()
        with _asking(self.uri):
            experiment = client.get_experiment_by_name(name)
            names = [e.name for e in client.search_experiments()]
        if experiment is None:
            raise RayfillError(unknown_name("experiment", name, names))
        if experiment.lifecycle_stage == "deleted":
            raise RayfillError(
                f"Experiment {name!r} is deleted. Restore it with `MLFLOW_TRACKING_URI={self.uri} "
                f"mlflow experiments restore --experiment-id {experiment.experiment_id}`."
            )
        with _asking(self.uri):
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
        client = self._client()
        with _asking(self.uri):
            tags = {run_id: client.get_run(run_id).data.tags for run_id in run_ids}
        return {own.get("mlflow.parentRunId", run_id) for run_id, own in tags.items()}

    def _client(self) -> MlflowClient:
        if self._opened is None:
            file = Path(self.uri.removeprefix(_SQLITE))
            if self.uri.startswith(_SQLITE) and not file.exists():
                raise RayfillError(  # asking would create the database
                    f"There is no MLflow store at {self.uri}. Name one with --tracking-uri, set "
                    "RAYFILL_HOME to where the runs are, or name runs by their folders."
                )
            with _asking(self.uri):
                self._opened = open_store(self.uri)
        return self._opened

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
            with _asking(self.uri):
                group = [self._client().get_run(parent).info.run_name]
        return "/".join([params["storage"], *group, run.info.run_name])

    def _experiment_name(self, experiment_id: str) -> str:
        with _asking(self.uri):
            return str(self._client().get_experiment(experiment_id).name)

    def _deleted(self, run: Any) -> str:
        return (
            f"Run {run.info.run_name!r} ({run.info.run_id}) is deleted. Restore it with "
            f"`MLFLOW_TRACKING_URI={self.uri} mlflow runs restore --run-id {run.info.run_id}` "
            "(until `mlflow gc` removes it for good), or leave it out."
        )


@contextlib.contextmanager
def _asking(uri: str) -> Iterator[None]:
    """Turn whatever MLflow raises into one of our errors."""
    try:
        yield
    except Exception as error:  # MLflow lets the errors of its database drivers through
        message = (str(error).splitlines() or [""])[0]
        raise RayfillError(
            f"MLflow at {uri} was asked for runs and failed ({type(error).__name__}: "
            f"{message[:200]}). Check that the store is reachable, or name runs by their folders."
        ) from error
