#!/usr/bin/env python3
"""Sweep losses x epochs x mask-expansion alpha of joint models; register the champion.

First a segmenter learns to find objects. Every trial then trains it together with an Attention
U-Net, through the mask, as report P2 does with other networks: the loss compares the picture, alpha
says how far the mask shall reach beyond the object. The best trial is trained on with given holes
by all workers together, and measured beside classical baselines.

On a dataset without label maps nothing can be found: there the trials fill given holes, and alpha
is not varied. Losses with a perceptual term need VGG19's ImageNet weights; such trials are left
out, saying so, where they cannot be had.

`--scale smoke` shows in two minutes that everything works; `small`, the default, is sized for five
minutes of two CPU cores on the bundled photographs; `paper` has the networks, losses and epochs of
report P1 and the alphas of P2. Every other flag overrides what the scale sets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import _source_roots  # noqa: F401  (must come before rayfill)

from rayfill.cli.console import make_console
from rayfill.cli.experiment import asked_scale
from rayfill.cli.main import run_command
from rayfill.config.flags import parse_flags
from rayfill.config.run import ModelConfig, RunConfig, TrackingConfig, TrainConfig, replace
from rayfill.runs.datasets import data_labels
from rayfill.runs.places import resolve_paths
from rayfill.sweeps.space import Axis, LogUniform, Variant
from rayfill.sweeps.spec import Sweep, SweepOptions, WinnerOptions
from rayfill.sweeps.sweep import run_sweep


@dataclasses.dataclass(frozen=True, kw_only=True)
class Space(SweepOptions):
    """What the sweep varies, and how it is run."""

    inpainters: tuple[str, ...] = ("attention_unet",)
    """Networks that fill holes (`rayfill models` lists them)."""
    losses: tuple[str, ...] = ("l1", "log_mse", "mse+0.05*perceptual")
    """Weighted sums of loss terms."""
    epochs: tuple[int, ...] = (2, 4)
    """Training lengths."""
    alphas: tuple[float, ...] = (0.01, 0.05)
    """Mask expansions, as shares of the largest distance in the picture."""
    learning_rates: tuple[float, float] | None = None
    """Least and greatest peak learning rate, for `--sweep.search random` or `optuna`, or a
    population; None keeps the one of train."""
    segmentation_epochs: int = 8
    """Epochs that the segmenter is trained before the trials."""
    joint_rate: float = 0.2
    """Learning rate of joint training, as a share of train.learning_rate: it goes on from a trained
    segmenter, which the whole rate spoils."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(RunConfig):
    """Settings of every trial, of the sweep over them, and of the winner's further training."""

    name: str = "attn_unet_sweep"
    """Name of the sweep; a second one of the same name gets a number behind it."""
    tracking: TrackingConfig = TrackingConfig(experiment="attn_unet_sweep", pictures=4)
    sweep: Space = Space()
    winner: WinnerOptions = WinnerOptions()
    scale: str = "small"
    """smoke, small or paper; see above."""
    also: tuple[str, ...] = ()
    """Further systems to measure beside: whatever `rayfill evaluate` takes."""
    resume: bool = False
    """Go on with the newest sweep of this name; give the flags it was started with."""


SCALES = {
    "smoke": Settings(
        scale="smoke",
        model=ModelConfig(width=4, depth=2, segmenter_width=4, segmenter_depth=2),
        # Not under the name of the champion that people serve.
        tracking=TrackingConfig(experiment="attn_unet_sweep", model_name="smoke", pictures=2),
        sweep=Space(losses=("l1",), epochs=(1,), segmentation_epochs=2),
        winner=WinnerOptions(epochs=1),
    ),
    "small": Settings(),
    "paper": Settings(
        scale="paper",
        model=ModelConfig(width=64, depth=4, hole_fill="zero", output="direct", segmenter_width=64),
        train=TrainConfig(batch_size=32, learning_rate=1e-3),
        sweep=Space(
            losses=("mse", "perceptual", "mse+perceptual"),
            epochs=(25, 50),
            alphas=(0.01, 0.03, 0.05, 0.07),
            segmentation_epochs=50,
        ),
        winner=WinnerOptions(epochs=25, learning_rate=1e-3),
    ),
}


def plan(settings: Settings) -> Sweep:
    """Return the sweep: of joint models, or without label maps of networks by themselves."""
    shared = {field.name: getattr(settings, field.name) for field in dataclasses.fields(RunConfig)}
    base, space = resolve_paths(RunConfig(**shared)), settings.sweep
    axes: dict[str, Axis] = {"loss.terms": space.losses, "train.epochs": space.epochs}
    if space.learning_rates:  # of the trials themselves
        axes["train.learning_rate"] = LogUniform(*space.learning_rates)
    labels = data_labels(base)
    if not labels:
        segmenter = (f for f in dataclasses.fields(ModelConfig) if f.name.startswith("segmenter"))
        return Sweep(
            # Nothing is found, so what finds it has no options.
            base=replace(base, {f"model.{field.name}": field.default for field in segmenter}),
            space={"model.name": space.inpainters, **axes},
            options=space,
            winner=settings.winner,
            also=settings.also,
            notes=("The dataset has no label maps: masks are given, and alpha is not varied.",),
            resume=settings.resume,
        )
    joint = {
        "model.name": "joint",
        "model.inpainter": space.inpainters[0],
        "model.label_names": labels,
        "train.stage": "joint",
        "train.learning_rate": space.joint_rate * base.train.learning_rate,
        "eval.select_metric": "removal_psnr",
    }
    segmentation = {
        "train.stage": "segmentation",
        "train.learning_rate": base.train.learning_rate,
        "train.epochs": space.segmentation_epochs,
        "eval.select_metric": "iou",
    }
    return Sweep(
        base=replace(base, joint),
        space={"model.inpainter": space.inpainters, **axes, "loss.alpha": space.alphas},
        phases=(Variant(name="segmentation", changes=segmentation),),
        options=space,
        winner=settings.winner,
        winner_changes={"train.stage": "inpainting", "eval.select_metric": "hole_psnr"},
        also=settings.also,
        columns=(
            "hole_psnr",
            "hole_ssim",
            "lpips",
            "coherence",
            "sharpness",
            "removal_psnr",
            "growth_px",
            "uncovered",
        ),  # fmt: skip
        resume=settings.resume,
    )


def main(args: Sequence[str]) -> int:
    """Run the sweep."""
    default = SCALES[asked_scale(args, default="small")]
    settings = parse_flags(Settings, args, default=default, description=__doc__)
    run_sweep(plan(settings), console=make_console())
    return 0


if __name__ == "__main__":
    run_command(main)
