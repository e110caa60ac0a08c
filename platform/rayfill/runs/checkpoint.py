"""Checkpoints that survive a kill at any moment, and a reader that trusts only whole ones."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from rayfill_data.storage import (
    DamagedFolderError,
    delete_folder,
    list_folders,
    read_folder,
    write_folder,
)

_STATE = "state.pt"
_META = "meta.json"
_WEIGHTS = ".safetensors"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that a run needs to go on as if it had never stopped.

    Attributes:
        epoch: Finished epochs.
        step: Finished optimiser steps.
        weights: Tensors of every network (and running average) by name.
        state: Optimisers, schedulers, random state: plain data and tensors.
        meta: Plain data: config, history, MLflow run id.
    """

    epoch: int
    step: int
    weights: Mapping[str, Mapping[str, torch.Tensor]]
    state: Mapping[str, Any]
    meta: Mapping[str, Any]


class CheckpointStore:
    """The checkpoints of one run: ``ROOT/step-00000120`` and so on, the newest by step number."""

    def __init__(self, root: str, *, keep: int = 2) -> None:
        self._root = root.rstrip("/")
        self._keep = keep

    def save(self, checkpoint: Checkpoint) -> str:
        """Write a checkpoint, delete those older than the newest ``keep``, and return its URI.

        Raises:
            RayfillError: when the storage refuses; earlier checkpoints are untouched.
        """
        buffer = io.BytesIO()
        torch.save(dict(checkpoint.state), buffer)
        meta = {"epoch": checkpoint.epoch, "step": checkpoint.step, "meta": dict(checkpoint.meta)}
        files = {_STATE: buffer.getvalue(), _META: json.dumps(meta).encode()}
        for name, tensors in checkpoint.weights.items():
            contiguous = {key: tensor.detach().contiguous() for key, tensor in tensors.items()}
            files[name + _WEIGHTS] = save_safetensors(contiguous)
        uri = f"{self._root}/step-{checkpoint.step:08d}"
        write_folder(uri, files)
        for name in self._names()[: -self._keep]:
            delete_folder(f"{self._root}/{name}")
        return uri

    def latest(self) -> tuple[Checkpoint | None, tuple[str, ...]]:
        """Return the newest checkpoint that is whole, and why newer ones were passed over."""
        passed_over: list[str] = []
        for name in reversed(self._names()):
            try:
                return _parse(read_folder(f"{self._root}/{name}")), tuple(passed_over)
            except DamagedFolderError as error:
                passed_over.append(str(error))
        return None, tuple(passed_over)

    def _names(self) -> list[str]:
        return [name for name in list_folders(self._root) if name.startswith("step-")]


def _parse(files: Mapping[str, bytes]) -> Checkpoint:
    # The hashes were checked, so what fails to parse here was written so: a bug, not damage.
    meta = json.loads(files[_META])
    weights = {
        name.removesuffix(_WEIGHTS): load_safetensors(content)
        for name, content in files.items()
        if name.endswith(_WEIGHTS)
    }
    state = torch.load(io.BytesIO(files[_STATE]), map_location="cpu", weights_only=True)
    return Checkpoint(
        epoch=meta["epoch"], step=meta["step"], weights=weights, state=state, meta=meta["meta"]
    )
