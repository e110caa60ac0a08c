"""Runs that go on where another ended: from its newest checkpoint, under a name of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from rayfill.config.run import RunConfig
from rayfill.runs.checkpoint import Checkpoint, CheckpointStore
from rayfill.runs.folders import list_folders, read_file, read_folder, write_folder
from rayfill.runs.journal import recorded_run
from rayfill_data.errors import RayfillError

#: Where a run's folder holds the bundle of its best epoch, and its checkpoints.
BEST, CHECKPOINTS = "best", "checkpoints"

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
    parent = str(config.train.continue_from)
    checkpoint, damaged = CheckpointStore(f"{parent}/{CHECKPOINTS}").latest()
    if checkpoint is None:
        raise RayfillError(
            f"train.continue_from is {parent!r}, which has no whole checkpoint"
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
            f"Run {config.name!r} cannot go on from {parent}: {', '.join(problems)}."
        )
    if best_to:
        write_folder(best_to, read_folder(f"{parent}/{BEST}"))
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


def newest_meta(run_dir: str) -> dict[str, Any]:
    """Return what the newest checkpoint says of itself, empty where there is none.

    Only its description is read: :func:`take_over` verifies the whole.
    """
    for folder in reversed(list_folders(f"{run_dir}/{CHECKPOINTS}")):
        content = read_file(f"{run_dir}/{CHECKPOINTS}/{folder}/meta.json")
        if content:
            values: dict[str, Any] = json.loads(content)
            return {**values["meta"], "epoch": values["epoch"]}
    return {}


def done_epochs(config: RunConfig) -> int:
    """Return how many of a run's epochs the run had done that it goes on from."""
    parent = config.train.continue_from
    return int(newest_meta(parent).get("epoch", 0)) if parent else 0


def lineage_tags(config: RunConfig, *, journals: Path) -> dict[str, str]:
    """Return MLflow tags that link a run to the one it goes on from, if there is one.

    Args:
        config: Of the run.
        journals: Folder under which this machine keeps what it recorded of runs.
    """
    parent = config.train.continue_from
    if not parent:
        return {}
    meta = newest_meta(parent)
    # The journal knows the MLflow run even if the last checkpoint was written before MLflow did.
    within = parent.removeprefix(f"{config.storage}/").split("/")
    run_id = recorded_run(journals.joinpath(*within)) or meta.get("run_id", "")
    tags = {
        "rayfill.continued_from": parent,
        "rayfill.continued_run_id": str(run_id),
        "rayfill.continued_at_epoch": str(meta.get("epoch", "")),
    }
    return {key: value for key, value in tags.items() if value}


def leaves(runs: Sequence[RunConfig], *, folders: Mapping[str, str]) -> list[RunConfig]:
    """Return the runs that none of the others goes on from.

    Args:
        runs: Any runs.
        folders: The folder of each by its name.
    """
    continued = {run.train.continue_from for run in runs}
    return [run for run in runs if folders[run.name] not in continued]


def _flat(weights: Weights) -> dict[str, Tensor]:
    return {f"{net}.{key}": value for net, some in weights.items() for key, value in some.items()}


def _shape(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else str(tuple(tensor.shape))
