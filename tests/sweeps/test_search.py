"""Choosing points of a space: by themselves, without any training."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest

from rayfill.config.ranking import less_is_better, worth
from rayfill.config.run import RunConfig, flatten, replace, to_dict
from rayfill.models.pretrained import Availability
from rayfill.runs.folder import Outcome
from rayfill.sweeps.draft import draft_search, earlier_observations
from rayfill.sweeps.plan import Plan, make_trial, open_plan, plan_trials
from rayfill.sweeps.population import Population, explore
from rayfill.sweeps.search import Observation, next_by_optuna, next_random
from rayfill.sweeps.space import (
    IntRange,
    LogUniform,
    Point,
    Uniform,
    Variant,
    describe_space,
    draw_point,
    find_point,
    values_at,
)
from rayfill.sweeps.spec import SweepOptions
from rayfill.sweeps.trials import OptunaTrials, PlannedTrials
from rayfill_data.errors import ConfigError, RayfillError

SPACE = {
    "train.learning_rate": LogUniform(1e-4, 1e-1),
    "loss.alpha": Uniform(0.0, 0.9),
    "train.epochs": IntRange(1, 9),
    "model.name": ("unet", "attention_unet", "shallow_unet"),
}


def oracle(point: Point) -> float:
    """A score with one best point: 0 at 10^-2.5, 0.3, 6 and attention_unet."""
    return -(
        (math.log10(point["train.learning_rate"]) + 2.5) ** 2
        + 4 * (point["loss.alpha"] - 0.3) ** 2
        + 0.05 * (point["train.epochs"] - 6) ** 2
        + 0.5 * (point["model.name"] != 1)
    )


def search(seed: int, count: int, *, metric: str = "hole_psnr") -> list[Observation]:
    """Search as if the oracle were a metric; where less is better, it is shown upside down."""
    sign = -1 if less_is_better(metric) else 1
    observations: list[Observation] = []
    for number in range(count):
        point = next_by_optuna(
            SPACE, observations=observations, metric=metric, seed=seed, number=number
        )
        assert point is not None
        scores = {1: sign * oracle(point)}
        observations.append(Observation(point=point, scores=scores, status="finished"))
    return observations


def test_points_lie_within_their_ranges_and_follow_from_the_seed() -> None:
    drawn = [draw_point(SPACE, np.random.default_rng(seed)) for seed in range(300)]
    for key, axis in SPACE.items():
        low, high = (0, 2) if isinstance(axis, tuple) else (axis.low, axis.high)
        assert all(low <= point[key] <= high for point in drawn)
    assert {point["train.epochs"] for point in drawn} == set(range(1, 10))
    assert {point["model.name"] for point in drawn} == {0, 1, 2}
    # Every order of magnitude is as likely as any other.
    small = sum(point["train.learning_rate"] < 1e-3 for point in drawn)
    assert 70 <= small <= 130
    assert sum(point["loss.alpha"] < 0.3 for point in drawn) == pytest.approx(100, abs=30)
    again = [next_random(SPACE, tried=[], seed=7, number=number) for number in range(5)]
    assert again == [next_random(SPACE, tried=[], seed=7, number=number) for number in range(5)]
    assert again != [next_random(SPACE, tried=[], seed=8, number=number) for number in range(5)]


def test_optuna_finds_better_points_than_chance() -> None:
    by_optuna, by_chance = [], []
    for seed in range(8):
        by_optuna.append(max(one.scores[1] for one in search(seed, 40)))
        points: list[Point] = []
        for number in range(40):
            point = next_random(SPACE, tried=points, seed=seed, number=number)
            assert point is not None
            points.append(point)
        by_chance.append(max(map(oracle, points)))
    assert mean(by_optuna) > 0.7 * mean(by_chance)  # both below 0, the best score there is
    assert sum(a > b for a, b in zip(by_optuna, by_chance, strict=True)) >= 6


def test_optuna_looks_where_less_is_better() -> None:
    lowest = search(3, 12, metric="coherence")
    assert [one.point for one in lowest] == [one.point for one in search(3, 12)]


def test_optuna_proposes_the_same_of_the_same_results_whatever_was_asked_before() -> None:
    observations = search(3, 12)
    assert [one.point for one in search(3, 12)] == [one.point for one in observations]
    assert (
        next_by_optuna(SPACE, observations=observations[:9], metric="hole_psnr", seed=3, number=9)
        == observations[9].point
    )


def test_all_kinds_of_results_are_told() -> None:
    observations = search(0, 10)
    point = observations[0].point
    mixed = [
        *observations,
        Observation(point=point, scores={1: 1.0, 2: math.nan}, status="stopped"),
        Observation(point=point, scores={1: math.nan}, status="finished"),
        Observation(point=point, status="failed"),
        Observation(point=point, scores={1: 3.0}),
    ]
    assert (
        next_by_optuna(SPACE, observations=mixed, metric="hole_psnr", seed=0, number=14) is not None
    )


def test_a_space_that_is_used_up_gives_no_more_points() -> None:
    space = {"model.name": ("unet", "attention_unet")}
    tried: list[Point] = [{"model.name": 0}, {"model.name": 1}]
    assert next_random(space, tried=tried, seed=0, number=2) is None
    observations = [Observation(point=point, scores={1: 1.0}, status="finished") for point in tried]
    assert next_by_optuna(space, observations=observations, metric="psnr", seed=0, number=2) is None
    draft = draft_search(RunConfig(), space, options=SweepOptions(search="random", trials=5))
    assert len(draft.trials) == 2
    assert draft.notes == ["The space has no more than 2 points to try."]


def test_a_point_is_found_again_in_the_run_it_gave() -> None:
    variants = (
        Variant(name="off", changes={"loss.mask_expansion": 0.0}),
        Variant(name="on", changes={"loss.mask_expansion": 10.0, "loss.segmentation": 2.0}),
    )
    space = SPACE | {"system": variants}
    for seed in range(20):
        point = draw_point(space, np.random.default_rng(seed))
        run = make_trial(RunConfig(), space, point=point, prefix="01")
        assert find_point(space, flatten(to_dict(run))) == point
        assert values_at(space, point)["train.learning_rate"] == run.train.learning_rate
    elsewhere = flatten(to_dict(replace(RunConfig(), {"train.learning_rate": 0.5})))
    assert find_point(space, elsewhere) is None
    assert describe_space(space)["loss.alpha"] == "Uniform(0, 0.9)"
    assert describe_space(space)["system"] == "off, on"


def test_exploring_stays_in_the_space_and_moves() -> None:
    point: Point = {"train.learning_rate": 1e-2, "loss.alpha": 0.3, "train.epochs": 5}
    point["model.name"] = 2
    rng = np.random.default_rng(0)
    moved = [explore(SPACE, point, rng) for _ in range(200)]
    ratios = [p["train.learning_rate"] / 1e-2 for p in moved]
    near = sum(min(abs(r - 0.8), abs(r - 1.2)) < 1e-9 for r in ratios)
    assert near == pytest.approx(150, abs=25)  # one in four is drawn afresh
    for key, axis in SPACE.items():
        low, high = (0, 2) if isinstance(axis, tuple) else (axis.low, axis.high)
        assert all(low <= p[key] <= high for p in moved)


@pytest.mark.parametrize(
    ("space", "options", "why"),
    [
        ({"train.learning_rate": Uniform(0, 1)}, {}, "is a range, and a grid needs listed values"),
        ({"loss.alpha": Uniform(0.5, 0.1)}, {"search": "random", "trials": 2}, "low must be below"),
        ({"loss.alpha": LogUniform(0, 0.1)}, {"search": "random", "trials": 2}, "above 0"),
        ({"data.expand_px": IntRange(3, 3)}, {"search": "random", "trials": 2}, "low must be belo"),
        ({"loss.alpha": Uniform(0.5, 1.5)}, {"search": "optuna", "trials": 2}, "be in \\[0, 1\\)"),
        ({"model.name": ()}, {"search": "optuna", "trials": 2}, "no values"),
        (
            {"loss.alhpa": Uniform(0, 0.1)},
            {"search": "optuna", "trials": 2},
            "Did you mean 'alpha'",
        ),
        (
            {"model.name": ("unet", "attention_unet")},
            {"scheduler": "pbt"},
            "cannot vary model.name",
        ),
        ({"train.epochs": (5, 6)}, {"scheduler": "pbt"}, "cannot vary train.epochs"),
        (
            {"loss.alpha": (0.1, 0.2)},
            {"scheduler": "pbt", "generation_epochs": 10},
            "two generations at least",
        ),
        ({"loss.alpha": (0.1,)}, {"scheduler": "pbt"}, "two members at least"),
    ],
)
def test_spaces_that_cannot_be_searched(space: Any, options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        draft_search(RunConfig(), space, options=SweepOptions(**options))


def test_values_without_weights_leave_the_space(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Availability(ok=False, reason="no weights here", how_to_get="Get them.")
    monkeypatch.setattr("rayfill.losses.feature_weights_available", lambda *_, **__: absent)
    space = {"loss.terms": ("l1", "perceptual"), "train.learning_rate": LogUniform(1e-4, 1e-2)}
    draft = draft_search(RunConfig(), space, options=SweepOptions(search="optuna", trials=3))
    assert draft.space["loss.terms"] == ("l1",)
    assert draft.notes == [
        "loss.terms perceptual left out of the search: no weights here. Get them."
    ]
    with pytest.raises(RayfillError, match="Nothing of the space can be trained"):
        draft_search(
            RunConfig(),
            {"loss.terms": ("perceptual",)},
            options=SweepOptions(search="optuna", trials=3),
        )


def optuna_source(storage: Path, *, resume: bool = False, count: int = 6) -> OptunaTrials:
    plan = Plan(name="s", storage=str(storage), trials=[], search={"kind": "optuna"})
    return OptunaTrials(open_plan(plan, resume=resume), base=RunConfig(), space=SPACE, count=count)


def finish(source: PlannedTrials, trial: RunConfig) -> None:
    folder = source.plan.run_folder(trial)
    point = find_point(SPACE, flatten(to_dict(trial)))
    assert point is not None
    folder.write_history([{"epoch": 1, "val/hole_psnr": oracle(point)}])
    folder.write_outcome(Outcome(status="finished", epoch=1))


def test_a_search_killed_at_any_trial_goes_on_with_the_same(tmp_path: Path) -> None:
    whole = optuna_source(tmp_path / "whole", count=12)
    names = []
    while trial := whole.next(live=()):
        finish(whole, trial)
        names.append(trial.name)
    assert len(names) == 12
    assert whole.over(live=())
    for killed in (1, 9, 11):
        storage = tmp_path / str(killed)
        source = optuna_source(storage, count=12)
        for number in range(killed):
            trial = source.next(live=())
            assert trial is not None
            if number < killed - 1:  # the last one was planned and had no time to end
                finish(source, trial)
        resumed = optuna_source(storage, resume=True, count=12)
        got = []
        while trial := resumed.next(live=()):
            finish(resumed, trial)
            got.append(trial.name)
        assert got == names


def test_more_trials_may_be_asked_for_on_resume(tmp_path: Path) -> None:
    first = optuna_source(tmp_path, count=2)
    while trial := first.next(live=()):
        finish(first, trial)
    more = optuna_source(tmp_path, resume=True, count=4)
    assert more.missing() == 2
    space = {"train.learning_rate": LogUniform(1e-4, 1e-2)}
    few, many = (
        draft_search(RunConfig(), space, options=SweepOptions(search="random", trials=count))
        for count in (3, 5)
    )
    plans = [
        Plan(name="r", storage=str(tmp_path), trials=list(d.trials), search=d.search)
        for d in (few, many)
    ]
    open_plan(plans[0], resume=False)
    assert open_plan(plans[1], resume=True).trials == list(many.trials)
    with pytest.raises(RayfillError, match="planned with other settings"):
        open_plan(plans[0], resume=True)


def test_another_search_does_not_resume(tmp_path: Path) -> None:
    optuna_source(tmp_path)
    other = Plan(name="s", storage=str(tmp_path), trials=[], search={"kind": "random"})
    with pytest.raises(RayfillError, match="planned with other settings"):
        open_plan(other, resume=True)


@pytest.mark.parametrize(("metric", "donor"), [("hole_psnr", "d"), ("coherence", "b")])
def test_a_population_takes_over_from_its_best(tmp_path: Path, metric: str, donor: str) -> None:
    space = {"train.learning_rate": LogUniform(1e-4, 1e-1)}
    base = replace(RunConfig(), {"eval.select_metric": metric, "storage": str(tmp_path)})
    whole = {"train.epochs": 1, "train.schedule_epochs": (0, 2)}
    members = [replace(base, {**whole, "name": name}) for name in "abcd"]
    plan = open_plan(Plan(name="p", storage=str(tmp_path), trials=members), resume=False)
    population = Population(plan, space=space, members=4, generation_epochs=1, say=print)
    for score in (0.5, 0.2, math.nan, 0.9):
        trial = population.next(live=())
        assert trial is not None
        folder = plan.run_folder(trial)
        folder.write_history([{"epoch": 1, f"val/{metric}": score}])
        folder.write_outcome(Outcome(status="finished", epoch=1))
    assert population.next(live=()) is not None
    parents = [Path(str(t.train.continue_from)).name for t in plan.trials[4:]]
    assert parents == ["a", "b", donor, "d"]  # the third has no score
    scores = {"a": 0.5, "b": 0.2, "d": 0.9}
    runs = [member for member in members if member.name in scores]
    note = population.notes(runs, worth=lambda run: worth(scores[run.name], metric=metric))
    assert note[0].startswith(f"{donor} came about")


def test_sweeps_begun_at_once_get_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = plan_trials(RunConfig(), {"train.epochs": (1, 2)})
    # Each looks before any has written its plan.
    monkeypatch.setattr("rayfill.sweeps.plan.newest_sweep", lambda *_, **__: None)
    plans = [
        open_plan(Plan(name="s", storage=str(tmp_path), trials=list(trials)), resume=False)
        for _ in range(3)
    ]
    assert [plan.name for plan in plans] == ["s", "s-2", "s-3"]


def test_earlier_trials_are_told_where_they_are_comparable(tmp_path: Path) -> None:
    base = replace(RunConfig(), {"storage": str(tmp_path)})
    space = {"train.learning_rate": LogUniform(1e-4, 1e-2), "loss.terms": ("l1", "mse")}
    rates, terms = (1e-3, 1e-3, 1e-3, 0.5, 1e-3), ("l1", "mse", "l1", "l1", "log_mse")
    trials = [
        replace(base, {"name": f"0{n}", "train.learning_rate": rate, "loss.terms": term})
        for n, (rate, term) in enumerate(zip(rates, terms, strict=True), start=1)
    ]
    plan = open_plan(Plan(name="old", storage=str(tmp_path), trials=trials), resume=False)
    for trial, dataset in zip(trials, ("a", "a", "b", "a", "a"), strict=True):
        folder = plan.run_folder(trial)
        folder.write_history([{"epoch": 1, "val/hole_psnr": 20.0}])
        folder.write_outcome(Outcome(status="finished", epoch=1))
        bundle = Path(folder.bundle)
        bundle.mkdir()
        (bundle / "config.json").write_text(json.dumps({"extra": {"dataset_hash": dataset}}))
    observations, note = earlier_observations("old", space=space, base=base, dataset_hash="a")
    assert [one.point["loss.terms"] for one in observations] == [0, 1]
    assert observations[0].scores == {1: 20.0}
    assert "knew 2 of 5 trials of old" in note
    assert "2 lie outside the space" in note
    assert "1 have no result on this dataset" in note
    with pytest.raises(RayfillError, match="no trial can be used"):
        earlier_observations("old", space=space, base=base, dataset_hash="c")
    with pytest.raises(RayfillError, match="There is no sweep 'older'"):
        earlier_observations("older", space=space, base=base, dataset_hash="a")
    kept = Plan(
        name="new",
        storage=str(tmp_path),
        trials=[],
        search={"kind": "optuna"},
        observations=observations,
    )
    open_plan(kept, resume=False)
    assert open_plan(kept, resume=True).observations == observations
