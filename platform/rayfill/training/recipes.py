"""Recipes: the networks being trained, their losses and optimisers, and what one step does."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rayfill.config import RunConfig, TrainConfig
from rayfill.losses import build_loss, parse_loss
from rayfill.models import build_model
from rayfill.training.precision import autocast, autocast_dtype

Wrap = Callable[[nn.Module], nn.Module]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorBatch:
    """A batch on the training device; the tensor contract of ``rayfill_data.batches.Batch``."""

    image: Tensor  # (B, 3, H, W), [0, 1]
    target: Tensor  # (B, 3, H, W), [0, 1]
    hole_mask: Tensor  # (B, 1, H, W), 0 or 1
    sample_id: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step gave: the loss terms, still on the device, and whether it was applied."""

    terms: Mapping[str, Tensor]
    applied: bool


class Recipe(Protocol):
    """What the loop knows of the thing it trains."""

    def step(self, batch: TensorBatch) -> StepResult:
        """Do one optimiser step."""

    def predict(self, image: Tensor, hole_mask: Tensor) -> Tensor:
        """Return predictions of the weights that would be kept, ``(B, 3, H, W)`` in [0, 1]."""

    def kept_model(self) -> nn.Module:
        """Return the network that a model bundle is made of."""

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Return every network's tensors by name."""

    def state(self) -> dict[str, Any]:
        """Return everything else a resumed run needs."""

    def restore(
        self, weights: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
    ) -> None:
        """Take over what :meth:`weights` and :meth:`state` returned."""


class ReconstructionRecipe:
    """One network trained to give back the true picture: the recipe of P1, P3, P4 and P5."""

    def __init__(
        self, config: RunConfig, *, device: torch.device, total_steps: int, wrap: Wrap | None = None
    ) -> None:
        """Build network, loss and optimiser.

        Args:
            config: The run.
            device: Where to train.
            total_steps: Optimiser steps of the whole run, for the schedule.
            wrap: Makes the network data-parallel; None trains in this process alone.
        """
        self._device = device
        self._train = config.train
        self._dtype = autocast_dtype(config.train.precision, device=device)
        # One seed for the weights, whatever was drawn in this process before.
        torch.manual_seed(config.train.seed)
        network = build_model(config.model.name, **config.model.options())
        if config.train.init_from:
            _load_initial(network, config.train.init_from)
        self._network = network.to(device).to(memory_format=torch.channels_last)
        if config.train.compile:
            self._network.compile()
        self._trained = wrap(self._network) if wrap else self._network
        self._ema = _make_ema(self._network, config.train)
        self._loss = build_loss(
            parse_loss(config.loss.terms),
            features=config.loss.features,
            weights_path=config.loss.weights_path,
        ).to(device)
        self._optimizer = torch.optim.Adam(
            self._network.parameters(), lr=config.train.learning_rate, fused=True
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, learning_rate_factor(config.train, total_steps=total_steps)
        )

    def step(self, batch: TensorBatch) -> StepResult:
        """Do one step, or none where loss or gradient is not finite.

        The gradient norm is the same on every rank after the reduction, so all ranks skip
        together.
        """
        self._trained.train()
        before = [buffer.clone() for buffer in self._network.buffers()]
        with autocast(self._dtype, device=self._device):
            prediction = self._trained(_channels_last(batch.image), batch.hole_mask)
        losses = self._loss(prediction.float(), batch.image, batch.target, batch.hole_mask)
        self._optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        limit = self._train.grad_clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self._network.parameters(), limit)
        applied = bool(torch.isfinite(norm) & torch.isfinite(losses.total.detach()))
        if applied:
            self._optimizer.step()
            self._schedule.step()
            if self._ema is not None:
                self._ema.update_parameters(self._network)
        else:  # running statistics have already seen the bad batch
            for buffer, old in zip(self._network.buffers(), before, strict=True):
                buffer.copy_(old)
        terms = {"loss": losses.total, **losses.terms}
        return StepResult(terms={k: v.detach() for k, v in terms.items()}, applied=applied)

    def predict(self, image: Tensor, hole_mask: Tensor) -> Tensor:
        """Return predictions of the kept weights, in [0, 1] as models in eval mode give them."""
        model = self.kept_model().eval()
        with torch.inference_mode(), autocast(self._dtype, device=self._device):
            prediction: Tensor = model(_channels_last(image), hole_mask)
        return prediction.float()

    def kept_model(self) -> nn.Module:
        """Return the running average where there is one, else the network itself."""
        return self._network if self._ema is None else self._ema.module

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Return the network's tensors and those of its running average."""
        weights = {"network": dict(self._network.state_dict())}
        if self._ema is not None:
            weights["ema"] = dict(self._ema.module.state_dict())
        return weights

    def state(self) -> dict[str, Any]:
        """Return optimiser, schedule, average count and random state."""
        state = {
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "random": torch.get_rng_state(),
        }
        if self._ema is not None:
            state["ema_updates"] = self._ema.n_averaged
        return state

    def restore(
        self, weights: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
    ) -> None:
        """Continue from a checkpoint of the same configuration."""
        self._network.load_state_dict(weights["network"])
        if self._ema is not None:
            self._ema.module.load_state_dict(weights["ema"])
            self._ema.n_averaged.copy_(state["ema_updates"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["random"])


def learning_rate_factor(train: TrainConfig, *, total_steps: int) -> Callable[[int], float]:
    """Return the learning rate, relative to its peak, as a function of the step.

    Linear warm-up over ``warmup_steps``, then constant; or half a cosine down to 0 at the last
    step; or a tenth after each of ``step_epochs``.
    """
    steps_per_epoch = max(1, total_steps // train.epochs)

    def factor(step: int) -> float:
        warmup = min(1.0, (step + 1) / train.warmup_steps) if train.warmup_steps else 1.0
        if train.schedule == "cosine":
            return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, total_steps))))
        if train.schedule == "step":
            passed = sum(step >= epoch * steps_per_epoch for epoch in train.step_epochs)
            return float(warmup * 0.1**passed)
        return warmup

    return factor


def _make_ema(network: nn.Module, train: TrainConfig) -> AveragedModel | None:
    if not train.ema_decay:
        return None
    average = get_ema_multi_avg_fn(train.ema_decay)  # type: ignore[no-untyped-call]
    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)


def _load_initial(network: nn.Module, uri: str) -> None:
    from rayfill.bundle import load_bundle

    network.load_state_dict(load_bundle(uri).model.state_dict())


def _channels_last(image: Tensor) -> Tensor:
    return image.contiguous(memory_format=torch.channels_last)
