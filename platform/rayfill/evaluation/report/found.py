"""Finding the runs that a comparison is asked of, by folder, by name, or in MLflow."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path

from rayfill.evaluation.report.contents import Unranked
from rayfill.runs.bundle import CONFIG_FILE
from rayfill.runs.folders import list_folders, read_file
from rayfill.runs.store import RecordedRun, Store
from rayfill.sweeps.plan import newest_sweep
from rayfill.training.loop import best_bundle
from rayfill_data.errors import RayfillError, unknown_name

_PLAN = "plan.json"
_RUN_ID = re.compile(r"[0-9a-f]{32}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFolder:
    """Where a run's files lie."""

    run_dir: str
    name: str
    """As it was trained."""
    label: str = ""
    """As it is shown: the name, and the sweep's before it where several have that name."""
    sweep_dir: str = ""
    """Folder of its sweep, empty for a run by itself."""
    run_id: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be compared."""

    folders: Sequence[RunFolder]
    whole: Sequence[str] = ()
    """Folders of sweeps that were asked for as a whole, with their baselines."""
    unranked: Sequence[Unranked] = ()
    notes: Sequence[str] = ()
    title: str = ""


class Finder:
    """Turns what a user names into folders."""

    def __init__(self, *, storage: str, store: Store) -> None:
        """Look in a folder of runs first, then in MLflow.

        Args:
            storage: folder or URI that runs are kept in.
            store: MLflow, asked only for what is not a folder.
        """
        self._storage = storage
        self._store = store
        self._folders: list[RunFolder] = []
        self._whole: list[str] = []
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
        folders = list({folder.run_dir: folder for folder in self._folders}.values())
        whole = tuple(dict.fromkeys(self._whole))
        one_sweep = len(whole) == 1 and {folder.sweep_dir for folder in folders} == {*whole}
        return Asked(
            folders=_labelled(folders),
            whole=whole,
            unranked=self._unranked,
            notes=self._notes,
            title=f"{Path(whole[0]).name}: held-out test split" if one_sweep else "",
        )

    def _find(self, token: str) -> None:
        if "://" in token or Path(token).expanduser().is_dir():
            where = token if "://" in token else str(Path(token).expanduser().absolute())
            if not self._folder(where.rstrip("/")):
                raise RayfillError(
                    f"{token} is neither a sweep (it has no {_PLAN}) nor a run (it has neither "
                    "history.json nor best/). Name the folder below it, or a run by name or id."
                )
            return
        newest = self._newest(token)
        if newest:
            self._sweep(newest)
        elif not self._folder(f"{self._storage}/{token}"):
            self._recorded(token)

    def _folder(self, where: str, *, run_id: str = "") -> bool:
        """Add the sweep or the run in a folder; return whether there is one."""
        if read_file(f"{where}/{_PLAN}") is not None:
            self._sweep(where)
            return True
        files = ("history.json", f"best/{CONFIG_FILE}", "outcome.json")
        if all(read_file(f"{where}/{name}") is None for name in files):
            return False
        self._folders.append(_run_folder(where, run_id=run_id))
        return True

    def _sweep(self, where: str) -> None:
        """Add every trial that was planned, and the winner trained longer."""
        plan = json.loads(read_file(f"{where}/{_PLAN}") or b"{}")
        names = [str(trial["name"]) for trial in plan.get("trials", ())]
        names += [name for name in list_folders(where) if name.startswith("winner-")]
        self._whole.append(where)
        self._folders += [
            RunFolder(run_dir=f"{where}/{name}", name=name, sweep_dir=where) for name in names
        ]

    def _newest(self, name: str) -> str:
        """Return the folder of the newest sweep of a name, or nothing."""
        newest = newest_sweep(name, storage=self._storage)
        if newest is None:
            return ""
        if newest != name:
            self._notes.append(f"{newest} is the newest sweep called {name}.")
        return f"{self._storage}/{newest}"

    def _newest_or_raise(self, name: str) -> str:
        newest = self._newest(name)
        if newest:
            return newest
        known = [
            folder
            for folder in list_folders(self._storage)
            if read_file(f"{self._storage}/{folder}/{_PLAN}")
        ]
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
                if run.run_dir and read_file(f"{run.run_dir}/{_PLAN}"):
                    self._whole.append(run.run_dir)
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


def _run_folder(where: str, *, run_id: str) -> RunFolder:
    parent, _, name = where.rpartition("/")
    planned = read_file(f"{parent}/{_PLAN}") is not None
    config = read_file(f"{best_bundle(where)}/{CONFIG_FILE}")
    trained_as = json.loads(config)["extra"].get("run", {}).get("name", name) if config else name
    return RunFolder(
        run_dir=where, name=str(trained_as), sweep_dir=parent if planned else "", run_id=run_id
    )


def _labelled(folders: Sequence[RunFolder]) -> list[RunFolder]:
    """Give every run a name of its own: its own, its sweep's before it, or its folder."""
    names = [folder.name for folder in folders]
    with_sweep = [f"{Path(folder.run_dir).parent.name}/{folder.name}" for folder in folders]
    whole = [folder.run_dir for folder in folders]
    labels = next(own for own in (names, with_sweep, whole) if len(set(own)) == len(own))
    return [dataclasses.replace(f, label=label) for f, label in zip(folders, labels, strict=True)]
