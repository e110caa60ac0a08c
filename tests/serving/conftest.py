from __future__ import annotations

import contextlib
import dataclasses
import io
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image

from rayfill.bundle import save_bundle
from rayfill.inference import Inpainter
from rayfill.models import build_model
from rayfill.registry import RegisteredModel
from rayfill_serving.api import create_app
from rayfill_serving.models import ModelShelf
from rayfill_serving.options import ServingOptions
from rayfill_serving.service import InpaintService

UInt8 = NDArray[np.uint8]
UNET = {"width": 4, "depth": 2}


def registered(version: str = "1", **changes: Any) -> RegisteredModel:
    model = RegisteredModel(
        name="rayfill",
        version=version,
        run_id=f"run-{version}",
        alias="champion",
        scores={"hole_psnr": 24.5, "hole_ssim": 0.81, "psnr": float("nan")},
        protocol={"split": "test"},
        created_ms=1,
    )
    return dataclasses.replace(model, **changes)


class StaticSource:
    """A registry of one model that tests move by hand."""

    def __init__(self, model: RegisteredModel, inpainter: Any) -> None:
        self.model = model
        self.inpainter = inpainter
        self.loads = 0

    def find(self, name: str) -> RegisteredModel:
        return self.model

    def load(self, model: RegisteredModel) -> Any:
        self.loads += 1
        return self.inpainter


class Pictures:
    """Photographs and masks made on the spot, and the way back."""

    @staticmethod
    def photo(height: int = 48, width: int = 64, *, seed: int = 0) -> UInt8:
        rng = np.random.default_rng(seed)
        return rng.integers(0, 256, (height, width, 3), np.uint8)

    @staticmethod
    def hole(height: int = 48, width: int = 64) -> UInt8:
        mask = np.zeros((height, width), np.uint8)
        mask[height // 3 : height // 2 + 1, width // 3 : width // 2 + 1] = 255
        return mask

    @staticmethod
    def encode(array: UInt8 | Image.Image, form: str = "PNG", **options: Any) -> bytes:
        buffer = io.BytesIO()
        image = array if isinstance(array, Image.Image) else Image.fromarray(array)
        image.save(buffer, form, **options)
        return buffer.getvalue()

    @staticmethod
    def decode(data: bytes) -> UInt8:
        return np.array(Image.open(io.BytesIO(data)))


@dataclasses.dataclass
class Server:
    """A running server and a client for it."""

    client: httpx.Client
    port: int
    shelf: ModelShelf
    source: StaticSource

    def inpaint(self, image: bytes, mask: bytes, **fields: str) -> httpx.Response:
        files = {"image": ("photo", image), "mask": ("mask.png", mask)}
        return self.client.post("/api/v1/inpaint", files=files, data=fields)

    @contextlib.contextmanager
    def socket(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            yield connection


@pytest.fixture(scope="session")
def pictures() -> Pictures:
    return Pictures()


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("serving") / "bundle"
    save_bundle(path, model=build_model("unet", **UNET), name="unet", config=UNET, extra={})
    return path


@pytest.fixture(scope="session")
def inpainter(bundle: Path) -> Inpainter:
    return Inpainter.from_bundle(bundle)


@contextlib.contextmanager
def listening(app: FastAPI) -> Iterator[int]:
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_level="error", lifespan="off", ws="none"
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def serving(inpainter: Inpainter) -> Callable[..., contextlib.AbstractContextManager[Server]]:
    """Return a context manager that serves ``inpainter`` without Ray on a socket of its own."""

    @contextlib.contextmanager
    def serve(model: Any = inpainter, **changes: Any) -> Iterator[Server]:
        options = ServingOptions(**changes)
        source = StaticSource(registered(), model)
        shelf = ModelShelf(options.model_names, source=source, poll_s=options.poll_s)
        shelf.refresh()
        service = InpaintService(
            shelf,
            threads=options.threads,
            waiting=options.waiting,
            max_pixels=options.max_pixels,
        )
        with listening(create_app(service, options)) as port:
            base = f"http://127.0.0.1:{port}"
            with httpx.Client(base_url=base, timeout=30, trust_env=False) as client:
                yield Server(client, port, shelf, source)
        service.close()

    return serve


@pytest.fixture(scope="module")
def server(serving: Callable[..., contextlib.AbstractContextManager[Server]]) -> Iterator[Server]:
    with serving() as running:
        yield running
