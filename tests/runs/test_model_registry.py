"""The registry seen from outside: MLflow's own loader, aliases, and stores that do not answer."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient

from rayfill.models import build_model
from rayfill.runs.bundle import load_bundle, save_bundle
from rayfill.runs.registry import (
    NoSuchModelError,
    RegisteredModel,
    fetch_bundle,
    find_model,
    get_version,
    promote,
    register_bundle,
)
from rayfill.runs.tracking import ensure_experiment
from rayfill_data.errors import RayfillError

CONFIG = {"width": 2, "depth": 2}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    ensure_experiment("test", tracking_uri=uri)
    return uri


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "best"
    torch.manual_seed(0)
    save_bundle(path, model=build_model("unet", **CONFIG), name="unet", config=CONFIG)
    return path


@pytest.fixture
def register(store: str, bundle: Path) -> Callable[..., RegisteredModel]:
    def register(name: str, **changes: Any) -> RegisteredModel:
        experiment = ensure_experiment("test", tracking_uri=store)
        run = MlflowClient(store).create_run(experiment)
        values: dict[str, Any] = {
            "name": name,
            "run_id": run.info.run_id,
            "scores": {"hole_psnr": 20.0},
            "protocol": {"dataset_hash": "abc"},
            "tracking_uri": store,
        }
        return register_bundle(bundle, **(values | changes))

    return register


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_versions_count_up_and_keep_what_they_scored(
    register: Callable[..., RegisteredModel], store: str
) -> None:
    first, second = register("two"), register("two", scores={"hole_psnr": 21.5})
    assert (first.version, second.version) == ("1", "2")
    for made in (first, second):
        found = get_version("two", version=made.version, tracking_uri=store)
        assert found == made
        assert found.alias == ""
        assert found.protocol == {"dataset_hash": "abc"}
    assert first.scores == {"hole_psnr": 20.0}
    assert first.created_ms > 0


def test_scores_that_are_not_finite_are_left_out(
    register: Callable[..., RegisteredModel], store: str
) -> None:
    scores = {"hole_psnr": 20.0, "psnr": float("nan"), "lpips": float("inf")}
    made = register("finite", scores=scores)
    assert made.scores == {"hole_psnr": 20.0}
    tags = MlflowClient(store).get_model_version("finite", made.version).tags
    assert "NaN" not in tags["scores"]
    assert json.loads(tags["scores"]) == {"hole_psnr": 20.0}


def test_an_alias_moves_with_its_reason(
    register: Callable[..., RegisteredModel], store: str
) -> None:
    first, second = register("moves"), register("moves")
    promote(first, reason="the first", tracking_uri=store)
    assert find_model("moves", tracking_uri=store).version == "1"
    promote(second, reason="better", tracking_uri=store)
    promote(first, alias="fallback", reason="known", tracking_uri=store)
    assert find_model("moves", tracking_uri=store).version == "2"
    assert find_model("moves", tracking_uri=store).alias == "champion"
    assert find_model("moves", alias="fallback", tracking_uri=store).version == "1"
    tags = MlflowClient(store).get_model_version("moves", "2").tags
    assert tags["promoted_because"] == "better"


def test_a_bundle_is_fetched_once_from_its_own_store(
    register: Callable[..., RegisteredModel],
    store: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = register("fetched")
    # The process-wide store is another one; it must not be asked, or set.
    other = f"sqlite:///{tmp_path}/other.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
    fetched = fetch_bundle(model, tracking_uri=store, cache_dir=tmp_path / "cache")
    assert load_bundle(fetched).config == CONFIG
    assert not (tmp_path / "other.db").exists()
    assert mlflow.get_tracking_uri() == other
    assert len(list((tmp_path / "cache").iterdir())) == 1

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("downloaded again")

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", refuse)
    again = fetch_bundle(model, tracking_uri=store, cache_dir=tmp_path / "cache")
    assert again == fetched


def test_a_download_that_fails_leaves_nothing_behind(
    register: Callable[..., RegisteredModel], store: str, tmp_path: Path
) -> None:
    model = register("lost")
    run = MlflowClient(store).get_run(model.run_id)
    files = Path(run.info.artifact_uri.removeprefix("file://"))
    (files / "model").rename(tmp_path / "moved")
    with pytest.raises(RayfillError, match="asked for a model's files"):
        fetch_bundle(model, tracking_uri=store, cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    (tmp_path / "moved").rename(files / "model")
    assert fetch_bundle(model, tracking_uri=store, cache_dir=tmp_path / "cache").is_dir()


def test_mlflow_itself_loads_the_champion_and_known_pixels_come_back_bit_for_bit(
    register: Callable[..., RegisteredModel],
    store: str,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    promote(register("rayfill"), reason="a test", tracking_uri=store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    model = mlflow.pyfunc.load_model("models:/rayfill@champion")
    rng = np.random.default_rng(0)
    image = rng.random((2, 3, 19, 33), np.float32)  # no multiple of the stride
    hole = np.zeros((2, 1, 19, 33), np.float32)
    hole[0, :, 4:12, 5:20] = 1
    hole[1, :, 0, 0] = 1
    answer = model.predict({"image": image, "hole_mask": hole})
    known = np.broadcast_to(hole == 0, image.shape)
    assert answer.dtype == np.float32
    assert np.array_equal(answer[known].view(np.uint32), image[known].view(np.uint32))
    assert np.isfinite(answer).all()
    assert not np.array_equal(answer, image)
    # It is the very network of the bundle that answers.
    direct = load_bundle(bundle).model(torch.from_numpy(image), torch.from_numpy(hole))
    expected = direct.detach().clamp(0, 1).numpy()
    np.testing.assert_allclose(answer[~known], expected[~known], atol=1e-6)


def test_what_was_registered_says_what_it_takes(
    register: Callable[..., RegisteredModel], store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = register("signed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    info = mlflow.models.get_model_info(f"models:/signed/{made.version}")
    assert [spec.name for spec in info.signature.inputs] == ["image", "hole_mask"]
    files = Path(MlflowClient(store).get_run(made.run_id).info.artifact_uri.removeprefix("file://"))
    assert not [*files.rglob("*.pkl"), *files.rglob("*.pt")]


def test_a_missing_model_alias_or_version_is_named_with_the_way_out(
    register: Callable[..., RegisteredModel], store: str
) -> None:
    register("unpromoted")
    for name in ("nobody", "unpromoted"):
        with pytest.raises(NoSuchModelError, match=f"No model '{name}'.*make sweep"):
            find_model(name, tracking_uri=store)
    with pytest.raises(NoSuchModelError, match="no version '7' of 'unpromoted'.*rayfill ui"):
        get_version("unpromoted", version="7", tracking_uri=store)


def test_asking_before_anything_was_trained_makes_no_database(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/home/mlflow.db"
    with pytest.raises(NoSuchModelError, match="make sweep"):
        find_model("rayfill", tracking_uri=uri)
    with pytest.raises(NoSuchModelError, match="no version '1'"):
        get_version("rayfill", version="1", tracking_uri=uri)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["not a database", "unknown scheme", "server away"])
def test_a_store_that_cannot_be_used_is_one_clear_error_and_not_a_missing_model(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "text.db").write_text("a text file, long enough to be taken for a database header")
    uri = {
        "not a database": f"sqlite:///{tmp_path}/text.db",
        "unknown scheme": "foo://somewhere",
        "server away": f"http://127.0.0.1:{closed_port()}",
    }[kind]
    for ask in (
        lambda: find_model("rayfill", tracking_uri=uri),
        lambda: get_version("rayfill", version="1", tracking_uri=uri),
    ):
        with pytest.raises(RayfillError, match="MLFLOW_TRACKING_URI") as caught:
            ask()
        assert not isinstance(caught.value, NoSuchModelError)
        assert "\n" not in str(caught.value)


def test_a_model_is_not_registered_to_a_run_that_is_not_there(
    register: Callable[..., RegisteredModel], store: str
) -> None:
    with pytest.raises(RayfillError, match="asked to take a model"):
        register("orphan", run_id="0" * 32)
    with pytest.raises(NoSuchModelError):
        find_model("orphan", tracking_uri=store)
