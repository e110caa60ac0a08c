"""The model registry: our bundles as MLflow models, and the alias ``champion``.

A registered model is an ordinary MLflow ``pyfunc`` directory (signature, input example, loader)
around a Rayfill bundle, so that both ``mlflow.pyfunc.load_model`` and the server read it. No pickle
and no tracing are involved.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayfill.runs.mlflow_store import asking, download, unless_there
from rayfill.runs.model_page import (
    add_promotion,
    describe_model,
    describe_version,
    read_history,
    score_tags,
)
from rayfill_data.errors import RayfillError
from rayfill_data.storage import read_folder, write_folder

DEFAULT_MODEL_NAME = "rayfill"
CHAMPION = "champion"
_ARTIFACT_PATH = "model"
_RUNS = "runs:/"
_BUNDLE = Path("data", "bundle")


#: Tag of a registered model: who was promoted when and why.
_HISTORY = "promotions"
_MAX_VERSIONS = 1000


class NoSuchModelError(RayfillError):
    """Nothing is registered under a name, version or alias."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegisteredModel:
    """One version of a registered model, with what it scored and under which protocol."""

    name: str
    version: str
    run_id: str
    alias: str
    scores: dict[str, float]
    protocol: dict[str, str]
    created_ms: int
    promoted_because: str = ""


def register_bundle(
    bundle: str | os.PathLike[str],
    *,
    name: str,
    run_id: str,
    scores: Mapping[str, float],
    protocol: Mapping[str, str],
    tracking_uri: str,
) -> RegisteredModel:
    """Log a model bundle to its run and register it as a new version of ``name``.

    Args:
        bundle: What :func:`rayfill.runs.bundle.save_bundle` wrote, a local path or a URI.
        name: Registered model.
        run_id: MLflow run that trained it.
        scores: Metric means on the held-out split; those that are not finite are left out.
        protocol: Dataset hash, split, sizes: what the scores were measured under.
        tracking_uri: MLflow store.

    Raises:
        RayfillError: a damaged bundle, or a registry that does not answer.
    """
    finite = {key: value for key, value in scores.items() if math.isfinite(value)}
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder, "model")
        _pack(os.fspath(bundle), packed)
        with asking(tracking_uri, "to take a model") as client:
            client.log_artifacts(run_id, str(packed), _ARTIFACT_PATH)
            with unless_there():
                about = describe_model(name, [], present="")
                client.create_registered_model(name, description=about)
            made = client.create_model_version(
                name,
                f"{_RUNS}{run_id}/{_ARTIFACT_PATH}",
                run_id=run_id,
                tags={
                    **score_tags(finite),
                    "scores": json.dumps(finite),
                    "protocol": json.dumps(dict(protocol)),
                },
                description=describe_version(
                    name=name, scores=finite, protocol=protocol, run=client.get_run(run_id)
                ),
            )
    return _read(made, alias="")


def promote(
    model: RegisteredModel, *, alias: str = CHAMPION, reason: str, tracking_uri: str
) -> None:
    """Point ``alias`` at ``model``; note why, when and in whose place on version and model.

    Raises:
        RayfillError: the registry does not answer.
    """
    at = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"
    with asking(tracking_uri, "to move an alias") as client:
        registered = client.get_registered_model(model.name)
        before = str(registered.aliases.get(alias, ""))
        noted = {"promoted_because": reason, "promoted_at": at, "promoted_from": before or "none"}
        for key, value in noted.items():
            client.set_model_version_tag(model.name, model.version, key, value)
        client.set_registered_model_alias(model.name, alias, model.version)
        history = add_promotion(
            registered.tags.get(_HISTORY, ""),
            {
                "at": at,
                "alias": alias,
                "version": model.version,
                "from": before,
                "because": reason,
            },
        )
        client.set_registered_model_tag(model.name, _HISTORY, history)
        present = registered.description or ""
        about = describe_model(model.name, read_history(history), present=present)
        if about != present:
            client.update_registered_model(model.name, description=about)


def list_versions(name: str, *, tracking_uri: str) -> list[RegisteredModel]:
    """Return every version of a registered model, newest first.

    Raises:
        NoSuchModelError: no such model.
        RayfillError: the registry does not answer.
    """
    absent = NoSuchModelError(
        f"No model {name!r} is registered: run `make sweep`, or name another with --model."
    )
    with asking(tracking_uri, "for versions", absent=absent) as client:
        aliases = client.get_registered_model(name).aliases
        names = {str(version): alias for alias, version in aliases.items()}
        found = client.search_model_versions(f"name = '{name}'", max_results=_MAX_VERSIONS)
    versions = [_read(version, alias=names.get(str(version.version), "")) for version in found]
    return sorted(versions, key=lambda version: int(version.version), reverse=True)


def find_model(name: str, *, alias: str = CHAMPION, tracking_uri: str) -> RegisteredModel:
    """Return the version that ``alias`` points at.

    Raises:
        NoSuchModelError: no such model or alias, saying how to make one.
        RayfillError: the registry does not answer.
    """
    absent = NoSuchModelError(
        f"No model {name!r} with alias {alias!r} is registered: run `make sweep`, or register one "
        "with `rayfill promote`."
    )
    with asking(tracking_uri, "for a model", absent=absent) as client:
        found = client.get_model_version_by_alias(name, alias)
    return _read(found, alias=alias)


def get_version(name: str, *, version: str, tracking_uri: str) -> RegisteredModel:
    """Return one version of a registered model.

    Raises:
        NoSuchModelError: no such version.
        RayfillError: the registry does not answer.
    """
    absent = NoSuchModelError(
        f"There is no version {version!r} of {name!r}; `rayfill ui` lists what there is."
    )
    with asking(tracking_uri, "for a version", absent=absent) as client:
        found = client.get_model_version(name, version)
    return _read(found, alias="")


def fetch_bundle(model: RegisteredModel, *, tracking_uri: str, cache_dir: Path) -> Path:
    """Download a version once and return the local bundle folder inside it.

    Raises:
        RayfillError: the registry or its file store does not answer.
    """
    target = cache_dir / f"{model.name}-{model.version}-{model.run_id[:8]}"
    if not (target / _BUNDLE).is_dir():
        with asking(tracking_uri, "for a model") as client:
            # models:/ URIs are looked up in the process-wide registry, which need not be ours.
            source = client.get_model_version_download_uri(model.name, model.version)
        _keep(source, target=target, tracking_uri=tracking_uri)
    return target / _BUNDLE


def fetch_run_bundle(run_id: str, *, artifact: str, tracking_uri: str, cache_dir: Path) -> str:
    """Return where the model bundle of an MLflow run lies: its artifact, or what its tag names.

    Every run notes where its best bundle is; the bundle itself is logged for registered ones.

    Args:
        run_id: Of the run.
        artifact: Path of a logged model or bundle among its artifacts, such as ``model``.
        tracking_uri: MLflow store.
        cache_dir: Where downloads are kept.

    Raises:
        NoSuchModelError: no such run, one that was deleted, or one without a model.
        RayfillError: the store does not answer.
    """
    absent = NoSuchModelError(f"There is no run {run_id!r}; `rayfill ui` lists what there is.")
    with asking(tracking_uri, "for a run", absent=absent) as client:
        run = client.get_run(run_id)
        logged = {file.path for file in client.list_artifacts(run_id)}
    if run.info.lifecycle_stage == "deleted":
        raise NoSuchModelError(
            f"Run {run_id!r} was deleted; bring it back with `mlflow runs restore --run-id "
            f"{run_id}`, or name another."
        )
    if artifact.partition("/")[0] not in logged:
        noted = run.data.tags.get("rayfill.bundle")
        if noted is None:
            raise NoSuchModelError(
                f"Run {run_id!r} has no artifact {artifact!r} and notes no model bundle: name a "
                "run that trained a model."
            )
        return str(noted)
    target = cache_dir / f"run-{run_id}" / artifact
    if not target.is_dir():
        _keep(f"{_RUNS}{run_id}/{artifact}", target=target, tracking_uri=tracking_uri)
    inner = target / _BUNDLE
    return str(inner if inner.is_dir() else target)


def _keep(source: str, *, target: Path, tracking_uri: str) -> None:
    """Download a folder of artifacts, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        with asking(tracking_uri, "for a model's files"):
            packed = download(source, folder=folder, tracking_uri=tracking_uri)
        try:
            packed.rename(target)
        except OSError:  # another process was first
            if not target.is_dir():
                raise


def _read(version: Any, *, alias: str) -> RegisteredModel:
    return RegisteredModel(
        name=version.name,
        version=str(version.version),
        run_id=version.run_id or "",
        alias=alias,
        scores=json.loads(version.tags.get("scores", "{}")),
        protocol=json.loads(version.tags.get("protocol", "{}")),
        created_ms=int(version.creation_timestamp),
        promoted_because=version.tags.get("promoted_because", ""),
    )


def _pack(bundle: str, target: Path) -> None:
    """Write the MLflow model directory around a copy of ``bundle``."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def tensor(name: str, channels: int) -> TensorSpec:
        return TensorSpec(np.dtype(np.float32), (-1, channels, -1, -1), name)

    example = {
        "image": np.full((1, 3, 16, 16), 0.5, np.float32),
        "hole_mask": np.pad(np.ones((1, 1, 4, 4), np.float32), ((0, 0), (0, 0), (6, 6), (6, 6))),
    }
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # MLflow warns about types it would rather see in its own schema language.
        warnings.simplefilter("ignore")
        from mlflow.pyfunc import save_model

        named = Path(folder, _BUNDLE.name)
        write_folder(str(named), read_folder(bundle))
        save_model(
            str(target),
            loader_module="rayfill.pyfunc",
            data_path=str(named),
            signature=ModelSignature(
                inputs=Schema([tensor("image", 3), tensor("hole_mask", 1)]),
                outputs=Schema([tensor("composite", 3)]),
            ),
            input_example=example,
            pip_requirements=["rayfill"],
        )
