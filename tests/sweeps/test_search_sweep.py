"""Searches, populations and budgets as whole sweeps on tiny networks, interrupted and resumed."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from rich.console import Console

from rayfill.config.run import RunConfig, replace
from rayfill.evaluation.leaderboard import Entry
from rayfill.runs.folder import RunFolder
from rayfill.runs.job import make_job
from rayfill.runs.sweep_folder import SweepFolder
from rayfill.sweeps.budget import Budget
from rayfill.sweeps.continuing import continued_sweep
from rayfill.sweeps.plan import Plan, read_plan
from rayfill.sweeps.space import LogUniform
from rayfill.sweeps.spec import Sweep, SweepOptions, WinnerOptions
from rayfill.sweeps.sweep import SweepResult, run_sweep
from rayfill.training.launch import train_here

pytestmark = [
    pytest.mark.usefixtures("ray_local"),
    pytest.mark.filterwarnings(
        # Ray 2.60 leaves sockets and processes to the garbage collector.
        "ignore::ResourceWarning",
        "ignore::pytest.PytestUnraisableExceptionWarning",
        "ignore::DeprecationWarning",
        "ignore::FutureWarning",
    ),
]

RATES = {"train.learning_rate": LogUniform(1e-4, 1e-2)}


def sweep_of(base: RunConfig, space: Any = RATES, *, resume: bool = False, **options: Any) -> Sweep:
    return Sweep(
        base=replace(base, {"name": "s", "train.schedule": "constant", "tracking.pictures": 0}),
        space=space,
        options=SweepOptions(**{"scheduler": "none"} | options),
        winner=WinnerOptions(epochs=0),
        baselines=("telea",),
        resume=resume,
    )


def run(sweep: Sweep) -> tuple[SweepResult, str]:
    stream = io.StringIO()
    result = run_sweep(sweep, console=Console(file=stream, width=200))
    return result, stream.getvalue()


def _val_score(entry: Entry) -> float:
    return entry.val_score


def plan_of(home: Path, name: str = "s") -> Plan:
    return read_plan(SweepFolder(str(home / "runs" / name)))


def test_optuna_within_a_budget_and_resumed(small_run: RunConfig, home: Path) -> None:
    """By coherence: the lowest is best, from Tune to the champion."""
    by_coherence = replace(small_run, {"eval.select_metric": "coherence"})
    sweep = sweep_of(by_coherence, search="optuna", trials=4, max_trials=2, max_concurrent=1)
    part, said = run(sweep)
    assert [o.status for o in part.outcomes.values()] == ["finished"] * 2
    assert "sweep.max_trials 2 have been begun: 0 trials did not end (none) and 2 were not" in said
    assert "sweep.max_trials 2 pays for 50% of it" in said
    before = plan_of(home)
    options = dataclasses.replace(sweep.options, max_trials=None)
    whole, said = run(dataclasses.replace(sweep, options=options, resume=True))
    after = plan_of(home)
    assert whole.name == "s"
    assert after.trials[:2] == before.trials
    assert len(after.points) == len(whole.outcomes) == 4
    assert "did not end" not in said
    rates = {trial.train.learning_rate for trial in after.trials}
    assert len(rates) == 4
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)
    board = whole.leaderboard
    assert board.rank_by == "coherence"
    lowest = min((entry for entry in board.entries if entry.kind == "trial"), key=_val_score)
    assert whole.model is not None
    assert whole.model.scores["val_coherence"] == lowest.val_score
    folder = RunFolder(str(home / "runs" / "s" / lowest.name))
    assert lowest.val_score == min(folder.scores("coherence").values())
    laid_over = any("patches of the photo are laid" in note for note in board.notes)
    patched = [entry.name for entry in board.entries if entry.kind == "finish"]
    assert patched == [f"{lowest.name} + exemplar"] * laid_over
    page = (home / "runs" / "s" / "report" / "report.html").read_text()
    assert all(name in page for name in patched)


@pytest.mark.slow
def test_a_population_goes_on_from_the_better_and_says_so(small_run: RunConfig, home: Path) -> None:
    base = replace(small_run, {"train.epochs": 3})
    sweep = sweep_of(base, search="random", trials=3, scheduler="pbt", max_trials=4)
    part, said = run(sweep)
    cut = [name for name, outcome in part.outcomes.items() if outcome.status == "unfinished"]
    assert len(cut) == 2  # three of the first generation and one of the second were begun
    options = dataclasses.replace(sweep.options, max_trials=None)
    whole, resumed = run(dataclasses.replace(sweep, options=options, resume=True))
    plan = plan_of(home)
    assert len(plan.trials) == 9
    assert [trial.train.epochs for trial in plan.trials] == [1] * 3 + [2] * 3 + [3] * 3
    assert all(outcome.status == "finished" for outcome in whole.outcomes.values())
    taken = 0
    for earlier, later in zip(plan.trials[:-3], plan.trials[3:], strict=True):
        parent = str(later.train.continue_from)
        own = parent == plan.run_folder(earlier).uri
        taken += not own
        donor = next(trial for trial in plan.trials if plan.run_folder(trial).uri == parent)
        same = later.train.learning_rate == donor.train.learning_rate
        assert same or not own  # only those that take over change their hyperparameters
        before, after = RunFolder(parent).history(), plan.run_folder(later).history()
        assert after[: len(before)] == before
        assert len(after) == len(before) + 1
    assert taken == 2
    assert (said + resumed).count(" takes over from ") == 2
    # The table has the end of every line, and by what the best came about.
    shown = {entry.name for entry in whole.leaderboard.entries}
    assert {trial.name for trial in plan.trials[-3:]} <= shown
    assert any("came about by epochs 1 to 1: train.learning_rate" in n
               for n in whole.leaderboard.notes)  # fmt: skip


@pytest.mark.slow
def test_continued_trials_equal_longer_ones(small_run: RunConfig, home: Path) -> None:
    space = {"loss.terms": ("l1", "mse")}
    run(sweep_of(small_run, space))
    sweep = continued_sweep(
        plan_of(home),
        epochs=2,
        best=1,
        names=(),
        schedule="continue",
        options=SweepOptions(scheduler="none"),
        resume=False,
    )
    result, _ = run(sweep)
    (name,) = result.outcomes
    parent = name.removesuffix("+2")
    assert result.name == "s-continued"
    kinds = {entry.name: entry.kind for entry in result.leaderboard.entries}
    assert {name: kinds[name] for name in kinds if name[0] == "0"} == {
        name: "trial",
        parent: "earlier",
    }
    (planned,) = (trial for trial in plan_of(home).trials if trial.name == parent)
    train_here(make_job(replace(planned, {"train.epochs": 5, "name": "long"})))
    traces = [
        [entry["train/loss"] for entry in RunFolder(str(home / "runs" / folder)).history()]
        for folder in (f"s-continued/{name}", "long")
    ]
    assert traces[0] == traces[1]
    assert len(traces[0]) == 5
    client = MlflowClient(str(small_run.tracking.uri or f"sqlite:///{home}/mlflow.db"))
    experiment = client.get_experiment_by_name("rayfill")
    runs = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    tags = runs[name].data.tags
    assert tags["rayfill.continued_from"] == str(home / "runs" / "s" / parent)
    assert runs[name].info.run_id != tags["rayfill.continued_run_id"]
    assert client.get_run(tags["rayfill.continued_run_id"]).info.run_name == parent


@pytest.mark.slow
def test_running_trials_end_with_their_epoch_when_the_hours_are_used_up(
    small_run: RunConfig, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every epoch is an hour on this clock."""

    def clock() -> float:
        histories = home.glob("runs/s/*/history.json")
        return 3600.0 * sum(len(json.loads(file.read_text())) for file in histories)

    monkeypatch.setattr("rayfill.sweeps.sweep.Budget", functools.partial(Budget, clock=clock))
    space = {"loss.terms": ("l1", "mse", "log_mse")}
    sweep = sweep_of(
        small_run, space, max_hours=4, max_concurrent=1, cost_per_cpu_hour=0.5, search="grid"
    )
    part, said = run(sweep)
    assert [outcome.status for outcome in part.outcomes.values()] == [
        "finished", "unfinished", "unfinished",
    ]  # fmt: skip
    assert [outcome.epoch for outcome in part.outcomes.values()] == [3, 1, 0]
    assert "sweep.max_hours 4 is used up: 2 trials did not end (02-mse after epoch 1, " in said
    assert "Used: 4.00 h, cost 2.00." in said
    plan = plan_of(home)
    assert [plan.run_folder(trial).outcome() is None for trial in plan.trials] == [
        False,
        True,
        True,
    ]
    before = [plan.run_folder(trial).history() for trial in plan.trials]
    whole, _ = run(
        dataclasses.replace(
            sweep, options=dataclasses.replace(sweep.options, max_hours=None), resume=True
        )
    )
    assert [outcome.status for outcome in whole.outcomes.values()] == ["finished"] * 3
    after = [plan.run_folder(trial).history() for trial in plan.trials]
    assert [history[: len(old)] for old, history in zip(before, after, strict=True)] == before


@pytest.mark.slow
def test_earlier_results_and_weights_are_taken_along(small_run: RunConfig, home: Path) -> None:
    run(sweep_of(small_run, search="random", trials=2))
    base = replace(small_run, {"train.init_from": "sweep:s", "train.epochs": 1})
    sweep = sweep_of(base, search="optuna", trials=1, warm_from="s")
    sweep = dataclasses.replace(sweep, base=replace(sweep.base, {"name": "t"}))
    _, said = run(sweep)
    plan = plan_of(home, "t")
    assert len(plan.observations) == 2
    assert "The search knew 2 of 2 trials of s." in said
    (trial,) = plan.trials
    assert trial.train.init_from == "sweep:s"  # what was asked for is the record
    assert plan.started_from["sweep:s"] in {
        plan_of(home).run_folder(other).bundle for other in plan_of(home).trials
    }
    first = plan.run_folder(trial).history()[0]["val/hole_psnr"]
    assert first > min(
        plan_of(home).run_folder(other).history()[0]["val/hole_psnr"]
        for other in plan_of(home).trials
    )
