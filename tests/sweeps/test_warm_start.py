"""Weights to start from, named in one word; and trials that can be continued."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rayfill.config.run import RunConfig, replace
from rayfill.runs.bundle import load_bundle
from rayfill.runs.folder import Outcome, RunFolder
from rayfill.runs.job import TrainingJob, make_job
from rayfill.runs.places import resolve_paths
from rayfill.runs.record import attach_tracker
from rayfill.runs.registry import promote, register_bundle
from rayfill.sweeps.continuing import continued_sweep
from rayfill.sweeps.plan import Plan, open_plan
from rayfill.sweeps.spec import SweepOptions
from rayfill.sweeps.starts import find_bundle, find_starts, with_start
from rayfill.training.launch import train_here
from rayfill_data.errors import ConfigError, RayfillError


@pytest.fixture
def trained(small_run: RunConfig) -> tuple[TrainingJob, str]:
    """A run of one epoch, and its MLflow run."""
    config = resolve_paths(replace(small_run, {"name": "first", "train.epochs": 1}))
    job = make_job(config)
    train_here(job)
    tracker = attach_tracker(job)  # whatever MLflow had not taken by then is sent
    tracker.close()
    return job, tracker.run_id


def starting(job: TrainingJob, name: str, **changes: Any) -> RunConfig:
    return replace(job.config, {"name": "next", "train.init_from": name} | changes)


def test_a_folder_is_a_bundle_or_a_run(
    trained: tuple[TrainingJob, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, _ = trained
    best = f"{job.run_dir}/best"
    monkeypatch.chdir(Path(job.run_dir).parent)
    for name in (best, job.run_dir, "first", "first/best"):
        config = starting(job, name)
        found = find_starts([config])
        assert with_start(config, found).train.init_from == best


def test_mlflow_names_are_fetched_to_where_all_nodes_read(
    trained: tuple[TrainingJob, str],
) -> None:
    job, run_id = trained
    uri = str(job.config.tracking.uri)
    model = register_bundle(
        f"{job.run_dir}/best", name="m", run_id=run_id, scores={}, protocol={}, tracking_uri=uri
    )
    promote(model, reason="a test", tracking_uri=uri)
    wanted = load_bundle(f"{job.run_dir}/best").model.state_dict()
    for name in ("models:/m@champion", "models:/m/1", f"runs:/{run_id}/model", f"runs:/{run_id}"):
        where = find_starts([starting(job, name)])[name]
        assert where.startswith(str(job.config.storage))
        got = load_bundle(where).model.state_dict()
        assert all(torch.equal(got[key], wanted[key]) for key in wanted)
    # A resumed sweep starts where it did, wherever the alias points by now.
    known = {"models:/gone@champion": f"{job.run_dir}/best"}
    config = starting(job, "models:/gone@champion")
    assert (
        with_start(config, find_starts([config], known=known)).train.init_from
        == known["models:/gone@champion"]
    )
    with pytest.raises(ConfigError, match="gone"):
        find_starts([config])


def test_the_best_of_a_sweep(trained: tuple[TrainingJob, str]) -> None:
    job, _ = trained
    storage = str(job.config.storage)
    trials = [replace(job.config, {"name": name}) for name in ("01", "02", "03")]
    plan = open_plan(Plan(name="s", storage=storage, trials=trials), resume=False)
    with pytest.raises(RayfillError, match="No run of sweep 's' has a model"):
        find_bundle("sweep:s", config=job.config)
    for trial, score in zip(trials, (20.0, 22.0, 23.0), strict=True):
        plan.run_folder(trial).write_history([{"epoch": 1, "val/hole_psnr": score}])
        if trial.name != "03":  # it was lost
            shutil.copytree(f"{job.run_dir}/best", plan.run_folder(trial).bundle)
    assert find_bundle("sweep:s", config=job.config) == f"{storage}/s/02/best"
    with pytest.raises(RayfillError, match="There is no sweep 't'"):
        find_bundle("sweep:t", config=job.config)


def test_what_cannot_be_started_from_is_refused_together_and_by_name(
    trained: tuple[TrainingJob, str], tmp_path: Path
) -> None:
    job, _ = trained
    runs = [
        starting(job, job.run_dir, **{"model.width": 8}),
        starting(job, job.run_dir, **{"model.name": "unet"}),
        starting(job, str(tmp_path / "nothing")),
        replace(job.config, {"train.continue_from": str(tmp_path / "nothing")}),
    ]
    with pytest.raises(ConfigError) as caught:
        find_starts(runs)
    wide, plain, absent, unbegun = caught.value.problems
    assert "do not fit this attention_unet" in wide
    assert "running_var (8,) instead of (16,)" in wide
    assert "is a attention_unet" in plain
    assert "instead of nothing" in plain
    assert "names nothing. Allowed: a registered model" in absent
    assert "has no checkpoint" in unbegun


def test_a_run_starts_from_the_weights_it_names(trained: tuple[TrainingJob, str]) -> None:
    job, _ = trained
    # Steps that change nothing: what comes out is what went in.
    config = starting(job, job.run_dir, **{"train.learning_rate": 1e-30, "train.warmup_steps": 0})
    summary = train_here(make_job(with_start(config, find_starts([config]))))
    before = load_bundle(f"{job.run_dir}/best").model.state_dict()
    after = load_bundle(summary.bundle).model.state_dict()
    for key, value in before.items():
        if "running" not in key and "num_batches" not in key:
            assert torch.allclose(after[key], value, atol=1e-6), key


@pytest.fixture
def ended(trained: tuple[TrainingJob, str]) -> Plan:
    """A sweep of four trials: finished, finished and better, stopped early, failed; one waits."""
    job, _ = trained
    names = ("01", "02", "03", "04", "05")
    trials = [replace(job.config, {"name": name}) for name in names]
    plan = open_plan(Plan(name="s", storage=str(job.config.storage), trials=trials), resume=False)
    statuses = ("finished", "finished", "stopped", "failed")
    for number, (trial, status) in enumerate(zip(trials, statuses, strict=False)):
        folder = plan.run_folder(trial)
        shutil.copytree(job.run_dir, folder.uri)
        history = folder.history()
        folder.write_history([{**history[0], "val/hole_psnr": 20.0 + number}])
        folder.write_outcome(Outcome(status=status, epoch=1, reason="oh"))  # type: ignore[arg-type]
    return plan


def continued(plan: Plan, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "epochs": 20,
        "best": None,
        "names": (),
        "schedule": "continue",
        "options": SweepOptions(scheduler="none"),
        "resume": False,
    }
    return continued_sweep(plan, **arguments | changes)


def test_finished_trials_are_continued_best_first(ended: Plan) -> None:
    sweep = continued(ended)
    assert [run.name for run in sweep.runs] == ["02+20", "01+20"]
    assert sweep.base.name == "s-continued"
    assert set(sweep.beside) == {"01", "02"}
    run = sweep.runs[0]
    assert run.train.epochs == 21
    assert run.train.schedule_epochs is None
    assert run.train.continue_from == f"{ended.storage}/s/02"
    assert [run.name for run in continued(ended, best=1).runs] == ["02+20"]
    (stopped,) = continued(ended, names=("03",), schedule="restart").runs
    assert stopped.train.schedule_epochs == (1, 21)


def test_what_cannot_be_continued(ended: Plan) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"epochs": 0}, "epochs is 0"),
        ({"best": 0}, "best is 0"),
        ({"best": 1, "names": ("01",)}, "exclude each other"),
        ({"names": ("06",)}, "trial"),
        ({"names": ("04",)}, r"Trial 04 failed \(oh\)"),
        ({"names": ("05",)}, "Trial 05 has not ended"),
        ({"options": SweepOptions(scheduler="pbt")}, "chooses nothing"),
    ]
    for changes, why in cases:
        with pytest.raises(ConfigError, match=why):
            continued(ended, **changes)


def test_lost_checkpoints_and_no_finished_trial(ended: Plan) -> None:
    shutil.rmtree(f"{ended.storage}/s/02/checkpoints")
    with pytest.raises(RayfillError, match="no checkpoint any more"):
        continued(ended)
    for name in ("01", "02"):
        RunFolder(f"{ended.storage}/s/{name}").write_outcome(Outcome(status="stopped", epoch=1))
    with pytest.raises(RayfillError, match="No trial of s has finished"):
        continued(ended)
