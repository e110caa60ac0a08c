"""Finding the runs that a comparison is asked of, by folder, by name, or in MLflow."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from rayfill.evaluation.report.contents import Unranked
from rayfill.runs.folder import RunFolder
from rayfill.runs.store import RecordedRun, Store
from rayfill.runs.sweep_folder import SweepFolder, newest_sweep, sweeps_in
from rayfill_data.errors import RayfillError, unknown_name

_RUN_ID = re.compile(r"[0-9a-f]{32}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoundRun:
    """A run that is to be compared."""

    folder: RunFolder
    name: str
    """As it was trained."""
    label: str = ""
    """As it is shown: the name, and the sweep's before it where several have that name."""
    sweep: SweepFolder | None = None
    """Its sweep, None for a run by itself."""
    run_id: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be compared."""

    runs: Sequence[FoundRun]
    whole: Sequence[SweepFolder] = ()
    """Sweeps that were asked for as a whole, with their baselines."""
    unranked: Sequence[Unranked] = ()
    notes: Sequence[str] = ()
    title: str = ""


class RunFinder:
    """Turns what a user names into folders."""

    def __init__(self, *, storage: str, store: Store) -> None:
        """Look in a folder of runs first, then in MLflow.

        Args:
            storage: folder or URI that runs are kept in.
            store: MLflow, asked only for what is not a folder.
        """
        self._storage = storage
        self._store = store
        self._runs: list[FoundRun] = []
        self._whole: list[SweepFolder] = []
        self._unranked: list[Unranked] = []
        self._notes: list[str] = []

    def find(
        self, tokens: Sequence[str], *, experiment: str | None = None, sweep: str | None = None
    ) -> Asked:
        """Return everything that is named.

        Raises:
            RayfillError: something that is not there, is deleted, or may be several runs.
        """
        for token in tokens:
            self._find(token)
        if sweep is not None:
            self._sweep(self._newest_or_raise(sweep))
        if experiment is not None:
            self._experiment(experiment)
        runs = list({run.folder: run for run in self._runs}.values())
        whole = tuple(dict.fromkeys(self._whole))
        one_sweep = len(whole) == 1 and {run.sweep for run in runs} == {*whole}
        return Asked(
            runs=_labelled(runs),
            whole=whole,
            unranked=self._unranked,
            notes=self._notes,
            title=f"{whole[0].name}: held-out test split" if one_sweep else "",
        )

    def _find(self, token: str) -> None:
        if "://" in token or Path(token).expanduser().is_dir():
            where = token if "://" in token else str(Path(token).expanduser().absolute())
            if not self._folder(where.rstrip("/")):
                raise RayfillError(
                    f"{token} is neither a sweep nor a run: it holds no plan, no epochs and no "
                    "best model. Name the folder below it, or a run by name or id."
                )
            return
        newest = self._newest(token)
        if newest:
            self._sweep(newest)
        elif not self._folder(f"{self._storage}/{token}"):
            self._recorded(token)

    def _folder(self, where: str, *, run_id: str = "") -> bool:
        """Add the sweep or the run in a folder; return whether there is one."""
        sweep, folder = SweepFolder(where), RunFolder(where)
        if sweep.exists():
            self._sweep(sweep)
        elif folder.exists():
            self._runs.append(_found_run(folder, run_id=run_id))
        else:
            return False
        return True

    def _sweep(self, sweep: SweepFolder) -> None:
        """Add every trial that was planned, and the winner trained longer."""
        self._whole.append(sweep)
        self._runs += [
            FoundRun(folder=folder, name=folder.name, sweep=sweep)
            for folder in sweep.planned_runs()
        ]

    def _newest(self, name: str) -> SweepFolder | None:
        """Return the newest sweep of a name, or nothing."""
        newest = newest_sweep(name, storage=self._storage)
        if newest and newest.name != name:
            self._notes.append(f"{newest.name} is the newest sweep called {name}.")
        return newest

    def _newest_or_raise(self, name: str) -> SweepFolder:
        newest = self._newest(name)
        if newest:
            return newest
        known = [folder.name for folder in sweeps_in(self._storage)]
        if not known:
            raise RayfillError(f"There is no sweep in {self._storage}: run `make sweep` first.")
        raise RayfillError(f"{unknown_name('sweep', name, known)} They lie in {self._storage}.")

    def _recorded(self, token: str) -> None:
        """Add a run that MLflow knows by its id or its name."""
        if _RUN_ID.fullmatch(token):
            self._add(self._store.run(token))
            return
        found = self._store.named(token)
        if len(found) > 1:
            listed = "".join(f"\n  {run.run_id}  {run.describe()}" for run in found)
            raise RayfillError(
                f"{len(found)} runs are called {token!r}; name one by its id or folder:{listed}"
            )
        if not found:
            raise RayfillError(
                f"Nothing is called {token!r}: it is no folder, no sweep or run in "
                f"{self._storage}, and no run id or run name in {self._store.uri}. "
                "`rayfill ui` lists the recorded runs."
            )
        self._add(found[0])

    def _experiment(self, name: str) -> None:
        runs, deleted = self._store.experiment(name)
        if deleted:
            runs_are = "run of experiment {} is" if deleted == 1 else "runs of experiment {} are"
            self._notes.append(f"{deleted} deleted {runs_are.format(name)} left out.")
        parents = {run.parent_id for run in runs}
        for run in runs:
            if run.run_id in parents:
                if run.run_dir and SweepFolder(run.run_dir).exists():
                    self._whole.append(SweepFolder(run.run_dir))
            elif run.kind != "phase":
                self._add(run)

    def _add(self, run: RecordedRun) -> None:
        """Add a run of MLflow by its folder, or say why it cannot be ranked."""
        if run.run_dir and self._folder(run.run_dir, run_id=run.run_id):
            return
        if run.run_dir:
            why = f"its folder {run.run_dir} is gone or cannot be reached from here"
        else:
            why = "MLflow does not say where its files are (no tag rayfill.run_dir)"
        last = f"; MLflow has {run.scores()}" if run.metrics else "; it recorded no metrics"
        self._unranked.append(Unranked(name=run.name, reason=f"{why}{last}."))


def _found_run(folder: RunFolder, *, run_id: str) -> FoundRun:
    sweep = SweepFolder(folder.parent)
    config = folder.bundle_config() or {"extra": {}}
    return FoundRun(
        folder=folder,
        name=str(config["extra"].get("run", {}).get("name", folder.name)),
        sweep=sweep if sweep.exists() else None,
        run_id=run_id,
    )


def _labelled(runs: Sequence[FoundRun]) -> list[FoundRun]:
    """Give every run a name of its own: its own, its sweep's before it, or its folder."""
    names = [run.name for run in runs]
    with_sweep = [f"{SweepFolder(run.folder.parent).name}/{run.name}" for run in runs]
    whole = [run.folder.uri for run in runs]
    labels = next(own for own in (names, with_sweep, whole) if len(set(own)) == len(own))
    return [dataclasses.replace(run, label=label) for run, label in zip(runs, labels, strict=True)]
