#!/usr/bin/env python3
"""P1 (IMPBA): U-Net against Attention U-Net, MSE against perceptual losses, 25 epochs against 50.

The grid holds the four configurations that the report compares. Its perceptual loss looks through
VGG19; without its ImageNet weights those trials are left out, saying so. They can look through
another network: `--loss.features squeezenet1_1 --loss.weights-path FILE`.
"""

from __future__ import annotations

import _source_roots  # noqa: F401  (must come before rayfill)

from rayfill.cli.experiment import Experiment, Scale
from rayfill.cli.main import run_command
from rayfill.config.presets import find_preset
from rayfill.config.run import replace
from rayfill.evaluation.leaderboard import ReportRow

_NETWORKS = ("unet", "attention_unet")
_LOSSES = ("mse", "perceptual", "mse+perceptual")

EXPERIMENT = Experiment(
    base=replace(find_preset("p1-unet").config, {"name": "impba_comparison"}),
    scales={
        "smoke": Scale(
            space={"model.name": _NETWORKS, "loss.terms": ("mse",), "train.epochs": (2,)},
            changes={
                "model.width": 6,
                "model.depth": 3,
                "train.batch_size": 16,
                "tracking.pictures": 2,
            },
        ),
        "small": Scale(
            space={"model.name": _NETWORKS, "loss.terms": _LOSSES, "train.epochs": (6, 12)},
            changes={"model.width": 16, "train.batch_size": 16},
            data=(
                "`rayfill prepare coco_pairs --images DIR --annotations instances.json --size 64 "
                "--balance-ratios --repeats 18 --out data/cache/coco_pairs64`, or your own photos: "
                "`rayfill prepare folder --root DIR --size 64 --masks both --out data/cache/mine64`"
            ),
        ),
        "paper": Scale(
            space={"model.name": _NETWORKS, "loss.terms": _LOSSES, "train.epochs": (25, 50)},
            data=(
                "`rayfill prepare defacto --root DIR --out data/cache/defacto` (--help: where from)"
            ),
        ),
    },
    report=(
        ReportRow(name="P1, Attention U-Net, MSE, 50 epochs", values={"ssim": 0.98}),
        ReportRow(name="P1, U-Net, MSE, 50 epochs", values={"psnr": 37}),
        ReportRow(name="P1, Attention U-Net, perceptual, 50 epochs", values={"lpips": 0.0215}),
    ),
    differences=(
        "The report: DEFACTO at 256x256, 10,000 training samples, whole pictures, not said "
        "whether known pixels are put back; its split is not by source photo, ours is. Optimiser "
        "and LPIPS network are not given.",
    ),
    columns=("psnr", "ssim", "lpips", "hole_psnr", "hole_ssim"),
)


main = EXPERIMENT.command(description=__doc__)

if __name__ == "__main__":
    run_command(main)
