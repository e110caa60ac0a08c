"""Every experiment: planned at every size, refusing what would change nothing, and run."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rayfill.cli.experiment import SCALES, Experiment, run_experiment
from rayfill.config.run import check
from rayfill.models import MODELS
from rayfill.sweeps.plan import plan_trials
from rayfill_data.errors import ConfigError

FOLDER = Path(__file__).resolve().parents[2] / "experiments"
NAMES = sorted(path.stem for path in FOLDER.glob("[!_]*.py") if path.stem != "attn_unet_sweep")
every_experiment = pytest.mark.parametrize("name", NAMES)


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@every_experiment
def test_an_experiment_can_be_planned_at_every_size(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment: Experiment = load(name, monkeypatch).EXPERIMENT
    assert experiment.base.name == name
    assert tuple(experiment.scales) == SCALES
    for scale, size in experiment.scales.items():
        config = check(experiment.config(scale))
        assert config.tracking.model_name == config.tracking.experiment == name
        trials = plan_trials(config, size.space)
        assert len({trial.name for trial in trials}) == len(trials)
        assert bool(size.data) == (scale != "smoke")  # smoke runs anywhere


@every_experiment
def test_a_size_that_needs_data_says_how_to_prepare_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment: Experiment = load(name, monkeypatch).EXPERIMENT
    with pytest.raises(ConfigError, match="--data.uri: `rayfill prepare"):
        run_experiment(experiment, ["--scale", "small"], description=None)


def test_flags_of_what_is_varied_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = load("convmixer_cifar10", monkeypatch).EXPERIMENT
    with pytest.raises(ConfigError, match=r"train.seed is 7, but this experiment varies it"):
        run_experiment(experiment, ["--train.seed", "7"], description=None)
    faces = load("partial_conv_faces", monkeypatch).EXPERIMENT
    with pytest.raises(ConfigError, match=r"model.name is 'dilated_unet'.*varies it"):
        run_experiment(faces, ["--model.name", "dilated_unet"], description=None)
    with pytest.raises(ConfigError, match="Did you mean 'smoke'"):
        run_experiment(faces, ["--scale", "smok"], description=None)


@every_experiment
def test_an_experiment_is_a_script_that_can_be_submitted(name: str) -> None:
    path = FOLDER / f"{name}.py"
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/usr/bin/env python3\n")


@pytest.mark.slow
@every_experiment
def test_an_experiment_runs_at_smoke_and_prints_its_table(
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    ray_local: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RAYFILL_HOME", str(tmp_path))
    for variable in ("MLFLOW_TRACKING_URI", "RAYFILL_STORAGE", "RAY_ADDRESS"):
        monkeypatch.delenv(variable, raising=False)
    experiment = load(name, monkeypatch)
    assert experiment.main([]) == 0
    shown = capsys.readouterr().out
    assert f"{name}: held-out test split" in shown
    for row in experiment.EXPERIMENT.report:
        assert row.name.split(",")[0] in shown
    written = (tmp_path / "runs" / name / "leaderboard.md").read_text()
    assert "Scale smoke." in written
    assert (tmp_path / "runs" / name / "samples.parquet").stat().st_size > 0


def test_every_network_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment: Experiment = load("compare_inpainters", monkeypatch).EXPERIMENT
    for scale in ("small", "paper"):
        trials = plan_trials(experiment.config(scale), experiment.scales[scale].space)
        assert {trial.model.name for trial in trials} == set(MODELS) - {"joint"}
