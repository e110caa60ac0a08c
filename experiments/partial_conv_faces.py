#!/usr/bin/env python3
"""P3: faces behind lines: the U-Net of 31,037,763 parameters, and the same of partial convolutions.

MSE, 20 epochs of batch 5, learning rate 1e-3 for 8 of them and 1e-4 for 12; about 7 straight lines,
thin in the report's first phase, thick in its second (`--data.masks lines_thin` for the first). The
partial convolutions are scaled as the report prints it, and with the constant of Liu et al.
"""

from __future__ import annotations

import _source_roots  # noqa: F401  (must come before rayfill)

from rayfill.cli.experiment import Experiment, Scale
from rayfill.cli.main import run_command
from rayfill.config.presets import find_preset
from rayfill.config.run import replace
from rayfill.evaluation.leaderboard import ReportRow
from rayfill.sweeps.space import Variant

_SPACE = {
    "system": (
        Variant(name="unet", changes={"model.name": "unet", "model.mask_channel": False}),
        Variant(
            name="partial_conv",
            changes={"model.name": "partial_conv_unet", "model.normalisation": "report"},
        ),
        Variant(name="partial_conv_liu_scale", changes={"model.name": "partial_conv_unet"}),
    )
}

EXPERIMENT = Experiment(
    base=replace(
        find_preset("p3-partial-conv").config,
        {"name": "partial_conv_faces", "model.normalisation": "liu"},
    ),
    scales={
        "smoke": Scale(
            space=_SPACE,
            changes={
                "model.width": 4,
                "model.depth": 3,
                "train.epochs": 2,
                "train.batch_size": 16,
                "train.step_epochs": (1,),
                "tracking.pictures": 2,
            },
        ),
        "small": Scale(
            space=_SPACE,
            changes={
                "model.width": 16,
                "train.epochs": 5,
                "train.batch_size": 16,
                "train.step_epochs": (3,),
            },
            data=(
                "`rayfill prepare celeba --root DIR --size 64 --out data/cache/faces64`, or any "
                "faces: `rayfill prepare parquet --root FILE --photo-column person --size 64 "
                "--masks lines_thick --out data/cache/faces64`"
            ),
        ),
        "paper": Scale(
            space=_SPACE,
            data="`rayfill prepare celeba --root DIR --out data/cache/celeba` (--help: where from)",
        ),
    },
    report=(
        ReportRow(
            name="P3, partial convolutions",
            values={"psnr": 30.456, "ssim": 0.910},
        ),
    ),
    differences=(
        "The report: CelebA at 178x178, 200,000 faces, three days on one GPU, whole pictures "
        "measured; it pads odd sizes inside the decoder.",
    ),
    columns=("hole_psnr", "hole_ssim", "psnr", "ssim", "l1"),
)


main = EXPERIMENT.command(description=__doc__)

if __name__ == "__main__":
    run_command(main)
