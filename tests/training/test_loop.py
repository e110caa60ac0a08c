"""The plain-torch loop, on a tiny dataset: no Ray, no MLflow."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rayfill.config.run import RunConfig, replace
from rayfill.evaluation.evaluate import evaluate
from rayfill.evaluation.systems import trained
from rayfill.models.batch import TensorBatch
from rayfill.runs.bundle import load_bundle
from rayfill.runs.checkpoint import Checkpoint, CheckpointStore
from rayfill.training import loop
from rayfill.training.loop import Runtime, TrainingSummary, run_training
from rayfill.training.recipes import Recipe, learning_rate_factor
from rayfill_data.errors import RayfillError
from rayfill_data.prepared.reader import PreparedDataset

SMALL = {
    "model.width": 4,
    "model.depth": 2,
    "train.epochs": 4,
    "train.batch_size": 8,
    "train.warmup_steps": 2,
    "train.learning_rate": 0.01,
}


@pytest.fixture
def dataset(make_dataset: Callable[..., Path]) -> PreparedDataset:
    return PreparedDataset.open(str(make_dataset()))


class Notebook:
    """A recorder that remembers."""

    run_id = "run-1"

    def __init__(self) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []
        self.shown: list[tuple[int, str, tuple[int, ...]]] = []

    def metrics(self, values: Any, *, step: int) -> None:
        self.points.append((step, dict(values)))

    def picture(self, key: str, image: Any, *, step: int) -> None:
        self.shown.append((step, key, image.shape))


def train(
    config: RunConfig, dataset: PreparedDataset, folder: Path, **changes: Any
) -> TrainingSummary:
    runtime = Runtime(run_dir=str(folder), device=torch.device("cpu"), **changes)
    return run_training(config, dataset=dataset, runtime=runtime, recorder=Notebook())


def losses(summary: TrainingSummary) -> list[float]:
    return [entry["train/loss"] for entry in summary.history]


def test_training_lowers_the_loss(dataset: PreparedDataset, tmp_path: Path) -> None:
    config = replace(RunConfig(), SMALL | {"model.output": "direct", "data.color_jitter": 0.0})
    trace = losses(train(config, dataset, tmp_path))
    assert trace[-1] < 0.9 * trace[0]


def test_the_best_epoch_by_coherence_is_the_lowest(
    dataset: PreparedDataset, tmp_path: Path
) -> None:
    by_coherence = SMALL | {"eval.select_metric": "coherence", "train.learning_rate": 0.1}
    summary = train(replace(RunConfig(), by_coherence), dataset, tmp_path / "run")
    scores = [entry["val/coherence"] for entry in summary.history]
    assert len(set(scores)) > 1
    assert all(0 < score < 1.4 for score in scores)
    assert summary.best["val/coherence"] == min(scores)
    assert summary.best_epoch == 1 + scores.index(min(scores))
    bundle = load_bundle(summary.bundle)
    assert bundle.extra["epoch"] == summary.best_epoch

    # The score is what the bundle's answers have, and nobody else pays for it.
    found = evaluate(trained({"run": summary.bundle}), data=dataset, split="val", num_workers=1)
    measured = found.measured["run"].table.total["coherence"].mean
    assert measured == pytest.approx(min(scores), abs=1e-6)
    other = train(replace(RunConfig(), SMALL | {"train.epochs": 1}), dataset, tmp_path / "other")
    assert "val/coherence" not in other.history[0]


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_stopped_run_goes_on_as_if_it_had_not(
    dataset: PreparedDataset, tmp_path: Path, stop_after: int
) -> None:
    config = replace(RunConfig(), SMALL)
    whole = train(config, dataset, tmp_path / "whole")

    class StopError(Exception):
        pass

    def stop(entry: dict[str, float]) -> None:
        if entry["epoch"] == stop_after:
            raise StopError

    with pytest.raises(StopError):
        train(config, dataset, tmp_path / "cut", report=stop)
    torch.manual_seed(12345)  # whatever else happens in the process must not matter
    resumed = train(config, dataset, tmp_path / "cut")
    assert losses(resumed) == losses(whole)
    assert [e["val/hole_psnr"] for e in resumed.history] == [
        e["val/hole_psnr"] for e in whole.history
    ]
    for name, tensor in load_bundle(whole.bundle).model.state_dict().items():
        assert torch.equal(tensor, load_bundle(resumed.bundle).model.state_dict()[name]), name


def test_killed_before_the_checkpoint_no_epoch_is_missing_from_the_record(
    dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    def killed(store: CheckpointStore, checkpoint: Checkpoint) -> str:
        if checkpoint.epoch == 2:
            raise KilledError
        return real(store, checkpoint)

    real = CheckpointStore.save
    monkeypatch.setattr(CheckpointStore, "save", killed)
    config, notebook = replace(RunConfig(), SMALL), Notebook()
    runtime = Runtime(run_dir=str(tmp_path), device=torch.device("cpu"))
    with pytest.raises(KilledError):
        run_training(config, dataset=dataset, runtime=runtime, recorder=notebook)
    monkeypatch.undo()
    run_training(config, dataset=dataset, runtime=runtime, recorder=notebook)
    assert [step for step, _ in notebook.points] == [1, 2, 2, 3, 4]  # a tracker drops the second 2


def test_a_damaged_checkpoint_costs_one_epoch_not_the_run(
    dataset: PreparedDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(RunConfig(), SMALL)
    whole = train(config, dataset, tmp_path / "run")
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    (newest / "state.pt").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        again = train(config, dataset, tmp_path / "run")
    assert newest.name in caplog.text
    assert losses(again) == losses(whole)


def test_a_finished_run_only_reports_again(dataset: PreparedDataset, tmp_path: Path) -> None:
    config = replace(RunConfig(), SMALL)
    first = train(config, dataset, tmp_path)
    reported: list[float] = []
    again = train(config, dataset, tmp_path, report=lambda e: reported.append(e["train/loss"]))
    assert reported == losses(first)
    assert again.best == first.best


def test_another_configuration_does_not_mix_with_a_run(
    dataset: PreparedDataset, tmp_path: Path
) -> None:
    config = replace(RunConfig(), SMALL)
    train(config, dataset, tmp_path)
    changed = replace(config, {"train.learning_rate": 0.02})
    with pytest.raises(RayfillError, match="train.learning_rate was 0.01 and is 0.02"):
        train(changed, dataset, tmp_path)


def test_the_best_epoch_is_kept_not_the_last(
    dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([20.0, 25.0, 22.0, 21.0])
    real = Recipe.validate

    def staged(recipe: Recipe, batches: Any) -> dict[str, float]:
        return real(recipe, batches) | {"hole_psnr": next(scores)}

    monkeypatch.setattr(Recipe, "validate", staged)
    summary = train(replace(RunConfig(), SMALL), dataset, tmp_path)
    assert summary.best_epoch == 2
    extra = load_bundle(summary.bundle).extra
    assert extra["epoch"] == 2
    assert extra["scores"]["val/hole_psnr"] == 25.0


def test_a_score_that_is_not_a_number_does_not_end_a_run(
    dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A joint model that finds no object yet has no outline to measure."""
    real = Recipe.validate

    def nothing_found(recipe: Recipe, batches: Any) -> dict[str, float]:
        return real(recipe, batches) | {"growth_px": float("nan")}

    monkeypatch.setattr(Recipe, "validate", nothing_found)
    config = replace(RunConfig(), SMALL)
    summary = train(config, dataset, tmp_path)
    scores = load_bundle(summary.bundle).extra["scores"]
    assert "val/hole_psnr" in scores
    assert "val/growth_px" not in scores
    assert train(config, dataset, tmp_path).epochs == summary.epochs  # read back


def test_pictures_are_of_the_same_samples_every_time(
    dataset: PreparedDataset, tmp_path: Path
) -> None:
    config = replace(RunConfig(), SMALL | {"tracking.pictures": 3})
    notebook = Notebook()
    runtime = Runtime(run_dir=str(tmp_path), device=torch.device("cpu"))
    run_training(config, dataset=dataset, runtime=runtime, recorder=notebook)
    by_step = {step: [key for at, key, _ in notebook.shown if at == step] for step in range(5)}
    assert by_step[0] == by_step[1] == by_step[2] == by_step[3] == by_step[4]
    assert len(by_step[1]) == 3
    assert {shape for _, _, shape in notebook.shown} == {(574, 530, 3)}


def batch(seed: int = 0, *, poison: bool = False) -> TensorBatch:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(4, 3, 16, 16, generator=generator)
    target = torch.full_like(image, float("nan")) if poison else image
    hole_mask = torch.zeros(4, 1, 16, 16)
    hole_mask[:, :, 4:9, 5:12] = 1
    return TensorBatch(
        image=image, target=target, hole_mask=hole_mask, sample_id=("a", "b", "c", "d")
    )


def recipe(**changes: Any) -> Recipe:
    config = replace(RunConfig(), SMALL | changes)
    return Recipe(config, device=torch.device("cpu"), total_steps=100)


def test_a_bad_step_changes_nothing_that_is_kept() -> None:
    trained = recipe()
    trained.step(batch())
    before = {k: {n: t.clone() for n, t in w.items()} for k, w in trained.weights().items()}
    result = trained.step(batch(1, poison=True))
    assert not result.applied
    for network, tensors in trained.weights().items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, before[network][name]), name
    assert trained.step(batch(2)).applied


def test_bad_steps_in_a_row_stop_the_run_and_name_the_samples() -> None:
    bad = loop.BadSteps(limit=3)
    poisoned = [batch(i, poison=True) for i in range(3)]
    with pytest.raises(RayfillError, match=r"3 steps in a row.*\"a\", \"b\", \"c\", \"d\""):
        loop.train_epoch(recipe(), poisoned, bad=bad)
    mixed = loop.BadSteps(limit=3)
    loop.train_epoch(recipe(), [poisoned[0], poisoned[1], batch(), poisoned[2]], bad=mixed)
    assert mixed.total == 3


def test_an_all_hole_batch_is_trained_on_or_skipped_but_never_breaks() -> None:
    trained = recipe()
    full = dataclasses.replace(batch(), hole_mask=torch.ones(4, 1, 16, 16))
    trained.step(full)
    tensors = [t for w in trained.weights().values() for t in w.values()]
    assert all(torch.isfinite(t.float()).all() for t in tensors)


def test_running_average_follows_its_formula() -> None:
    trained = recipe(**{"train.ema_decay": 0.9})
    name = next(iter(trained.weights()["network"]))
    trained.step(batch(0))
    expected = trained.weights()["network"][name].clone()  # the first update copies
    for seed in (1, 2, 3):
        trained.step(batch(seed))
        expected = 0.9 * expected + 0.1 * trained.weights()["network"][name]
    torch.testing.assert_close(trained.weights()["ema"][name], expected)


def test_gradient_norm_is_clipped() -> None:
    """What the optimiser sees never has a norm above the limit."""
    trained = recipe(**{"train.grad_clip_norm": 1e-3})
    trained.step(batch())
    network = trained._network
    norm = torch.linalg.vector_norm(
        torch.stack([p.grad.norm() for p in network.parameters() if p.grad is not None])
    )
    assert float(norm) <= 1e-3 * (1 + 1e-4)


def test_schedules_against_their_formulas() -> None:
    base = replace(RunConfig(), {"train.epochs": 20, "train.warmup_steps": 0}).train
    cosine = learning_rate_factor(base, total_steps=100)
    expected = 0.5 * (1 + np.cos(np.pi * np.arange(100) / 100))
    np.testing.assert_allclose([cosine(i) for i in range(100)], expected)
    p3 = dataclasses.replace(base, schedule="step", step_epochs=(8,))  # P3: 1e-3, then 1e-4
    step = learning_rate_factor(p3, total_steps=200)
    assert [step(79), step(80), step(199)] == pytest.approx([1.0, 0.1, 0.1])
    warm = learning_rate_factor(
        dataclasses.replace(base, schedule="constant", warmup_steps=4), total_steps=100
    )
    assert [warm(i) for i in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_weights_start_from_a_bundle(dataset: PreparedDataset, tmp_path: Path) -> None:
    first = train(replace(RunConfig(), SMALL), dataset, tmp_path / "first")
    config = replace(RunConfig(), SMALL | {"train.init_from": first.bundle})
    started = Recipe(config, device=torch.device("cpu"), total_steps=10)
    saved = load_bundle(first.bundle).model.state_dict()
    for name, tensor in started.weights()["network"].items():
        assert torch.equal(tensor, saved[name]), name


def test_the_run_folder_can_be_moved(dataset: PreparedDataset, tmp_path: Path) -> None:
    config = replace(RunConfig(), SMALL)
    whole = train(config, dataset, tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert losses(train(config, dataset, tmp_path / "there")) == losses(whole)
