"""``rayfill continue``: train finished trials of a sweep for more epochs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import tyro

from rayfill.cli.console import make_console
from rayfill.config.flags import parse_flags
from rayfill.runs import places
from rayfill.sweeps.spec import SweepOptions
from rayfill_data.checks import Checked, Count


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContinueArgs(Checked):
    """Train finished trials of a sweep for more epochs, from their last checkpoints."""

    sweep_name: tyro.conf.Positional[str]
    """Name of the sweep: its folder in the storage."""
    epochs: Count
    """Epochs to train besides those that were done."""
    best: Count | None = None
    """So many trials, the best on the validation split; None is all that finished."""
    trials: tuple[str, ...] = ()
    """These trials, also such as were stopped early."""
    schedule: Literal["continue", "restart"] = "continue"
    """The learning rate goes on as if the runs had been planned that long, or begins its schedule
    again; the same where it is constant."""
    storage: str | None = None
    """Folder or URI that the sweep is kept in; None as for training."""
    sweep: SweepOptions = SweepOptions(scheduler="none")
    resume: bool = False
    """Go on with the newest continuation of this sweep; give the flags it was started with."""


def main(args: Sequence[str]) -> int:
    """Run the command."""
    asked = parse_flags(ContinueArgs, args, prog="rayfill continue")
    from rayfill.sweeps.continuing import continued_sweep
    from rayfill.sweeps.draft import read_earlier
    from rayfill.sweeps.sweep import run_sweep

    sweep = continued_sweep(
        read_earlier(asked.sweep_name, storage=places.storage(asked.storage)),
        epochs=asked.epochs,
        best=asked.best,
        names=asked.trials,
        schedule=asked.schedule,
        options=asked.sweep,
        resume=asked.resume,
    )
    run_sweep(sweep, console=make_console())
    return 0
