"""The model registry: our bundles as MLflow models, and the alias ``champion``.

A registered model is an ordinary MLflow ``pyfunc`` directory (signature, input example, loader)
around a Rayfill bundle, so that both ``mlflow.pyfunc.load_model`` and the server read it. No pickle
and no tracing are involved.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import math
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rayfill.mlflow_store import open_store
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
_BUNDLE = Path("data", "bundle")


#: MLflow's codes for a name or version, and for an alias, that is not there.
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_SQLITE = "sqlite:///"

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
    from mlflow.exceptions import MlflowException

    finite = {key: value for key, value in scores.items() if math.isfinite(value)}
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder, "model")
        _pack(os.fspath(bundle), packed)
        with _asking("to take a model"):
            client = open_store(tracking_uri)
            client.log_artifacts(run_id, str(packed), _ARTIFACT_PATH)
            try:
                about = describe_model(name, [], present="")
                client.create_registered_model(name, description=about)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            made = client.create_model_version(
                name,
                f"runs:/{run_id}/{_ARTIFACT_PATH}",
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
    with _asking("to move an alias"):
        client = open_store(tracking_uri)
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
    absent = f"No model {name!r} is registered: run `make sweep`, or name another with --model."
    with _asking("for versions", absent=absent, tracking_uri=tracking_uri):
        client = open_store(tracking_uri)
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
    absent = (
        f"No model {name!r} with alias {alias!r} is registered: run `make sweep`, or register one "
        "with `rayfill promote`."
    )
    with _asking("for a model", absent=absent, tracking_uri=tracking_uri):
        found = open_store(tracking_uri).get_model_version_by_alias(name, alias)
    return _read(found, alias=alias)


def get_version(name: str, *, version: str, tracking_uri: str) -> RegisteredModel:
    """Return one version of a registered model.

    Raises:
        NoSuchModelError: no such version.
        RayfillError: the registry does not answer.
    """
    absent = f"There is no version {version!r} of {name!r}; `rayfill ui` lists what there is."
    with _asking("for a version", absent=absent, tracking_uri=tracking_uri):
        found = open_store(tracking_uri).get_model_version(name, version)
    return _read(found, alias="")


def fetch_bundle(model: RegisteredModel, *, tracking_uri: str, cache_dir: Path) -> Path:
    """Download a version once and return the local bundle folder inside it.

    Raises:
        RayfillError: the registry or its file store does not answer.
    """
    import mlflow

    target = cache_dir / f"{model.name}-{model.version}-{model.run_id[:8]}"
    if not (target / _BUNDLE).is_dir():
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_dir) as folder:
            with _asking("for a model's files"):
                # models:/ URIs are looked up in the process-wide registry, which need not be ours.
                client = open_store(tracking_uri)
                source = client.get_model_version_download_uri(model.name, model.version)
                packed = mlflow.artifacts.download_artifacts(
                    source, dst_path=folder, tracking_uri=tracking_uri
                )
            try:
                Path(packed).rename(target)
            except OSError:  # another process was first
                if not (target / _BUNDLE).is_dir():
                    raise
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
    import mlflow

    absent = f"There is no run {run_id!r}; `rayfill ui` lists what there is."
    with _asking("for a run", absent=absent, tracking_uri=tracking_uri):
        client = open_store(tracking_uri)
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
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            with _asking("for a run's files"):
                packed = mlflow.artifacts.download_artifacts(
                    run_id=run_id,
                    artifact_path=artifact,
                    dst_path=folder,
                    tracking_uri=tracking_uri,
                )
            with contextlib.suppress(OSError):  # another process was first
                Path(packed).rename(target)
    inner = target / _BUNDLE
    return str(inner if inner.is_dir() else target)


@contextlib.contextmanager
def _asking(what: str, *, absent: str = "", tracking_uri: str = "") -> Iterator[None]:
    """Turn whatever MLflow raises into our errors; ``absent`` says what it means by not found."""
    from mlflow.exceptions import MlflowException

    file = Path(tracking_uri.removeprefix(_SQLITE))
    if tracking_uri.startswith(_SQLITE) and not file.exists():
        raise NoSuchModelError(absent)  # asking would create the database
    try:
        yield
    except Exception as error:  # MLflow lets the errors of its database drivers through
        message = (str(error).splitlines() or [""])[0]
        # The code of a missing alias is also that of a store that cannot be used at all.
        not_found = isinstance(error, MlflowException) and error.error_code in _ABSENT
        if absent and not_found and "not found" in message:
            raise NoSuchModelError(absent) from error
        raise RayfillError(
            f"The model registry was asked {what} and failed ({type(error).__name__}: "
            f"{message[:200]}). Check that the store named by MLFLOW_TRACKING_URI is reachable."
        ) from error


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
    import mlflow
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
        named = Path(folder, _BUNDLE.name)
        write_folder(str(named), read_folder(bundle))
        mlflow.pyfunc.save_model(
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
