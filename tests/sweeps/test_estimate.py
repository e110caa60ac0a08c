"""How long a sweep will take: the arithmetic, not the machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rayfill.config.run import RunConfig, replace
from rayfill.models.cost import model_cost
from rayfill.sweeps import budget as module
from rayfill.sweeps.budget import estimate, training_flops
from rayfill.training.cluster import Capacity
from rayfill_data.prepared.reader import PreparedDataset

CORES = Capacity(cpus=2, gpus=0, can_grow=False)


@pytest.fixture
def dataset(make_dataset: Callable[..., Path]) -> PreparedDataset:
    return PreparedDataset.open(str(make_dataset()))  # 30, 7 and 5 pictures of 16x16


def test_a_step_costs_three_predictions_and_a_validation_one(dataset: PreparedDataset) -> None:
    config = replace(RunConfig(), {"model.width": 4, "model.depth": 2, "train.epochs": 3})
    one = model_cost("attention_unet", size=(16, 16), **config.model.options()).multiply_adds
    assert training_flops(config, dataset=dataset) == 2 * one * 3 * (3 * 30 + 7)


def test_trials_side_by_side_share_the_cluster(
    dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = replace(RunConfig(), {"model.width": 4, "model.depth": 2, "scaling.use_gpu": False})
    flops = training_flops(trial, dataset=dataset)
    monkeypatch.setattr(module, "_core_flops", lambda: flops / 600 / module._CPU_EFFICIENCY)
    seconds, sentence = estimate([trial] * 4, dataset=dataset, capacity=CORES)
    waits = module._START_S + module._TRIAL_S * 4 / 2
    assert seconds == pytest.approx(waits + 4 * 600 / 2)
    assert "4 trials, 40 epochs of 30 samples" in sentence
    assert "2 at a time: about 21 min" in sentence
    twice = replace(trial, {"scaling.num_workers": 2})
    both, _ = estimate([twice] * 4, dataset=dataset, capacity=CORES)
    assert both - module._START_S - 4 * module._TRIAL_S == pytest.approx(4 * 600 / 2)


def test_a_core_does_something() -> None:
    assert 1e8 < module._core_flops() < 1e13


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (600, "10 min"), (9000, "2.5 h")])
def test_times_are_said_in_words(seconds: float, words: str) -> None:
    assert module._in_words(seconds) == words
