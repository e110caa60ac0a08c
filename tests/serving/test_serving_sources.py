"""What references mean to the server: names, versions, and what it does when they change."""

from __future__ import annotations

import hashlib
import importlib.metadata
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from rayfill.config.sections import Finish
from rayfill.models import build_model
from rayfill.runs.bundle import save_bundle
from rayfill_data.errors import ConfigError
from rayfill_serving.models import ModelShelf
from rayfill_serving.options import ServingOptions
from rayfill_serving.sources import ReferenceSource


@pytest.fixture
def run(bundle: Path, tmp_path: Path) -> Path:
    """A training run of a sweep of one."""
    folder = tmp_path / "runs" / "night" / "01-unet"
    shutil.copytree(bundle, folder / "best")
    (folder / "history.json").write_text('[{"epoch": 1, "val/psnr": 20.0}]')
    plan = '{"trials": [{"name": "01-unet", "eval": {"select_metric": "psnr"}}]}'
    (folder.parent / "plan.json").write_text(plan)
    return folder


def shelf_of(models: str, folder: Path, *, finish: Finish = "auto") -> ModelShelf:
    options = ServingOptions(models=models)
    source = ReferenceSource(
        references=options.references,
        tracking_uri="",
        cache_dir=str(folder / "cache"),
        finish=finish,
    )
    shelf = ModelShelf(list(options.references), source=source, poll_s=60)
    shelf.refresh()
    return shelf


def test_what_is_served_is_called_after_its_label_its_registered_name_or_its_place(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYFILL_STORAGE", str(run.parent.parent))
    for value, name in {
        "telea": "telea",
        "mine@champion": "mine",
        "models:/mine/3": "mine",
        "stable=models:/mine/3": "stable",
        "runs:/0123456789abcdef": "01234567",
        str(run): "01-unet",
        str(run / "best"): "01-unet",
        f"small={run}": "small",
        str(run.parent): "night",
        "sweep:night": "night",
    }.items():
        assert list(ServingOptions(models=value).references) == [name]


def test_what_cannot_be_served_is_said_at_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYFILL_STORAGE", str(run.parent.parent))
    with pytest.raises(ConfigError) as caught:
        ServingOptions(models=f"rayfill,{run}/..,sweep:day,mine@a,mine@b,{run.parent.parent}")
    bare, day, empty, twice = caught.value.problems
    assert bare.startswith("'rayfill' names nothing. If it is a registered model, name it with")
    assert "rayfill@champion" in bare
    assert "There is no sweep 'day'" in day
    assert "holds no model bundle" in empty
    assert "2 models are called 'mine' (mine@a, mine@b): give each a name of its own" in twice


def test_workers_in_another_folder_mean_the_same(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYFILL_STORAGE", "runs")
    models = "runs/night/01-unet,x=sweep:night"
    sent = pickle.dumps(ServingOptions(models=models).resolved())
    monkeypatch.chdir(run)
    monkeypatch.delenv("RAYFILL_STORAGE")
    places = [reference.location for reference in pickle.loads(sent).references.values()]
    assert places == [str(run), str(run.parent)]


@pytest.mark.parametrize("of", ["best", ".", ".."], ids=["bundle", "run", "sweep"])
def test_a_bundle_replaced_in_its_place_is_followed(of: str, run: Path, tmp_path: Path) -> None:
    def version() -> str:
        manifest = (run / "best" / "manifest.json").read_bytes()
        return hashlib.sha256(manifest).hexdigest()[:8]

    first = version()
    shelf = shelf_of(f"mine={(run / of).resolve()}", tmp_path)
    assert shelf.get("mine").label == f"mine/{first}"
    other = {"width": 6, "depth": 2}
    save_bundle(run / "best", model=build_model("unet", **other), name="unet", config=other)
    shelf.refresh()
    assert version() != first
    assert shelf.get(f"mine/{version()}").label == f"mine/{version()}"
    shutil.rmtree(run / "best")
    shelf.refresh()
    assert shelf.get(None).served.version != first, "the model in use was lost with its files"


def test_a_baseline_is_served_in_rayfills_version(tmp_path: Path, pictures: Any) -> None:
    shelf = shelf_of("telea,fast=mean", tmp_path)
    ours = importlib.metadata.version("rayfill")
    assert shelf.get(None).label == f"telea/{ours}"
    (telea, _) = shelf.describe()
    assert (telea.name, telea.scores, telea.alias, telea.run_id) == ("telea", {}, "", "")
    photo, hole = pictures.photo(), pictures.hole()
    filled = shelf.get("fast").inpainter.inpaint(photo, hole)
    assert (filled[hole == 0] == photo[hole == 0]).all()
    assert (filled[hole > 0] != photo[hole > 0]).any()


@pytest.mark.parametrize(
    ("finish", "found"),
    [
        ("auto", ("exemplar", "auto", "auto")),
        ("none", ("none",) * 3),
        ("exemplar", ("exemplar",) * 3),
    ],
)
def test_a_finish_is_what_the_bundle_says_unless_the_server_is_told(
    finish: Finish, found: tuple[Finish, ...], run: Path, tmp_path: Path
) -> None:
    config = {"width": 4, "depth": 2}
    better = {"name": "unet", "config": config, "extra": {"finish": "exemplar"}}
    save_bundle(tmp_path / "patched", model=build_model("unet", **config), **better)
    shelf = shelf_of(f"a={tmp_path / 'patched'},b={run},c=telea", tmp_path, finish=finish)
    served = shelf.describe()
    assert tuple(model.finish for model in served) == found
    for model in served:
        patched = model.finish == "exemplar"
        assert model.variants == (4 if patched else 1)
        assert ("patches" in model.about) == (
            patched or (model.name, model.finish) == ("b", "auto")
        )
