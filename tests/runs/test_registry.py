"""Model bundles into the registry and out of it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rayfill.models import build_model
from rayfill.runs.bundle import load_bundle, save_bundle
from rayfill.runs.mlflow_store import open_store
from rayfill.runs.registry import fetch_bundle, find_model, promote, register_bundle
from rayfill_data.errors import RayfillError

CONFIG = {"width": 2, "depth": 2}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "best"
    save_bundle(path, model=build_model("unet", **CONFIG), name="unet", config=CONFIG)
    return path


@pytest.fixture
def store(tmp_path: Path) -> dict[str, str]:
    """An MLflow store with one run in it."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = open_store(uri)
    experiment = client.create_experiment("x", artifact_location=(tmp_path / "files").as_uri())
    return {"tracking_uri": uri, "run_id": client.create_run(experiment).info.run_id}


def register(bundle: Any, store: dict[str, str]) -> Any:
    return register_bundle(
        bundle, name="rayfill", scores={"hole_psnr": 20.0}, protocol={"split": "test"}, **store
    )


def test_a_bundle_given_by_uri_comes_back_as_it_was(
    bundle: Path, store: dict[str, str], tmp_path: Path
) -> None:
    made = register(bundle.as_uri(), store)
    uri = store["tracking_uri"]
    promote(made, reason="a test", tracking_uri=uri)
    found = find_model("rayfill", tracking_uri=uri)
    assert (found.version, found.scores) == (made.version, {"hole_psnr": 20.0})
    fetched = fetch_bundle(found, tracking_uri=uri, cache_dir=tmp_path / "cache")
    assert load_bundle(fetched).name == "unet"
    weights = "model.safetensors"
    assert (fetched / weights).read_bytes() == (bundle / weights).read_bytes()


def test_a_damaged_bundle_is_not_registered(bundle: Path, store: dict[str, str]) -> None:
    (bundle / "config.json").write_text("{}")
    with pytest.raises(RayfillError, match=r"config.json has 2 bytes instead of"):
        register(bundle, store)
    with pytest.raises(RayfillError, match="No model 'rayfill'"):
        find_model("rayfill", tracking_uri=store["tracking_uri"])
