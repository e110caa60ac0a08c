"""The tracker against real MLflow stores: a file, a server that is away, hangs, fails, returns."""

from __future__ import annotations

import http.server
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from PIL import Image

from rayfill.runs.tracking import Tracker, ensure_experiment, replay


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/mlflow.db"


def start(tracker: Tracker, name: str = "run", **changes: Any) -> bool:
    values: dict[str, Any] = {"experiment": "test", "params": {"a.b": 1}, "tags": {"k": "v"}}
    return tracker.start(name, **(values | changes))


def points(uri: str, run_id: str, key: str) -> list[tuple[int, float]]:
    history = MlflowClient(uri).get_metric_history(run_id, key)
    return [(point.step, point.value) for point in history]


class Misbehaving(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(500)

    do_POST = do_GET  # noqa: N815  (the name http.server looks for)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def failing_server() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Misbehaving)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def hanging_server() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and never answers
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def absent_server() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}"


def test_a_run_arrives_whole(tmp_path: Path, store: str) -> None:
    tracker = Tracker(tmp_path / "journal", tracking_uri=store)
    start(tracker)
    for step in (1, 2, 3):
        tracker.metrics({"train/loss": 1 / step, "val/psnr": 20.0 + step}, step=step)
    tracker.picture("val/cat", np.full((8, 24, 3), 128, np.uint8), step=3)
    tracker.text("# table", "leaderboard.md")
    assert tracker.finish() == 0
    client = MlflowClient(store)
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"a.b": "1"}
    assert run.data.tags["k"] == "v"
    assert points(store, tracker.run_id, "val/psnr") == [(1, 21.0), (2, 22.0), (3, 23.0)]
    files = [file.path for file in client.list_artifacts(tracker.run_id)]
    assert "leaderboard.md" in files
    images = [file.path for file in client.list_artifacts(tracker.run_id, "images")]
    assert any("cat" in name and name.endswith(".png") for name in images)


def test_pictures_lie_where_mlflow_itself_would_put_them(tmp_path: Path, store: str) -> None:
    tracker = Tracker(tmp_path / "journal", tracking_uri=store)
    start(tracker)
    sheet = np.random.default_rng(0).integers(0, 256, (600, 1500, 3)).astype(np.uint8)
    tracker.picture("pictures/a (1)+%.jpg", sheet, step=3)
    tracker.flush()
    client = MlflowClient(store)
    client.log_image(tracker.run_id, sheet, key="pictures/b", step=3)
    tracker.finish()
    run = client.get_run(tracker.run_id)
    assert run.data.tags["mlflow.loggedImages"] == "True"
    files = Path(run.info.artifact_uri.removeprefix("file://"), "images")
    shape = r"pictures~{}\+step\+3\+timestamp\+\d+\+[0-9a-f-]{{36}}(\+compressed\.webp|\.png)"
    names = sorted(file.name for file in files.iterdir())
    assert len(names) == 4
    for name, key in zip(names, ["a _1___.jpg"] * 2 + ["b"] * 2, strict=True):
        assert re.fullmatch(shape.format(re.escape(key)), name)
    with Image.open(files / names[0]) as preview, Image.open(files / names[1]) as whole:
        assert preview.size == (1024, 410)  # MLflow's own is 256 wide, and never enlarged
        assert np.array_equal(np.asarray(whole), sheet)


def test_the_dataset_is_an_input_and_an_end_can_be_corrected(tmp_path: Path, store: str) -> None:
    tracker = Tracker(tmp_path / "journal", tracking_uri=store)
    assert start(tracker)
    assert not start(tracker)
    for _ in range(2):  # as after a crash between sending and noting it
        tracker.dataset("photos", digest="d" * 64, uri="s3://b/photos", profile={"train": 7})
    tracker.finish("KILLED")
    client = MlflowClient(store)
    (entry,) = client.get_run(tracker.run_id).inputs.dataset_inputs
    found = entry.dataset
    assert (found.name, found.digest, found.source_type) == ("photos", "d" * 36, "s3")
    assert json.loads(found.source) == {"uri": "s3://b/photos"}
    assert json.loads(found.profile) == {"train": 7}
    assert [(tag.key, tag.value) for tag in entry.tags] == [("mlflow.data.context", "training")]
    ended = client.get_run(tracker.run_id).info.end_time
    again = Tracker(tmp_path / "journal", tracking_uri=store)
    again.status("FINISHED")
    again.close()
    info = client.get_run(tracker.run_id).info
    assert (info.status, info.end_time) == ("FINISHED", ended)


def test_children_know_their_parent_by_id_or_by_journal(tmp_path: Path, store: str) -> None:
    parent = Tracker(tmp_path / "parent", tracking_uri=store)
    start(parent, "sweep")
    parent.flush()
    for number, reference in enumerate((parent.run_id, str(parent.folder))):
        child = Tracker(tmp_path / f"child-{number}", tracking_uri=store)
        start(child, f"trial-{number}", parent=reference)
        child.finish()
        tags = MlflowClient(store).get_run(child.run_id).data.tags
        assert tags["mlflow.parentRunId"] == parent.run_id
    parent.finish()


def test_a_continued_run_is_the_same_run_without_doubled_points(tmp_path: Path, store: str) -> None:
    first = Tracker(tmp_path / "journal", tracking_uri=store)
    start(first)
    first.metrics({"loss": 3.0}, step=1)
    first.metrics({"loss": 2.0}, step=2)
    first.close()
    second = Tracker(tmp_path / "journal", tracking_uri=store)
    start(second)
    second.metrics({"loss": 2.0}, step=2)  # an epoch repeated after a crash
    second.metrics({"loss": 1.0}, step=3)
    second.finish()
    assert second.run_id == first.run_id
    assert points(store, first.run_id, "loss") == [(1, 3.0), (2, 2.0), (3, 1.0)]
    experiment = ensure_experiment("test", tracking_uri=store)
    assert len(MlflowClient(store).search_runs([experiment])) == 1


def test_a_run_continues_by_its_id_where_the_journal_is_lost(tmp_path: Path, store: str) -> None:
    first = Tracker(tmp_path / "node-a", tracking_uri=store)
    start(first)
    first.metrics({"loss": 3.0}, step=1)
    first.close()
    second = Tracker(tmp_path / "node-b", tracking_uri=store, run_id=first.run_id)
    start(second)
    second.metrics({"loss": 2.0}, step=2)
    second.finish()
    assert points(store, first.run_id, "loss") == [(1, 3.0), (2, 2.0)]


@pytest.mark.parametrize("server", ["absent_server", "failing_server", "hanging_server"])
def test_an_outage_is_spooled_and_replayed_in_order(
    tmp_path: Path,
    store: str,
    server: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    away = Tracker(tmp_path / "journal", tracking_uri=request.getfixturevalue(server))
    start(away)
    for step in range(1, 6):
        away.metrics({"loss": float(step)}, step=step)
    away.picture("val/cat", np.zeros((4, 12, 3), np.uint8), step=5)
    away.dataset("photos", digest="abc", uri="/data/photos", profile={})
    away.tags({"late": "tag"})
    # Nothing above waited for the server; all of it is still to be sent.
    assert away.finish("KILLED", patience_s=0.2) == 10
    after = Tracker(tmp_path / "journal", tracking_uri=request.getfixturevalue(server))
    after.status("FINISHED")
    assert after.close(patience_s=0.2) == 11
    assert away.run_id == ""
    assert replay(tmp_path / "journal", tracking_uri=store) == 0
    assert replay(tmp_path / "journal", tracking_uri=store) == 0  # nothing is sent twice
    experiment = ensure_experiment("test", tracking_uri=store)
    (run,) = MlflowClient(store).search_runs([experiment])
    assert points(store, run.info.run_id, "loss") == [(s, float(s)) for s in range(1, 6)]
    assert run.info.status == "FINISHED"
    assert run.data.tags["late"] == "tag"
    assert [entry.dataset.source_type for entry in run.inputs.dataset_inputs] == ["local"]
    assert len(MlflowClient(store).list_artifacts(run.info.run_id, "images")) == 2


def test_a_journal_line_cut_short_is_dropped(tmp_path: Path, store: str) -> None:
    tracker = Tracker(tmp_path / "journal", tracking_uri=store)
    start(tracker)
    tracker.metrics({"loss": 1.0}, step=1)
    tracker.close()
    journal = tmp_path / "journal" / "journal.jsonl"
    journal.write_text(journal.read_text() + '{"kind":"metrics","values":{"lo')
    again = Tracker(tmp_path / "journal", tracking_uri=store)
    again.metrics({"loss": 0.5}, step=2)
    assert again.finish() == 0
    assert points(store, again.run_id, "loss") == [(1, 1.0), (2, 0.5)]


def test_unfinished_sending_is_taken_up_by_the_next_process(
    tmp_path: Path, store: str, absent_server: str
) -> None:
    away = Tracker(tmp_path / "journal", tracking_uri=absent_server)
    start(away)
    away.metrics({"loss": 1.0}, step=1)
    assert away.close(patience_s=0.2) == 2
    back = Tracker(tmp_path / "journal", tracking_uri=store)
    back.metrics({"loss": 0.5}, step=2)
    assert back.finish() == 0
    assert points(store, back.run_id, "loss") == [(1, 1.0), (2, 0.5)]
