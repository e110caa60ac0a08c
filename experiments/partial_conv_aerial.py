#!/usr/bin/env python3
"""P4: aerial photos with irregular holes: Liu's partial convolutions and loss, in two phases.

The second phase goes on from the first with a quarter of its learning rate and the encoder's
BatchNorm frozen. The loss looks through VGG16; without its weights give another network, which is
then named in every table: `--loss.features squeezenet1_1 --loss.weights-path FILE`.
"""

from __future__ import annotations

import _source_roots  # noqa: F401  (must come before rayfill)

from rayfill.cli.experiment import Experiment, Scale
from rayfill.cli.main import run_command
from rayfill.config.presets import find_preset
from rayfill.config.run import replace
from rayfill.evaluation.leaderboard import ReportRow
from rayfill.sweeps.space import Variant
from rayfill.sweeps.spec import WinnerOptions

_LIU = Variant(name="liu_loss", changes={"loss.terms": "liu"})
_L1 = Variant(name="hole_valid_l1", changes={"loss.terms": "valid_l1+6*hole_l1"})

EXPERIMENT = Experiment(
    base=replace(find_preset("p4-phase-1").config, {"name": "partial_conv_aerial"}),
    scales={
        "smoke": Scale(
            space={"loss": (_L1,)},
            changes={
                "model.width": 8,
                "model.depth": 5,
                "train.epochs": 2,
                "train.batch_size": 16,
                "tracking.pictures": 2,
            },
            winner=WinnerOptions(epochs=1, num_workers=1, learning_rate=5e-5),
        ),
        "small": Scale(
            space={"loss": (_LIU, _L1)},
            changes={"model.width": 32, "model.depth": 6, "train.epochs": 30},
            data="`rayfill prepare aerial --root DIR --size 128 --out data/cache/aerial128`",
            winner=WinnerOptions(epochs=8, num_workers=1, learning_rate=5e-5),
        ),
        "paper": Scale(
            space={"loss": (_LIU,)},
            data="`rayfill prepare aerial --root DIR --out data/cache/aerial` (--help: where from)",
            winner=WinnerOptions(epochs=10, num_workers=1, learning_rate=5e-5),
        ),
    },
    report=(
        ReportRow(name="P4, mean of its validation set", values={"psnr": 26.23, "ssim": 0.7752}),
    ),
    differences=(
        "The report: 256x256, other photos, whole pictures measured, on its validation set; "
        "standard deviations 3.96 dB and 0.0854. Epochs and holes are not given.",
    ),
    columns=("hole_psnr", "hole_ssim", "psnr", "ssim", "l1"),
    winner_changes={"model.freeze_encoder_norm": True},
)


main = EXPERIMENT.command(description=__doc__)

if __name__ == "__main__":
    run_command(main)
