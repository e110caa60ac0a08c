"""How Ray Tune gets its trials from our plan, and learns that the budget is used up."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rayfill.config.run import RunConfig
from rayfill.runs.folder import Outcome, continued_epochs
from rayfill.runs.job import TrainingJob, make_job
from rayfill.sweeps.budget import Budget
from rayfill.sweeps.trials import PlannedTrials

if TYPE_CHECKING:
    from ray.tune import Stopper
    from ray.tune.search import Searcher

    from rayfill.sweeps.progress import SweepProgress


class Handout:
    """What the searcher, the stopper and the callback of Tune share."""

    def __init__(
        self,
        source: PlannedTrials,
        *,
        budget: Budget,
        most: int,
        parent: str,
        progress: SweepProgress,
        prepare: Callable[[RunConfig], RunConfig],
    ) -> None:
        self.budget = budget
        self.progress = progress
        self.jobs: dict[str, TrainingJob] = {}
        self.cut: set[str] = set()
        """Trials that the budget ended."""
        self._source = source
        self._most = most
        self._parent = parent
        self._prepare = prepare
        self._live: dict[str, str] = {}

    def next(self, trial_id: str) -> TrainingJob | None:
        """Return what to train next, or None where there is nothing now."""
        if self.over() or len(self._live) >= self._most:
            return None
        live = self._live.values()
        trial = self._source.next(live=live)
        if trial is None:
            return None
        self._live[trial_id] = trial.name
        group = self._source.plan.name
        job = make_job(self._prepare(trial), group=group, parent=self._parent)
        self.jobs[trial.name] = job
        self.progress.planned(trial, begun=continued_epochs(trial), more=self._source.missing())
        if not lasting_outcome(job):
            self.budget.begin(trial)
        return job

    def over(self) -> bool:
        """Return whether nothing will come any more."""
        return bool(self.budget.full()) or self._source.over(live=self._live.values())

    def ended(self, trial_id: str) -> None:
        """Note that a trial has ended."""
        name = self._live.pop(trial_id, "")
        self.budget.end(name)


def make_searcher(handout: Handout) -> Searcher:
    """Return what Tune asks for trials."""
    from ray.tune.search import Searcher

    class HandoutSearcher(Searcher):  # type: ignore[misc]
        def set_search_properties(self, *_: Any, **__: Any) -> bool:
            return True

        def suggest(self, trial_id: str) -> Any:
            job = handout.next(trial_id)
            if job is None:
                return Searcher.FINISHED if handout.over() else None
            return {"trial": job.config.name, "job": job.to_dict()}

        def on_trial_complete(self, trial_id: str, *_: Any, **__: Any) -> None:
            handout.ended(trial_id)

        def save(self, *_: Any) -> None:
            """Our plan is the record; Tune's is never read."""

        def __deepcopy__(self, memo: Any) -> Searcher:
            return self

        def __reduce__(self) -> tuple[Any, ...]:
            return Searcher, ()

    return HandoutSearcher()


def make_stopper(handout: Handout) -> Stopper:
    """Return what ends running trials after the epoch at which the budget is used up."""
    from ray.tune.stopper import NoopStopper, Stopper

    class BudgetStopper(Stopper):  # type: ignore[misc]
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
            if not handout.budget.spent():
                return False
            handout.cut.add(trial_id)
            return True

        def stop_all(self) -> bool:
            return False

        def __deepcopy__(self, memo: Any) -> Stopper:
            return self

        def __reduce__(self) -> tuple[Any, ...]:
            return NoopStopper, ()

    return BudgetStopper()


def lasting_outcome(job: TrainingJob) -> Outcome | None:
    """Return how a run ended in a way that is not tried again."""
    outcome = job.folder.outcome()
    return None if outcome is None or outcome.status == "failed" else outcome
