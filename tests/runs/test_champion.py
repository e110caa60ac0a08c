"""Who becomes champion, against a real MLflow store."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow.tracking import MlflowClient
from rich.console import Console

from rayfill.config.run import RunConfig, replace
from rayfill.metrics import MetricTable, Score
from rayfill.models import build_model
from rayfill.runs.bundle import save_bundle
from rayfill.runs.job import TrainingJob, make_job
from rayfill.runs.registry import NoSuchModelError, RegisteredModel, find_model
from rayfill.runs.tracking import Tracker
from rayfill.sweeps.champion import register_champion
from rayfill_data.errors import RayfillError

NETWORK = {"width": 2, "depth": 2}


class Trained:
    """Makes runs as a sweep leaves them, and puts them forward."""

    def __init__(self, folder: Path) -> None:
        self.uri = f"sqlite:///{folder}/mlflow.db"
        self.stream = io.StringIO()
        self._folder = folder
        self._count = 0

    def job(self) -> TrainingJob:
        self._count += 1
        config = replace(
            RunConfig(),
            {
                "name": f"run-{self._count}",
                "storage": str(self._folder / "runs"),
                "tracking.uri": self.uri,
            },
        )
        job = make_job(config)
        torch.manual_seed(self._count)
        save_bundle(
            f"{job.run_dir}/best",
            model=build_model("unet", **NETWORK),
            name="unet",
            config=NETWORK,
        )
        tracker = Tracker(Path(job.tracker_dir), tracking_uri=self.uri)
        tracker.start(config.name, experiment="x", params={}, tags={})
        tracker.finish()
        return job

    def put_forward(
        self,
        val_score: float,
        *,
        dataset: str = "d1",
        metric: str = "hole_psnr",
        lpips: str = "squeeze",
    ) -> RegisteredModel | None:
        made = self.job()
        score = Score(mean=21.0, std=1.0, n=9, n_infinite=0)
        nothing = Score(mean=math.nan, std=math.nan, n=0, n_infinite=9)
        return register_champion(
            made.config,
            job=made,
            table=MetricTable(total={"hole_psnr": score, "psnr": nothing}, buckets={}),
            val_metric=metric,
            val_score=val_score,
            protocol={"dataset_hash": dataset, "lpips": lpips},
            console=Console(file=self.stream, width=200),
        )

    @property
    def champion(self) -> str:
        return find_model("rayfill", tracking_uri=self.uri).version

    @property
    def reason(self) -> str:
        version = MlflowClient(self.uri).get_model_version("rayfill", self.champion)
        return str(version.tags["promoted_because"])

    @property
    def said(self) -> str:
        return self.stream.getvalue().splitlines()[-1]


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trained:
    monkeypatch.setenv("RAYFILL_HOME", str(tmp_path / "home"))
    return Trained(tmp_path)


def test_the_first_is_champion(trained: Trained) -> None:
    model = trained.put_forward(20.0)
    assert model is not None
    assert model.scores == {"hole_psnr": 21.0, "val_hole_psnr": 20.0}
    assert trained.champion == model.version == "1"
    assert trained.reason == "the first of its name"
    assert trained.said == "Champion: rayfill version 1 (the first of its name)."


def test_only_a_better_one_takes_its_place(trained: Trained) -> None:
    trained.put_forward(20.0)
    worse = trained.put_forward(19.9)
    assert worse is not None
    assert worse.version == "2"  # registered all the same
    assert trained.champion == "1"
    assert trained.said == (
        "Version 1 stays champion: its val_hole_psnr is 20.000, the new version 2 has 19.900."
    )
    trained.put_forward(20.0)  # as good is not better
    assert trained.champion == "1"
    trained.put_forward(20.5)
    assert trained.champion == "4"
    assert trained.reason == "val_hole_psnr 20.500 against 20.000"


@pytest.mark.parametrize("metric", ["coherence", "lpips"])
def test_the_lower_one_takes_its_place_where_less_is_better(trained: Trained, metric: str) -> None:
    trained.put_forward(0.5, metric=metric)
    trained.put_forward(0.6, metric=metric)
    assert trained.champion == "1"
    assert trained.said == (
        f"Version 1 stays champion: its val_{metric} is 0.500, the new version 2 has 0.600."
    )
    trained.put_forward(0.4, metric=metric)
    assert trained.champion == "3"
    assert trained.reason == f"val_{metric} 0.400 against 0.500"


@pytest.mark.parametrize("metric", ["hole_psnr", "coherence"])
def test_one_without_a_score_takes_nobodys_place(trained: Trained, metric: str) -> None:
    trained.put_forward(0.5)
    trained.put_forward(math.nan, metric=metric, dataset="d2")
    assert trained.champion == "1"
    assert "Version 1 stays champion" in trained.said


def test_lpips_of_another_network_is_not_compared_with(trained: Trained) -> None:
    trained.put_forward(0.1, metric="lpips")
    trained.put_forward(0.3, metric="lpips", lpips="vgg")
    assert trained.champion == "2"
    assert trained.reason == "version 1 was measured with another LPIPS network"


def test_a_champion_of_another_dataset_is_not_compared_with(trained: Trained) -> None:
    trained.put_forward(30.0)
    trained.put_forward(10.0, dataset="d2")
    assert trained.champion == "2"
    assert trained.reason == "version 1 was measured on another dataset"


def test_a_champion_selected_by_another_metric_is_not_compared_with(trained: Trained) -> None:
    trained.put_forward(30.0)
    trained.put_forward(0.8, metric="hole_ssim")
    assert trained.champion == "2"
    assert trained.reason == "version 1 has no val_hole_ssim"


def test_a_run_that_mlflow_never_got_is_not_registered(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(Tracker):
        """What this process sees while the server is away."""

        @property
        def run_id(self) -> str:
            return ""

    monkeypatch.setattr("rayfill.runs.record.Tracker", Silent)
    assert trained.put_forward(20.0) is None
    assert "rayfill replay" in trained.stream.getvalue()
    with pytest.raises(NoSuchModelError):
        find_model("rayfill", tracking_uri=trained.uri)


def test_an_outage_is_not_taken_for_a_missing_champion(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained.put_forward(30.0)

    def away(*args: Any, **kwargs: Any) -> None:
        raise RayfillError("the registry does not answer")

    monkeypatch.setattr("rayfill.sweeps.champion.find_model", away)
    with pytest.raises(RayfillError, match="does not answer"):
        trained.put_forward(10.0)
    assert trained.champion == "1"
