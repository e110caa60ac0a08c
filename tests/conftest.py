"""What every test may use."""

from __future__ import annotations

import functools
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt
from rich.console import Console
from xdist.scheduler import LoadFileScheduling

from rayfill_data.codec import encode_png
from rayfill_data.contract import SCHEMA_VERSION, SPLITS, Manifest
from rayfill_data.masks.hole import hole_ratio, irregular_mask
from rayfill_data.prepared.writer import open_writer

# Idle torch threads busy-wait: on shared cores the suite takes ten times as long with them.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs Ray, and put its files first: they take longest, the others go beside."""
    for item in items:
        if "ray_local" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.ray)
    items.sort(key=lambda item: not mentions(item.path, "ray_local", "mark.ray"))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give all that share a Ray cluster to one process; else a file to a process."""

    class ByCluster(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return "ray" if mentions(config.rootpath / file, "ray_local") else file

    return ByCluster(config, log)


@functools.cache
def mentions(file: Path, *words: str) -> bool:
    """Tell whether a file holds one of some words."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return any(word in text for word in words)


@pytest.fixture(autouse=True)
def _ray_is_announced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that starts Ray without the marker; without Ray, so that it costs nothing."""
    if request.node.get_closest_marker("ray") or "ray" not in sys.modules:
        return

    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("starts Ray: use the fixture ray_local or the marker ray")

    monkeypatch.setattr("ray.init", refuse)


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """Connect to one small Ray cluster of our own, shared by the whole suite."""
    import ray
    import ray.data

    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
        object_store_memory=512 * 2**20,
    )
    with warnings.catch_warnings():
        # Ray Data 2.60 warns of its own defaults when its context is first made.
        warnings.simplefilter("ignore", DeprecationWarning)
        ray.data.DataContext.get_current()
    yield
    ray.shutdown()


def picture(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """A smooth colourful picture that JPEG keeps almost as it is."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def make_picture() -> Callable[..., np.ndarray]:
    return picture


@pytest.fixture
def make_rows() -> Callable[..., list[dict[str, Any]]]:
    def make(count: int, *, split: str = "val", size: int = 16) -> list[dict[str, Any]]:
        rows = []
        for index in range(count):
            rng = np.random.default_rng([index, len(split)])
            image = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            mask = irregular_mask(size, size, rng=rng)
            frozen = split != "train" or index % 2 == 0
            target = np.where(mask[..., None] > 0, 255 - image, image) if index % 2 == 0 else None
            rows.append(
                {
                    "sample_id": f"{split}-{index:05d}",
                    "split": split,
                    "image": encode_png(image),
                    "target": None if target is None else encode_png(target),
                    "hole_mask": encode_png(mask) if frozen else None,
                    "hole_ratio": hole_ratio(mask) if frozen else None,
                    "source_id": f"{split}-photo-{index // 3}",
                    "height": size,
                    "width": size,
                }
            )
        return rows

    return make


def write_dataset(
    uri: str, rows: Iterable[dict[str, Any]], *, labels: tuple[str, ...] = (), size: int = 16
) -> None:
    """Write a finished dataset of square pictures without Ray."""
    with open_writer(uri) as writer:
        for row in rows:
            writer.add(row)
        writer.close()
        writer.write_manifest(
            Manifest(
                schema_version=SCHEMA_VERSION,
                source="test",
                options={},
                seed=0,
                inputs_hash="",
                height=size,
                width=size,
                versions={},
                labels=labels,
                **writer.facts(),
            )
        )


@pytest.fixture
def write_rows() -> Callable[..., None]:
    return write_dataset


@pytest.fixture
def make_dataset(tmp_path: Path, make_rows: Any) -> Callable[..., Path]:
    """Write a finished dataset without Ray."""

    def make(name: str = "dataset", *, train: int = 30, val: int = 7, test: int = 5) -> Path:
        out = tmp_path / name
        counts = dict(zip(SPLITS, (train, val, test), strict=True))
        rows = (row for split, count in counts.items() for row in make_rows(count, split=split))
        write_dataset(str(out), rows)
        return out

    return make


def in_markdown(text: str) -> list[list[list[str]]]:
    """Rows of the text that a reader sees in every table, as markdown-it reads them."""
    tables: list[list[list[str]]] = []
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline" and tables and token.level > 3:  # inside a row
            tables[-1][-1].append("".join(child.content for child in token.children or ()))
    return tables


@pytest.fixture
def markdown_tables() -> Callable[[str], list[list[list[str]]]]:
    return in_markdown


@pytest.fixture
def console_rows() -> Callable[[Callable[[Console], object]], list[list[str]]]:
    """The rows that a function prints below headers on a console wide enough to fold none."""

    def rows(show: Callable[[Console], object]) -> list[list[str]]:
        console = Console(file=io.StringIO(), width=1000)
        show(console)
        lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        cells = [line.strip("│").split("│") for line in lines if line.startswith("│")]
        return [[cell.strip() for cell in row] for row in cells]

    return rows
