"""Opening an MLflow store; a new SQLite one is made from tables that come with Rayfill.

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
from pathlib import Path
from typing import TYPE_CHECKING

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
    nothing is made and MLflow will make the database itself.
    """
    file = Path(tracking_uri.removeprefix(_SQLITE))
    if not tracking_uri.startswith(_SQLITE) or "?" in tracking_uri or file.exists():
        return
    if not _schema_fits():
        return
    with contextlib.suppress(OSError, sqlite3.Error):
        file.parent.mkdir(parents=True, exist_ok=True)
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
