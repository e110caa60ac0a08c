"""A small finished sweep on disk and in MLflow, made without training or Ray."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from rayfill.config.run import RunConfig, replace, to_dict
from rayfill.evaluation.evaluate import evaluate
from rayfill.evaluation.leaderboard import FINISH, Entry, Leaderboard, protocol
from rayfill.evaluation.result import samples_parquet
from rayfill.evaluation.systems import trained
from rayfill.metrics.aggregate import Measured
from rayfill.models import build_model
from rayfill.runs.bundle import save_bundle
from rayfill.runs.folder import RunFolder
from rayfill.runs.tracking import Tracker
from rayfill_data.codec import encode_png
from rayfill_data.contract import SCHEMA_VERSION, Manifest
from rayfill_data.masks.hole import hole_ratio
from rayfill_data.prepared.reader import PreparedDataset, SplitArrays
from rayfill_data.prepared.writer import open_writer

SIZE = 32
NAMES = ("01-unet", "02-attention_unet")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recorded:
    """Where everything is."""

    home: Path
    dataset: Path
    sweep: Path
    arrays: SplitArrays
    measured: dict[str, Measured]
    board: Leaderboard
    run_ids: dict[str, str]
    parent_id: str

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.home}/mlflow.db"


def rows(count: int, *, seed: int) -> Iterator[dict[str, Any]]:
    """Yield smooth pictures of three splits, their holes of 5 to 35 percent."""
    for split, number in (("train", 2), ("val", 2), ("test", count)):
        for index in range(number):
            rng = np.random.default_rng([seed, index, len(split)])
            coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            image = cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
            mask = np.zeros((SIZE, SIZE), np.uint8)
            high = 6 + 4 * (index % 4)
            mask[8 : 8 + high, 4 : 4 + high] = 255
            yield {
                "sample_id": f"{split}-{index:03d}", "split": split, "image": encode_png(image),
                "target": None, "hole_mask": encode_png(mask), "hole_ratio": hole_ratio(mask),
                "source_id": f"{split}-{index}", "height": SIZE, "width": SIZE,
            }  # fmt: skip


def write_dataset(where: Path, *, count: int = 16, seed: int = 0) -> Path:
    with open_writer(str(where)) as writer:
        for row in rows(count, seed=seed):
            writer.add(row)
        writer.close()
        writer.write_manifest(
            Manifest(
                schema_version=SCHEMA_VERSION,
                source="squares",
                options={},
                seed=seed,
                inputs_hash="",
                height=SIZE,
                width=SIZE,
                versions={},
                labels=(),
                **writer.facts(),
            )  # fmt: skip
        )
    return where


def write_run(where: Path, config: RunConfig, *, epochs: int = 3, seed: int = 0) -> None:
    """Write what training leaves: a history and a bundle whose correction is not nothing."""
    torch.manual_seed(seed)
    options = config.model.options()
    model = build_model(config.model.name, **options)
    for weights in model.parameters():
        torch.nn.init.normal_(weights, std=0.05)
    save_bundle(
        where / "best", model=model, name=config.model.name, config=options,
        extra={"run": to_dict(config), "dataset_hash": ""},
    )  # fmt: skip
    RunFolder(str(where)).write_history([
            {
                "epoch": n, "step": 4 * n, "train/loss": 1 / n + seed,
                "val/hole_psnr": 20.0 + n + seed, "val/psnr": 25.0 + n,
            }
            for n in range(1, epochs + 1)
        ])  # fmt: skip


def run_config(name: str, *, dataset: Path, storage: Path, **changes: Any) -> RunConfig:
    small = {"model.width": 4, "model.depth": 2, "scaling.use_gpu": False, "train.epochs": 3}
    model = name.partition("-")[2] or "unet"
    own = {"name": name, "data.uri": str(dataset), "storage": str(storage), "model.name": model}
    return replace(RunConfig(), small | own | changes)


def write_sweep(sweep: Path, *, dataset: Path) -> tuple[Leaderboard, dict[str, Measured]]:
    configs = [run_config(name, dataset=dataset, storage=sweep.parent) for name in NAMES]
    for seed, config in enumerate(configs):
        write_run(sweep / config.name, config, seed=seed)
    (sweep / "plan.json").write_text(json.dumps({"trials": [to_dict(c) for c in configs]}))
    opened = PreparedDataset.open(str(dataset))
    networks = trained({name: str(sweep / name / "best") for name in NAMES})
    patched = networks[0].patched()  # as a sweep shows its best run where patches go better
    found = evaluate([*networks, patched, "telea", "harmonic"], data=opened, num_workers=1)
    kinds = dict.fromkeys(NAMES, "trial") | {patched.name: FINISH}
    board = Leaderboard(
        title=f"{sweep.name}: held-out test split",
        entries=[
            Entry(
                name=name,
                kind=kinds.get(name, "baseline"),
                table=one.table,
                epochs="3/3" if name in kinds else "",
            )
            for name, one in found.measured.items()
        ],
        rank_by="hole_psnr",
        protocol=protocol(opened, split="test", lpips_network=None),
        notes=["a note"],
    )
    (sweep / "leaderboard.json").write_text(json.dumps(board.to_dict()))
    samples = samples_parquet(
        found.measured, sample_id=found.sample_id, hole_ratio=found.hole_ratio
    )
    (sweep / "samples.parquet").write_bytes(samples)
    return board, dict(found.measured)


def record(home: Path, sweep: Path) -> tuple[str, dict[str, str]]:
    """Record a sweep and its runs in MLflow; return the parent's id and theirs."""
    uri, ids = f"sqlite:///{home}/mlflow.db", {}
    parent = Tracker(home / "tracking" / sweep.name / "sweep", tracking_uri=uri)
    parent.start(
        sweep.name, experiment="squares", params={},
        tags={"rayfill.kind": "sweep", "rayfill.run_dir": str(sweep)},
    )  # fmt: skip
    assert parent.finish(patience_s=120) == 0
    for name in NAMES:
        run = Tracker(home / "tracking" / sweep.name / name, tracking_uri=uri)
        run.start(
            name, experiment="squares", params={}, parent=parent.run_id,
            tags={"rayfill.kind": "trial", "rayfill.run_dir": str(sweep / name)},
        )  # fmt: skip
        assert run.finish(patience_s=120) == 0
        ids[name] = run.run_id
    return parent.run_id, ids


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """The sweep, to be read only."""
    home = tmp_path_factory.mktemp("compared")
    dataset = write_dataset(home / "data" / "squares")
    sweep = home / "runs" / "nets"
    board, measured = write_sweep(sweep, dataset=dataset)
    parent_id, run_ids = record(home, sweep)
    return Recorded(
        home=home, dataset=dataset, sweep=sweep, measured=measured, board=board, run_ids=run_ids,
        arrays=PreparedDataset.open(str(dataset)).load("test"), parent_id=parent_id,
    )  # fmt: skip


@pytest.fixture
def recorded(finished: Recorded, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """The sweep's home as the environment names it."""
    for name in ("MLFLOW_TRACKING_URI", "RAYFILL_STORAGE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAYFILL_HOME", str(finished.home))
    monkeypatch.setenv("COLUMNS", "400")  # numbers are shown, however long a folder's name
    return finished


@pytest.fixture
def own_sweep(finished: Recorded, tmp_path: Path) -> Path:
    """A copy of the sweep's folder, to be changed."""
    return Path(shutil.copytree(finished.sweep, tmp_path / "nets"))


@pytest.fixture
def make_run(recorded: Recorded, tmp_path: Path) -> Callable[..., Path]:
    """Write a run by itself."""

    def make(name: str, *, dataset: Path | None = None, seed: int = 5, **changes: Any) -> Path:
        config = run_config(
            name, dataset=dataset or recorded.dataset, storage=tmp_path,
            **{"model.name": "unet"} | changes,
        )  # fmt: skip
        write_run(tmp_path / name, config, seed=seed)
        return tmp_path / name

    return make


@pytest.fixture
def other_dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "other", count=9, seed=1)
