"""A scheduler and a searcher of Ray Tune's own kinds in a sweep."""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path
from typing import Any

import pytest
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch
from rich.console import Console

from rayfill.config.run import RunConfig, replace
from rayfill.runs.folder import Outcome
from rayfill.runs.sweep_folder import SweepFolder
from rayfill.sweeps.plan import Plan, read_plan
from rayfill.sweeps.searcher import SearcherTrials, point_of, suggestion_at, tune_space
from rayfill.sweeps.space import IntRange, LogUniform, Uniform, Variant
from rayfill.sweeps.spec import Sweep, SweepOptions, WinnerOptions
from rayfill.sweeps.sweep import run_sweep
from rayfill_data.errors import ConfigError, RayfillError

SPACE = {
    "train.learning_rate": LogUniform(1e-4, 1e-2),
    "data.color_jitter": Uniform(0.0, 0.5),
    "model.width": IntRange(2, 5),
    "loss.terms": ("l1", "mse"),
    "net": (
        Variant(name="small", changes={"model.depth": 1}),
        Variant(name="deep", changes={"model.depth": 2}),
    ),
}


class StopsSecond(FIFOScheduler):  # type: ignore[misc]
    """Ends the second trial after its first epoch, whatever its score."""

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        second = str(trial.config["trial"]).startswith("02")
        stop = TrialScheduler.STOP if second else TrialScheduler.CONTINUE
        return str(stop)


class Notes(Searcher):  # type: ignore[misc]
    """Suggests the lowest learning rates first, and notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.observations: list[tuple[str, dict[str, Any] | None, bool]] = []
        self.properties: tuple[Any, ...] = ()

    def set_search_properties(self, metric: Any, mode: Any, config: Any, **_: Any) -> bool:
        self.properties = metric, mode, set(config)
        return True

    def suggest(self, trial_id: str) -> dict[str, Any]:
        return {"train.learning_rate": 1e-3 * (1 + int(trial_id)), "loss.terms": "mse"}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self.observations.append((trial_id, result, error))


@pytest.mark.usefixtures("ray_local")
@pytest.mark.filterwarnings(
    # Ray 2.60 leaves sockets and processes to the garbage collector.
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
)
def test_a_sweep_with_a_scheduler_and_a_searcher_of_ones_own(
    small_run: RunConfig, home: Path
) -> None:
    searcher = Notes()
    base = replace(small_run, {"name": "own", "tracking.pictures": 0})
    sweep = Sweep(
        base=base,
        space={"train.learning_rate": LogUniform(1e-4, 1e-2), "loss.terms": ("l1", "mse")},
        options=SweepOptions(trials=3, max_concurrent=1),
        scheduler=StopsSecond(),
        searcher=searcher,
        winner=WinnerOptions(epochs=0),
        baselines=("telea",),
    )
    result = run_sweep(sweep, console=Console(file=io.StringIO(), width=200))
    ended = [(outcome.status, outcome.epoch) for outcome in result.outcomes.values()]
    assert ended == [("finished", 3), ("stopped", 1), ("finished", 3)]
    trials = read_plan(SweepFolder(str(home / "runs" / "own"))).trials
    assert [trial.train.learning_rate for trial in trials] == [1e-3, 2e-3, 3e-3]
    assert {trial.loss.terms for trial in trials} == {"mse"}
    metric = "val/hole_psnr"
    assert searcher.properties == (metric, "max", {"train.learning_rate", "loss.terms"})
    # It learns of a trial before it is asked for the next; nobody asks after the last.
    assert [(name, error) for name, _, error in searcher.observations] == [
        ("0", False),
        ("1", False),
    ]
    scores = {entry.name: entry for entry in result.leaderboard.entries}
    assert set(scores) >= set(result.outcomes)
    assert all(told[metric] > 0 for _, told, _ in searcher.observations if told)
    assert [told["training_iteration"] for _, told, _ in searcher.observations if told] == [3, 1]


def test_optuna_of_tune_searches_every_kind_of_axis() -> None:
    searcher = OptunaSearch(seed=0)
    assert searcher.set_search_properties("val/hole_psnr", "max", tune_space(SPACE))
    for number in range(8):
        suggestion = searcher.suggest(str(number))
        point = point_of(SPACE, suggestion)
        again = suggestion_at(SPACE, point)
        assert again["train.learning_rate"] == pytest.approx(
            suggestion["train.learning_rate"], rel=1e-3
        )
        for key in ("model.width", "loss.terms", "net"):
            assert again[key] == suggestion[key]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"net": "wide"}, "suggested net = 'wide', outside the space: it has one of small, deep"),
        ({"model.width": 9}, "model.width = 9, outside the space: it has a number from 2 to 5"),
        ({"model.widht": 2}, "the space has train.learning_rate"),
    ],
)
def test_a_suggestion_outside_the_space_is_refused(change: dict[str, Any], said: str) -> None:
    inside = {
        "train.learning_rate": 1e-3,
        "data.color_jitter": 0.1,
        "model.width": 3,
        "loss.terms": "l1",
        "net": "deep",
    }
    assert point_of(SPACE, inside)["net"] == 1
    with pytest.raises(RayfillError) as caught:
        point_of(SPACE, inside | change)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("metric", "mode", "best"),
    [("hole_psnr", "max", [20.5, 21.5]), ("coherence", "min", [19.5, 20.5])],
)
def test_a_resumed_search_tells_what_ended_before(
    tmp_path: Path, metric: str, mode: str, best: list[float]
) -> None:
    space = {"train.learning_rate": LogUniform(1e-4, 1e-2), "loss.terms": ("l1", "mse")}
    named = {"name": "r", "storage": str(tmp_path), "eval.select_metric": metric}
    base = replace(RunConfig(), named)
    plan = Plan(name="r", storage=str(tmp_path), trials=[])
    plan.create()

    class Learns(Notes):
        def __init__(self) -> None:
            super().__init__()
            self.points: list[tuple[dict[str, Any], float]] = []

        def add_evaluated_point(self, parameters: Any, value: float, **_: Any) -> None:
            self.points.append((parameters, value))

    def source(searcher: Searcher, said: list[str]) -> SearcherTrials:
        return SearcherTrials(
            plan, base=base, space=space, count=4, searcher=searcher, say=said.append
        )

    first = source(Notes(), [])
    for score in (20.5, 21.5):
        trial = first.next(live=())
        assert trial is not None
        folder = plan.run_folder(trial)
        scores = enumerate((math.nan, score, score - 1, math.nan), start=1)
        folder.write_history([{"epoch": n, f"val/{metric}": value} for n, value in scores])
        folder.write_outcome(Outcome(status="finished", epoch=4))
    learns, said = Learns(), list[str]()
    source(learns, said)
    assert learns.properties == (f"val/{metric}", mode, set(space))
    assert [value for _, value in learns.points] == best
    assert [point["train.learning_rate"] for point, _ in learns.points] == [1e-3, 2e-3]
    assert said == []
    source(Notes(), said)
    assert said == ["Notes cannot be told of earlier trials: it begins afresh."]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scheduler": ASHAScheduler(metric="loss", mode="min")}, "a metric of its own"),
        ({"scheduler": PopulationBasedTraining(hyperparam_mutations={"a": [1]})}, "a population"),
        ({"scheduler": "asha"}, "give an object of Ray Tune's TrialScheduler"),
        ({"searcher": Notes()}, "needs sweep.trials: how many to try"),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_starts(
    change: dict[str, Any], said: str
) -> None:
    sweep = dataclasses.replace(Sweep(base=RunConfig(), space=SPACE), **change)
    with pytest.raises(ConfigError) as caught:
        run_sweep(sweep, console=Console(file=io.StringIO()))
    assert said in str(caught.value)
