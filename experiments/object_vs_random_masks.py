#!/usr/bin/env python3
"""P2, Table II: does an inpainter that shall remove objects learn more from object-shaped holes?

The same network on the same backgrounds: with the masks of pasted objects, with random thin strokes
(`lama_thin`), and with random masks that cover as much as objects and are as thick (`irregular`).
All are tested on objects. The networks start from an empty hole, as the report's do: one that
corrects a harmonic fill does not depend on the shapes it was trained with.
"""

from __future__ import annotations

import _source_roots  # noqa: F401  (must come before rayfill)
from _coco_pairs import EDGECONNECT, prepare_command, removal_run

from rayfill.cli.experiment import Experiment, Scale
from rayfill.cli.main import run_command
from rayfill.sweeps.space import Variant

_SPACE = {
    "train.seed": (0, 1, 2),
    "training": (
        Variant(name="thin_random_masks", changes={"data.masks": "lama_thin"}),
        Variant(name="thick_random_masks", changes={"data.masks": "irregular"}),
        Variant(name="object_masks", changes={"data.masks": None}),
    ),
}
_FROM_NOTHING = {"model.hole_fill": "zero", "model.output": "direct"}

EXPERIMENT = Experiment(
    base=removal_run("object_vs_random_masks"),
    scales={
        "smoke": Scale(
            space=_SPACE | {"train.seed": (0,)},
            changes={"model.width": 4, "train.epochs": 2, "tracking.pictures": 2, **_FROM_NOTHING},
        ),
        "small": Scale(
            space=_SPACE,
            changes={"train.epochs": 4, **_FROM_NOTHING},
            data=prepare_command(64, repeats=54),
        ),
        "paper": Scale(
            space=_SPACE,
            changes={**EDGECONNECT, "model.name": "edgeconnect"},
            data=prepare_command(256),
        ),
    },
    differences=(
        "The report, for holes of 0-10, 10-20, 20-30 and 30-40 %: PSNR 32.07, 23.97, 20.20, 17.81 "
        "and SSIM .968, .888, .799, .702 with random masks; 32.31, 24.77, 21.45, 19.21 and .969, "
        ".892, .807, .711 with object masks; EdgeConnect-style inpainters at COCO's own size. "
        "What its random masks are it does not say.",
    ),
)


main = EXPERIMENT.command(description=__doc__)

if __name__ == "__main__":
    run_command(main)
