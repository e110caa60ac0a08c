"""The served app on Ray Serve against the same inpainter in plain FastAPI and uvicorn."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import torch
from harness import Case, Theme
from skimage import data

from rayfill.config.run import ModelConfig
from rayfill.models import build_model
from rayfill.runs.bundle import save_bundle
from rayfill.runs.mlflow_store import open_store
from rayfill.runs.registry import promote, register_bundle
from rayfill.training.cluster import ray_cluster
from rayfill_data.codec import decode_png, encode_png

_REQUESTS = {1: 20, 4: 40}
_START_TIMEOUT_S = 60.0
_PATH = "/api/v1/inpaint"


def cases(folder: Path) -> Iterator[Case]:
    bundle = folder / "bundle"
    torch.manual_seed(0)
    config = ModelConfig()
    model = build_model(config.name, **config.options())
    save_bundle(bundle, model=model, name=config.name, config=config.options())
    files = _request()
    with _plain(bundle) as plain, _ray_serve(bundle, folder=folder) as served:
        same = np.array_equal(decode_png(_ask(plain, files)), decode_png(_ask(served, files)))
        for parallel, requests in _REQUESTS.items():
            yield Case(
                title=f"{parallel} at a time",
                ways={
                    "plain FastAPI and uvicorn": _round(plain, files, parallel, requests),
                    "Rayfill on Ray Serve": _round(served, files, parallel, requests),
                },
                units=requests,
                unit="request",
                rounds=8,
                notes=(
                    f"{requests} requests a round; the answers are "
                    f"{'the same bit for bit' if same else 'NOT THE SAME'}.",
                ),
            )


def _request() -> dict[str, bytes]:
    photo = np.ascontiguousarray(data.astronaut()[:256, 100:356])
    hole = np.zeros((256, 256), np.uint8)
    hole[96:160, 96:160] = 255
    return {"image": encode_png(photo), "mask": encode_png(hole)}


def _ask(client: httpx.Client, files: dict[str, bytes]) -> bytes:
    answer = client.post(_PATH, files=files)
    answer.raise_for_status()
    return answer.content


def _round(
    client: httpx.Client, files: dict[str, bytes], parallel: int, requests: int
) -> Callable[[], object]:
    def sequence() -> None:
        for _ in range(requests):
            _ask(client, files)

    def side_by_side() -> None:
        with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
            list(pool.map(lambda _: _ask(client, files), range(requests)))

    return sequence if parallel == 1 else side_by_side


@contextlib.contextmanager
def _plain(bundle: Path) -> Iterator[httpx.Client]:
    port = _free_port()
    script = Path(__file__).with_name("plain_server.py")
    server = subprocess.Popen([sys.executable, str(script), str(bundle), str(port)])
    try:
        with _client(port) as client:
            deadline = time.monotonic() + _START_TIMEOUT_S
            while True:
                try:
                    client.get("/openapi.json")
                    break
                except httpx.TransportError:
                    if server.poll() is not None or time.monotonic() > deadline:
                        raise
                    time.sleep(0.2)
            yield client
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def _ray_serve(bundle: Path, *, folder: Path) -> Iterator[httpx.Client]:
    from ray import serve

    from rayfill_serving.app import build_app

    os.environ["RAYFILL_HOME"] = str(folder)
    store = f"sqlite:///{folder}/mlflow.db"
    _crown(bundle, store=store, folder=folder)
    port = _free_port()
    with ray_cluster():
        serve.start(http_options={"port": port})
        options = {"tracking_uri": store, "cache_dir": str(folder / "cache")}
        serve.run(build_app(options), name="rayfill-benchmark")
        try:
            with _client(port) as client:
                yield client
        finally:
            serve.shutdown()


def _crown(bundle: Path, *, store: str, folder: Path) -> None:
    """Register the bundle as champion of a registry of its own."""
    client = open_store(store)
    artifacts = (folder / "artifacts").as_uri()
    experiment = client.create_experiment("serving", artifact_location=artifacts)
    model = register_bundle(
        bundle,
        name="rayfill",
        run_id=client.create_run(experiment).info.run_id,
        scores={},
        protocol={},
        tracking_uri=store,
    )
    promote(model, reason="the only one", tracking_uri=store)


def _client(port: int) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


THEME = Theme(
    title="Serving against plain FastAPI and uvicorn",
    about="POST /api/v1/inpaint with a photo of 256 px and a hole of 64 px as PNG files, the "
    "default model with random weights, one model process on one thread per request. Rayfill adds "
    "a second process (the ingress), limits on every upload, and a queue with a limit.",
    libraries=("ray", "torch", "fastapi", "starlette", "uvicorn"),
    cases=cases,
)
