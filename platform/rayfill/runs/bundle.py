"""A trained network as a folder, local or in a bucket: whole, unaltered and loadable, or refused.

``config.json`` says what kind of network, which one and how it was configured,
``model.safetensors`` holds its weights,
``manifest.json`` the size and SHA-256 of both. Loading executes nothing that the folder contains,
and imports a network of one's own (``package.module:Name``) only where the operator allowed it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from rayfill.models import InpaintingModel, build_model
from rayfill.models.segmentation import Segmenter, segmenter_architecture
from rayfill.runs.folder import CONFIG_FILE, WEIGHTS_FILE
from rayfill_data.errors import ConfigError, RayfillError
from rayfill_data.extension import distrusting
from rayfill_data.storage import MANIFEST, DamagedFolderError, read_folder, write_folder

SCHEMA_VERSION = 1

#: Kind of network -> what builds one, with any weights, from its name and options. Bundles that
#: name no kind are of inpainters: there was no other.
KINDS: dict[str, Callable[..., torch.nn.Module]] = {
    "inpainter": build_model,
    "segmenter": segmenter_architecture,
}

NetworkT = TypeVar("NetworkT", bound=torch.nn.Module)

#: Far above any configuration, far below what would hurt to parse.
_MAX_CONFIG_BYTES = 2**20


class BundleError(RayfillError):
    """A model bundle that cannot be written or must not be used."""


class OtherKindError(BundleError):
    """A model bundle that holds a network of another kind than was asked for."""


@dataclass(frozen=True, kw_only=True)
class LoadedBundle(Generic[NetworkT]):
    """A network read from disk, with what it was saved with."""

    model: NetworkT
    """The network on the CPU, in eval mode."""

    name: str
    """Its name in :data:`rayfill.models.MODELS` or in the table of segmenters."""

    config: dict[str, Any]
    """The options it was built with."""

    extra: dict[str, Any]
    """Whatever else was saved beside it: run id, scores, protocol."""


def save_bundle(
    uri: str | os.PathLike[str],
    *,
    model: torch.nn.Module,
    name: str,
    config: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
    kind: str = "inpainter",
) -> None:
    """Write a model bundle, whole or not at all; one already there is replaced.

    Args:
        uri: folder to make, a local path or a URI.
        model: the network; weights are stored as they are, contiguous, on the CPU.
        name: its name in the table of its kind.
        config: the options it was built with; a segmenter's ``labels`` are among them.
        extra: plain JSON data to keep beside it.
        kind: a key of :data:`KINDS`.

    Raises:
        BundleError: weights that are not finite or do not fit ``name`` and ``config``, or data that
            is not JSON.
        ConfigError: unknown model or options.
        RayfillError: storage that refuses; the message names the place and the bytes.
    """
    where = os.fspath(uri)
    state = {
        key: value.detach().to("cpu").contiguous() for key, value in model.state_dict().items()
    }
    _check_state(state, expected=_skeleton(kind, name, config).state_dict(), where=where)
    document = {
        "schema": SCHEMA_VERSION,
        "kind": kind,
        "model": name,
        "config": dict(config),
        "extra": dict(extra or {}),
    }
    try:
        text = json.dumps(document, indent=2, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BundleError(
            f"{where}: config or extra is not plain JSON data ({error}). "
            "Pass strings, finite numbers, booleans, lists and dictionaries."
        ) from error
    write_folder(where, {CONFIG_FILE: text.encode(), WEIGHTS_FILE: save_safetensors(state)})


def load_bundle(uri: str | os.PathLike[str]) -> LoadedBundle[InpaintingModel]:
    """Read an inpainter after checking that its bundle is complete, unaltered and usable.

    Args:
        uri: a folder written by :func:`save_bundle`, a local path or a URI.

    Raises:
        BundleError: anything missing, truncated, altered, of another schema, not safetensors, not
            finite, not of the architecture that the configuration names, or no inpainter.
        ConfigError: a model or options that this version does not know, or a network from outside
            whose module was not allowed (:func:`rayfill_data.extension.allow_modules`).
    """
    loaded: LoadedBundle[InpaintingModel] = _load(uri, kind="inpainter")
    return loaded


def load_segmenter_bundle(uri: str | os.PathLike[str]) -> LoadedBundle[Segmenter]:
    """Read a segmenter; as :func:`load_bundle`."""
    loaded: LoadedBundle[Segmenter] = _load(uri, kind="segmenter")
    return loaded


def _load(uri: str | os.PathLike[str], *, kind: str) -> LoadedBundle[Any]:
    where = os.fspath(uri)
    try:
        files = read_folder(where)
        config_text, weights = files[CONFIG_FILE], files[WEIGHTS_FILE]
    except (DamagedFolderError, KeyError) as error:
        lacks = isinstance(error, KeyError)
        problem = f"{where} lacks {error.args[0]}." if lacks else str(error)
        raise BundleError(
            f"{problem} A model bundle is a folder with {CONFIG_FILE}, {WEIGHTS_FILE} and "
            f"{MANIFEST}, unaltered; fetch or save it again."
        ) from error
    name, config, extra = _read_config(config_text, kind=kind, where=where)
    try:
        with distrusting():
            model = _skeleton(kind, name, config)
    except ConfigError as error:
        raise ConfigError(f"{where}: {problem}" for problem in error.problems) from error
    state = _read_weights(weights, where=where)
    _check_state(state, expected=model.state_dict(), where=where)
    model.load_state_dict(state, assign=True)
    return LoadedBundle(model=model.eval(), name=name, config=config, extra=extra)


def _skeleton(kind: str, name: str, config: Mapping[str, Any]) -> torch.nn.Module:
    """Build the network without memory for its weights, so that no configuration can exhaust it."""
    with torch.device("meta"):
        return KINDS[kind](name, **config)


def _check_state(
    state: Mapping[str, Tensor], *, expected: Mapping[str, Tensor], where: str
) -> None:
    """Refuse weights of another architecture, or not finite."""
    unlike = sorted(
        key
        for key in state.keys() | expected.keys()
        if key not in state
        or key not in expected
        or state[key].shape != expected[key].shape
        or state[key].dtype != expected[key].dtype
    )
    if unlike:
        raise BundleError(
            f"{where}: the weights are of another architecture than the configuration names: "
            f"{len(unlike)} tensors differ, the first is {unlike[0]!r}. "
            "Use the name and configuration that the model was trained with."
        )
    for key, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise BundleError(
                f"{where}: the weights are not finite (NaN or infinity in {key!r}). "
                "Training diverged; use an earlier checkpoint."
            )


def _read_config(
    text: bytes, *, kind: str, where: str
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return model name, configuration and extra data of a bundle that holds a ``kind``."""
    try:
        document = json.loads(text) if len(text) <= _MAX_CONFIG_BYTES else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise BundleError(f"{where}: {CONFIG_FILE} is not a JSON object. Fetch it again.")
    if document.get("schema") != SCHEMA_VERSION:
        raise BundleError(
            f"{where}: bundle schema {document.get('schema')!r}; this version reads "
            f"{SCHEMA_VERSION}. Save the model again with this version."
        )
    found = document.get("kind", "inpainter")
    if found != kind:
        raise OtherKindError(
            f"{where}: holds a network of kind {found!r}, not {kind!r}. "
            "Give a bundle of the kind that is wanted here."
        )
    name, config, extra = (document.get(key) for key in ("model", "config", "extra"))
    if not isinstance(name, str) or not isinstance(config, dict) or not isinstance(extra, dict):
        raise BundleError(
            f"{where}: {CONFIG_FILE} lacks model, config or extra. Save the model again."
        )
    return name, config, extra


def _read_weights(data: bytes, *, where: str) -> dict[str, Tensor]:
    try:
        return load_safetensors(data)
    except (SafetensorError, LookupError, ValueError, RuntimeError) as error:
        raise BundleError(
            f"{where}: {WEIGHTS_FILE} is not a safetensors file. "
            "Other formats, pickles above all, are not loaded; save the model with save_bundle."
        ) from error
