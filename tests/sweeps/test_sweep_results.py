"""What a sweep measures: others before anything is trained, its own models in the end."""

from __future__ import annotations

import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from rayfill.config.run import EvalConfig, RunConfig, replace
from rayfill.evaluation import work
from rayfill.evaluation.evaluate import evaluate
from rayfill.evaluation.systems import trained
from rayfill.models import build_model
from rayfill.runs.bundle import save_bundle
from rayfill.runs.folder import RunFolder
from rayfill.sweeps.champion import FinishChoice
from rayfill.sweeps.results import Others, SweepResults, measure_others
from rayfill.sweeps.spec import Sweep
from rayfill_data.codec import encode_png
from rayfill_data.errors import ConfigError, DatasetError, RayfillError
from rayfill_data.prepared.reader import PreparedDataset


@pytest.fixture
def dataset(make_dataset: Any) -> PreparedDataset:
    return PreparedDataset.open(str(make_dataset(test=7)))


def finished(folder: Path, dataset: PreparedDataset, *, leave_out: int = 0) -> Path:
    """Write the true pictures as if a system had made them."""
    folder.mkdir()
    arrays = dataset.load("test")
    pictures = list(zip(arrays.sample_id, arrays.target, strict=True))
    for name, picture in pictures[leave_out:]:
        Image.fromarray(picture).save(folder / f"{name}.png")
    return folder


def test_baselines_and_finished_pictures_are_measured_in_the_order_of_the_split(
    tmp_path: Path, dataset: PreparedDataset
) -> None:
    perfect = finished(tmp_path / "perfect", dataset)
    others = measure_others(
        ["telea", f"theirs={perfect}"], dataset=dataset, config=EvalConfig(lpips_network="squeeze")
    )
    assert others.kinds == {"telea": "baseline", "theirs": "pictures"}
    expected = evaluate(["telea"], data=dataset).measured["telea"]
    for metric, values in expected.values.items():
        np.testing.assert_array_equal(others.measured["telea"].values[metric], values)
    assert np.isinf(others.measured["theirs"].values["hole_psnr"]).all()
    assert others.lpips is None
    assert "LPIPS is not measured" in others.why_no_lpips


def test_a_missing_picture_or_system_is_found_before_training(
    tmp_path: Path, dataset: PreparedDataset
) -> None:
    lacking = finished(tmp_path / "lacking", dataset, leave_out=1)
    with pytest.raises(DatasetError, match="1"):
        measure_others([str(lacking)], dataset=dataset, config=EvalConfig())
    with pytest.raises(ConfigError, match="Did you mean 'telea'"):
        measure_others(["telae"], dataset=dataset, config=EvalConfig())


def test_without_others_there_is_still_a_split_to_measure_on(
    dataset: PreparedDataset, make_dataset: Any
) -> None:
    others = measure_others([], dataset=dataset, config=EvalConfig())
    assert (others.kinds, others.measured) == ({}, {})
    empty = PreparedDataset.open(str(make_dataset("empty", test=0)))
    with pytest.raises(DatasetError, match="holds no samples"):
        measure_others([], dataset=empty, config=EvalConfig())


class Run:
    """What the results ask of a sweep that has trained: its runs, and where their models lie."""

    name = "night"

    def __init__(self, folder: Path, *, dataset: PreparedDataset, scales: dict[str, float]) -> None:
        self.trials = [replace(RunConfig(), {"name": name}) for name in scales]
        self.dataset, self._folder = dataset, folder
        self.scores = dict.fromkeys(scales, 20.0) | {"broken": 30.0, "worse": 10.0}
        self.sweep = Sweep(base=RunConfig(), space={}, compare_trials=False)
        for name, scale in scales.items():
            torch.manual_seed(0)
            options = {"width": 4, "depth": 1}
            network = build_model("unet", **options)
            for weights in network.parameters():
                torch.nn.init.normal_(weights, std=scale)
            save_bundle(folder / name / "best", model=network, name="unet", config=options)

    def runs(self, winner: RunConfig | None) -> list[RunConfig]:
        assert winner is None
        return self.trials

    def job(self, run: RunConfig) -> Any:
        return SimpleNamespace(folder=RunFolder(str(self._folder / run.name)))

    def score(self, run: RunConfig) -> float:
        return self.scores[run.name]

    def epochs_done(self, run: RunConfig) -> str:  # noqa: ARG002
        return "1/1"


@pytest.fixture
def textured(tmp_path: Path, write_rows: Any, make_rows: Any) -> PreparedDataset:
    """Pictures of noise, in whose holes a network's answer is smooth, and patches are not."""
    rows = []
    for split in ("train", "val", "test"):
        for index, row in enumerate(make_rows(3, split=split, size=64)):
            noise = np.random.default_rng([len(split), index]).integers(0, 256, (64, 64, 3))
            mask = np.zeros((64, 64), np.uint8)
            mask[18:44, 20:46] = 255
            image = encode_png(noise.astype(np.uint8))
            hole = {"hole_mask": encode_png(mask), "hole_ratio": float((mask > 0).mean())}
            rows.append(row | {"image": image, "target": None} | hole)
    write_rows(str(tmp_path / "textured"), rows, size=64)
    return PreparedDataset.open(str(tmp_path / "textured"))


def results(run: Run) -> SweepResults:
    others = Others(kinds={}, measured={}, lpips=None, why_no_lpips="")
    return SweepResults(run=cast("Any", run), outcomes={}, winner=None, others=others, notes=())


def test_a_trial_that_answers_with_nan_is_left_out_and_said(
    tmp_path: Path, dataset: PreparedDataset
) -> None:
    run = Run(tmp_path, dataset=dataset, scales={"broken": 1e30, "sound": 0.1})
    found = results(run)
    assert [e.name for e in found.leaderboard.entries if e.kind == "trial"] == ["sound"]
    assert found.best.name == "sound"  # though the other was better on the validation split
    (said,) = [note for note in found.leaderboard.notes if "not finite" in note]
    assert said.startswith("System 'broken' answered with values that are not finite for test-")
    assert list(found.bundles) == ["sound"]
    assert "broken" not in found.measured
    with pytest.raises(RayfillError, match="'broken' answered"):
        _ = results(Run(tmp_path, dataset=dataset, scales={"broken": 1e30})).leaderboard


def test_trials_are_measured_on_the_clusters_workers(
    tmp_path: Path, dataset: PreparedDataset, ray_local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, dataset=dataset, scales={"01": 0.1, "02": 0.1, "03": 0.1})
    here = results(run).measured
    processes, measure = tmp_path / "processes", work.measure
    processes.mkdir()

    def noted(*args: Any) -> Any:
        (processes / str(os.getpid())).touch()
        return measure(*args)

    monkeypatch.setattr(work, "measure", noted)
    monkeypatch.setattr(work, "CONNECTED_PAYS_OFF_S", 0.0)
    there = results(run).measured
    assert {path.name for path in processes.iterdir()} > {str(os.getpid())}
    for name, found in here.items():
        assert found.table == there[name].table
        for metric, values in found.values.items():
            np.testing.assert_array_equal(values, there[name].values[metric])


def test_the_best_model_stands_in_the_table_with_patches_too_where_they_go_better(
    tmp_path: Path, textured: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, measure = [], work.measure

    def noted(system: Any, *args: Any) -> Any:
        measured.append(system.name)
        return measure(system, *args)

    monkeypatch.setattr(work, "measure", noted)
    run = Run(tmp_path, dataset=textured, scales={"worse": 0.1, "sound": 0.01})
    found = results(run)
    board = found.leaderboard
    kinds = {entry.name: entry.kind for entry in board.entries}
    assert kinds == {"worse": "trial", "sound": "trial", "sound + exemplar": "finish"}
    assert "patches of the photo are laid over" in board.notes[0]
    # On the test split each once; on validation the best one both ways.
    assert sorted(measured) == ["sound"] * 2 + ["sound + exemplar"] * 2 + ["worse"]

    (alone,) = trained({"sound": found.bundles["sound"]})
    expected = evaluate([alone, alone.patched()], data=textured).measured
    for name, one in expected.items():
        assert found.measured[name].table == one.table
    tables = {entry.name: entry.table.total for entry in board.entries}
    assert tables["sound + exemplar"]["coherence"].mean < tables["sound"]["coherence"].mean
    assert tables["sound + exemplar"] != tables["sound"]
    assert "sound + exemplar" not in found.bundles  # it is no model of its own


def test_without_a_gain_there_is_no_row_with_patches(
    tmp_path: Path, dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = results(Run(tmp_path, dataset=dataset, scales={"sound": 0.01}))
    stays = FinishChoice(name="sound", alone=0.4, patched=0.4)
    monkeypatch.setattr("rayfill.sweeps.results.choose_finish", lambda *_, **__: stays)
    assert [entry.name for entry in found.leaderboard.entries] == ["sound"]


@pytest.mark.parametrize(("metric", "best"), [("hole_psnr", "high"), ("coherence", "low")])
def test_the_best_is_lowest_where_less_is_better(
    tmp_path: Path, dataset: PreparedDataset, metric: str, best: str
) -> None:
    run = Run(tmp_path, dataset=dataset, scales={"low": 0.01, "none": 0.01, "high": 0.01})
    run.trials = [replace(trial, {"eval.select_metric": metric}) for trial in run.trials]
    run.scores = {"low": 0.2, "none": math.nan, "high": 0.9}
    assert results(run).best.name == best
