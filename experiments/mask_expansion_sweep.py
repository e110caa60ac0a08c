#!/usr/bin/env python3
"""P2, Table IV: how far should a segmenter's mask reach beyond the object that is removed?

Segmenter and inpainter are trained each on its own, then together through the mask, without the
mask-expansion loss and with it at several alpha. The table has the quality of the whole removal
beside what became of the masks: their growth in pixels and the share of the object left uncovered.
"""

from __future__ import annotations

import _source_roots  # noqa: F401  (must come before rayfill)
from _coco_pairs import EDGECONNECT, prepare_command

from rayfill.cli.experiment import Experiment, Scale
from rayfill.cli.main import run_command
from rayfill.config.run import (
    DataConfig,
    EvalConfig,
    LossConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
)
from rayfill.evaluation.leaderboard import ReportRow
from rayfill.sweeps.space import Variant

_ALPHAS = tuple(
    Variant(name=f"alpha{alpha}", changes={"loss.alpha": alpha})
    for alpha in (0.01, 0.03, 0.05, 0.07)
)
_SYSTEMS = (Variant(name="without_expansion", changes={"loss.mask_expansion": 0.0}), *_ALPHAS)


def _phases(*, epochs: int, batch_size: int, segmenter_rate: float) -> tuple[Variant, ...]:
    shared = {"train.epochs": epochs, "train.batch_size": batch_size}
    return (
        Variant(
            name="segmentation",
            changes=shared
            | {
                "train.stage": "segmentation",
                "eval.select_metric": "iou",
                "train.learning_rate": segmenter_rate,
            },
        ),
        Variant(
            name="inpainting",
            changes=shared | {"train.stage": "inpainting", "eval.select_metric": "hole_psnr"},
        ),
    )


EXPERIMENT = Experiment(
    base=RunConfig(
        name="mask_expansion_sweep",
        # Jitter would hide what gives a pasted object away; a loss that favours objects would
        # itself expand masks.
        data=DataConfig(flip=True, color_jitter=0.0),
        model=ModelConfig(name="joint", inpainter="attention_unet", segmenter_balance=0.0),
        loss=LossConfig(terms="l1"),
        train=TrainConfig(stage="joint", schedule="cosine", ema_decay=0.99),
        eval=EvalConfig(select_metric="removal_psnr"),
    ),
    scales={
        "smoke": Scale(
            space={"system": (_SYSTEMS[0], _SYSTEMS[2])},
            changes={
                "model.label_names": ("nothing", "object"),
                "model.inpainter": "unet",
                "model.width": 6,
                "model.segmenter_depth": 3,
                "train.epochs": 2,
                "tracking.pictures": 2,
            },
            phases=_phases(epochs=3, batch_size=16, segmenter_rate=3e-3),
        ),
        "small": Scale(
            space={"train.seed": (0, 1), "system": _SYSTEMS},
            changes={
                "train.epochs": 3,
                "train.batch_size": 16,
                "train.learning_rate": 5e-4,
            },
            phases=_phases(epochs=8, batch_size=16, segmenter_rate=3e-3),
            data=prepare_command(64, repeats=54),
        ),
        "paper": Scale(
            space={"system": _SYSTEMS},
            changes={
                **EDGECONNECT,
                "model.inpainter": "edgeconnect",
                "model.label_maps": True,
                "model.segmenter": "panoptic_fpn",
                "train.learning_rate": 1e-5,
            },
            phases=_phases(epochs=50, batch_size=4, segmenter_rate=1e-4),
            data=prepare_command(256),
        ),
    },
    report=tuple(
        ReportRow(name=f"P2, alpha {a}", values={"removal_psnr": psnr, "removal_ssim": ssim})
        for a, psnr, ssim in (
            (0.01, 30.68, 0.951),
            (0.03, 30.87, 0.954),
            (0.05, 30.51, 0.949),
            (0.07, 30.47, 0.949),
        )
    ),
    differences=(
        "The report: COCO at its own size with panoptic labels, EdgeConnect-style inpainters, "
        "means of hole-ratio buckets. `removal`: the system finds the mask, and the true "
        "one only says which object is meant.",
    ),
    columns=("removal_psnr", "removal_ssim", "growth_px", "uncovered", "found"),
    baselines=(),  # they cannot find a mask
)


main = EXPERIMENT.command(description=__doc__)

if __name__ == "__main__":
    run_command(main)
