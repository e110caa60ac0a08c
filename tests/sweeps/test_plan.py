"""The list of trials: what it holds, how it is written down, and what may resume it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from rayfill.config.run import RunConfig, replace
from rayfill.losses import LOSSES
from rayfill.models import pretrained
from rayfill.models.pretrained import Availability
from rayfill.runs.folder import Outcome, RunFolder
from rayfill.sweeps.plan import Plan, leave_out_untrainable, plan_trials
from rayfill.sweeps.plan import open_plan as open_whole_plan
from rayfill.sweeps.prepared import prepare
from rayfill.sweeps.space import Variant
from rayfill.sweeps.spec import Sweep
from rayfill_data.errors import ConfigError, RayfillError


def open_plan(
    name: str, trials: list[RunConfig], *, storage: str, resume: bool
) -> tuple[str, list[RunConfig]]:
    plan = open_whole_plan(Plan(name=name, storage=storage, trials=list(trials)), resume=resume)
    return plan.name, plan.trials


SPACE = {"model.name": ("unet", "attention_unet"), "train.epochs": (2, 4), "loss.terms": ("l1",)}
STEPS = {"train.schedule": ("step",), "train.step_epochs": ((1, 2),)}


def test_the_grid_is_whole_in_order_and_named_by_what_differs() -> None:
    trials = plan_trials(RunConfig(name="base"), SPACE)
    assert [(t.model.name, t.train.epochs, t.loss.terms) for t in trials] == [
        ("unet", 2, "l1"),
        ("unet", 4, "l1"),
        ("attention_unet", 2, "l1"),
        ("attention_unet", 4, "l1"),
    ]
    assert [t.name for t in trials] == [
        "01-unet-epochs2",
        "02-unet-epochs4",
        "03-attention_unet-epochs2",
        "04-attention_unet-epochs4",
    ]


def test_a_grid_of_one_point_and_one_of_none() -> None:
    assert [t.name for t in plan_trials(RunConfig(), {"train.epochs": (3,)})] == ["01"]
    assert [t.name for t in plan_trials(RunConfig(), {})] == ["01"]


def test_names_are_plain_folder_names_whatever_the_values() -> None:
    space = {"loss.terms": ("l1", "mse + 0.05*perceptual"), "train.init_from": ("s3://b/x", None)}
    names = [t.name for t in plan_trials(RunConfig(), space)]
    assert len(set(names)) == 4
    assert not any(set(name) & set("/: ") for name in names)


def test_every_problem_is_named_once() -> None:
    space = {"model.name": ("unett", "unet"), "train.epochs": (0, 3), "data.expand_px": (-1,)}
    with pytest.raises(ConfigError) as caught:
        plan_trials(RunConfig(), space)
    text = str(caught.value)
    assert "Did you mean 'unet'?" in text
    assert "train.epochs is 0" in text
    assert len(caught.value.problems) == 3


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'epochs'"):
        plan_trials(RunConfig(), {"train.epoch": (1, 2)})


def test_an_empty_dimension_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="train.epochs of the sweep has no values"):
        plan_trials(RunConfig(), {"model.name": ("unet",), "train.epochs": ()})


def test_a_resumed_plan_is_the_written_one(tmp_path: Path) -> None:
    trials = plan_trials(RunConfig(), SPACE | STEPS)
    name, first = open_plan("sweep", trials, storage=str(tmp_path), resume=False)
    assert (name, first) == ("sweep", trials)
    assert open_plan("sweep", trials, storage=str(tmp_path), resume=True) == ("sweep", trials)


def test_a_second_sweep_of_a_name_gets_a_number_and_resume_takes_the_newest(
    tmp_path: Path,
) -> None:
    trials = plan_trials(RunConfig(), SPACE)
    names = [open_plan("s", trials, storage=str(tmp_path), resume=False)[0] for _ in range(11)]
    assert names == ["s", *(f"s-{number}" for number in range(2, 12))]
    # By number: as text, s-9 would come after s-11.
    assert open_plan("s", trials, storage=str(tmp_path), resume=True)[0] == "s-11"


def test_other_sweeps_and_folders_do_not_count(tmp_path: Path) -> None:
    trials = plan_trials(RunConfig(), SPACE)
    open_plan("sweep-b", trials, storage=str(tmp_path), resume=False)
    open_plan("swee", trials, storage=str(tmp_path), resume=False)
    (tmp_path / "sweep-7").mkdir()  # no plan inside
    assert open_plan("sweep", trials, storage=str(tmp_path), resume=False)[0] == "sweep"


def test_a_name_is_never_read_as_a_pattern(tmp_path: Path) -> None:
    trials = plan_trials(RunConfig(), SPACE)
    open_plan("axb", trials, storage=str(tmp_path), resume=False)
    assert open_plan("a.b", trials, storage=str(tmp_path), resume=False)[0] == "a.b"


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(RayfillError, match="no sweep 'sweep' in .* without --resume"):
        open_plan("sweep", plan_trials(RunConfig(), SPACE), storage=str(tmp_path), resume=True)


def test_other_settings_do_not_resume_and_the_difference_is_named(tmp_path: Path) -> None:
    trials = plan_trials(RunConfig(), SPACE)
    open_plan("sweep", trials, storage=str(tmp_path), resume=False)
    fewer = plan_trials(RunConfig(), SPACE | {"train.epochs": (2,)})
    with pytest.raises(RayfillError, match=r"4 trials.*only there: \['01-unet-epochs2'"):
        open_plan("sweep", fewer, storage=str(tmp_path), resume=True)
    slower = plan_trials(replace(RunConfig(), {"train.learning_rate": 0.1}), SPACE)
    with pytest.raises(RayfillError, match="planned with other settings"):
        open_plan("sweep", slower, storage=str(tmp_path), resume=True)


def test_where_it_runs_may_change_on_resume(tmp_path: Path) -> None:
    trials = plan_trials(RunConfig(), SPACE)
    open_plan("sweep", trials, storage=str(tmp_path), resume=False)
    elsewhere = [
        dataclasses.replace(t, scaling=dataclasses.replace(t.scaling, cpus_per_worker=4.0))
        for t in trials
    ]
    _, planned = open_plan("sweep", elsewhere, storage=str(tmp_path), resume=True)
    assert [t.name for t in planned] == [t.name for t in trials]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"trials": 3}', json.dumps({"trials": [{"trian": {}}]}).encode()],
)
def test_a_damaged_plan_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    trials = plan_trials(RunConfig(), SPACE)
    open_plan("sweep", trials, storage=str(tmp_path), resume=False)
    (tmp_path / "sweep" / "plan.json").write_bytes(content)
    with pytest.raises(RayfillError, match="plan.json is damaged or of another version"):
        open_plan("sweep", trials, storage=str(tmp_path), resume=True)
    assert (tmp_path / "sweep" / "plan.json").read_bytes() == content


@pytest.mark.parametrize(
    "terms", ["liu", *(f"l1+0.1*{name}" for name in LOSSES if LOSSES[name].needs_features)]
)
def test_trials_whose_loss_lacks_weights_are_left_out(
    terms: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = Availability(ok=False, reason="no weights here", how_to_get="Get them.")
    monkeypatch.setattr("rayfill.losses.feature_weights_available", lambda *_, **__: absent)
    trials = plan_trials(RunConfig(), {"loss.terms": ("l1+tv+ssim", terms)})
    kept, notes = leave_out_untrainable(trials)
    assert [trial.loss.terms for trial in kept] == ["l1+tv+ssim"]
    assert notes == [f"1 of 2 trials left out ({trials[1].name}): no weights here. Get them."]
    with pytest.raises(RayfillError, match="1 of 1 trials left out"):
        leave_out_untrainable(trials[1:])


def test_outcomes_come_back_as_written(tmp_path: Path) -> None:
    run_dir = str(tmp_path / "sweep" / "01")
    assert RunFolder(run_dir).outcome() is None
    outcome = Outcome(status="failed", epoch=3, reason="it [broke] — twice")
    RunFolder(run_dir).write_outcome(outcome)
    assert RunFolder(run_dir).outcome() == outcome
    RunFolder(run_dir).write_outcome(Outcome(status="finished", epoch=4))
    assert RunFolder(run_dir).outcome() == Outcome(status="finished", epoch=4)


def test_a_variant_changes_several_keys_under_one_name() -> None:
    variants = (
        Variant(name="plain", changes={"model.name": "unet", "model.mask_channel": False}),
        Variant(name="partial", changes={"model.name": "partial_conv_unet"}),
    )
    trials = plan_trials(RunConfig(), {"train.seed": (0, 1), "system": variants})
    assert [trial.name for trial in trials] == [
        "01-seed0-plain",
        "02-seed0-partial",
        "03-seed1-plain",
        "04-seed1-partial",
    ]
    assert [trial.model.name for trial in trials[:2]] == ["unet", "partial_conv_unet"]
    assert [trial.model.mask_channel for trial in trials[:2]] == [False, True]
    assert [trial.train.seed for trial in trials] == [0, 0, 1, 1]


def test_metrics_that_cannot_be_compared_are_refused_before_anything_starts(
    small_run: RunConfig,
) -> None:
    space = {"eval.select_metric": ("hole_psnr", "coherence")}
    with pytest.raises(ConfigError, match="ranked by coherence and hole_psnr, which cannot be"):
        prepare(Sweep(base=small_run, space=space))
    base = replace(small_run, {"eval.select_metric": "lpips"})
    with pytest.raises(ConfigError, match=r"ranked by lpips \(alex\) and lpips \(vgg\)"):
        prepare(Sweep(base=base, space={"eval.lpips_network": ("vgg", "alex")}))


def test_a_sweep_that_lpips_would_decide_needs_its_weights(
    small_run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(pretrained, "_reachable", lambda _: False)
    assert prepare(Sweep(base=small_run)).examples
    by_lpips = {"eval.select_metric": "lpips"}
    for sweep in (
        Sweep(base=replace(small_run, by_lpips)),
        Sweep(base=small_run, winner_changes=by_lpips),
    ):
        with pytest.raises(ConfigError, match="'lpips', and LPIPS cannot be measured"):
            prepare(sweep)
