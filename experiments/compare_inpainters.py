#!/usr/bin/env python3
"""P2, Table V: every network that fills holes, classical methods, and any other system's pictures.

All are trained on the same pairs and tested on the holes of objects. What others have made stands
in the same table: `--also lama=DIR models:/rayfill@champion` takes folders of finished pictures,
bundles and registered models, as `rayfill evaluate` does.
"""

from __future__ import annotations

import _source_roots  # noqa: F401  (must come before rayfill)
from _coco_pairs import EDGECONNECT, prepare_command, removal_run

from rayfill.cli.experiment import Experiment, Scale
from rayfill.cli.main import run_command
from rayfill.models import MODELS, option_names
from rayfill.sweeps.space import Variant

#: A joint model is one of the others beside a segmenter; these two take options of their own.
_APART = ("joint", "edgeconnect", "partial_conv_liu")
_TINY = {"model.blocks": 2}


def _networks(*, depth: int, liu_depth: int) -> tuple[Variant, ...]:
    """Return every network that is trained alike; Liu's has a depth that suits the pictures."""
    found = []
    for name in (name for name in MODELS if name not in _APART):
        deep = {"model.depth": depth} if "depth" in option_names(name) else {}
        found.append(Variant(name=name, changes={"model.name": name, **deep}))
    liu = {"model.name": "partial_conv_liu", "model.depth": liu_depth}
    return (*found, Variant(name="partial_conv_liu", changes=liu))


def _edgeconnect(**changes: object) -> Variant:
    """Return EdgeConnect with the losses that report P2 trains it with."""
    own = EDGECONNECT | {"model.name": "edgeconnect"}
    kept = ("model.name", "model.hole_fill", "model.output", "loss.terms", "train.learning_rate")
    return Variant(name="edgeconnect", changes={key: own[key] for key in kept} | changes)


EXPERIMENT = Experiment(
    base=removal_run("compare_inpainters"),
    scales={
        "smoke": Scale(
            space={"network": (*_networks(depth=3, liu_depth=4)[:1], _edgeconnect(**_TINY))},
            changes={
                "model.width": 4,
                "train.epochs": 2,
                "train.discriminator_width": 4,
                "tracking.pictures": 2,
            },
        ),
        "small": Scale(
            space={"network": (*_networks(depth=3, liu_depth=5), _edgeconnect())},
            changes={"train.epochs": 6, "train.discriminator_width": 16},
            data=prepare_command(64),
        ),
        "paper": Scale(
            space={"network": (*_networks(depth=4, liu_depth=7), _edgeconnect())},
            changes={
                key: EDGECONNECT[key] for key in ("model.width", "train.epochs", "train.batch_size")
            },
            data=prepare_command(256),
        ),
    },
    differences=(
        "The report, best of 12 published methods in every cell, for holes of 0-10, 10-20, 20-30 "
        "and 30-40 %: PSNR 30.43, 20.60, 18.11, 16.63; SSIM .958, .837, .749, .665; LPIPS .064, "
        ".162, .233, .310; FID .12, 2.19, 6.14, 11.37; its own: PSNR 31.07, 24.71, 25.62, 26.50; "
        "SSIM .955, .874, .848, .850. It gives all others the masks that a Panoptic FPN finds, "
        "here all get the true ones.",
    ),
    columns=("psnr", "ssim", "lpips", "hole_psnr", "hole_ssim"),
)


main = EXPERIMENT.command(description=__doc__)

if __name__ == "__main__":
    run_command(main)
