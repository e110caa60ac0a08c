"""Training trials of an earlier sweep for more epochs, as a sweep of its own beside the first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rayfill.config.ranking import best_of, worth
from rayfill.config.run import RunConfig, replace
from rayfill.sweeps.plan import Plan, leaves
from rayfill.sweeps.spec import Sweep, SweepOptions, WinnerOptions
from rayfill_data.checks import Count, value_problems
from rayfill_data.errors import ConfigError, RayfillError, unknown_name

Schedule = Literal["continue", "restart"]

_SCHEDULES = {
    "continue": "the learning rate goes on as if the runs had been planned that long",
    "restart": "the learning rate begins its schedule again, warm-up included",
}


def continued_sweep(
    plan: Plan,
    *,
    epochs: int,
    best: int | None,
    names: Sequence[str],
    schedule: Schedule,
    options: SweepOptions,
    resume: bool,
) -> Sweep:
    """Return a sweep that trains trials of another for more epochs, from their last checkpoints.

    Args:
        plan: Of the earlier sweep.
        epochs: To train besides those that were done.
        best: So many, by validation; None is all.
        names: These trials, also such as were stopped early; otherwise all that finished.
        schedule: Whether the learning rate goes on or begins again; the same where it is constant.
        options: Limits.
        resume: Go on with an interrupted continuation.

    Raises:
        ConfigError: every argument that cannot be used.
        RayfillError: no trial that can be continued.
    """
    problems = [
        *value_problems("epochs", epochs, Count),
        *value_problems("best", best, Count | None),
    ]
    if best is not None and names:
        problems.append("best and trials exclude each other: leave one out.")
    if options.search != "grid" or options.scheduler == "pbt":
        problems.append("A continuation chooses nothing: leave sweep.search and pbt out.")
    problems += _name_problems(plan, names)
    if problems:
        raise ConfigError(problems)
    parents = _chosen(plan, best=best, names=names)
    runs = [_going_on(parent, plan=plan, epochs=epochs, schedule=schedule) for parent in parents]
    return Sweep(
        base=replace(runs[0], {"name": f"{plan.name}-continued", "train.continue_from": None}),
        runs=runs,
        beside={parent.name: plan.run_folder(parent).uri for parent in parents},
        options=options,
        winner=WinnerOptions(epochs=0),
        notes=[
            f"Trials of {plan.name} trained for {epochs} more epochs; {_SCHEDULES[schedule]}. Rows "
            "of kind earlier are the same runs before."
        ],
        resume=resume,
    )


def _name_problems(plan: Plan, names: Sequence[str]) -> list[str]:
    known = {trial.name: trial for trial in plan.trials}
    problems = []
    for name in names:
        if name not in known:
            problems.append(unknown_name("trial", name, known))
            continue
        outcome = plan.run_folder(known[name]).outcome()
        if outcome is None:
            problems.append(f"Trial {name} has not ended: go on with its sweep with --resume.")
        elif outcome.status == "failed":
            problems.append(
                f"Trial {name} failed ({outcome.reason}): what it lacks must be put right, and its "
                "sweep gone on with by --resume."
            )
    return problems


def _chosen(plan: Plan, *, best: int | None, names: Sequence[str]) -> list[RunConfig]:
    if names:
        return [trial for trial in plan.trials if trial.name in names]
    ended = [
        trial
        for trial in leaves(plan)
        if (outcome := plan.run_folder(trial).outcome()) and outcome.status == "finished"
    ]
    if not ended:
        raise RayfillError(
            f"No trial of {plan.name} has finished. Name those that were stopped early with "
            "--trials, or go on with the sweep with --resume."
        )

    def trial_worth(trial: RunConfig) -> float:
        metric = trial.eval.select_metric
        scores = plan.run_folder(trial).scores(metric)
        return worth(best_of(scores.values(), metric=metric), metric=metric)

    return sorted(ended, key=trial_worth, reverse=True)[:best]


def _going_on(parent: RunConfig, *, plan: Plan, epochs: int, schedule: Schedule) -> RunConfig:
    folder = plan.run_folder(parent)
    done = folder.checkpoint_meta().get("epoch")
    if done is None:
        raise RayfillError(f"{folder.uri} has no checkpoint any more, so it cannot be continued.")
    return replace(
        parent,
        {
            "name": f"{parent.name}+{epochs}",
            "storage": plan.storage,
            "train.epochs": done + epochs,
            "train.continue_from": folder.uri,
            "train.init_from": None,
            "train.schedule_epochs": (done, done + epochs) if schedule == "restart" else None,
            "scaling.use_gpu": None,  # settled for this cluster, not for that one
        },
    )
