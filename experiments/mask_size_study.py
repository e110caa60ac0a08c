#!/usr/bin/env python3
"""P2, Table I: what does a mask cost that is a few pixels too small, or too large?

A network is trained on pairs with their true masks, then measured with masks shrunk by 2 pixels and
grown by up to 8: what sticks out of a mask that is too small stays in the picture and bleeds into
the fill; one that is too large only has more to invent.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import _source_roots  # noqa: F401  (must come before rayfill)
from _coco_pairs import EDGECONNECT, prepare_command, removal_run

from rayfill.cli.console import make_console
from rayfill.cli.experiment import Experiment, Scale, run_experiment
from rayfill.cli.main import run_command
from rayfill.evaluation.mask_sizes import measure_mask_sizes
from rayfill.evaluation.systems import trained
from rayfill_data.prepared.reader import PreparedDataset
from rayfill_data.storage import write_file

_EXPANSIONS_PX = (-2, 0, 2, 4, 6, 8)
_SPACE = {"model.name": ("attention_unet",)}

EXPERIMENT = Experiment(
    base=removal_run("mask_size_study"),
    scales={
        "smoke": Scale(
            space=_SPACE, changes={"model.width": 4, "train.epochs": 2, "tracking.pictures": 2}
        ),
        "small": Scale(space=_SPACE, changes={"train.epochs": 12}, data=prepare_command(128)),
        "paper": Scale(
            space={"model.name": ("edgeconnect",)},
            changes={**EDGECONNECT, "model.name": "edgeconnect"},
            data=prepare_command(256),
        ),
    },
    differences=(
        "The report's Table I, PSNR with the true mask shrunk by 2, true, grown by 2, 4, 6, 8: "
        "holes of 0-10 %: 26.75, 32.31, 31.89, 31.47, 31.07, 30.70; 30-40 %: 14.44, 19.21, 18.96, "
        "18.63, 18.35, 18.07.",
    ),
)


def main(args: Sequence[str]) -> int:
    """Run the experiment, then measure its network and two baselines at every mask size."""
    result = run_experiment(EXPERIMENT, args, description=__doc__)
    config = result.trials[0]
    sizes = measure_mask_sizes(
        [*trained(result.bundles), "telea", "harmonic"],
        data=PreparedDataset.open(config.data.uri),
        expansions_px=_EXPANSIONS_PX,
    )
    make_console().print(sizes.table())
    path = f"{config.storage}/{result.name}/mask_sizes.md"
    write_file(path, sizes.table().markdown().encode())
    sys.stdout.write(f"Mask sizes: {path}\n")
    return 0


if __name__ == "__main__":
    run_command(main)
