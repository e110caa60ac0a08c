"""A trained model on disk: a folder that is complete, unaltered and loadable, or refused.

``config.json`` says which model and how it was configured, ``model.safetensors`` holds its weights,
``manifest.json`` the size and SHA-256 of both. Loading executes nothing that the folder contains.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rayfill.models import InpaintingModel, build_model
from rayfill_data.errors import RayfillError

SCHEMA_VERSION = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
MANIFEST_FILE = "manifest.json"

#: Far above any configuration, far below what would hurt to parse.
_MAX_JSON_BYTES = 2**20
_HASH_CHUNK_BYTES = 2**20


class BundleError(RayfillError):
    """A model bundle that cannot be written or must not be used."""


@dataclass(frozen=True, kw_only=True)
class LoadedBundle:
    """A model read from disk, with what it was saved with."""

    model: InpaintingModel
    """The network on the CPU, in eval mode."""

    name: str
    """Its name in :data:`rayfill.models.MODELS`."""

    config: dict[str, Any]
    """The options it was built with."""

    extra: dict[str, Any]
    """Whatever else was saved beside it: run id, scores, protocol."""


def save_bundle(
    path: str | os.PathLike[str],
    *,
    model: torch.nn.Module,
    name: str,
    config: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a model bundle as the folder ``path``, whole or not at all.

    Everything is written and synced in a sibling folder, which then takes the place of ``path``; a
    bundle already there is replaced, and put back if that fails. (Killed between the two renames,
    the process leaves the old bundle under a hidden name beside ``path``, never a mixture.)

    Args:
        path: folder to make; its parent is created if need be.
        model: the network; weights are stored as they are, contiguous, on the CPU.
        name: its name in :data:`rayfill.models.MODELS`.
        config: the options it was built with.
        extra: plain JSON data to keep beside it.

    Raises:
        BundleError: weights that are not finite or do not fit ``name`` and ``config``, data that
            is not JSON, or a folder that cannot be written (the message names the path and bytes).
        ConfigError: unknown model or options.
    """
    final = Path(path)
    state = {
        key: value.detach().to("cpu").contiguous() for key, value in model.state_dict().items()
    }
    _check_state(state, expected=_skeleton(name, config).state_dict(), where=str(final))
    document = {
        "schema": SCHEMA_VERSION,
        "model": name,
        "config": dict(config),
        "extra": dict(extra or {}),
    }
    try:
        text = json.dumps(document, indent=2, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BundleError(
            f"{final}: config or extra is not plain JSON data ({error}). "
            "Pass strings, finite numbers, booleans, lists and dictionaries."
        ) from error
    temporary = final.with_name(f".{final.name}.tmp-{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        _write_files(temporary, state=state, config_text=text)
        _put_in_place(temporary, final)
    except (OSError, SafetensorError) as error:
        size = sum(value.nbytes for value in state.values())
        reason = getattr(error, "strerror", None) or str(error)
        raise BundleError(
            f"{final}: the model bundle of {size} bytes could not be written ({reason}). "
            "Free some space or choose another folder; nothing was left behind."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_bundle(path: str | os.PathLike[str]) -> LoadedBundle:
    """Read a model bundle after checking that it is complete, unaltered and usable.

    Args:
        path: a folder written by :func:`save_bundle`.

    Raises:
        BundleError: anything missing, truncated, altered, of another schema, not safetensors, not
            finite, or not of the architecture that the configuration names.
        ConfigError: a model or options that this version does not know.
    """
    folder = Path(path)
    _verify_hashes(folder)
    document = _read_json(folder / CONFIG_FILE)
    if document.get("schema") != SCHEMA_VERSION:
        raise BundleError(
            f"{folder}: bundle schema {document.get('schema')!r}; this version reads "
            f"{SCHEMA_VERSION}. Save the model again with this version."
        )
    name, config, extra = (document.get(key) for key in ("model", "config", "extra"))
    if not isinstance(name, str) or not isinstance(config, dict) or not isinstance(extra, dict):
        raise BundleError(
            f"{folder}: {CONFIG_FILE} lacks model, config or extra. Save the model again."
        )
    model = _skeleton(name, config)
    state = _read_weights(folder / WEIGHTS_FILE)
    _check_state(state, expected=model.state_dict(), where=str(folder))
    model.load_state_dict(state, assign=True)
    return LoadedBundle(model=model.eval(), name=name, config=config, extra=extra)


def _skeleton(name: str, config: Mapping[str, Any]) -> InpaintingModel:
    """Build the model without memory for its weights, so that no configuration can exhaust it."""
    with torch.device("meta"):
        return build_model(name, **config)


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


def _write_files(folder: Path, *, state: dict[str, Tensor], config_text: str) -> None:
    save_file(state, folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(config_text, encoding="utf-8")
    files = {
        name: {"sha256": _sha256(folder / name), "size": (folder / name).stat().st_size}
        for name in (CONFIG_FILE, WEIGHTS_FILE)
    }
    manifest = json.dumps({"schema": SCHEMA_VERSION, "files": files}, indent=2, sort_keys=True)
    (folder / MANIFEST_FILE).write_text(manifest, encoding="utf-8")
    for name in (CONFIG_FILE, WEIGHTS_FILE, MANIFEST_FILE):
        _sync(folder / name)
    _sync(folder)


def _put_in_place(temporary: Path, final: Path) -> None:
    """Rename ``temporary`` to ``final``; a folder already there is set aside, then removed."""
    if final.exists() and not final.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "there is a file of that name")
    old = final.with_name(f".{final.name}.old-{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):
        # A folder that is not empty cannot be replaced in one step.
        final.rename(old)
    try:
        temporary.rename(final)
    except OSError:
        if old.exists():
            old.rename(final)
        raise
    _sync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _verify_hashes(folder: Path) -> None:
    files = _read_json(folder / MANIFEST_FILE).get("files")
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        entry = files.get(name) if isinstance(files, dict) else None
        if not isinstance(entry, dict):
            raise BundleError(f"{folder}: {MANIFEST_FILE} does not list {name}. Fetch it again.")
        try:
            size = (folder / name).stat().st_size
            if size != entry.get("size"):
                raise BundleError(
                    f"{folder}: {name} has {size} bytes, its manifest says {entry.get('size')}. "
                    "It is truncated or of another bundle; fetch it again."
                )
            digest = _sha256(folder / name)
        except OSError as error:
            raise _unreadable(folder / name, error) from error
        if digest != entry.get("sha256"):
            raise BundleError(
                f"{folder}: {name} does not have the SHA-256 its manifest says. "
                "It was altered or damaged; fetch it again."
            )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_JSON_BYTES + 1)
        document = json.loads(data) if len(data) <= _MAX_JSON_BYTES else None
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise BundleError(f"{path.parent}: {path.name} is not a JSON object. Fetch it again.")
    return document


def _unreadable(path: Path, error: OSError) -> BundleError:
    return BundleError(
        f"{path.parent}: {path.name} cannot be read ({error.strerror}). "
        f"A model bundle is a folder with {CONFIG_FILE}, {WEIGHTS_FILE} and {MANIFEST_FILE}."
    )


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise BundleError(
            f"{path.parent}: {path.name} is not a safetensors file. "
            "Other formats, pickles above all, are not loaded; save the model with save_bundle."
        ) from error
