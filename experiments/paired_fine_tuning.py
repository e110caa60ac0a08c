#!/usr/bin/env python3
"""P2, Table III: how many pairs does it take to teach object masks to a network of random ones?

A network is trained with thin random strokes, then goes on for the same number of steps: with more
random strokes, or on few, some and all pairs with the masks of pasted objects. Tested on objects.
"""

from __future__ import annotations

from collections.abc import Mapping

import _source_roots  # noqa: F401  (must come before rayfill)
from _coco_pairs import EDGECONNECT, prepare_command, removal_run

from rayfill.cli.experiment import Experiment, Scale
from rayfill.cli.main import run_command
from rayfill.sweeps.space import Variant

_RANDOM = {"data.masks": "lama_thin"}
_FROM_NOTHING = {"model.hole_fill": "zero", "model.output": "direct"}


def _pairs(count: int, *, epochs: int) -> Variant:
    """Return fine-tuning on ``count`` pairs, validated once, when it is over."""
    return Variant(
        name=f"{count}_pairs",
        changes={
            "data.masks": None,
            "data.train_samples": count,
            "train.epochs": epochs,
            "train.validate_every": epochs,
        },
    )


def _space(epochs_by_pairs: Mapping[int, int]) -> dict[str, tuple[Variant, ...]]:
    """Return no pairs, then so many; epochs make up for the number."""
    none = Variant(name="0_pairs", changes=_RANDOM)
    some = (_pairs(count, epochs=epochs) for count, epochs in epochs_by_pairs.items())
    return {"training": (none, *some)}


def _phase(epochs: int) -> tuple[Variant, ...]:
    return (Variant(name="random_masks", changes={**_RANDOM, "train.epochs": epochs}),)


EXPERIMENT = Experiment(
    base=removal_run("paired_fine_tuning"),
    scales={
        "smoke": Scale(
            space=_space({96: 10}),
            changes={"model.width": 4, "train.epochs": 1, "tracking.pictures": 2, **_FROM_NOTHING},
            phases=_phase(2),
        ),
        "small": Scale(
            space=_space({57: 100, 572: 10, 2862: 2, 5724: 1}),
            changes={"train.epochs": 1, **_FROM_NOTHING},
            phases=_phase(4),
            data=prepare_command(64, repeats=54),
        ),
        "paper": Scale(
            space=_space({20000: 28, 60000: 9, 100000: 6, 110000: 5}),
            changes={**EDGECONNECT, "model.name": "edgeconnect", "train.epochs": 5},
            phases=_phase(50),
            data=prepare_command(256, repeats=1),
        ),
    },
    differences=(
        "The report, fine-tuning with 0, 20, 60, 100 and 110 (thousand) pairs: PSNR for holes of "
        "0-10 %: 32.07, 32.10, 32.17, 32.19, 32.12; of 30-40 %: 17.81, 18.98, 18.77, 18.94, 18.79.",
    ),
)


main = EXPERIMENT.command(description=__doc__)

if __name__ == "__main__":
    run_command(main)
