"""What a run can be found by in MLflow."""

from __future__ import annotations

from pathlib import Path

from rayfill.config.run import RunConfig, replace
from rayfill.runs.folder import RunFolder
from rayfill.runs.job import TrainingJob, make_job
from rayfill.runs.provenance import run_tags


def test_a_trial_is_found_by_what_it_is() -> None:
    config = replace(
        RunConfig(), {"model.name": "unet", "loss.terms": "mse+tv", "data.uri": "s3://b/photos"}
    )
    tags = run_tags(
        config,
        kind="trial",
        sweep="night",
        folder=RunFolder("s3://b/night/01"),
    )
    assert tags == {
        "rayfill.kind": "trial",
        "rayfill.sweep": "night",
        "rayfill.model": "unet",
        "rayfill.loss": "mse+tv",
        "rayfill.stage": "inpainting",
        "rayfill.dataset": "s3://b/photos",
        "rayfill.run_dir": "s3://b/night/01",
        "rayfill.bundle": "s3://b/night/01/best",
    }


def test_a_sweep_claims_no_network_of_its_own_and_a_single_run_no_sweep() -> None:
    sweep = run_tags(RunConfig(), kind="sweep", sweep="night", folder=RunFolder("/runs/night"))
    assert not sweep.keys() & {"rayfill.model", "rayfill.loss", "rayfill.bundle"}
    single = run_tags(RunConfig(), kind="single", sweep="", folder=RunFolder("/runs/a"))
    assert "rayfill.sweep" not in single


def test_a_job_knows_its_kind_where_it_trains(tmp_path: Path) -> None:
    config = replace(RunConfig(), {"storage": str(tmp_path), "name": "a"})
    for job, kind in (
        (make_job(config), "single"),
        (make_job(config, group="night"), "trial"),
        (make_job(config, group="night", kind="winner"), "winner"),
    ):
        assert TrainingJob.from_dict(job.to_dict()).kind == job.kind == kind
