"""Opening an MLflow store: a new SQLite one is made of our copy of its tables."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rayfill.runs import mlflow_store
from rayfill.runs.mlflow_store import make_store, open_store


def tables(database: Path) -> str:
    """Return a database as SQL, without spaces at the ends of lines."""
    with sqlite3.connect(database) as connection:
        lines = "\n".join(connection.iterdump()).splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def statements(sql: str) -> set[tuple[str, ...]]:
    """Return what is made; MLflow writes a table's constraints in an order that varies."""
    return {tuple(sorted(s.strip(" ,\t") for s in made.splitlines())) for made in sql.split(";\n")}


@pytest.mark.process
def test_our_tables_are_those_of_the_installed_mlflow(tmp_path: Path) -> None:
    make_store(f"sqlite:///{tmp_path}/ours.db")
    migrated, made_anew = tmp_path / "migrated.db", tmp_path / "mlflow_schema.sql"
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{migrated}"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    made_anew.write_text(tables(migrated), encoding="utf-8")
    ours = tables(tmp_path / "ours.db") if (tmp_path / "ours.db").exists() else "none"
    advice = f"MLflow's tables changed: cp {made_anew} {mlflow_store._SCHEMA}"
    assert statements(ours) == statements(made_anew.read_text(encoding="utf-8")), advice


def test_a_new_store_needs_no_migration(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="mlflow"):
        client = open_store(f"sqlite:///{tmp_path}/new/mlflow.db")
        run = client.create_run(client.create_experiment("x"))
    assert client.get_run(run.info.run_id).info.status == "RUNNING"
    assert [found.name for found in client.search_experiments()] == ["x", "Default"]
    client.create_registered_model("m")
    assert [found.name for found in client.search_registered_models()] == ["m"]
    assert "Updating database tables" not in caplog.text
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["mlflow.db"]


@pytest.mark.parametrize("content", [b"", b"not a database"], ids=["empty", "text"])
def test_what_is_there_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "mlflow.db"
    file.write_bytes(content)
    make_store(f"sqlite:///{file}")
    assert file.read_bytes() == content


def test_a_store_that_another_process_makes_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mlflow.db"

    def other_is_first() -> bool:
        file.write_bytes(b"theirs")
        return True

    monkeypatch.setattr(mlflow_store, "_schema_fits", other_is_first)
    make_store(f"sqlite:///{file}")
    assert [found.name for found in tmp_path.iterdir()] == ["mlflow.db"]
    assert file.read_bytes() == b"theirs"


def test_many_may_open_a_new_store_at_once(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda i: open_store(uri).create_experiment(f"x{i}"), range(8)))
    assert len(set(ids)) == 8


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///{}/a.db?timeout=9", "postgresql://x/y"])
def test_other_stores_are_left_to_mlflow(tmp_path: Path, uri: str) -> None:
    make_store(uri.format(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_tables_of_another_mlflow_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = tmp_path / "schema.sql"
    sql = mlflow_store._SCHEMA.read_text(encoding="utf-8")
    older.write_text(sql.replace("VALUES('", "VALUES('0", 1), encoding="utf-8")
    monkeypatch.setattr(mlflow_store, "_SCHEMA", older)
    mlflow_store._schema_fits.cache_clear()
    make_store(f"sqlite:///{tmp_path}/mlflow.db")
    mlflow_store._schema_fits.cache_clear()
    assert not (tmp_path / "mlflow.db").exists()


def test_a_folder_that_cannot_be_written_is_left_to_mlflow(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    make_store(f"sqlite:///{tmp_path}/file/mlflow.db")
    assert (tmp_path / "file").read_text() == ""
