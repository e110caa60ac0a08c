#!/usr/bin/env python3
"""Sweep {U-Net, Attention U-Net} x losses x epochs x mask expansion; register the champion.

The grid holds the four configurations that P1 (IMPBA) compares. Its perceptual loss needs VGG19's
ImageNet weights: trials that ask for it are left out, saying so, where they cannot be had. The
defaults are sized for two CPU cores and the bundled photographs; the report's own are
`--model.width 64 --model.depth 4 --model.hole-fill zero --model.output direct --sweep.epochs 25 50`
on a prepared DEFACTO.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

import _source_roots  # noqa: F401  (must come before rayfill)
import tyro

from rayfill.cli import guarded
from rayfill.config import RunConfig, TrackingConfig
from rayfill.console import make_console
from rayfill.sweep import Sweep, WinnerOptions, run_sweep
from rayfill.tuning import SweepOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Space(SweepOptions):
    """What the sweep varies, and how it is run."""

    models: tuple[str, ...] = ("unet", "attention_unet")
    """Networks (`rayfill models` lists them)."""
    losses: tuple[str, ...] = ("l1", "log_mse", "mse+0.05*perceptual")
    """Weighted sums of loss terms."""
    epochs: tuple[int, ...] = (2, 4)
    """Training lengths."""
    expand_px: tuple[int, ...] = (0, 2)
    """Mask expansions: pixels by which training holes grow."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(RunConfig):
    """Settings of every trial, of the sweep over them, and of the winner's further training."""

    name: str = "attn_unet_sweep"
    """Name of the sweep; a second one of the same name gets a number behind it."""
    tracking: TrackingConfig = TrackingConfig(experiment="attn_unet_sweep", pictures=4)
    sweep: Space = Space()
    winner: WinnerOptions = WinnerOptions()
    resume: bool = False
    """Go on with the newest sweep of this name; give the flags it was started with."""


def main(args: Sequence[str]) -> int:
    """Run the sweep."""
    settings = tyro.cli(Settings, args=list(args), description=__doc__)
    shared = {field.name: getattr(settings, field.name) for field in dataclasses.fields(RunConfig)}
    sweep = Sweep(
        base=RunConfig(**shared),
        space={
            "model.name": settings.sweep.models,
            "loss.terms": settings.sweep.losses,
            "train.epochs": settings.sweep.epochs,
            "data.expand_px": settings.sweep.expand_px,
        },
        options=settings.sweep,
        winner=settings.winner,
        resume=settings.resume,
    )
    run_sweep(sweep, console=make_console())
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
