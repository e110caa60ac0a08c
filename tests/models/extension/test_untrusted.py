"""A bundle that names code of one's own: nothing is imported that the operator did not allow."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rayfill.models import build_model
from rayfill.runs.bundle import load_bundle, save_bundle
from rayfill_data.errors import ConfigError, RayfillError
from rayfill_data.extension import ALLOW_MODULES, allow_modules

NET = "mypkg.nets:TwoScales"


@pytest.fixture
def bundle(mypkg: Any, tmp_path: Path) -> Path:
    """A bundle of the example's model, in a process that has forgotten its module."""
    options = {"channels": 3}
    path = tmp_path / "bundle"
    save_bundle(path, model=build_model(NET, **options), name=NET, config=options)
    for name in [name for name in sys.modules if name.partition(".")[0] == "mypkg"]:
        del sys.modules[name]
    for mark in (tmp_path / "marks").iterdir():
        mark.unlink()
    return path


def rename(bundle: Path, model: str, config: dict[str, Any]) -> None:
    """Let a bundle name another network, with a manifest that fits."""
    file, manifest = bundle / "config.json", bundle / "manifest.json"
    document = json.loads(file.read_text()) | {"model": model, "config": config}
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    size = file.stat().st_size
    file.write_text(json.dumps(document))
    text = manifest.read_text().replace(before, hashlib.sha256(file.read_bytes()).hexdigest())
    assert f": {size}" in text
    manifest.write_text(text.replace(f": {size}", f": {file.stat().st_size}"))


@pytest.mark.parametrize(
    ("model", "config"),
    [
        ("evilmod:Net", {}),
        ("joint", {"inpainter": "evilmod:Net"}),
        ("joint", {"segmenter": "evilmod:Net"}),
        ("joint", {"inpainter": "joint", "inpainter_options": {"inpainter": "evilmod:Net"}}),
    ],
)
def test_nothing_is_imported_unasked(
    bundle: Path, marks: Callable[[], set[str]], model: str, config: dict[str, Any]
) -> None:
    rename(bundle, model, config)
    path = list(sys.path)
    with pytest.raises(RayfillError):
        load_bundle(bundle)
    assert marks() == set()
    assert sys.path == path


def test_the_refusal_says_how_to_allow_it(bundle: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_bundle(bundle)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{bundle}: mypkg.nets:TwoScales is code of its own")
    assert problem.endswith("--allow-modules mypkg, or RAYFILL_ALLOW_MODULES=mypkg.")


@pytest.mark.parametrize("thing", ["os:system", "torch.nn:Bilinear", "builtins:eval"])
def test_what_is_imported_but_no_model_is_refused(bundle: Path, thing: str) -> None:
    rename(bundle, thing, {})
    with pytest.raises(ConfigError, match="is no model|a model takes"):
        load_bundle(bundle)


def test_an_allowed_prefix_is_one_of_whole_names(
    bundle: Path, marks: Callable[[], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for prefix in ("my", "mypkg.net", "mypkg.nets.deeper", "other, evilmod"):
        monkeypatch.setenv(ALLOW_MODULES, prefix)
        with pytest.raises(ConfigError, match="unasked"):
            load_bundle(bundle)
    assert marks() == set()
    monkeypatch.setenv(ALLOW_MODULES, "other")
    allow_modules("mypkg")
    loaded = load_bundle(bundle)
    assert loaded.config == {"channels": 3}
    image = torch.rand(1, 3, 7, 9)
    assert loaded.model(image, torch.zeros(1, 1, 7, 9)).shape == image.shape


def test_what_this_process_imported_itself_needs_no_word(mypkg: Any, bundle: Path) -> None:
    mypkg("mypkg.nets")
    assert load_bundle(bundle).name == NET


def test_an_absent_module_is_named(bundle: Path) -> None:
    rename(bundle, "absent.nets:Net", {})
    with pytest.raises(ConfigError, match="needs the module 'absent', which is not there: install"):
        load_bundle(bundle)
