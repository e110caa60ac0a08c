"""Running the trials of a sweep side by side with Ray Tune, fed from our own plan."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rayfill.config.ranking import less_is_better
from rayfill.config.run import RunConfig
from rayfill.runs.folder import Outcome, continued_epochs
from rayfill.runs.job import TrainingJob, make_job
from rayfill.sweeps.budget import Budget
from rayfill.sweeps.plan import Plan
from rayfill.sweeps.spec import SweepOptions
from rayfill.sweeps.trials import PlannedTrials
from rayfill.training.cluster import concurrent_trials
from rayfill.training.launch import train_here, train_on_ray

if TYPE_CHECKING:
    from ray.tune import Callback, Stopper, Tuner
    from ray.tune.schedulers import TrialScheduler
    from ray.tune.search import Searcher

    from rayfill.sweeps.progress import SweepProgress
    from rayfill.training.cluster import Capacity

#: A trial that has ended may wait for MLflow this long before the next takes over its process; with
#: Tune's own patience of 2 s the next trial fails.
_HANDOVER_TIMEOUT_S = "60"

#: A trial that only launches Ray Train workers needs a place of its own, and next to no CPU: with
#: the default of one, two launchers and their workers wait for each other for ever on two cores.
_LAUNCHER_CPUS = 0.01

#: Trials that may wait for a growing cluster, so that it sees how much is wanted.
_MOST_WAITING = 200


def run_trials(
    source: PlannedTrials,
    *,
    options: SweepOptions,
    budget: Budget,
    capacity: Capacity,
    parent: str,
    progress: SweepProgress,
    scheduler: TrialScheduler | None = None,
    prepare: Callable[[RunConfig], RunConfig] = lambda trial: trial,
) -> dict[str, Outcome]:
    """Run every trial that has not ended yet and return how each ended, by name.

    Trials that ended before (of a resumed sweep) report their epochs again from their history, so
    that the scheduler compares the others with them.

    Args:
        source: Where trials come from; all have the same metric.
        options: How to run them.
        budget: What may be used; trials that it leaves out are unfinished.
        capacity: Of the cluster.
        parent: MLflow run (or its journal) that the trials' runs belong to.
        progress: Shows how far the trials are.
        scheduler: One of Tune's in place of the one that ``options`` name.
        prepare: Changes a planned run before it is trained.
    """
    plan, first = source.plan, source.sample
    most = _most_live(options, sample=first, capacity=capacity)
    # Tune's own handler would end the trials and return as if they had all been run.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    # Epochs without a validation have no score, which is no error.
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(most)
    feeder = TrialFeeder(
        source, budget=budget, most=most, parent=parent, progress=progress, prepare=prepare
    )
    if not feeder.over():
        scheduler = scheduler or _scheduler(options, longest=source.longest)
        _tuner(source, feeder=feeder, capacity=capacity, scheduler=scheduler).fit()
    return {trial.name: _outcome(plan, trial, budget=budget) for trial in plan.trials}


def _tuner(
    source: PlannedTrials, *, feeder: TrialFeeder, capacity: Capacity, scheduler: TrialScheduler
) -> Tuner:
    from ray import tune

    plan, first = source.plan, source.sample
    metric = f"val/{first.eval.select_metric}"
    return tune.Tuner(
        tune.with_resources(
            _make_trainable(capacity=capacity, metric=metric), trial_resources(first)
        ),
        tune_config=tune.TuneConfig(
            metric=metric,
            mode="min" if less_is_better(first.eval.select_metric) else "max",
            search_alg=make_searcher(feeder),
            num_samples=-1,
            scheduler=scheduler,
            reuse_actors=True,
            trial_name_creator=lambda trial: str(trial.config["trial"]),
            trial_dirname_creator=lambda trial: str(trial.config["trial"]),
        ),
        run_config=tune.RunConfig(
            name=plan.name,
            storage_path=f"{plan.storage}/.ray-tune",
            verbose=0,
            stop=make_stopper(feeder),
            failure_config=tune.FailureConfig(max_failures=first.scaling.max_failures),
            callbacks=[_outcome_writer(feeder)],
        ),
    )


def _outcome(plan: Plan, trial: RunConfig, *, budget: Budget) -> Outcome:
    folder = plan.run_folder(trial)
    outcome = folder.outcome()
    if outcome is not None:
        return outcome
    if why := budget.full():
        return Outcome(status="unfinished", epoch=len(folder.history()), reason=why)
    return Outcome(status="failed", epoch=0, reason="never ran")


def _most_live(options: SweepOptions, *, sample: RunConfig, capacity: Capacity) -> int:
    """Return how many trials may run or wait to run at a time."""
    if options.max_concurrent:
        return options.max_concurrent
    # A search that asked for many at once would not know what came of them.
    if capacity.can_grow and options.search != "optuna":
        return _MOST_WAITING
    return concurrent_trials(sample, capacity=capacity)


def trial_resources(config: RunConfig) -> dict[str, float]:
    """Return what one trial asks Ray Tune for.

    A trial of one worker trains in Tune's own process; one of several workers only launches them.
    """
    scaling = config.scaling
    if scaling.num_workers > 1:
        return {"CPU": _LAUNCHER_CPUS}
    gpus = {"GPU": scaling.gpus_per_worker} if scaling.use_gpu else {}
    return {"CPU": scaling.cpus_per_worker, **gpus}


def _make_trainable(*, capacity: Capacity, metric: str) -> Callable[[dict[str, Any]], None]:
    def trial(point: dict[str, Any]) -> None:
        from ray import tune

        os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = _HANDOVER_TIMEOUT_S  # of this process
        job = TrainingJob.from_dict(point["job"])

        def report(entry: dict[str, float]) -> None:
            if metric in entry:
                tune.report(dict(entry))

        outcome = lasting_outcome(job)
        if outcome is not None:
            for entry in job.folder.history()[: outcome.epoch]:
                report(entry)
        elif job.config.scaling.num_workers > 1:
            from ray.tune.integration.ray_train import TuneReportCallback

            train_on_ray(job, capacity=capacity, callbacks=[TuneReportCallback()])
        else:
            train_here(job, report=report)

    return trial


def scheduler_problems(scheduler: TrialScheduler, *, options: SweepOptions) -> Iterator[str]:
    """Yield what keeps a scheduler of one's own from being used."""
    from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler

    if not isinstance(scheduler, TrialScheduler):
        yield f"Sweep.scheduler is {scheduler!r}: give an object of Ray Tune's TrialScheduler."
    elif isinstance(scheduler, PopulationBasedTraining) or options.scheduler == "pbt":
        yield "Sweep.scheduler cannot be or go with a population: give options.scheduler 'pbt'."
    elif getattr(scheduler, "_metric", None):
        yield (
            "Sweep.scheduler has a metric of its own, or was used before: make a fresh one without "
            "metric and mode; trials are compared by eval.select_metric."
        )


def _scheduler(options: SweepOptions, *, longest: int) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    if options.scheduler != "asha":
        return FIFOScheduler()
    return ASHAScheduler(
        # Our own count: Tune's restarts at 1 when a trial is taken up again.
        time_attr="epoch",
        max_t=longest,
        grace_period=min(options.grace_epochs, longest),
        reduction_factor=2,
    )


def _outcome_writer(feeder: TrialFeeder) -> Callback:
    """Return the Tune callback that shows progress and writes down how each trial ended."""
    from ray.tune import Callback

    jobs, progress = feeder.jobs, feeder.progress

    class OutcomeWriter(Callback):  # type: ignore[misc]
        def on_trial_start(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            progress.started(trial.config["trial"])

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any
        ) -> None:
            progress.reported(trial.config["trial"], result)

        def on_trial_complete(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            name = trial.config["trial"]
            epoch = int(trial.last_result.get("epoch", 0))
            if epoch >= jobs[name].config.train.epochs:
                self._end(name, Outcome(status="finished", epoch=epoch))
            elif trial.trial_id not in feeder.cut:
                self._end(name, Outcome(status="stopped", epoch=epoch))
            else:  # what it was before is still true
                cut = Outcome(status="unfinished", epoch=epoch, reason=feeder.budget.spent())
                progress.ended(name, lasting_outcome(jobs[name]) or cut)

        def on_trial_error(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            name = trial.config["trial"]
            epoch = int(trial.last_result.get("epoch", 0))
            reason = _last_line(trial.get_pickled_error() or trial.get_error())
            self._end(name, Outcome(status="failed", epoch=epoch, reason=reason))

        def __reduce__(self) -> tuple[Any, ...]:
            # Tune writes its callbacks to disk for a restore of its own, which we never make.
            return Callback, ()

        def _end(self, name: str, outcome: Outcome) -> None:
            jobs[name].folder.write_outcome(outcome)
            progress.ended(name, outcome)

    return OutcomeWriter()


def _last_line(error: object) -> str:
    cause = getattr(error, "cause", None) or error
    lines = str(cause).strip().splitlines() or ["unknown error"]
    return lines[-1]


class TrialFeeder:
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


def make_searcher(feeder: TrialFeeder) -> Searcher:
    """Return what Tune asks for trials."""
    from ray.tune.search import Searcher

    class HandoutSearcher(Searcher):  # type: ignore[misc]
        def set_search_properties(self, *_: Any, **__: Any) -> bool:
            return True

        def suggest(self, trial_id: str) -> Any:
            job = feeder.next(trial_id)
            if job is None:
                return Searcher.FINISHED if feeder.over() else None
            return {"trial": job.config.name, "job": job.to_dict()}

        def on_trial_complete(self, trial_id: str, *_: Any, **__: Any) -> None:
            feeder.ended(trial_id)

        def save(self, *_: Any) -> None:
            """Our plan is the record; Tune's is never read."""

        def __deepcopy__(self, memo: Any) -> Searcher:
            return self

        def __reduce__(self) -> tuple[Any, ...]:
            return Searcher, ()

    return HandoutSearcher()


def make_stopper(feeder: TrialFeeder) -> Stopper:
    """Return what ends running trials after the epoch at which the budget is used up."""
    from ray.tune.stopper import NoopStopper, Stopper

    class BudgetStopper(Stopper):  # type: ignore[misc]
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
            if not feeder.budget.spent():
                return False
            feeder.cut.add(trial_id)
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
