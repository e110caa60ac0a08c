"""Running the trials of a sweep side by side with Ray Tune."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from rayfill.config import RunConfig
from rayfill.sweep_plan import Outcome, read_outcome, write_outcome
from rayfill.training.driver import TrainingJob, make_job, train_here, train_on_ray
from rayfill.training.history import read_history

if TYPE_CHECKING:
    from ray.tune import Callback

    from rayfill.cluster import Capacity
    from rayfill.sweep_progress import SweepProgress

#: A trial that has ended may wait for MLflow this long before the next takes over its process; with
#: Tune's own patience of 2 s the next trial fails.
_HANDOVER_TIMEOUT_S = "60"

#: A trial that only launches Ray Train workers needs a place of its own, and next to no CPU: with
#: the default of one, two launchers and their workers wait for each other for ever on two cores.
_LAUNCHER_CPUS = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """How a sweep is run; what it varies is the experiment's own."""

    scheduler: Literal["asha", "none"] = "asha"
    """asha stops the weaker half of the trials early; none runs all to the end."""
    grace_epochs: int = 1
    """Epochs every trial gets before it may be stopped early."""
    max_concurrent: int | None = None
    """Trials at a time; None is as many as the cluster holds."""

    def problems(self) -> Iterator[str]:
        """Yield one sentence for every value that cannot be used."""
        if self.grace_epochs < 1:
            yield f"sweep.grace_epochs is {self.grace_epochs}: it must be at least 1."
        if self.max_concurrent is not None and self.max_concurrent < 1:
            yield f"sweep.max_concurrent is {self.max_concurrent}: it must be at least 1."


def run_trials(
    trials: Sequence[RunConfig],
    *,
    group: str,
    options: SweepOptions,
    capacity: Capacity,
    parent: str,
    progress: SweepProgress,
) -> dict[str, Outcome]:
    """Run every trial that has not ended yet and return how each ended, by name.

    Trials that ended before (of a resumed sweep) report their epochs again from their history, so
    that the scheduler compares the others with them.

    Args:
        trials: Resolved runs of the same metric.
        group: Name of the sweep.
        options: How to run them.
        capacity: Of the cluster.
        parent: MLflow run (or its journal) that the trials' runs belong to.
        progress: Shows how far the trials are.
    """
    from ray import tune

    # Tune's own handler would end the trials and return as if they had all been run.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    # Epochs without a validation have no score, which is no error.
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    jobs = {trial.name: make_job(trial, group=group, parent=parent) for trial in trials}
    first = trials[0]
    metric = f"val/{first.eval.select_metric}"
    tuner = tune.Tuner(
        tune.with_resources(
            _make_trainable(jobs, capacity=capacity, metric=metric), trial_resources(first)
        ),
        param_space={"trial": tune.grid_search([trial.name for trial in trials])},
        tune_config=tune.TuneConfig(
            metric=metric,
            mode="max",
            scheduler=_scheduler(options, trials=trials),
            max_concurrent_trials=options.max_concurrent,
            reuse_actors=True,
            trial_name_creator=lambda trial: str(trial.config["trial"]),
            trial_dirname_creator=lambda trial: str(trial.config["trial"]),
        ),
        run_config=tune.RunConfig(
            name=group,
            storage_path=f"{first.storage}/.ray-tune",
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=first.scaling.max_failures),
            callbacks=[_outcome_writer(jobs, progress=progress)],
        ),
    )
    tuner.fit()
    outcomes = {name: read_outcome(job.run_dir) for name, job in jobs.items()}
    missing = Outcome(status="failed", epoch=0, reason="never ran")
    return {name: outcome or missing for name, outcome in outcomes.items()}


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


def _make_trainable(
    jobs: Mapping[str, TrainingJob], *, capacity: Capacity, metric: str
) -> Callable[[dict[str, Any]], None]:
    values = {name: job.to_dict() for name, job in jobs.items()}

    def trial(point: dict[str, Any]) -> None:
        from ray import tune

        os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = _HANDOVER_TIMEOUT_S  # of this process
        job = TrainingJob.from_dict(values[point["trial"]])

        def report(entry: dict[str, float]) -> None:
            if metric in entry:
                tune.report(dict(entry))

        outcome = read_outcome(job.run_dir)
        if outcome is not None and outcome.status != "failed":
            for entry in read_history(job.run_dir)[: outcome.epoch]:
                report(entry)
        elif job.config.scaling.num_workers > 1:
            from ray.tune.integration.ray_train import TuneReportCallback

            train_on_ray(job, capacity=capacity, callbacks=[TuneReportCallback()])
        else:
            train_here(job, report=report)

    return trial


def _scheduler(options: SweepOptions, *, trials: Sequence[RunConfig]) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    if options.scheduler == "none":
        return FIFOScheduler()
    longest = max(trial.train.epochs for trial in trials)
    return ASHAScheduler(
        # Our own count: Tune's restarts at 1 when a trial is taken up again.
        time_attr="epoch",
        max_t=longest,
        grace_period=min(options.grace_epochs, longest),
        reduction_factor=2,
    )


def _outcome_writer(jobs: Mapping[str, TrainingJob], *, progress: SweepProgress) -> Callback:
    """Return the Tune callback that shows progress and writes down how each trial ended."""
    from ray.tune import Callback

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
            whole = epoch >= jobs[name].config.train.epochs
            self._end(name, Outcome(status="finished" if whole else "stopped", epoch=epoch))

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
            write_outcome(jobs[name].run_dir, outcome)
            progress.ended(name, outcome)

    return OutcomeWriter()


def _last_line(error: object) -> str:
    cause = getattr(error, "cause", None) or error
    lines = str(cause).strip().splitlines() or ["unknown error"]
    return lines[-1]
