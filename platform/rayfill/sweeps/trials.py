"""Where the next trial of a sweep comes from: the plan, or a search that adds to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence

from rayfill.config.run import RunConfig, check, from_dict, replace
from rayfill.runs.folder import RunFolder
from rayfill.runs.job import TrainingJob, make_job
from rayfill.runs.sweep_folder import SweepFolder
from rayfill.sweeps.plan import Plan, make_trial
from rayfill.sweeps.search import Observation, next_by_optuna
from rayfill.sweeps.space import RANGES, Point, Space, changes_of

_EPOCHS = "train.epochs"


class PlannedTrials:
    """Hands out the trials of a plan in their order."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._handed = 0

    @property
    def sample(self) -> RunConfig:
        """A run that is like all of them but for what is varied."""
        return self.plan.trials[0]

    @property
    def longest(self) -> int:
        """Epochs of the longest trial."""
        return max(trial.train.epochs for trial in self.plan.trials)

    def next(self, *, live: Collection[str]) -> RunConfig | None:
        """Return the next trial, or None where there is none now.

        Args:
            live: Names of the trials that were handed out and have not ended.
        """
        if self._handed == len(self.plan.trials) and not self._grow(live):
            return None
        trial = self.plan.trials[self._handed]
        self._handed += 1
        return trial

    def over(self, *, live: Collection[str]) -> bool:  # noqa: ARG002
        """Return whether no trial will come any more."""
        return self._handed == len(self.plan.trials)

    def missing(self) -> int:
        """Return how many trials are still to be planned."""
        return 0

    def notes(
        self,
        runs: Sequence[RunConfig],
        *,
        worth: Callable[[RunConfig], float],  # noqa: ARG002
    ) -> list[str]:
        """Return what a reader of the table should know of how the trials came about."""
        return []

    def _grow(self, live: Collection[str]) -> bool:  # noqa: ARG002
        """Add trials to the plan and return whether there are any."""
        return False


class OptunaTrials(PlannedTrials):
    """Plans each trial where the results of those before it promise most."""

    def __init__(self, plan: Plan, *, base: RunConfig, space: Space, count: int) -> None:
        """Search a space.

        Args:
            plan: With what was planned before, if the sweep is resumed.
            base: What all trials share, placed on the cluster.
            space: What is varied.
            count: Trials in all.
        """
        super().__init__(plan)
        self._base = base
        self._space = space
        self._count = count
        self._used_up = False

    @property
    def sample(self) -> RunConfig:
        """A run that is like all of them but for what is varied."""
        return self._base

    @property
    def longest(self) -> int:
        """Epochs of the longest trial there can be."""
        return longest_epochs(self._base, self._space)

    def over(self, *, live: Collection[str]) -> bool:
        """Return whether no trial will come any more."""
        return super().over(live=live) and (not self.missing() or self._used_up)

    def missing(self) -> int:
        """Return how many trials are still to be planned."""
        return max(0, self._count - len(self.plan.trials))

    def _grow(self, live: Collection[str]) -> bool:
        if not self.missing():
            return False
        number = len(self.plan.trials)
        point = self._next_point(number, live=live)
        if point is None:
            return False
        trial = make_trial(self._base, self._space, point=point, prefix=f"{number + 1:02d}")
        self.plan.add([check(trial)], points=[point])
        return True

    def _next_point(self, number: int, *, live: Collection[str]) -> Point | None:
        """Return where to look next, or None where there is nothing, now or ever."""
        point = next_by_optuna(
            self._space,
            observations=self._observations(live),
            metric=self._base.eval.select_metric,
            seed=self._base.train.seed,
            number=number,
        )
        self._used_up = point is None
        return point

    def _observations(self, live: Collection[str]) -> list[Observation]:
        own = [
            observation_of(
                trial,
                folder=self.plan.run_folder(trial),
                point=point,
                live=trial.name in live,
            )
            for trial, point in zip(self.plan.trials, self.plan.points, strict=True)
        ]
        return [*self.plan.observations, *own]


def longest_epochs(base: RunConfig, space: Space) -> int:
    """Return the most epochs that a run of a space can have."""
    longest = [base.train.epochs]
    for key, axis in space.items():
        if isinstance(axis, RANGES):
            longest += [int(axis.high)] if key == _EPOCHS else []
            continue
        for value in axis:
            longest.append(changes_of({key: value}).get(_EPOCHS, 0))
    return max(longest)


def observation_of(
    trial: RunConfig, *, folder: RunFolder, point: Point, live: bool = False
) -> Observation:
    """Return what the records of a trial say of its point."""
    outcome = None if live else folder.outcome()
    return Observation(
        point=point,
        scores=folder.scores(trial.eval.select_metric),
        status=outcome.status if outcome else "running",
    )


def earlier_job(name: str, *, folder: RunFolder) -> TrainingJob:
    """Return the job of a run of another sweep, by its folder, under the name it is shown by."""
    trained = from_dict(RunConfig, folder.checkpoint_meta()["config"])
    job = make_job(replace(trained, {"name": name}), group=SweepFolder(folder.parent).name)
    return dataclasses.replace(job, run_dir=folder.uri)
