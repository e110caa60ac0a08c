"""Six commands, one grammar: what one of them understands, all do; what one refuses, all do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient
from PIL import Image

from rayfill.cli.main import _dispatch, guarded
from rayfill.config.run import RunConfig, replace
from rayfill.evaluation.report.found import RunFinder
from rayfill.evaluation.systems import open_system
from rayfill.models import build_model
from rayfill.runs.bundle import load_bundle, save_bundle
from rayfill.runs.registry import promote, register_bundle
from rayfill.runs.store import Store
from rayfill.runs.tracking import ensure_experiment
from rayfill.sweeps.starts import find_bundle
from rayfill_serving.options import ServingOptions
from rayfill_serving.sources import ReferenceSource

#: What stands before the reference on each command line.
ENTRIES = {
    "erase": ["erase", "photo.jpg", "--mask", "photo.jpg", "-o", "out.png", "--model"],
    "evaluate": ["evaluate", "--data", "nowhere", "--model"],
    "serve": ["serve", "--models"],
    "train": ["train", "--train.init-from"],
    "compare": ["compare"],
    "promote": ["promote", "--reason", "x"],
}
#: Reference -> how every command begins to refuse it.
NONSENSE = {
    "": "'' names nothing.",
    "lama": "'lama' names nothing.",
    "rayfil": "'rayfil' names nothing.",
    "teleaa": "'teleaa' names nothing.",
    "no/such/folder": "'no/such/folder' names nothing.",
    "./no@such": "'./no@such' names nothing.",
    "photo.jpg": "'photo.jpg' names nothing.",
    "@champion": "'@champion' names nothing.",
    "a@b@c": "'a@b@c' names nothing.",
    "x=y=z": "'z' names nothing.",
    "runs:/": "'runs:/' names nothing.",
    "sweep:": "'sweep:' names nothing.",
    "models:/rayfill": "'models:/rayfill' must be models:/NAME@ALIAS or models:/NAME/VERSION.",
    "models:/a/b/c": "'models:/a/b/c' must be models:/NAME@ALIAS or models:/NAME/VERSION.",
    "empty": "empty holds no model bundle (config.json, model.safetensors), no training run with a "
    "best model, no sweep and no pictures.",
}
#: What some commands can use, and how the others begin to refuse it.
OF_NO_USE = {
    "telea": "'telea' is a baseline, which is of no use here.",
    "x=mean": "'mean' is a baseline, which is of no use here.",
    "done": "'done' is a folder of finished pictures, which is of no use here.",
}
USED_BY = {
    "telea": {"erase", "evaluate", "serve"},
    "x=mean": {"erase", "evaluate", "serve"},
    "done": {"evaluate"},
    "": {"serve"},  # its list is empty then, which it says
}

ASK = """
import contextlib, io, json, sys
from rayfill.cli.main import _dispatch, guarded
before, values = json.loads(sys.argv[1])
answers = {}
for value in values:
    with contextlib.redirect_stderr(io.StringIO()) as said:
        status = guarded(_dispatch, [*before, value])
    answers[value] = [status, said.getvalue()]
heavy = [name for name in ("torch", "ray", "mlflow") if name in sys.modules]
print(json.dumps([answers, heavy]))
"""


def refusals(before: list[str], values: list[str], *, home: Path) -> dict[str, str]:
    """Return what a command says of each value; nothing heavy may be imported for it."""
    names = ("MLFLOW_TRACKING_URI", "RAYFILL_STORAGE")
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps([before, values])],
        cwd=home,
        env={k: v for k, v in os.environ.items() if k not in names} | {"RAYFILL_HOME": "."},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    answers, heavy = json.loads(done.stdout)
    assert heavy == []
    assert {status for status, _ in answers.values()} == {2}
    return {value: said.removeprefix("rayfill: ") for value, (_, said) in answers.items()}


@pytest.mark.process
@pytest.mark.parametrize("entry", ENTRIES)
def test_the_same_nonsense_is_refused_in_the_same_words_before_torch(
    entry: str, tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "1.png").write_bytes(b"")
    known = NONSENSE | OF_NO_USE
    expected = {value: said for value, said in known.items() if entry not in USED_BY.get(value, ())}
    said = refusals(ENTRIES[entry], list(expected), home=tmp_path)
    assert {value: said[value][: len(begun)] for value, begun in expected.items()} == expected


@pytest.mark.process
def test_a_network_that_is_none_is_refused_before_torch(tmp_path: Path) -> None:
    said = refusals(["train", "--model.name"], ["unett"], home=tmp_path)
    assert "Did you mean 'unet'?" in said["unett"]


class World:
    """A trained run of a sweep, recorded and registered, and what each command makes of it."""

    def __init__(self, home: Path) -> None:
        self.home, self.store = home, f"sqlite:///{home}/mlflow.db"
        self.run = home / "runs" / "night" / "01-unet"
        network = {"width": 2, "depth": 2}
        self.model = build_model("unet", **network)
        for weights in self.model.parameters():
            torch.nn.init.normal_(weights, std=0.1)
        save_bundle(self.run / "best", model=self.model, name="unet", config=network)
        (self.run / "history.json").write_text('[{"epoch": 1, "val/psnr": 20.0}]')
        plan = {"trials": [{"name": "01-unet", "eval": {"select_metric": "psnr"}}]}
        (self.run.parent / "plan.json").write_text(json.dumps(plan))
        tags = {"rayfill.run_dir": str(self.run), "rayfill.bundle": f"{self.run}/best"}
        experiment = ensure_experiment("x", tracking_uri=self.store)
        recorded = MlflowClient(self.store).create_run(experiment, tags=tags, run_name="01-unet")
        self.run_id = recorded.info.run_id
        version = register_bundle(
            self.run / "best",
            name="mine",
            run_id=self.run_id,
            scores={},
            protocol={},
            tracking_uri=self.store,
        )
        promote(version, reason="the first", tracking_uri=self.store)
        Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(home / "photo.png")
        hole = np.zeros((32, 32), np.uint8)
        hole[10:20, 10:20] = 255
        Image.fromarray(hole).save(home / "mask.png")

    def references(self) -> list[str]:
        bare = [
            "mine@champion",
            "models:/mine@champion",
            "models:/mine/1",
            f"runs:/{self.run_id}",
            f"runs:/{self.run_id}/model",
            "sweep:night",
            str(self.run.parent),
            str(self.run),
            f"{self.run}/",
            str(self.run / "best"),
        ]
        return [*bare, *(f"label={value}" for value in bare)]

    def is_ours(self, model: torch.nn.Module) -> bool:
        ours, theirs = self.model.state_dict(), model.state_dict()
        return all(torch.equal(ours[key], theirs[key]) for key in ours)

    def erase(self, value: str) -> bool:
        out = self.home / "out.png"
        photo, mask = self.home / "photo.png", self.home / "mask.png"
        args = [photo, "--mask", mask, "--out", out, "--overwrite", "--model", value]
        assert guarded(_dispatch, ["erase", *map(str, args)]) == 0
        filled = out.read_bytes()
        if not hasattr(self, "filled"):
            self.filled = filled
        return filled == self.filled

    def evaluate(self, value: str) -> bool:
        model = open_system(value).model
        return model is not None and self.is_ours(model)

    def serve(self, value: str) -> bool:
        options = ServingOptions(models=value, cache_dir=str(self.home / "cache")).resolved()
        source = ReferenceSource(
            references=options.references,
            tracking_uri=options.tracking_uri,
            cache_dir=options.cache_dir,
        )
        (name,) = options.references
        return self.is_ours(source.load(source.find(name)).model)

    def train(self, value: str) -> bool:
        places = {"storage": str(self.run.parents[1]), "tracking.uri": self.store}
        config = replace(RunConfig(), places)
        return self.is_ours(load_bundle(find_bundle(value, config=config)).model)

    def compare(self, value: str) -> bool:
        finder = RunFinder(storage=str(self.run.parents[1]), store=Store(self.store))
        return [run.folder.uri for run in finder.find([value]).runs] == [str(self.run)]

    def promote(self, value: str) -> bool:
        args = ["promote", value, "--model", "mine", "--alias", "tried", "--reason", "x"]
        client = MlflowClient(self.store)
        assert guarded(_dispatch, args) == 0
        moved = str(client.get_model_version_by_alias("mine", "tried").version)
        client.delete_registered_model_alias("mine", "tried")
        return moved == "1"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_same_references_lead_to_the_same_model(
    entry: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYFILL_HOME", str(world.home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", world.store)
    leads_to_it: Callable[[str], Any] = getattr(world, entry)
    assert [value for value in world.references() if not leads_to_it(value)] == []
