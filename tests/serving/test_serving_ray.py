"""The same API on Ray Serve: a real socket, a real registry, replicas that come and go."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from rayfill.inference.inpainter import Inpainter
from rayfill.runs.mlflow_store import open_store
from rayfill.runs.registry import RegisteredModel, promote, register_bundle

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
    pytest.mark.filterwarnings(
        "ignore:Using extra keyword arguments on `Field`:DeprecationWarning"
    ),
]


@dataclasses.dataclass
class Registry:
    """A model registry in a temporary SQLite file."""

    uri: str
    bundle: Path

    def register(self) -> RegisteredModel:
        client = open_store(self.uri)
        run = client.create_run(self._experiment(client))
        return register_bundle(
            self.bundle,
            name="rayfill",
            run_id=run.info.run_id,
            scores={"hole_psnr": 20.0},
            protocol={"split": "test"},
            tracking_uri=self.uri,
        )

    def crown(self, model: RegisteredModel) -> None:
        promote(model, reason="a test", tracking_uri=self.uri)

    def _experiment(self, client: Any) -> str:
        found = client.get_experiment_by_name("serving")
        if found is not None:
            return str(found.experiment_id)
        folder = Path(self.uri.removeprefix("sqlite:///")).parent / "artifacts"
        return str(client.create_experiment("serving", artifact_location=folder.as_uri()))


@pytest.fixture
def registry(tmp_path: Path, bundle: Path) -> Registry:
    made = Registry(f"sqlite:///{tmp_path}/mlflow.db", bundle)
    made.crown(made.register())
    return made


@pytest.fixture
def deployed(
    ray_local: None, registry: Registry, tmp_path: Path
) -> Iterator[Callable[..., httpx.Client]]:
    """Return a function that serves the registry through Ray Serve and gives a client for it."""
    from ray import serve

    from rayfill_serving.app import build_app

    clients: list[httpx.Client] = []

    def start(**options: str) -> httpx.Client:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        serve.start(http_options={"port": port})
        arguments = {
            "tracking_uri": registry.uri,
            "cache_dir": str(tmp_path / "cache"),
            "poll_s": "0.2",
            "cpus": "0.5",
            **options,
        }
        serve.run(build_app(arguments), name="rayfill-test")
        base = f"http://127.0.0.1:{port}"
        clients.append(httpx.Client(base_url=base, timeout=60, trust_env=False))
        return clients[-1]

    yield start
    for client in clients:
        client.close()
    serve.shutdown()


def ask(client: httpx.Client, pictures: Any) -> httpx.Response:
    files = {
        "image": pictures.encode(pictures.photo()),
        "mask": pictures.encode(pictures.hole()),
    }
    return client.post("/api/v1/inpaint", files=files)


@pytest.mark.slow
def test_a_joint_model_finds_what_is_clicked_on(
    deployed: Callable[..., httpx.Client], registry: Registry, joint_bundle: Path, pictures: Any
) -> None:
    registry.bundle = joint_bundle
    registry.crown(registry.register())
    client = deployed(segment_side="64")
    assert client.get("/api/v1/models").json()["models"][0]["labels"] == ["red car", "blue boat"]
    photo, truth = pictures.scene()
    lines, columns = (truth == 2).nonzero()
    click = [int(columns.mean()), int(lines.mean()), 1]
    answer = client.post(
        "/api/v1/segment",
        files={"image": pictures.encode(photo)},
        data={"clicks": json.dumps([click])},
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-model"] == "rayfill/2"
    assert answer.headers["x-label"] == "blue%20boat"
    mask = pictures.decode(answer.content) > 0
    assert (mask & (truth == 2)).sum() > 0.9 * (mask | (truth == 2)).sum()
    outside = client.post(
        "/api/v1/segment",
        files={"image": pictures.encode(photo)},
        data={"clicks": "[[-1, 0, 1]]"},
    )
    assert (outside.status_code, outside.json()["code"]) == (422, "click_outside")


def test_serve_answers_follows_the_alias_and_refuses(
    deployed: Callable[..., httpx.Client], registry: Registry, pictures: Any
) -> None:
    client = deployed(models=f"rayfill@champion,telea,mine={registry.bundle}", finish="exemplar")
    served = client.get("/api/v1/models").json()["models"]
    assert [model["name"] for model in served] == ["rayfill", "telea", "mine"]
    assert {model["finish"] for model in served} == {"exemplar"}
    first = ask(client, pictures)
    assert first.status_code == 200
    assert first.headers["x-model"] == "rayfill/1"
    patched, bare = (
        Inpainter.from_bundle(registry.bundle, finish=finish).inpaint(
            pictures.photo(), pictures.hole()
        )
        for finish in ("exemplar", "none")
    )
    assert (pictures.decode(first.content) == patched).all()
    assert (patched != bare).any()
    assert 0 < float(first.headers["x-coherence"]) < 1.42
    assert client.get("/readyz").status_code == 200
    assert client.get("/api/v1/models").json()["models"][0]["scores"] == {"hole_psnr": 20.0}
    assert "Rayfill" in client.get("/").text
    assert client.get("/static/main.js").status_code == 200

    listening = {
        connection.laddr.ip
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == client.base_url.port
    }
    assert listening == {"127.0.0.1"}

    def endless() -> Iterator[bytes]:
        for _ in range(64):
            yield bytes(2**20)

    kind = {"Content-Type": "application/json"}
    refusals = [
        (client.get("/healthz", headers={"Host": "evil.example"}), 403, "bad_host"),
        (client.post("/api/v1/inpaint", content=endless(), headers=kind), 413, "body_too_large"),
        (client.post("/api/v1/inpaint", files={"image": b"x", "mask": b"x"}), 415, "not_an_image"),
        (client.get("/nothing"), 404, "not_found"),
    ]
    for answer, status, code in refusals:
        assert (answer.status_code, answer.json()["code"]) == (status, code)

    registry.crown(registry.register())
    seen, statuses = "rayfill/1", set()
    deadline = time.monotonic() + 60
    while seen == "rayfill/1" and time.monotonic() < deadline:
        answer = ask(client, pictures)
        statuses.add(answer.status_code)
        seen = answer.headers["x-model"]
    assert seen == "rayfill/2"
    assert statuses == {200}


@pytest.mark.slow
def test_a_killed_replica_costs_no_request_when_there_are_two(
    deployed: Callable[..., httpx.Client], pictures: Any
) -> None:
    client = deployed(replicas="2")
    former = replica_pids()
    assert len(former) == 2
    stop = threading.Event()

    def keep_asking() -> list[int]:
        statuses = []
        while not stop.is_set():
            statuses.append(ask(client, pictures).status_code)
        return statuses

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        running = [pool.submit(keep_asking) for _ in range(3)]
        try:
            os.kill(former[0], signal.SIGKILL)
            deadline = time.monotonic() + 90
            pids: list[int] = []
            while len(pids) != 2 and time.monotonic() < deadline:
                stop.wait(0.5)
                pids = [pid for pid in replica_pids() if pid != former[0]]
        finally:
            stop.set()
        statuses = [status for future in running for status in future.result()]
    assert len(pids) == 2, "the dead replica was not replaced"
    assert set(statuses) == {200}
    assert len(statuses) > 10


@pytest.mark.slow
@pytest.mark.parametrize("stop_by", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_stopped(
    registry: Registry, tmp_path: Path, pictures: Any, stop_by: signal.Signals
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start = "import sys; from rayfill.cli.main import main; main()"
    command = [sys.executable, "-c", start, "serve", "--port", str(port)]
    command += ["--tracking-uri", registry.uri, "--cache-dir", str(tmp_path / "cache")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            said = next((line for line in lines if "Rayfill answers at" in line), "")
            assert f"http://127.0.0.1:{port}/" in said
            base = f"http://127.0.0.1:{port}"
            with httpx.Client(base_url=base, timeout=60, trust_env=False) as client:
                assert ask(client, pictures).status_code == 200
            started = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(stop_by)
            process.stdout.read()
            assert process.wait(60) == 0
            _, alive = psutil.wait_procs(started, timeout=20)
            assert alive == []
        finally:
            process.kill()


def replica_pids() -> list[int]:
    """Return the process ids of the live model replicas."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # also raised for the dead, not yet reaped
            if "InpaintReplica" in " ".join(process.cmdline()):
                found.append(process.pid)
    return found
