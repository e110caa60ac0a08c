#!/usr/bin/env python3
"""P5: does a ConvMixer beside a shallow U-Net help it fill one square hole of a small picture?

Both networks, three seeds, MSE, 5 epochs. The report compares by Dice alone, which brightness rules
(a perfect fill has not 1 but `dice_ceiling`, a mean fill comes near it): PSNR and SSIM inside the
hole stand beside it, and the difference of the networks with its interval over seeds and samples.
"""

from __future__ import annotations

import _source_roots  # noqa: F401  (must come before rayfill)

from rayfill.cli.experiment import Experiment, Scale
from rayfill.cli.main import run_command
from rayfill.config.presets import find_preset
from rayfill.config.run import replace
from rayfill.evaluation.leaderboard import ReportRow

_DATA = (
    "`rayfill prepare cifar10 --root cifar-10-python.tar.gz --out data/cache/cifar10` "
    "(--help says where to get it)"
)
_SPACE = {"train.seed": (0, 1, 2), "model.name": ("shallow_unet", "convmixer_unet")}

EXPERIMENT = Experiment(
    base=replace(find_preset("p5-unet").config, {"name": "convmixer_cifar10"}),
    scales={
        "smoke": Scale(
            space=_SPACE | {"train.seed": (0,)},
            changes={"model.width": 8, "train.epochs": 2, "tracking.pictures": 2},
        ),
        "small": Scale(space=_SPACE, changes={"model.width": 32}, data=_DATA),
        "paper": Scale(space=_SPACE, data=_DATA),
    },
    report=(
        ReportRow(name="P5, U-Net", values={"dice": 0.5837}),
        ReportRow(name="P5, ConvMixer beside it", values={"dice": 0.5915}),
    ),
    differences=(
        "The report trains with batch 2 (25 minutes an epoch on a CPU), here 32; its width, "
        "learning rate and sizes of squares are not given, here 64 (32 at scale small), 1e-3 and "
        "an eighth to a half of the side.",
    ),
    columns=("hole_psnr", "hole_ssim", "dice", "dice_ceiling"),
    baselines=("telea", "navier_stokes", "mean", "harmonic"),
)


main = EXPERIMENT.command(description=__doc__)

if __name__ == "__main__":
    run_command(main)
