"""Runs that go on where another ended: from its newest checkpoint, under a name of their own."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rayfill.config.run import RunConfig
from rayfill.runs.checkpoint import Checkpoint, CheckpointStore
from rayfill.runs.folder import RunFolder
from rayfill_data.errors import RayfillError
from rayfill_data.storage import read_folder, write_folder

#: Names of tensors that an error lists.
_SHOWN = 4

Weights = Mapping[str, Mapping[str, Tensor]]


def take_over(
    config: RunConfig, *, weights: Weights, dataset_hash: str, best_to: str | None
) -> Checkpoint:
    """Return the checkpoint that a run continues, after checking that it fits.

    Args:
        config: Of the run that goes on, with ``train.continue_from``.
        weights: Its own tensors by network, as they are before.
        dataset_hash: Of what it trains on.
        best_to: Where to copy the other run's best bundle to; None leaves it.

    Raises:
        RayfillError: no whole checkpoint, one of other networks or data, or nothing left to train.
    """
    parent = RunFolder(str(config.train.continue_from))
    checkpoint, damaged = CheckpointStore(parent.checkpoints).latest()
    if checkpoint is None:
        raise RayfillError(
            f"train.continue_from is {parent.uri!r}, which has no whole checkpoint"
            f"{': ' if damaged else ''}{'; '.join(damaged)}. Name the folder of a run that trained."
        )
    problems = []
    if unlike := unlike_tensors(_flat(checkpoint.weights), _flat(weights)):
        problems.append(f"its networks are others ({unlike})")
    if checkpoint.meta["dataset_hash"] != dataset_hash:
        problems.append("it was trained on another dataset")
    if checkpoint.epoch >= config.train.epochs:
        problems.append(
            f"it has {checkpoint.epoch} epochs and train.epochs, which counts them, is "
            f"{config.train.epochs}"
        )
    if problems:
        raise RayfillError(
            f"Run {config.name!r} cannot go on from {parent.uri}: {', '.join(problems)}."
        )
    if best_to:
        write_folder(best_to, read_folder(parent.bundle))
    return checkpoint


def unlike_tensors(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Return which tensors are missing, too many or of another shape; empty where none are."""
    unlike = [
        f"{name} {_shape(found.get(name))} instead of {_shape(wanted.get(name))}"
        for name in sorted(found.keys() | wanted.keys())
        if _shape(found.get(name)) != _shape(wanted.get(name))
    ]
    more = f" and {len(unlike) - _SHOWN} more" if len(unlike) > _SHOWN else ""
    return "; ".join(unlike[:_SHOWN]) + more


def _flat(weights: Weights) -> dict[str, Tensor]:
    return {f"{net}.{key}": value for net, some in weights.items() for key, value in some.items()}


def _shape(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else str(tuple(tensor.shape))
