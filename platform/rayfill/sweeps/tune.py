"""Running the trials of a sweep side by side with Ray Tune."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rayfill.config.run import RunConfig
from rayfill.runs.folder import Outcome
from rayfill.runs.job import TrainingJob
from rayfill.sweeps.budget import Budget
from rayfill.sweeps.handout import Handout, lasting_outcome, make_searcher, make_stopper
from rayfill.sweeps.options import SweepOptions
from rayfill.sweeps.plan import Plan
from rayfill.sweeps.trials import PlannedTrials
from rayfill.training.launch import train_here, train_on_ray

if TYPE_CHECKING:
    from ray.tune import Callback
    from ray.tune.schedulers import TrialScheduler

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
    from ray import tune

    plan, first = source.plan, source.sample
    most = _most_live(options, sample=first, capacity=capacity)
    # Tune's own handler would end the trials and return as if they had all been run.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    # Epochs without a validation have no score, which is no error.
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(most)
    metric = f"val/{first.eval.select_metric}"
    handout = Handout(
        source, budget=budget, most=most, parent=parent, progress=progress, prepare=prepare
    )
    tuner = tune.Tuner(
        tune.with_resources(
            _make_trainable(capacity=capacity, metric=metric), trial_resources(first)
        ),
        tune_config=tune.TuneConfig(
            metric=metric,
            mode="max",
            search_alg=make_searcher(handout),
            num_samples=-1,
            scheduler=scheduler or _scheduler(options, longest=source.longest),
            reuse_actors=True,
            trial_name_creator=lambda trial: str(trial.config["trial"]),
            trial_dirname_creator=lambda trial: str(trial.config["trial"]),
        ),
        run_config=tune.RunConfig(
            name=plan.name,
            storage_path=f"{plan.storage}/.ray-tune",
            verbose=0,
            stop=make_stopper(handout),
            failure_config=tune.FailureConfig(max_failures=first.scaling.max_failures),
            callbacks=[_outcome_writer(handout)],
        ),
    )
    if not handout.over():
        tuner.fit()
    return {trial.name: _outcome(plan, trial, budget=budget) for trial in plan.trials}


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


def concurrent_trials(config: RunConfig, *, capacity: Capacity) -> int:
    """Return how many trials fit on the cluster side by side."""
    scaling = config.scaling
    fits = capacity.cpus / (scaling.cpus_per_worker * scaling.num_workers)
    if scaling.use_gpu:
        fits = min(fits, capacity.gpus / (scaling.gpus_per_worker * scaling.num_workers))
    return max(1, int(fits))


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


def _outcome_writer(handout: Handout) -> Callback:
    """Return the Tune callback that shows progress and writes down how each trial ended."""
    from ray.tune import Callback

    jobs, progress = handout.jobs, handout.progress

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
            elif trial.trial_id not in handout.cut:
                self._end(name, Outcome(status="stopped", epoch=epoch))
            else:  # what it was before is still true
                cut = Outcome(status="unfinished", epoch=epoch, reason=handout.budget.spent())
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
