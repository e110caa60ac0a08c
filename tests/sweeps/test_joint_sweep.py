"""The main experiment on pictures with label maps: a segmenter, joint trials, a winner."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from rayfill.cli.experiment import SCALES
from rayfill.config.run import DataConfig, ModelConfig, TrainConfig, check
from rayfill.models import JointModel
from rayfill.runs.bundle import load_bundle
from rayfill.runs.registry import find_model
from rayfill.sweeps.plan import plan_trials
from rayfill.sweeps.spec import WinnerOptions
from rayfill.sweeps.sweep import run_sweep
from rayfill_data.prepared.pipeline import prepare
from rayfill_data.sources import PhotosOptions

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "attn_unet_sweep.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("attn_unet_sweep", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "attn_unet_sweep", module)  # where its dataclasses look
    spec.loader.exec_module(module)
    return module


def settings(script: ModuleType, uri: str, **space: Any) -> Any:
    return script.Settings(
        data=DataConfig(uri=uri),
        model=ModelConfig(width=4, depth=2, segmenter_width=4, segmenter_depth=2),
        train=TrainConfig(batch_size=16),
        sweep=script.Space(**space),
        winner=WinnerOptions(epochs=1, num_workers=1),
    )


def test_pictures_without_label_maps_are_given_their_masks(
    script: ModuleType, make_dataset: Any
) -> None:
    sweep = script.plan(settings(script, str(make_dataset())))
    assert sweep.space.keys() == {"model.name", "loss.terms", "train.epochs"}
    assert sweep.base.train.stage == "inpainting"
    assert not sweep.phases
    assert "alpha is not varied" in sweep.notes[0]


def test_every_size_can_be_planned(script: ModuleType, make_dataset: Any) -> None:
    assert tuple(script.SCALES) == SCALES
    for scale in script.SCALES.values():
        for uri in ("photos", str(make_dataset(scale.scale))):
            sized = dataclasses.replace(scale, data=DataConfig(uri=uri))
            sweep = script.plan(sized)
            trials = plan_trials(check(sweep.base), sweep.space)
            assert {trial.model.name == "joint" for trial in trials} == {uri == "photos"}


def test_alpha_is_swept_through_joint_training_and_the_winner_fills_given_holes(
    script: ModuleType, ray_local: Any, home: Path, tmp_path: Path
) -> None:
    uri = str(tmp_path / "photos")
    prepare("photos", out=uri, options=PhotosOptions(size=32, train=48, val=12, test=12))
    space = {
        "inpainters": ("attention_unet", "unet"),  # the segmenter found for one serves both
        "losses": ("l1",),
        "epochs": (1,),
        "alphas": (0.05,),
        "segmentation_epochs": 2,
    }
    sweep = script.plan(settings(script, uri, **space))
    with (home.parent / "output.txt").open("w") as stream:
        result = run_sweep(sweep, console=Console(file=stream, width=200))

    folder = home / "runs" / "attn_unet_sweep"
    histories = {f.parent.name: json.loads(f.read_text()) for f in folder.glob("*/history.json")}
    assert sorted(histories) == [
        "01-attention_unet",
        "02-unet",
        "phase1-segmentation",
        next(name for name in histories if name.startswith("winner-")),
    ]
    for name, history in histories.items():
        metric = {"p": "val/iou", "w": "val/hole_psnr"}.get(name[0], "val/removal_psnr")
        assert metric in history[-1], name
    assert result.leaderboard.rank_by == "hole_psnr"
    for entry in result.leaderboard.entries:
        assert "hole_psnr" in entry.table.total
        assert ("removal_psnr" in entry.table.total) == (entry.kind != "baseline")
    assert result.model is not None
    champion = find_model(result.model.name, tracking_uri=f"sqlite:///{home}/mlflow.db")
    own = [e for e in result.leaderboard.entries if e.kind in ("trial", "winner")]
    scored = {e.name: e.val_score for e in own}
    assert champion.scores["val_hole_psnr"] == pytest.approx(max(scored.values()), abs=1e-6)
    assert all(isinstance(load_bundle(b).model, JointModel) for b in result.bundles.values())
