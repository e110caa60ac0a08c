"""Runs that go on where another ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rayfill.config.run import RunConfig, replace
from rayfill.runs.bundle import load_bundle
from rayfill.runs.checkpoint import CheckpointStore
from rayfill.runs.folder import RunFolder
from rayfill.runs.record import lineage_tags
from rayfill.training.lineage import take_over
from rayfill.training.loop import Runtime, TrainingSummary, run_training
from rayfill.training.recipes import Recipe, learning_rate_factor
from rayfill_data.checks import problems
from rayfill_data.errors import RayfillError
from rayfill_data.prepared.reader import PreparedDataset
from rayfill_data.storage import read_folder

SMALL = {
    "model.width": 4,
    "model.depth": 2,
    "train.epochs": 3,
    "train.batch_size": 8,
    "train.warmup_steps": 2,
    "train.learning_rate": 0.01,
    "train.schedule": "constant",
}


@pytest.fixture
def dataset(make_dataset: Callable[..., Path]) -> PreparedDataset:
    return PreparedDataset.open(str(make_dataset()))


def train(config: RunConfig, dataset: PreparedDataset, folder: Path) -> TrainingSummary:
    runtime = Runtime(run_dir=str(folder), device=torch.device("cpu"))
    return run_training(config, dataset=dataset, runtime=runtime)


def going_on(parent: Path, **changes: Any) -> RunConfig:
    own = {"name": "child", "train.epochs": 6, "train.continue_from": str(parent)}
    return replace(RunConfig(), SMALL | own | changes)


@pytest.mark.parametrize("schedule", ["constant", "step"])
@pytest.mark.parametrize("terms", ["l1", "l1+0.1*gan"])
def test_a_continued_run_equals_one_that_was_longer_from_the_start(
    dataset: PreparedDataset, tmp_path: Path, schedule: str, terms: str
) -> None:
    steps = (2, 5) if schedule == "step" else ()
    same = {"train.schedule": schedule, "train.step_epochs": steps, "loss.terms": terms}
    same["train.discriminator_width"] = 4
    whole = train(replace(RunConfig(), SMALL | same | {"train.epochs": 6}), dataset, tmp_path / "w")
    train(replace(RunConfig(), SMALL | same), dataset, tmp_path / "parent")
    child = train(going_on(tmp_path / "parent", **same), dataset, tmp_path / "child")
    timeless = [
        [{k: v for k, v in e.items() if k not in ("epoch_s", "images_per_s")} for e in s.history]
        for s in (whole, child)
    ]
    assert timeless[0] == timeless[1]
    assert RunFolder(str(tmp_path / "child")).history() == child.history
    kept = [CheckpointStore(RunFolder(s.run_dir).checkpoints).latest()[0] for s in (whole, child)]
    for net, tensors in kept[0].weights.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, kept[1].weights[net][name])


def test_the_best_of_both_is_kept(dataset: PreparedDataset, tmp_path: Path) -> None:
    parent = train(replace(RunConfig(), SMALL), dataset, tmp_path / "parent")
    store = CheckpointStore(RunFolder(parent.run_dir).checkpoints)
    checkpoint, _ = store.latest()
    assert checkpoint is not None
    unreachable = [{**entry, "val/hole_psnr": 90.0 - entry["epoch"]} for entry in parent.history]
    meta = {**checkpoint.meta, "history": unreachable}
    store.save(dataclasses.replace(checkpoint, meta=meta))
    child = train(going_on(tmp_path / "parent"), dataset, tmp_path / "child")
    assert child.best["val/hole_psnr"] == 89.0
    files = [read_folder(summary.bundle)["model.safetensors"] for summary in (parent, child)]
    assert files[0] == files[1]


def test_a_killed_child_goes_on_from_its_own_checkpoint(
    dataset: PreparedDataset, tmp_path: Path
) -> None:
    train(replace(RunConfig(), SMALL), dataset, tmp_path / "parent")
    config = going_on(tmp_path / "parent")
    whole = train(config, dataset, tmp_path / "whole")

    def kill(entry: dict[str, float]) -> None:
        if entry["epoch"] == 5:
            raise KeyboardInterrupt

    runtime = Runtime(run_dir=str(tmp_path / "child"), device=torch.device("cpu"), report=kill)
    with pytest.raises(KeyboardInterrupt):
        run_training(config, dataset=dataset, runtime=runtime)
    for damaged in (tmp_path / "parent" / "checkpoints").rglob("*.pt"):
        damaged.write_bytes(b"")  # it is not needed any more
    child = train(config, dataset, tmp_path / "child")
    assert [e["train/loss"] for e in child.history] == [e["train/loss"] for e in whole.history]


def test_another_learning_rate_is_taken_at_once(dataset: PreparedDataset, tmp_path: Path) -> None:
    train(replace(RunConfig(), SMALL), dataset, tmp_path / "parent")
    config = going_on(
        tmp_path / "parent", **{"train.learning_rate": 0.002, "train.schedule": "cosine"}
    )
    recipe = Recipe(config, device=torch.device("cpu"), total_steps=24)
    checkpoint = take_over(
        config, weights=recipe.weights(), dataset_hash=dataset.content_hash, best_to=None
    )
    recipe.restore(checkpoint.weights, checkpoint.state)
    factor = learning_rate_factor(config.train, total_steps=24)
    state = recipe.state()["optimizer"]["param_groups"][0]
    assert state["lr"] == 0.002 * factor(checkpoint.step)
    assert state["initial_lr"] == 0.002


def test_the_course_of_the_learning_rate_can_begin_again() -> None:
    train = replace(
        RunConfig(),
        {"train.epochs": 30, "train.warmup_steps": 0, "train.schedule_epochs": (10, 30)},
    ).train
    factor = learning_rate_factor(train, total_steps=300)
    assert factor(0) == factor(100) == 1.0
    assert factor(200) == pytest.approx(0.5)
    assert factor(300) == pytest.approx(0.0)
    fresh = learning_rate_factor(
        replace(RunConfig(), {"train.epochs": 20, "train.warmup_steps": 0}).train, total_steps=200
    )
    assert [factor(100 + step) for step in range(200)] == [fresh(step) for step in range(200)]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model.width": 8}, r"networks are others \(ema\.module\.|networks are others \(ema\."),
        ({"model.name": "unet"}, "instead of nothing"),
        ({"train.ema_decay": 0.0}, "networks are others"),
        ({"train.epochs": 3}, "it has 3 epochs and train.epochs, which counts them, is 3"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    dataset: PreparedDataset, tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    train(replace(RunConfig(), SMALL), dataset, tmp_path / "parent")
    with pytest.raises(RayfillError, match=why):
        train(going_on(tmp_path / "parent", **changes), dataset, tmp_path / "child")
    assert not (tmp_path / "child" / "best").exists()


def test_another_dataset_and_no_run_at_all_are_refused(
    dataset: PreparedDataset, tmp_path: Path, make_dataset: Callable[..., Path]
) -> None:
    train(replace(RunConfig(), SMALL), dataset, tmp_path / "parent")
    other = PreparedDataset.open(str(make_dataset("other", train=40)))
    with pytest.raises(RayfillError, match="trained on another dataset"):
        train(going_on(tmp_path / "parent"), other, tmp_path / "child")
    with pytest.raises(RayfillError, match="no whole checkpoint"):
        train(going_on(tmp_path / "nowhere"), dataset, tmp_path / "child")


def test_a_child_names_its_parent(dataset: PreparedDataset, tmp_path: Path) -> None:
    parent = train(replace(RunConfig(), SMALL), dataset, tmp_path / "parent")
    assert RunFolder(str(tmp_path / "parent")).checkpoint_meta()["epoch"] == 3
    tags = lineage_tags(going_on(tmp_path / "parent"), journals=tmp_path)
    assert tags["rayfill.continued_from"] == str(tmp_path / "parent")
    assert tags["rayfill.continued_at_epoch"] == "3"
    assert lineage_tags(RunConfig(), journals=tmp_path) == {}
    assert RunFolder(str(tmp_path)).checkpoint_meta() == {}
    assert load_bundle(parent.bundle).name == "attention_unet"


def test_starting_and_continuing_exclude_each_other() -> None:
    config = replace(
        RunConfig(),
        {"train.init_from": "a", "train.continue_from": "b"} | {"train.schedule_epochs": (5, 5)},
    )
    said = " ".join(problems(config))
    assert "exclude each other" in said
    assert "schedule_epochs is (5, 5)" in said
