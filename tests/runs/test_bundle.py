"""Bundles round-trip bit for bit, and every damaged one is refused with one clear line."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rayfill.models import build_model
from rayfill.runs import bundle
from rayfill.runs.bundle import BundleError, load_bundle, save_bundle
from rayfill_data.errors import ConfigError, RayfillError

CONFIG = {"width": 2, "depth": 2, "hole_fill": "push_pull", "output": "residual"}


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = build_model("attention_unet", **CONFIG)
    path = tmp_path / "best"
    save_bundle(path, model=model, name="attention_unet", config=CONFIG, extra={"run_id": "r1"})
    return model, path


def reseal(path: Path) -> None:
    """Make the manifest agree with the files again, as an attacker would."""
    manifest = json.loads((path / "manifest.json").read_text())
    for name in manifest["files"]:
        data = (path / name).read_bytes()
        manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    (path / "manifest.json").write_text(json.dumps(manifest))


def edit_config(path: Path, **changes) -> None:
    document = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**document, **changes}))
    reseal(path)


def refused(path: Path, match: str, error=BundleError) -> None:
    with pytest.raises(error, match=match) as caught:
        load_bundle(path)
    assert isinstance(caught.value, RayfillError)
    assert len(str(caught.value).splitlines()) == 1


def test_round_trip_is_bit_for_bit(saved):
    model, path = saved
    loaded = load_bundle(path)
    assert (loaded.name, loaded.config) == ("attention_unet", CONFIG)
    assert loaded.extra == {"run_id": "r1"}
    assert not loaded.model.training
    theirs = loaded.model.state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(theirs[key], value)
    assert all(p.requires_grad and not p.is_meta for p in loaded.model.parameters())
    image, hole_mask = torch.rand(1, 3, 20, 20), torch.ones(1, 1, 20, 20)
    assert torch.equal(loaded.model(image, hole_mask), model.eval()(image, hole_mask))


def test_loaded_model_trains_without_touching_the_file(saved):
    _, path = saved
    before = (path / "model.safetensors").read_bytes()
    model = load_bundle(path).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert (path / "model.safetensors").read_bytes() == before


def test_channels_last_weights_are_saved_too(saved, tmp_path):
    model, _ = saved
    model.to(memory_format=torch.channels_last)
    save_bundle(tmp_path / "last", model=model, name="attention_unet", config=CONFIG)
    state = load_bundle(tmp_path / "last").model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_saving_again_replaces_and_leaves_nothing_else(saved):
    model, path = saved
    with torch.no_grad():
        model.head.bias.fill_(7.0)
    save_bundle(path, model=model, name="attention_unet", config=CONFIG)
    assert load_bundle(path).model.head.bias.eq(7.0).all()
    assert os.listdir(path.parent) == ["best"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "manifest.json"])
def test_missing_file(saved, name):
    (saved[1] / name).unlink()
    refused(saved[1], "no readable" if name == "manifest.json" else f"lacks {name}")


def test_missing_folder_and_file_instead_of_folder(tmp_path):
    refused(tmp_path / "none", "none has no readable manifest.json")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "file has no readable manifest.json")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "manifest.json"])
@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_truncated_file(saved, name, keep):
    data = (saved[1] / name).read_bytes()
    (saved[1] / name).write_bytes(data[: int(keep * len(data))])
    refused(saved[1], "no readable" if name == "manifest.json" else r"has \d+ bytes instead of")


def test_one_flipped_bit_in_the_weights(saved):
    data = bytearray((saved[1] / "model.safetensors").read_bytes())
    data[-10] ^= 1
    (saved[1] / "model.safetensors").write_bytes(data)
    refused(saved[1], "SHA-256")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(saved, value):
    model, path = saved
    state = load_file(path / "model.safetensors")
    state["head.bias"] = torch.full_like(state["head.bias"], value)
    save_file(state, path / "model.safetensors")
    reseal(path)
    refused(path, "not finite.*head.bias")
    model.load_state_dict(state)
    with pytest.raises(BundleError, match="not finite"):
        save_bundle(path.with_name("other"), model=model, name="attention_unet", config=CONFIG)


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "dtype"])
def test_wrong_architecture(saved, change):
    path = saved[1]
    state = load_file(path / "model.safetensors")
    bias = state.pop("head.bias")
    if change == "extra":
        state.update({"head.bias": bias, "zzz": bias.clone()})
    elif change == "shape":
        state["head.bias"] = torch.zeros(4)
    elif change == "dtype":
        state["head.bias"] = bias.double()
    save_file(state, path / "model.safetensors")
    reseal(path)
    refused(path, "another architecture.*" + ("zzz" if change == "extra" else "head.bias"))


def test_other_model_configuration_or_schema_than_saved(saved):
    _, path = saved
    edit_config(path, model="unet")
    refused(path, "another architecture")
    edit_config(path, model="attention_unet", config={**CONFIG, "width": 1024, "depth": 7})
    refused(path, "another architecture")  # without the 10 TB that it would take to build
    edit_config(path, model="unett")
    refused(path, "Did you mean 'unet'", error=ConfigError)
    edit_config(path, model="unet", config={"name": "x"})
    refused(path, "Unknown option of unet 'name'", error=ConfigError)
    edit_config(path, model="unet", config=[1])
    refused(path, "lacks model, config or extra")
    edit_config(path, schema=2)
    refused(path, "bundle schema 2")


class Payload:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was executed",))


def test_a_pickle_in_disguise_is_not_executed(saved):
    path = saved[1]
    for data in (pickle.dumps(Payload()), b"", b"\xff" * 64, (2**40).to_bytes(8, "little") + b"{}"):
        (path / "model.safetensors").write_bytes(data)
        reseal(path)
        refused(path, "not a safetensors file")


@pytest.mark.parametrize("text", ["[]", "nul", "[" * 100_000, '{"files": []}', '{"files": {}}'])
def test_hostile_manifest(saved, text):
    (saved[1] / "manifest.json").write_text(text)
    refused(saved[1], "no readable manifest.json|lacks config.json")


@pytest.mark.parametrize(
    "text", ["[]", "nul", "[" * 100_000, " " * bundle._MAX_CONFIG_BYTES + "{}"]
)
def test_hostile_config(saved, text):
    (saved[1] / "config.json").write_text(text)
    reseal(saved[1])
    refused(saved[1], "config.json is not a JSON object")


def test_neither_saving_nor_loading_takes_much_more_than_twice_the_weights(tmp_path):
    config = {"width": 24, "depth": 3}
    model = build_model("unet", **config)
    size = sum(value.nbytes for value in model.state_dict().values())
    assert size > 2**22
    for work in (
        lambda: save_bundle(tmp_path / "big", model=model, name="unet", config=config),
        lambda: load_bundle(tmp_path / "big"),
    ):
        tracemalloc.start()
        work()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2.2 * size


def test_uris_are_taken_as_paths_are(saved):
    model, path = saved
    save_bundle(f"{path.as_uri()}-2", model=model, name="attention_unet", config=CONFIG)
    assert load_bundle(f"file://{path}-2").name == "attention_unet"


def test_saving_what_does_not_fit_or_is_not_json(saved, tmp_path):
    model, _ = saved
    target = tmp_path / "new"
    with pytest.raises(BundleError, match="another architecture"):
        save_bundle(target, model=model, name="unet", config=CONFIG)
    for extra in ({"x": {1, 2}}, {"x": float("nan")}):
        with pytest.raises(BundleError, match="plain JSON"):
            save_bundle(target, model=model, name="attention_unet", config=CONFIG, extra=extra)
    assert not target.exists()


def test_failed_write_keeps_the_old_bundle_and_leaves_nothing(saved, monkeypatch):
    model, path = saved

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(RayfillError, match=r"write [\d,]+ bytes to .*best: No space left"):
        save_bundle(path, model=model, name="attention_unet", config=CONFIG)
    assert os.listdir(path.parent) == ["best"]
    assert load_bundle(path).extra == {"run_id": "r1"}


def test_failed_swap_puts_the_old_bundle_back(saved, monkeypatch):
    model, path = saved
    rename = Path.rename

    def second_fails(self, target):
        if self.name.endswith(".tmp"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(RayfillError, match="Input/output error"):
        save_bundle(path, model=model, name="attention_unet", config=CONFIG)
    assert os.listdir(path.parent) == ["best"]
    assert load_bundle(path).extra == {"run_id": "r1"}


def test_a_file_in_the_way_is_not_replaced(saved, tmp_path):
    target = tmp_path / "note.txt"
    target.write_text("mine")
    with pytest.raises(RayfillError, match="a file of that name"):
        save_bundle(target, model=saved[0], name="attention_unet", config=CONFIG)
    assert target.read_text() == "mine"
