"""MLflow's client: the one way to a store of runs and models, and what its errors mean.

A new SQLite store is made from tables that come with Rayfill.

MLflow makes such tables by running all of its migrations, which takes 8 seconds; running the SQL
they end in takes a hundredth of one.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rayfill_data.errors import RayfillError, redact_uri

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_SQLITE = "sqlite:///"
#: What ``mlflow db upgrade`` makes of an empty database; a test compares them and makes it anew.
_SCHEMA = Path(__file__).with_name("mlflow_schema.sql")

#: One attempt and a short patience: the journal is our retry (MLflow's own blocks for 4 minutes).
_CLIENT_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    # A progress bar in a server's log is noise.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}

#: MLflow's codes for what is not there: a name, a version or a run, and an alias.
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_MESSAGE_CHARS = 200


@contextlib.contextmanager
def asking(
    tracking_uri: str, what: str, *, absent: RayfillError | None = None
) -> Iterator[MlflowClient]:
    """Open a store that is there, and turn whatever MLflow raises meanwhile into one of our errors.

    Args:
        tracking_uri: The store; a SQLite file that is not there is not made.
        what: What it is asked, such as ``for runs``.
        absent: Raised where MLflow or its store lacks what is asked for.

    Raises:
        RayfillError: ``absent``, or the store is not there or does not answer.
    """
    from mlflow.exceptions import MlflowException

    file = sqlite_file(tracking_uri)
    if file and not file.exists():
        raise absent or RayfillError(
            f"There is no MLflow store at {tracking_uri}. Name one with --tracking-uri, set "
            "RAYFILL_HOME to where the runs are, or name runs by their folders."
        )
    try:
        yield open_store(tracking_uri)
    except RayfillError:
        raise
    except Exception as error:  # MLflow lets the errors of its database drivers through
        # Whole, before it is cut: half a URI does not show where its password ends.
        message = (redact_uri(str(error)).splitlines() or [""])[0]
        # The code of a missing alias is also that of a store that cannot be used at all.
        not_found = isinstance(error, MlflowException) and error.error_code in _ABSENT
        if absent and not_found and "not found" in message:
            raise absent from error
        raise RayfillError(
            f"MLflow at {tracking_uri} was asked {what} and failed ({type(error).__name__}: "
            f"{message[:_MESSAGE_CHARS]}). Check that it is reachable, or name another store with "
            "--tracking-uri or MLFLOW_TRACKING_URI."
        ) from error


@contextlib.contextmanager
def unless_there() -> Iterator[None]:
    """Pass over MLflow's refusal to make something again."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def download(source: str, *, folder: str, tracking_uri: str) -> Path:
    """Copy the files behind an artifact URI into a local folder and return where they lie."""
    from mlflow.artifacts import download_artifacts

    return Path(download_artifacts(source, dst_path=folder, tracking_uri=tracking_uri))


def sqlite_file(tracking_uri: str) -> Path | None:
    """Return the file of a SQLite store on this machine, None for any other store."""
    file = tracking_uri.removeprefix(_SQLITE).partition("?")[0]
    return Path(file) if file and tracking_uri.startswith(_SQLITE) else None


def open_store(tracking_uri: str) -> MlflowClient:
    """Return a client of an MLflow store for runs and models, making a new SQLite one quickly.

    The client does not wait minutes for a server that is away, unless the environment says so.
    """
    from mlflow.tracking import MlflowClient

    for name, value in _CLIENT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    make_store(tracking_uri)
    return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def make_store(tracking_uri: str) -> None:
    """Make the database of a SQLite store that has none; leave whatever is there as it is.

    Where this cannot be done (another store, tables of another MLflow, a file system that refuses),
    nothing is made but its folder, and MLflow will make the database itself.
    """
    file = sqlite_file(tracking_uri)
    if file is None or "?" in tracking_uri or file.exists():
        return
    with contextlib.suppress(OSError, sqlite3.Error):
        file.parent.mkdir(parents=True, exist_ok=True)  # MLflow makes none
        if not _schema_fits():
            return
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}-") as folder:
            made = Path(folder, file.name)
            with contextlib.closing(sqlite3.connect(made)) as database:
                database.executescript(_SCHEMA.read_text(encoding="utf-8"))
            # Unlike a rename, a link never replaces what another process made meanwhile.
            file.hardlink_to(made)


@functools.cache
def _schema_fits() -> bool:
    """Return whether the installed MLflow ends its migrations where our tables do."""
    import mlflow
    from alembic.script import ScriptDirectory

    ours = re.search(r'INTO "alembic_version" VALUES\(\'(\w+)\'\)', _SCHEMA.read_text("utf-8"))
    assert ours is not None
    migrations = Path(mlflow.__file__).parent / "store" / "db_migrations"
    return migrations.is_dir() and ScriptDirectory(str(migrations)).get_heads() == [ours[1]]
