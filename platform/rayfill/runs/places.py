"""Where Rayfill keeps what it makes when nobody says otherwise."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from rayfill.config.run import BUNDLED_DATA, RunConfig

#: Ray unpacks an uploaded working directory under such a folder and deletes it after the job.
_RAY_UPLOAD = "runtime_resources"


def home() -> Path:
    """Return the absolute home folder: ``RAYFILL_HOME``, else ``./var``.

    In a Ray job whose working directory was uploaded, ``./var`` would be deleted with the job, so
    there the default is ``~/rayfill``.
    """
    named = os.environ.get("RAYFILL_HOME")
    if named:
        return Path(named).expanduser().absolute()
    cwd = Path.cwd()
    return Path.home() / "rayfill" if _RAY_UPLOAD in cwd.parts else cwd / "var"


def tracking_uri(configured: str | None) -> str:
    """Return an absolute MLflow tracking URI: configured, from the environment, or SQLite."""
    uri = configured or os.environ.get("MLFLOW_TRACKING_URI")
    return uri or f"sqlite:///{home() / 'mlflow.db'}"


def storage(configured: str | None) -> str:
    """Return the folder or URI that runs are kept in: configured, ``RAYFILL_STORAGE``, or home.

    Local paths become absolute.
    """
    uri = configured or os.environ.get("RAYFILL_STORAGE") or str(home() / "runs")
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def resolve_paths(config: RunConfig) -> RunConfig:
    """Return the config with absolute storage, dataset and tracking locations.

    Workers run in other folders and on other machines, where a relative path means something else.
    """
    uri = config.data.uri
    if uri != BUNDLED_DATA and "://" not in uri:
        uri = str(Path(uri).expanduser().absolute())
    return dataclasses.replace(
        config,
        storage=storage(config.storage),
        data=dataclasses.replace(config.data, uri=uri),
        tracking=dataclasses.replace(config.tracking, uri=tracking_uri(config.tracking.uri)),
    )
