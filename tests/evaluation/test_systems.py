"""One word for whatever can be measured: how it is read, and what is said of what cannot be."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient
from PIL import Image

from rayfill.config.run import ModelConfig
from rayfill.evaluation.systems import System, open_system, open_systems
from rayfill.inference.baselines import BASELINES
from rayfill.models import build_model, guided_fill
from rayfill.runs.bundle import BundleError, save_bundle
from rayfill.runs.registry import NoSuchModelError, promote, register_bundle
from rayfill.runs.tracking import ensure_experiment
from rayfill_data.errors import ConfigError, RayfillError

CONFIG = {"width": 2, "depth": 2}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing of this machine's own is looked at."""
    monkeypatch.setenv("RAYFILL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(home: Path) -> Path:
    """The folder of a training run: its best bundle, and checkpoints beside it."""
    torch.manual_seed(0)
    folder = home / "runs" / "my_run"
    save_bundle(
        folder / "best",
        model=build_model("unet", **CONFIG),
        name="unet",
        config=CONFIG,
        extra={"run_id": "abc"},
    )
    (folder / "checkpoints" / "step-00000010").mkdir(parents=True)
    return folder


@pytest.fixture
def store(home: Path) -> str:
    return f"sqlite:///{home}/mlflow.db"


def new_run(store: str, **tags: str) -> str:
    experiment = ensure_experiment("x", tracking_uri=store)
    run_id: str = MlflowClient(store).create_run(experiment, tags=tags).info.run_id
    return run_id


def register(run: Path, store: str) -> str:
    """Register the run's bundle as version 1 of "mine", the champion, and return its run id."""
    run_id = new_run(store)
    made = register_bundle(
        run / "best", name="mine", run_id=run_id, scores={}, protocol={}, tracking_uri=store
    )
    promote(made, reason="a test", tracking_uri=store)
    return run_id


def answers_alike(one: torch.nn.Module | None, other: torch.nn.Module) -> bool:
    assert one is not None
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:9, 3:12] = 1
    with torch.inference_mode():
        return torch.equal(one(image, mask), other(image, mask))


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline(name: str) -> None:
    system = open_system(name)
    assert (system.name, system.kind, system.source) == (name, "baseline", name)
    assert system.model is BASELINES[name]


def test_a_label_says_what_the_table_calls_it(run: Path) -> None:
    assert open_system("fast marching=telea").name == "fast marching"
    assert open_system(f"ours={run}").name == "ours"
    Path("a=b").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("a=b/1.png")
    assert open_system("./a=b").name == "a=b"


def test_a_run_a_bundle_and_a_folder_of_pictures(run: Path) -> None:
    torch.manual_seed(0)
    expected = build_model("unet", **CONFIG).eval()
    for value in (str(run), f"{run}/best", f"{run}/", "runs/my_run"):
        system = open_system(value)
        assert (system.name, system.kind) == ("my_run", "model")
        assert system.source == f"{run}/best"
        assert system.facts == {"network": "unet", "run_id": "abc"}
        assert answers_alike(system.model, expected)
    pictures = run.parent / "telea"
    pictures.mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(pictures / "1.png")
    (pictures / "config.json").write_text("{}")  # such as other code leaves beside its results
    system = open_system(str(pictures))
    assert (system.name, system.kind, system.model) == ("telea", "pictures", None)
    assert open_system("runs/telea").kind == "pictures"
    shutil.copytree(pictures, "telea")
    assert open_system("telea").kind == "baseline"
    assert open_system("./telea").kind == "pictures"


def test_a_registered_model_by_alias_by_version_and_by_run(run: Path, store: str) -> None:
    run_id = register(run, store)
    expected = open_system(str(run)).model
    assert expected is not None
    for value in ("mine@champion", "models:/mine@champion", "models:/mine/1"):
        system = open_system(value, tracking_uri=store)
        assert (system.name, system.source) == ("mine-v1", "models:/mine/1")
        assert answers_alike(system.model, expected)
    for value in (f"runs:/{run_id}", f"runs:/{run_id}/model", f"runs:/{run_id}"):
        system = open_system(value, tracking_uri=store)
        assert (system.name, system.kind) == (run_id[:8], "model")
        assert answers_alike(system.model, expected)


def test_a_run_whose_model_was_not_logged_notes_where_it_is(run: Path, store: str) -> None:
    noted = new_run(store, **{"rayfill.bundle": f"{run}/best"})
    system = open_system(f"runs:/{noted}", tracking_uri=store)
    assert system.facts["network"] == "unet"
    bare = new_run(store)
    with pytest.raises(NoSuchModelError, match="has no artifact 'model' and notes no model bundle"):
        open_system(f"runs:/{bare}", tracking_uri=store)


def test_what_was_deleted_is_refused(run: Path, store: str) -> None:
    run_id = register(run, store)
    client = MlflowClient(store, registry_uri=store)
    client.delete_run(run_id)
    with pytest.raises(NoSuchModelError, match=f"'{run_id}' was deleted; bring it back with"):
        open_system(f"runs:/{run_id}", tracking_uri=store)
    client.delete_model_version("mine", "1")
    with pytest.raises(NoSuchModelError, match="no version '1' of 'mine'"):
        open_system("models:/mine/1", tracking_uri=store)
    with pytest.raises(NoSuchModelError, match="'mine' with alias 'champion'"):
        open_system("mine@champion", tracking_uri=store)


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        ("teleaa", ConfigError, r"Did you mean 'telea'\? Allowed: a baseline \(biharmonic"),
        ("nowhere/at/all", ConfigError, "names nothing"),
        ("mine@champion", NoSuchModelError, "rayfill promote"),
        ("models:/mine/7", NoSuchModelError, "no version '7' of 'mine'"),
        ("models:/mine", ConfigError, "models:/NAME@ALIAS or models:/NAME/VERSION"),
        ("runs:/0123456789abcdef0123456789abcdef", NoSuchModelError, "There is no run"),
        ("x=y=z", ConfigError, "names nothing"),
    ],
)
def test_what_is_nothing_is_refused_saying_what_is_allowed(
    store: str, value: str, error: type[Exception], said: str
) -> None:
    ensure_experiment("x", tracking_uri=store)
    with pytest.raises(error, match=said):
        open_system(value, tracking_uri=store)


@pytest.mark.parametrize("lost", ["model.safetensors", "manifest.json", "config.json"])
def test_a_bundle_with_a_file_lost_is_damaged_and_nothing_else(run: Path, lost: str) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(run / "best" / "sheet.png")
    (run / "best" / lost).unlink()
    for value in (run, run / "best"):
        with pytest.raises(BundleError):
            open_system(str(value))


def test_a_bundle_cut_short_is_damaged(run: Path) -> None:
    weights = run / "best" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"model\.safetensors has \d+ bytes instead of"):
        open_system(str(run))


def test_a_folder_with_nothing_to_measure_says_so(run: Path) -> None:
    for folder in (run / "checkpoints", run / "checkpoints" / "step-00000010"):
        with pytest.raises(RayfillError, match="used by naming the folder of its run"):
            open_system(str(folder))


def test_all_that_is_wrong_with_several_is_said_at_once(run: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        open_systems(["teleaa", "telea", "telea=mean", str(run / "checkpoints")])
    assert len(caught.value.problems) == 3
    assert "2 systems are called 'telea' (telea, mean)" in caught.value.problems[2]
    assert [s.name for s in open_systems(["telea", "mean", str(run)])] == [
        "telea",
        "mean",
        "my_run",
    ]


def test_patches_over_an_answer_are_those_of_the_fill() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 40, 48, generator=generator)
    mask = torch.zeros(2, 1, 40, 48)
    mask[..., 8:30, 10:40] = 1
    own = System(name="telea", kind="model", source="telea", model=BASELINES["telea"])
    batch = SimpleNamespace(image=image)
    guide = own.fill(batch, mask)  # type: ignore[arg-type]
    patched = own.patched()
    assert patched.name == "telea + exemplar"
    assert patched.described()["finish"] == "exemplar"
    filled = patched.fill(batch, mask)  # type: ignore[arg-type]
    assert torch.equal(filled, guided_fill(image, mask, guide=guide))
    assert not torch.equal(filled, guide)


def test_patches_lie_over_what_a_joint_model_removes_by_itself() -> None:
    torch.manual_seed(0)
    options = ModelConfig(name="joint", width=4, depth=2, segmenter_width=4, segmenter_depth=2)
    model = build_model("joint", **options.options())
    own = System(name="net", kind="model", source="net", model=model.eval())
    objects = torch.zeros(2, 1, 32, 32)
    objects[..., 8:20, 10:22] = 1
    image = torch.rand(2, 3, 32, 32) * (1 - objects) + objects
    batch = SimpleNamespace(image=image, object_mask=objects)
    with torch.inference_mode():
        alone, patched = own.remove(batch), own.patched().remove(batch)  # type: ignore[arg-type]
    assert torch.equal(patched.hole_mask, alone.hole_mask)
    expected = guided_fill(image, alone.hole_mask, guide=alone.composite)
    assert torch.equal(patched.composite, expected)
    assert not torch.equal(patched.composite, alone.composite)
