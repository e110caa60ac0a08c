"""Recipes: the networks being trained, their losses and optimisers, and what one step does."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rayfill.config.ranking import needs_lpips
from rayfill.config.run import EvalConfig, RunConfig, TrainConfig
from rayfill.losses import ADVERSARIAL, CompositeLoss, build_loss, parse_loss
from rayfill.metrics import InpaintingMetrics, LpipsMetric
from rayfill.models import InpaintingModel, JointModel, build_model
from rayfill.models.batch import TensorBatch
from rayfill.models.edgeconnect.network import EdgeConnect
from rayfill.training.adversary import ADVERSARIAL_BETAS, Adversary
from rayfill.training.joint_stages import EdgeConnectStage, JointStage
from rayfill.training.precision import autocast, autocast_dtype
from rayfill.training.ranks import everywhere, share_buffers
from rayfill.training.stages import (
    InpaintingStage,
    SegmentationStage,
    StageOutput,
    TrainingStage,
    Wrap,
    channels_last,
)
from rayfill.training.validation import validate


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step gave: the loss terms, still on the device, and whether it was applied."""

    terms: Mapping[str, Tensor]
    applied: bool


class Recipe:
    """One stage of training: its network, losses, discriminators and optimisers.

    The recipe of P1, P3, P4 and P5 is the stage ``inpainting``; those of P2 are the others.
    """

    def __init__(
        self, config: RunConfig, *, device: torch.device, total_steps: int, wrap: Wrap | None = None
    ) -> None:
        """Build networks, losses and optimisers.

        Args:
            config: The run.
            device: Where to train.
            total_steps: Optimiser steps of the whole run, for the schedule.
            wrap: Makes what is trained data-parallel; None trains in this process alone.
        """
        self._device = device
        self._train = config.train
        self._eval = config.eval
        self._dtype = autocast_dtype(config.train.precision, device=device)
        # One seed for the weights, whatever was drawn in this process before.
        torch.manual_seed(config.train.seed)
        network = build_model(config.model.name, **config.model.options())
        if config.train.init_from:
            _load_initial(network, config.train.init_from)
        elif isinstance(network, JointModel):
            network.segmenter.load_pretrained()
        self._network = network.to(device).to(memory_format=torch.channels_last)
        if config.train.compile:
            self._network.compile()
        self._stage = make_stage(self._network, config=config)
        self._trained = wrap(self._stage) if wrap else self._stage
        self._ema = _make_ema(self._network, config.train)
        self._loss = _make_loss(config).to(device)
        self._lpips = _make_lpips(config.eval)
        self._adversaries = {
            name: Adversary(judge, train=config.train, device=device, wrap=wrap)
            for name, judge in self._stage.judges.items()
        }
        self._parameters = [p for p in self._network.parameters() if p.requires_grad]
        self._optimizer = torch.optim.Adam(
            self._parameters,
            lr=config.train.learning_rate,
            betas=ADVERSARIAL_BETAS if self._adversaries else (0.9, 0.999),
            fused=True,
        )
        self._rate_factor = learning_rate_factor(config.train, total_steps=total_steps)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, self._rate_factor)

    def step(self, batch: TensorBatch) -> StepResult:
        """Do one step, or none where loss or gradient is not finite.

        All ranks skip together, whichever of them has the bad batch. Discriminators learn from what
        the network made before its step. Several ranks step along the mean of the gradients of
        their parts of the batch: losses that divide by a count of pixels (hole_mean_l1, the cross
        entropies) divide by each rank's own, and so weigh a rank with few as much as one with many.
        """
        self._trained.train()
        before = [buffer.clone() for buffer in self._network.buffers()]
        with autocast(self._dtype, device=self._device):
            output: StageOutput = self._trained(batch)
        total, terms = self._losses(output, batch)
        self._optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        limit = self._train.grad_clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, limit)
        applied = everywhere(torch.isfinite(norm) & torch.isfinite(total.detach()))
        if applied:
            self._optimizer.step()
            self._schedule.step()
            if self._ema is not None:
                self._ema.update_parameters(self._network)
            for name, adversary in self._adversaries.items():
                loss, finite = adversary.step(output.judged[name])
                terms[f"{name}/discriminator"] = loss
                applied = applied and finite
        else:  # running statistics have already seen the bad batch
            for buffer, old in zip(self._network.buffers(), before, strict=True):
                buffer.copy_(old)
        return StepResult(
            terms={"loss": total.detach(), **{k: v.detach() for k, v in terms.items()}},
            applied=applied,
        )

    def _losses(self, output: StageOutput, batch: TensorBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of all terms, and the terms."""
        total: Tensor | float = 0.0
        terms: dict[str, Tensor] = {}
        if output.painted is not None:
            painted = output.painted
            losses = self._loss(
                painted.prediction.float(), batch.image, batch.target, painted.hole_mask
            )
            total = losses.total
            terms |= losses.terms
        own = dict(output.terms)
        for name, adversary in self._adversaries.items():
            said = adversary.terms(output.judged[name])
            own |= {f"{name}/{term}": value for term, value in said.items()}
        for name, term in own.items():
            total = total + term.weight * term.value
            terms[name] = term.value
        assert isinstance(total, Tensor)
        return total, terms

    def predict(self, image: Tensor, hole_mask: Tensor) -> Tensor:
        """Return predictions of the kept weights, in [0, 1] as models in eval mode give them."""
        model = self.kept_model().eval()
        with torch.inference_mode(), autocast(self._dtype, device=self._device):
            prediction: Tensor = model(channels_last(image), hole_mask)
        return prediction.float()

    def validate(self, batches: Iterable[TensorBatch]) -> dict[str, float]:
        """Return what the stage measures of the kept weights, reduced over all ranks."""
        model = self.kept_model().eval()
        share_buffers(model)
        with torch.inference_mode():
            return validate(
                model,
                batches,
                stage=self._train.stage,
                predict=self.predict,
                metrics=self._metrics(),
                device=self._device,
            )

    def _metrics(self) -> InpaintingMetrics:
        """Return empty metrics of pictures; coherence takes the CPU as long as a prediction."""
        appearance = self._eval.select_metric == "coherence"
        return InpaintingMetrics(lpips=self._lpips, appearance=appearance).to(self._device)

    def kept_model(self) -> nn.Module:
        """Return the running average where there is one, else the network itself."""
        return self._network if self._ema is None else self._ema.module

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Return every network's tensors by name."""
        weights = {"network": dict(self._network.state_dict())}
        if self._ema is not None:
            weights["ema"] = dict(self._ema.module.state_dict())
        judges = {f"discriminator-{k}": v.weights() for k, v in self._adversaries.items()}
        return weights | judges

    def state(self) -> dict[str, Any]:
        """Return optimisers, schedule, average count and random state."""
        state = {
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "random": torch.get_rng_state(),
            "discriminators": {name: a.state() for name, a in self._adversaries.items()},
        }
        if self._ema is not None:
            state["ema_updates"] = self._ema.n_averaged
        return state

    def restore(
        self, weights: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
    ) -> None:
        """Continue from a checkpoint, at this run's own learning rate and course of it."""
        self._network.load_state_dict(weights["network"])
        if self._ema is not None:
            self._ema.module.load_state_dict(weights["ema"])
            self._ema.n_averaged.copy_(state["ema_updates"])
        for name, adversary in self._adversaries.items():
            adversary.restore(weights[f"discriminator-{name}"], state["discriminators"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._schedule.base_lrs = [self._train.learning_rate]
        rate = self._train.learning_rate * self._rate_factor(self._schedule.last_epoch)
        for group in self._optimizer.param_groups:
            group.update(initial_lr=self._train.learning_rate, lr=rate)
        torch.set_rng_state(state["random"])


def make_stage(network: InpaintingModel, *, config: RunConfig) -> TrainingStage:
    """Return the stage that ``config.train.stage`` names, around ``network``.

    What a network was built with frozen, such as the first layers of Panoptic FPN, stays so.
    """
    frozen = [p for p in network.parameters() if not p.requires_grad]
    stage = _stage(network, config=config)
    for parameter in frozen:
        parameter.requires_grad_(False)
    return stage


def _stage(network: InpaintingModel, *, config: RunConfig) -> TrainingStage:
    stage = config.train.stage
    if stage == "segmentation":
        assert isinstance(network, JointModel)
        return SegmentationStage(network)
    if stage == "joint":
        assert isinstance(network, JointModel)
        return JointStage(network, config=config)
    inner = network.inpainter if isinstance(network, JointModel) else network
    if isinstance(inner, EdgeConnect):
        return EdgeConnectStage(network, config=config)
    return InpaintingStage(network, config=config)


def learning_rate_factor(train: TrainConfig, *, total_steps: int) -> Callable[[int], float]:
    """Return the learning rate, relative to its peak, as a function of the step.

    Linear warm-up over ``warmup_steps``, then constant; or half a cosine down to 0 at the last
    step; or a tenth after each of ``step_epochs``. With ``schedule_epochs``, that course lies
    between those two epochs, and ``step_epochs`` count from the first.
    """
    steps_per_epoch = max(1, total_steps // train.epochs)
    begin = 0
    if train.schedule_epochs:
        first, last = train.schedule_epochs
        begin, total_steps = first * steps_per_epoch, (last - first) * steps_per_epoch

    def factor(step: int) -> float:
        step = max(0, step - begin)
        warmup = min(1.0, (step + 1) / train.warmup_steps) if train.warmup_steps else 1.0
        if train.schedule == "cosine":
            return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, total_steps))))
        if train.schedule == "step":
            passed = sum(step >= epoch * steps_per_epoch for epoch in train.step_epochs)
            return float(warmup * 0.1**passed)
        return warmup

    return factor


def _make_loss(config: RunConfig) -> CompositeLoss:
    """Return the picture loss without the terms that discriminators measure."""
    terms = parse_loss(config.loss.terms)
    return build_loss(
        {name: weight for name, weight in terms.items() if name not in ADVERSARIAL},
        features=config.loss.features,
        weights_path=config.loss.weights_path,
    )


def _make_lpips(config: EvalConfig) -> LpipsMetric | None:
    """Return the metric where epochs are ranked by it: otherwise it is not worth its time."""
    if not needs_lpips(config.select_metric):
        return None
    return LpipsMetric(config.lpips_network, weights_path=config.lpips_weights_path)


def _make_ema(network: nn.Module, train: TrainConfig) -> AveragedModel | None:
    if not train.ema_decay:
        return None
    average = get_ema_multi_avg_fn(train.ema_decay)  # type: ignore[no-untyped-call]
    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)


def _load_initial(network: InpaintingModel, uri: str) -> None:
    """Start from a bundle; from one of which only the segmenter is trained, take that alone.

    Such a segmenter may so stand beside any inpainter.
    """
    from rayfill.runs.bundle import load_bundle

    loaded = load_bundle(uri)
    trained = loaded.extra.get("run", {}).get("train", {})
    only_segmenter = trained.get("stage") == "segmentation" and trained.get("init_from") is None
    if only_segmenter and isinstance(network, JointModel) and isinstance(loaded.model, JointModel):
        network.segmenter.load_state_dict(loaded.model.segmenter.state_dict())
    else:
        network.load_state_dict(loaded.model.state_dict())
