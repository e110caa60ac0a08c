from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import uvicorn
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image

from rayfill.inference.inpainter import Inpainter
from rayfill.models import build_model
from rayfill.runs.bundle import save_bundle
from rayfill.runs.registry import RegisteredModel
from rayfill_data.codec import to_nchw
from rayfill_serving.api import create_app
from rayfill_serving.models import ModelShelf
from rayfill_serving.options import ServingOptions
from rayfill_serving.problems import CODES
from rayfill_serving.service import InpaintService
from rayfill_serving.sources import ServedVersion

LEAKS = re.compile(r"0x[0-9a-f]{4,}|/(home|root|tmp|usr|work)/|Traceback|Error\b|\.py\b|<_io")
UInt8 = NDArray[np.uint8]
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-sync",
]
UNET = {"width": 4, "depth": 2}
LABELS = ("nothing", "red car", "blue boat")
JOINT = {
    "inpainter": "unet",
    "inpainter_options": UNET,
    "segmenter_options": UNET,
    "label_names": list(LABELS),
}


def registered(name: str = "rayfill", version: str = "1", **changes: Any) -> ServedVersion:
    """Return a version as the registry knows it."""
    facts = {
        "run_id": f"run-{version}",
        "alias": "champion",
        "scores": {"hole_psnr": 24.5, "hole_ssim": 0.81, "psnr": float("nan"), "iou": 0.8},
        "protocol": {"split": "test"},
        "created_ms": 1,
    }
    known = RegisteredModel(name=name, version=version, **(facts | changes))
    return ServedVersion(name=name, version=version, registered=known)


class StaticSource:
    """A registry that tests move by hand, of one inpainter or of several by name."""

    def __init__(self, inpainter: Any, *, version: str = "1", **facts: Any) -> None:
        self.version = version
        self.facts = facts
        self.inpainter = inpainter
        self.broken: Exception | None = None
        self.loads = 0

    def find(self, name: str) -> ServedVersion:
        if self.broken is not None:
            raise self.broken
        return registered(name, self.version, **self.facts)

    def load(self, version: ServedVersion) -> Any:
        self.loads += 1
        named = isinstance(self.inpainter, dict)
        inpainter = self.inpainter[version.name] if named else self.inpainter
        if isinstance(inpainter, Exception):
            raise inpainter
        return inpainter


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
    def scene(height: int = 96, width: int = 128, *, seed: int = 0) -> tuple[UInt8, UInt8]:
        """Return a gray photo of a red car (1) on the left and a blue boat (2), and the labels."""
        rng = np.random.default_rng(seed)
        photo = rng.integers(90, 170, (height, width, 1), np.uint8).repeat(3, axis=2)
        truth = np.zeros((height, width), np.uint8)
        for label, (left, right) in ((1, (0.08, 0.45)), (2, (0.55, 0.92))):
            top, bottom = sorted(rng.uniform((0.1, 0.55), (0.4, 0.9)))
            a, b = rng.uniform((left, right - 0.15), (left + 0.1, right))
            rows = slice(round(top * height), round(bottom * height))
            columns = slice(round(a * width), round(b * width))
            truth[rows, columns] = label
            colour = (210, 30, 30) if label == 1 else (30, 40, 210)
            noise = rng.integers(-20, 21, (*truth[rows, columns].shape, 3))
            photo[rows, columns] = np.clip(np.array(colour) + noise, 0, 255)
        return photo, truth

    @staticmethod
    def click(truth: UInt8, label: int) -> list[int]:
        """Return x and y of the middle of an object, and 1."""
        lines, columns = (truth == label).nonzero()
        return [int(columns.mean()), int(lines.mean()), 1]

    @staticmethod
    def encode(array: UInt8 | Image.Image, form: str = "PNG", **options: Any) -> bytes:
        buffer = io.BytesIO()
        image = array if isinstance(array, Image.Image) else Image.fromarray(array)
        image.save(buffer, form, **options)
        return buffer.getvalue()

    @classmethod
    def mutants(cls, count: int) -> Iterator[bytes]:
        """Yield small pictures of five kinds, each with one to five bytes gone wrong."""
        rng = np.random.default_rng(20_240_601)
        photo = Image.fromarray(cls.photo(16, 24))
        seeds = [
            cls.encode(photo, "JPEG"),
            cls.encode(photo, "JPEG", progressive=True),
            cls.encode(photo, "PNG"),
            cls.encode(photo, "WEBP"),
            cls.encode(photo.convert("P"), "GIF"),
        ]
        for index in range(count):
            data = bytearray(seeds[index % len(seeds)])
            for _ in range(int(rng.integers(1, 6))):
                place = int(rng.integers(len(data)))
                kind = int(rng.integers(5))
                if kind == 0:
                    data[place] = int(rng.integers(256))
                elif kind == 1:
                    data[place] ^= 1 << int(rng.integers(8))
                elif kind == 2:
                    data = data[: max(1, place)]
                elif kind == 3:
                    del data[place : place + int(rng.integers(1, 9))]
                    data = data or bytearray(1)
                else:
                    data[place:place] = rng.bytes(int(rng.integers(1, 9)))
            yield bytes(data)

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

    @staticmethod
    def check_refusal(answer: httpx.Response, status: int, code: str) -> None:
        assert answer.status_code == status, answer.content[:200]
        document = answer.json()
        assert sorted(document) == ["code", "error"]
        assert document["code"] == code
        assert code in CODES
        assert not LEAKS.search(document["error"]), document["error"]
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"

    def inpaint(self, image: bytes, mask: bytes, **fields: str) -> httpx.Response:
        files = {"image": ("photo", image), "mask": ("mask.png", mask)}
        return self.client.post("/api/v1/inpaint", files=files, data=fields)

    def segment(
        self,
        image: bytes,
        clicks: Any = None,
        *,
        box: Any = None,
        scribbles: bytes | None = None,
        **fields: str,
    ) -> httpx.Response:
        files = {"image": ("photo", image)}
        if scribbles is not None:
            files["scribbles"] = ("scribbles.png", scribbles)
        for name, value in (("clicks", clicks), ("box", box)):
            if value is not None:
                fields[name] = value if isinstance(value, str) else json.dumps(value)
        return self.client.post("/api/v1/segment", files=files, data=fields)

    @contextlib.contextmanager
    def socket(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            yield connection


@pytest.fixture(scope="session")
def static_source() -> type[StaticSource]:
    return StaticSource


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


@pytest.fixture(scope="session")
def joint_bundle(tmp_path_factory: pytest.TempPathFactory, pictures: Pictures) -> Path:
    """A joint model whose segmenter was trained, for seconds, to tell cars from boats."""
    path = tmp_path_factory.mktemp("serving") / "joint"
    torch.manual_seed(0)
    model = build_model("joint", **JOINT)
    scenes = [pictures.scene(48, 64, seed=seed) for seed in range(100, 148)]
    images = torch.from_numpy(to_nchw(np.stack([photo for photo, _ in scenes])))
    labels = torch.from_numpy(np.stack([truth for _, truth in scenes])).long()
    optimiser = torch.optim.Adam(model.segmenter.parameters(), lr=2e-2)
    for step in range(60):
        rows = slice(8 * (step % 6), 8 * (step % 6) + 8)
        loss = sum(model.segmenter.loss(images[rows], labels[rows]).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    save_bundle(path, model=model, name="joint", config=JOINT, extra={})
    return path


@pytest.fixture(scope="session")
def joint(joint_bundle: Path) -> Inpainter:
    return Inpainter.from_bundle(joint_bundle)


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
    def serve(
        model: Any = inpainter, *, facts: dict[str, Any] | None = None, **changes: Any
    ) -> Iterator[Server]:
        options = ServingOptions(**{"models": "rayfill@champion"} | changes)
        source = StaticSource(model, **(facts or {}))
        shelf = ModelShelf(
            list(options.references),
            source=source,
            poll_s=options.poll_s,
            segment_side=options.segment_side,
        )
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


@pytest.fixture(scope="module")
def joint_server(
    serving: Callable[..., contextlib.AbstractContextManager[Server]], joint: Inpainter
) -> Iterator[Server]:
    with serving(joint) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("chromium-browser"),
            args=CHROMIUM_ARGUMENTS,
        )
        yield chromium
        chromium.close()


@pytest.fixture
def complaints() -> list[str]:
    return []


@pytest.fixture
def tab(browser: Any, complaints: list[str]) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    tab = context.new_page()
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
    yield tab
    context.close()
