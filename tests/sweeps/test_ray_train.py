"""Runs on the workers of Ray Train: data-parallel, killed, resumed."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from mlflow.tracking import MlflowClient

from rayfill.config.run import RunConfig, check, replace
from rayfill.runs.bundle import load_bundle
from rayfill.runs.folder import RunFolder
from rayfill.runs.job import TrainingJob, make_job
from rayfill.runs.places import resolve_paths
from rayfill.training.cluster import Capacity, place, ray_cluster
from rayfill.training.launch import train_here, train_on_ray
from rayfill_data.errors import ConfigError
from rayfill_data.prepared.pipeline import prepare
from rayfill_data.sources import PhotosOptions

pytestmark = pytest.mark.filterwarnings(
    # Ray 2.60 leaves sockets and processes to the garbage collector.
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
)

CAPACITY = Capacity(cpus=2, gpus=0, can_grow=False)


def job_of(config: RunConfig, name: str, **changes: Any) -> TrainingJob:
    return make_job(resolve_paths(replace(config, {"name": name, **changes})))


def trace(summary: Any) -> list[float]:
    return [entry["train/loss"] for entry in summary.history]


def test_a_job_survives_the_journey_to_a_worker(small_run: RunConfig) -> None:
    job = job_of(small_run, "there", **{"train.step_epochs": (1, 2), "train.schedule": "step"})
    assert TrainingJob.from_dict(job.to_dict()) == job


def test_a_run_is_settled_on_the_cluster_or_refused_before_waiting_for_ever() -> None:
    wide = replace(RunConfig(), {"scaling.num_workers": 8})
    with pytest.raises(ConfigError, match="asks for 8 CPUs and the cluster has 2"):
        place(wide, capacity=CAPACITY, data_uri="here")
    on_gpu = replace(RunConfig(), {"scaling.use_gpu": True})
    with pytest.raises(ConfigError, match="asks for 1 GPUs and the cluster has 0"):
        place(on_gpu, capacity=CAPACITY, data_uri="here")
    growing = Capacity(cpus=0, gpus=4, can_grow=True)
    placed = place(wide, capacity=growing, data_uri="here")
    assert (placed.scaling.use_gpu, placed.data.uri) == (True, "here")
    assert place(RunConfig(), capacity=CAPACITY, data_uri="x").scaling.use_gpu is False


@pytest.mark.usefixtures("ray_local")
def test_two_workers_train_the_same_samples_as_one(small_run: RunConfig) -> None:
    """Equal batches over both ranks: the first epoch's losses agree but for BatchNorm's halves."""
    config = replace(small_run, {"train.epochs": 1, "data.color_jitter": 0.0})
    alone = train_here(job_of(config, "alone"))
    seen: list[float] = []
    together = train_on_ray(
        job_of(config, "together", **{"scaling.num_workers": 2, "scaling.cpus_per_worker": 0.5}),
        capacity=CAPACITY,
        on_epoch=lambda entry: seen.append(entry["epoch"]),
    )
    assert seen == [1]
    assert together.steps == alone.steps
    assert together.history[0]["train/loss"] == pytest.approx(
        alone.history[0]["train/loss"], rel=0.2
    )
    # The split is validated once over both ranks, with the reduced metrics on each.
    assert set(together.best) == set(alone.best)


@pytest.mark.usefixtures("ray_local")
def test_a_killed_worker_costs_nothing_but_time(small_run: RunConfig, home: Path) -> None:
    """SIGKILL in the middle: same losses to 1e-6, one MLflow run, no doubled points."""
    config = replace(small_run, {"train.epochs": 6})
    whole = train_here(job_of(config, "whole"))
    job = job_of(config, "killed", **{"scaling.cpus_per_worker": 0.5})
    killed: list[int] = []

    def kill_after_second_epoch() -> None:
        while len(RunFolder(job.run_dir).history()) < 2:
            time.sleep(0.005)
        for process in psutil.Process().children(recursive=True):  # of this test's own cluster
            if any("RayTrainWorker" in part for part in process.cmdline()):
                os.kill(process.pid, signal.SIGKILL)
                killed.append(process.pid)

    killer = threading.Thread(target=kill_after_second_epoch)
    killer.start()
    resumed = train_on_ray(job, capacity=CAPACITY)
    killer.join()
    assert killed
    assert resumed.epochs == 6
    assert trace(resumed) == pytest.approx(trace(whole), abs=1e-6)
    client = MlflowClient(str(job.config.tracking.uri))
    history = client.get_metric_history(resumed.run_id, "train/loss")
    assert [point.step for point in history] == [1, 2, 3, 4, 5, 6]
    assert client.get_run(resumed.run_id).info.status == "FINISHED"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_large_datasets_are_streamed_by_ray_data(small_run: RunConfig) -> None:
    job = job_of(small_run, "streamed", **{"data.feed": "stream", "scaling.cpus_per_worker": 0.5})
    summary = train_on_ray(job, capacity=CAPACITY)
    assert summary.epochs == 3
    assert all(entry["train/loss"] > 0 for entry in summary.history)


@pytest.mark.usefixtures("ray_local")
def test_a_cluster_that_is_there_is_used_and_left_running() -> None:
    import ray

    with ray_cluster() as capacity:
        assert capacity.cpus == 2
    assert ray.is_initialized()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_adversarial_joint_training_on_two_workers_resumes_with_the_same_losses(
    small_run: RunConfig, tmp_path: Path
) -> None:
    """Report P2's losses, three discriminators; a run of 2 epochs goes on from the first."""
    uri = str(tmp_path / "photos")
    prepare("photos", out=uri, options=PhotosOptions(size=32, train=16, val=6, test=6))
    config = replace(
        small_run,
        {
            "data.uri": uri,
            "model.depth": RunConfig().model.depth,
            "model.name": "joint",
            "model.inpainter": "edgeconnect",
            "model.label_maps": True,
            "model.label_names": ("nothing", "object"),
            "model.blocks": 1,
            "model.hole_fill": "zero",
            "model.output": "direct",
            "model.segmenter_width": 4,
            "model.segmenter_depth": 2,
            "loss.terms": "p2",
            "train.stage": "joint",
            "train.discriminator_width": 4,
            "train.epochs": 2,
            "train.step_epochs": (1,),
            "train.schedule": "step",
            "eval.select_metric": "removal_psnr",
            "scaling.num_workers": 2,
            "scaling.cpus_per_worker": 0.5,
        },
    )
    whole = train_on_ray(job_of(check(config), "whole"), capacity=CAPACITY)
    assert whole.steps == 2 * (16 // 8)
    judged = {"edges/discriminator", "labels/discriminator", "picture/discriminator"}
    assert judged <= {name.removeprefix("train/") for name in whole.history[0]}
    checkpoints = sorted((Path(whole.run_dir) / "checkpoints").iterdir())
    assert len(checkpoints) == 2
    shutil.rmtree(checkpoints[-1])

    resumed = train_on_ray(job_of(check(config), "whole"), capacity=CAPACITY)
    assert resumed.epochs == 2
    for before, after in zip(whole.history, resumed.history, strict=True):
        names = [name for name in before if name.startswith(("train/", "val/"))]
        assert names
        for name in names:
            assert after[name] == pytest.approx(before[name], rel=1e-6, nan_ok=True), name
    first, second = (load_bundle(s.bundle).model.state_dict() for s in (whole, resumed))
    assert all(torch.equal(first[key], second[key]) for key in first)
