"""The model registry: our bundles as MLflow models, and the alias ``champion``.

A registered model is an ordinary MLflow ``pyfunc`` directory (signature, input example, loader)
around a Rayfill bundle, so that both ``mlflow.pyfunc.load_model`` and the server read it. No pickle
and no tracing are involved.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayfill_data.errors import RayfillError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

DEFAULT_MODEL_NAME = "rayfill"
CHAMPION = "champion"
_ARTIFACT_PATH = "model"
_BUNDLE = Path("data", "bundle")


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


def register_bundle(
    bundle: Path,
    *,
    name: str,
    run_id: str,
    scores: Mapping[str, float],
    protocol: Mapping[str, str],
    tracking_uri: str,
) -> RegisteredModel:
    """Log a model bundle to its run and register it as a new version of ``name``.

    Args:
        bundle: Folder written by :func:`rayfill.bundle.save_bundle`.
        name: Registered model.
        run_id: MLflow run that trained it.
        scores: Metric means on the held-out split.
        protocol: Dataset hash, split, sizes: what the scores were measured under.
        tracking_uri: MLflow store.
    """
    from mlflow.exceptions import MlflowException

    client = _client(tracking_uri)
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder, "model")
        _pack(bundle, packed)
        client.log_artifacts(run_id, str(packed), _ARTIFACT_PATH)
    try:
        client.create_registered_model(name, description="Inpainting models trained by Rayfill.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = client.create_model_version(
        name,
        f"runs:/{run_id}/{_ARTIFACT_PATH}",
        run_id=run_id,
        tags={"scores": json.dumps(dict(scores)), "protocol": json.dumps(dict(protocol))},
    )
    return _read(made, alias="")


def promote(
    model: RegisteredModel, *, alias: str = CHAMPION, reason: str, tracking_uri: str
) -> None:
    """Point ``alias`` at ``model`` and note why on the version."""
    client = _client(tracking_uri)
    client.set_model_version_tag(model.name, model.version, "promoted_because", reason)
    client.set_registered_model_alias(model.name, alias, model.version)


def find_model(name: str, *, alias: str = CHAMPION, tracking_uri: str) -> RegisteredModel:
    """Return the version that ``alias`` points at.

    Raises:
        RayfillError: when there is no such model or alias, saying how to make one.
    """
    from mlflow.exceptions import MlflowException

    try:
        return _read(_client(tracking_uri).get_model_version_by_alias(name, alias), alias=alias)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise RayfillError(
                f"The model registry did not answer ({error.error_code}): check that the tracking "
                "store named by MLFLOW_TRACKING_URI is reachable."
            ) from error
    raise RayfillError(
        f"No model {name!r} with alias {alias!r} is registered: run `make sweep`, or register one "
        "with `rayfill promote`."
    )


def get_version(name: str, *, version: str, tracking_uri: str) -> RegisteredModel:
    """Return one version of a registered model.

    Raises:
        RayfillError: when there is no such version.
    """
    from mlflow.exceptions import MlflowException

    try:
        return _read(_client(tracking_uri).get_model_version(name, version), alias="")
    except MlflowException as error:
        raise RayfillError(
            f"There is no version {version!r} of {name!r} in {tracking_uri}; `rayfill ui` lists "
            "what there is."
        ) from error


def fetch_bundle(model: RegisteredModel, *, tracking_uri: str, cache_dir: Path) -> Path:
    """Download a version once and return the local bundle folder inside it."""
    import mlflow

    target = cache_dir / f"{model.name}-{model.version}-{model.run_id[:8]}"
    if not (target / _BUNDLE).is_dir():
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_dir) as folder:
            # models:/ URIs are looked up in the process-wide registry, which need not be this one.
            source = _client(tracking_uri).get_model_version_download_uri(model.name, model.version)
            mlflow.artifacts.download_artifacts(source, dst_path=folder, tracking_uri=tracking_uri)
            try:
                Path(folder).rename(target)
            except OSError:  # another process was first
                if not (target / _BUNDLE).is_dir():
                    raise
            else:
                Path(folder).mkdir()  # the context manager expects something to remove
    return target / _BUNDLE


def _client(tracking_uri: str) -> MlflowClient:
    from mlflow.tracking import MlflowClient

    from rayfill.tracking import tame_client

    tame_client()
    return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def _read(version: Any, *, alias: str) -> RegisteredModel:
    return RegisteredModel(
        name=version.name,
        version=str(version.version),
        run_id=version.run_id or "",
        alias=alias,
        scores=json.loads(version.tags.get("scores", "{}")),
        protocol=json.loads(version.tags.get("protocol", "{}")),
        created_ms=int(version.creation_timestamp),
    )


def _pack(bundle: Path, target: Path) -> None:
    """Write the MLflow model directory around a copy of ``bundle``."""
    import shutil

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
        shutil.copytree(bundle, named)
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
