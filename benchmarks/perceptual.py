"""What looking through VGG adds to a training step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torchvision
from harness import Case, Theme
from torch.utils.flop_counter import FlopCounterMode
from training_step import random_batch

from rayfill.config.presets import find_preset
from rayfill.config.run import LossConfig
from rayfill.training.recipes import Recipe

#: Title, preset that gives network and optimiser, loss with features, features, size in pixels.
_RUNS = (
    ("U-Net of P1, 128 px, batch 2", "p1-unet", "l1+0.05*perceptual", "vgg19", 128),
    ("Liu's network of P4, 256 px, batch 2", "p4-phase-1", "liu", "vgg16", 256),
)

_BATCH = 2


def cases(folder: Path) -> Iterator[Case]:
    for title, preset, terms, features, size in _RUNS:
        weights = random_weights(features, folder=folder)
        batch = random_batch(_BATCH, size=size)
        losses = {
            "L1": LossConfig(terms="l1"),
            f"{terms} on {features}": LossConfig(
                terms=terms, features=features, weights_path=str(weights)
            ),
        }
        steps = {
            name: functools.partial(_recipe(preset, loss=loss).step, batch)
            for name, loss in losses.items()
        }
        plain, through = (_flops(step) for step in steps.values())
        yield Case(
            title=title,
            ways=steps,
            units=_BATCH,
            unit="image",
            rounds=7,
            notes=(f"Ratio of the two steps' multiply-adds: {through / plain:.2f}.",),
        )


def _flops(step: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def random_weights(features: str, *, folder: Path) -> Path:
    """Return a file in the form of the published weights, whose values are random.

    Good for timing only: nothing trained with them means anything.
    """
    torch.manual_seed(0)
    network = getattr(torchvision.models, features)(weights=None).features
    path = folder / f"random_{features}_for_timing_only.pth"
    torch.save(network.state_dict(), path)
    return path


def _recipe(preset: str, *, loss: LossConfig) -> Recipe:
    config = find_preset(preset).config
    train = dataclasses.replace(config.train, batch_size=_BATCH, precision="fp32")
    config = dataclasses.replace(config, loss=loss, train=train)
    return Recipe(config, device=torch.device("cpu"), total_steps=10_000)


THEME = Theme(
    title="Training step with losses that look through VGG",
    about="One step of our recipe in float32 on one thread, with L1 alone and with the loss on "
    "features: relu1_1 to relu4_1 of VGG19, or Liu's five terms on pool1 to pool3 of VGG16. Their "
    "weights are random here: only time is measured.",
    libraries=("torch", "torchvision"),
    cases=cases,
)
