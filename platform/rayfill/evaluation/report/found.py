"""Finding the runs that a comparison is asked of: by any reference, by name, or in MLflow."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from rayfill.runs.folder import RunFolder
from rayfill.runs.references import (
    MODELS,
    NamesNothingError,
    Reference,
    absolute,
    find_registered,
    find_run,
    find_sweep,
    parse_reference,
    split_label,
)
from rayfill.runs.store import RecordedRun, Store
from rayfill.runs.sweep_folder import SweepFolder, newest_sweep, sweeps_in
from rayfill_data.errors import ConfigError, RayfillError, unknown_name

_RUN_ID = re.compile(r"[0-9a-f]{32}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unranked:
    """A run that was asked for and cannot be ranked."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoundRun:
    """A run that is to be compared."""

    folder: RunFolder
    name: str
    """As it was trained."""
    label: str = ""
    """As it is shown: as was said, else its name, and the sweep's before it where several have
    that name."""
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
        label, value = split_label(token)
        before = len(self._runs)
        besides = (
            f"Nor is it a sweep or run in {self._storage}, or the id or name of a run in "
            f"{self._store.uri}; `rayfill ui` lists the recorded runs."
        )
        try:
            reference = parse_reference(value, allowed=MODELS, besides=besides)
        except NamesNothingError:
            if self._named(token):  # a name may look like LABEL=VALUE
                return
            if not label or not self._named(value):
                raise
        except RayfillError:
            # A run that is no model yet has epochs to show.
            if not self._folder(absolute(value)):
                raise
        else:
            self._refer(reference)
        found = self._runs[before:]
        if label and len(found) > 1:
            raise ConfigError(
                [f"{token!r} is {len(found)} runs: give no label, or name one of them."]
            )
        self._runs[before:] = [dataclasses.replace(r, label=label) for r in found]

    def _refer(self, reference: Reference) -> None:
        """Add the run or the sweep that a reference leads to."""
        if reference.kind == "sweep":
            self._sweep(self._said(find_sweep(reference, storage=self._storage), reference.name))
        elif reference.kind == "recorded":
            self._add(self._store.run(reference.run_id))
        elif reference.kind == "registered":
            version = find_registered(reference, tracking_uri=self._store.uri)
            self._add(self._store.run(version.run_id))
        else:
            self._runs.append(_found_run(find_run(reference), run_id=""))

    def _named(self, name: str) -> bool:
        """Add the sweep or run of a name, or the run of an id; return whether there is one."""
        newest = newest_sweep(name, storage=self._storage)
        if newest:
            self._sweep(self._said(newest, name))
        return bool(newest) or self._folder(f"{self._storage}/{name}") or self._recorded(name)

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

    def _said(self, newest: SweepFolder, name: str) -> SweepFolder:
        """Return a sweep that was asked for by name, and note that there are others."""
        if name and newest.name != name:
            self._notes.append(f"{newest.name} is the newest sweep called {name}.")
        return newest

    def _newest_or_raise(self, name: str) -> SweepFolder:
        newest = newest_sweep(name, storage=self._storage)
        if newest:
            return self._said(newest, name)
        known = [folder.name for folder in sweeps_in(self._storage)]
        if not known:
            raise RayfillError(f"There is no sweep in {self._storage}: run `make sweep` first.")
        raise RayfillError(f"{unknown_name('sweep', name, known)} They lie in {self._storage}.")

    def _recorded(self, token: str) -> bool:
        """Add a run that MLflow knows by its id or its name; return whether there is one."""
        if _RUN_ID.fullmatch(token):
            self._add(self._store.run(token))
            return True
        found = self._store.named(token)
        if len(found) > 1:
            listed = "".join(f"\n  {run.run_id}  {run.describe()}" for run in found)
            raise RayfillError(
                f"{len(found)} runs are called {token!r}; name one by its id or folder:{listed}"
            )
        for run in found:
            self._add(run)
        return bool(found)

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
    """Give every run a name of its own: its label, its own, its sweep's before it, its folder."""
    names = [run.label or run.name for run in runs]
    with_sweep = [run.label or f"{SweepFolder(run.folder.parent).name}/{run.name}" for run in runs]
    whole = [run.folder.uri for run in runs]
    labels = next(own for own in (names, with_sweep, whole) if len(set(own)) == len(own))
    return [dataclasses.replace(run, label=label) for run, label in zip(runs, labels, strict=True)]
