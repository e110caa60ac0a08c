"""What a run's page says in MLflow, on a real store."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from rayfill.config.run import RunConfig, check, flatten, replace, to_dict
from rayfill.evaluation.leaderboard import Entry, Leaderboard
from rayfill.metrics import MetricTable, Score
from rayfill.runs.folder import Outcome, RunFolder
from rayfill.runs.job import TrainingJob, make_job
from rayfill.runs.record import attach_tracker, open_tracker
from rayfill.runs.run_page import (
    NOTE,
    compared_params,
    comparing,
    differing_keys,
    record_result,
)
from rayfill.sweeps.page import describe_sweep, sweep_view
from rayfill.sweeps.space import Uniform, Variant, varied_keys
from rayfill_data.errors import ConfigError
from rayfill_data.prepared.reader import PreparedDataset


@pytest.fixture
def job(tmp_path: Path, make_dataset: Any, monkeypatch: pytest.MonkeyPatch) -> TrainingJob:
    monkeypatch.setenv("RAYFILL_HOME", str(tmp_path / "home"))
    config = replace(
        RunConfig(),
        {
            "name": "02-unet",
            "data.uri": str(make_dataset()),
            "storage": str(tmp_path / "runs"),
            "model.name": "unet",
            "train.epochs": 4,
            "tracking.uri": f"sqlite:///{tmp_path}/mlflow.db",
            "tracking.params": ("data.expand_px",),
        },
    )
    return make_job(config, group="night", parent="0" * 32)


def table(**means: float) -> MetricTable:
    scores = {k: Score(mean=v, std=1.0, n=9, n_infinite=0) for k, v in means.items()}
    return MetricTable(total=scores, buckets={})


def test_parameters_are_what_varies_then_the_main_ones_then_what_was_changed() -> None:
    config = replace(
        RunConfig(),
        {
            "name": "a",
            "storage": "/runs",
            "data.uri": "/data/x",
            "train.init_from": "/runs/a/best",
            "model.width": 8,
            "tracking.params": ("data.expand_px", "train.epochs"),
        },
    )
    assert list(compared_params(config).items()) == [
        ("data.expand_px", 0),
        ("train.epochs", 10),
        ("model.name", "attention_unet"),
        ("loss.terms", "l1"),
        ("model.width", 8),
    ]
    assert "data.expand_px" not in compared_params(config, without=["data.expand_px"])


def test_what_a_sweep_varies_is_a_parameter_of_every_trial_at_its_default_too() -> None:
    space = {
        "loss.terms": ("l1", "mse"),
        "network": (
            Variant(name="small", changes={"model.width": 4}),
            Variant(name="deep", changes={"model.depth": 4, "model.width": 8}),
        ),
        "train.learning_rate": Uniform(1e-4, 1e-2),
    }
    keys = varied_keys(space)
    assert keys == ["loss.terms", "model.width", "model.depth", "train.learning_rate"]
    params = compared_params(check(comparing(RunConfig(), keys)))
    assert set(keys) < set(params)
    first = replace(RunConfig(), {"name": "a", "train.seed": 1})
    runs = [first, replace(RunConfig(), {"name": "b", "data.uri": "/else", "train.epochs": 3})]
    assert differing_keys(runs) == ["data.uri", "train.epochs", "train.seed"]


def test_a_parameter_that_is_no_key_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"tracking\.params: .*'data\.expand'.*data\.expand_px"):
        check(replace(RunConfig(), {"tracking.params": ("data.expand",)}))


def test_a_run_records_its_configuration_its_data_and_what_it_is(
    job: TrainingJob, tmp_path: Path
) -> None:
    dataset = PreparedDataset.open(job.config.data.uri)
    for _ in range(2):  # a continued run says it once
        tracker = open_tracker(job, dataset=dataset)
        tracker.close()
    client = MlflowClient(job.config.tracking.uri)
    run = client.get_run(tracker.run_id)
    assert run.data.params == {
        "data.expand_px": "0",
        "model.name": "unet",
        "loss.terms": "l1",
        "train.epochs": "4",
    }
    (entry,) = run.inputs.dataset_inputs
    assert entry.dataset.digest == dataset.content_hash[:12]
    assert json.loads(entry.dataset.source) == {"uri": job.config.data.uri}
    profile = json.loads(entry.dataset.profile)
    assert profile["num_rows"] == sum(dataset.counts.values())
    logged = Path(client.download_artifacts(run.info.run_id, "config.json", str(tmp_path)))
    whole = flatten(json.loads(logged.read_text()))
    assert whole == json.loads(json.dumps(flatten(to_dict(job.config))))
    assert run.data.tags["rayfill.kind"] == "trial"
    assert run.data.tags["rayfill.bundle"] == f"{job.run_dir}/best"
    assert "Trial of sweep **night**: data.expand_px `0`" in run.data.tags[NOTE]


@pytest.mark.parametrize(
    ("outcome", "status", "how"),
    [
        (Outcome(status="stopped", epoch=2), "FINISHED", "stopped early, 2/4 epochs"),
        (Outcome(status="finished", epoch=4), "FINISHED", "2/4 epochs"),
        (Outcome(status="failed", epoch=2, reason="out of memory"), "KILLED", "2/4 epochs"),
        (None, "KILLED", "2/4 epochs"),
    ],
)
def test_a_trial_that_was_ended_early_does_not_look_failed(
    job: TrainingJob, outcome: Outcome | None, status: str, how: str
) -> None:
    tracker = open_tracker(job, dataset=PreparedDataset.open(job.config.data.uri))
    tracker.finish("KILLED")  # Tune ends trials as a signal does
    if outcome:
        RunFolder(job.run_dir).write_outcome(outcome)
    tracker = attach_tracker(job)
    scores = table(hole_psnr=23.456789, psnr=math.nan)
    record_result(tracker, job=job, table=scores, epochs="2/4")
    tracker.close()
    run = MlflowClient(job.config.tracking.uri).get_run(tracker.run_id)
    assert run.info.status == status
    assert run.data.tags["rayfill.outcome"] == how
    note = run.data.tags[NOTE]
    assert note.startswith(f"Test split: hole_psnr **23.46** ({how}).\n\nTrial of")


def test_a_sweep_describes_its_space_and_then_its_result() -> None:
    space = {"loss.terms": "l1, mse"}
    before = describe_sweep("night", space=space, run_dir="/runs/night")
    assert "| `loss.terms` | l1, mse |" in before
    assert "when the trials are done" in before
    board = Leaderboard(
        title="night",
        entries=[
            Entry(name="01-l1", kind="trial", table=table(hole_psnr=20.0), epochs="4/4"),
            Entry(name="02-mse", kind="trial", table=table(hole_psnr=21.0), epochs="4/4"),
            Entry(name="telea", kind="baseline", table=table(hole_psnr=math.nan)),
        ],
        rank_by="hole_psnr",
        protocol={},
    )
    after = describe_sweep("night", space=space, run_dir="/runs/night", board=board)
    assert "when the trials are done" not in after
    lines = after.splitlines()
    assert lines[2:7] == [
        "| # | hole_psnr | epochs | system |",
        "| ---: | ---: | ---: | --- |",
        "| 1 | 21 | 4/4 | 02-mse |",
        "| 2 | 20 | 4/4 | 01-l1 |",
        "| 3 |  |  | telea (baseline) |",
    ]
    assert "rayfill compare /runs/night" in after


def test_the_view_of_a_sweep_finds_its_runs_and_is_kept_with_the_experiment(
    job: TrainingJob, tmp_path: Path
) -> None:
    dataset = PreparedDataset.open(job.config.data.uri)
    trial = open_tracker(job, dataset=dataset)
    trial.metrics({"val/hole_psnr": 20.0}, step=1)
    view = sweep_view("night", metrics=["val/hole_psnr"], params=["data.expand_px"])
    trial.view("night", view)
    trial.tags({"link": "#/experiments/{experiment_id}/runs"})
    trial.close()
    other = dataclasses.replace(job, kind="sweep", tracker_dir=str(tmp_path / "other"))
    open_tracker(other, dataset=dataset).close()
    client = MlflowClient(job.config.tracking.uri)
    run = client.get_run(trial.run_id)
    number = run.info.experiment_id
    found = client.search_runs(
        [number], view["searchFilter"], order_by=[f"{view['orderByKey']} DESC"]
    )
    assert [one.info.run_id for one in found] == [trial.run_id]
    kept = client.get_experiment(number).tags["mlflow.sharedViewState.night"]
    assert json.loads(kept) == view
    assert run.data.tags["link"] == f"#/experiments/{number}/runs"
    shown = {column.replace("`", "") for column in view["selectedColumns"]}
    assert shown == {"metrics.val/hole_psnr", "params.data.expand_px", "tags.rayfill.outcome"}
