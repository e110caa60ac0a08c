"""One optimiser step of our recipe against the same network in a bare PyTorch loop."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from harness import Case, Theme
from torch import nn

from rayfill.config.run import LossConfig, ModelConfig, RunConfig, TrainConfig
from rayfill.models import build_model
from rayfill.training.recipes import Recipe, TensorBatch

#: P3's network and size, and what a run gets that asks for nothing.
_RUNS = {
    "U-Net, width 64, depth 4, 128 px, batch 2": (
        RunConfig(
            model=ModelConfig(name="unet", width=64, depth=4, hole_fill="zero", output="direct"),
            train=TrainConfig(batch_size=2, precision="fp32"),
        ),
        128,
        11,
    ),
    "Default model, 64 px, batch 16": (RunConfig(train=TrainConfig(precision="fp32")), 64, 20),
}


def cases(folder: Path) -> Iterator[Case]:
    for title, (config, size, rounds) in _RUNS.items():
        config = dataclasses.replace(config, loss=LossConfig(terms="l1"))
        batch = random_batch(config.train.batch_size, size=size)
        recipe = Recipe(config, device=torch.device("cpu"), total_steps=10_000)
        yield Case(
            title=title,
            ways={
                "bare loop": bare_step(config, batch, tuned=False),
                "bare loop, channels_last, fused Adam": bare_step(config, batch, tuned=True),
                "Rayfill recipe": functools.partial(recipe.step, batch),
            },
            units=config.train.batch_size,
            unit="image",
            rounds=rounds,
        )


def bare_step(config: RunConfig, batch: TensorBatch, *, tuned: bool) -> Callable[[], object]:
    """Return the step as a tutorial writes it."""
    model = build_model(config.model.name, **config.model.options())
    image = batch.image
    if tuned:
        model = model.to(memory_format=torch.channels_last)
        image = image.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=tuned)

    def step() -> float:
        optimizer.zero_grad()
        loss = nn.functional.l1_loss(model(image, batch.hole_mask), batch.target)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def random_batch(count: int, *, size: int) -> TensorBatch:
    generator = torch.Generator().manual_seed(0)
    hole_mask = torch.zeros(count, 1, size, size)
    hole_mask[:, :, size // 4 : size // 2, size // 4 : size // 2] = 1
    return TensorBatch(
        image=torch.rand(count, 3, size, size, generator=generator),
        target=torch.rand(count, 3, size, size, generator=generator),
        hole_mask=hole_mask,
        sample_id=tuple(map(str, range(count))),
    )


THEME = Theme(
    title="Training step against a bare PyTorch loop",
    about="Forward, L1 loss, backward and Adam of the same network in float32 on one thread. Our "
    "recipe also clips gradients, skips steps that are not finite, keeps a running average of the "
    "weights and follows a learning rate schedule.",
    libraries=("torch",),
    cases=cases,
)
