"""The finish of a model is the one that goes better with validation holes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from rayfill.inference.inpainter import Inpainter
from rayfill.models import build_model
from rayfill.runs.bundle import load_bundle, save_bundle
from rayfill.sweeps.champion import FinishChoice, choose_finish, note_finish
from rayfill_data.codec import encode_png
from rayfill_data.prepared.reader import PreparedDataset

OPTIONS = {"width": 2, "depth": 2, "hole_fill": "harmonic", "output": "residual"}


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    """A network that answers with the harmonic fill: a blur."""
    torch.manual_seed(0)
    model = build_model("unet", **OPTIONS)
    save_bundle(tmp_path / "best", model=model, name="unet", config=OPTIONS, extra={"run_id": "r"})
    return str(tmp_path / "best")


def dataset(folder: Path, write_rows: Any, make_rows: Any, *, textured: bool) -> PreparedDataset:
    rows = []
    for index, row in enumerate(make_rows(4, split="val", size=64)):
        rng = np.random.default_rng(index)
        noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        image = noise if textured else np.full_like(noise, 40 * index)
        mask = cv2.circle(np.zeros((64, 64), np.uint8), (32, 30), 13, 255, -1)
        rows.append(
            row
            | {
                "image": encode_png(image),
                "target": None,
                "hole_mask": encode_png(mask),
                "hole_ratio": float((mask > 0).mean()),
            }
        )
    write_rows(str(folder), rows, size=64)
    return PreparedDataset.open(str(folder))


def test_texture_takes_patches_and_whoever_loads_the_model_gets_them(
    tmp_path: Path, bundle: str, write_rows: Any, make_rows: Any
) -> None:
    data = dataset(tmp_path / "data", write_rows, make_rows, textured=True)
    choice = choose_finish("net", bundle=bundle, dataset=data)
    assert choice.patched < 0.7 * choice.alone
    assert "patches of the photo are laid over" in str(choice)
    note_finish(choice, bundle=bundle)
    noted = load_bundle(bundle)
    assert noted.extra == {"run_id": "r", "finish": "exemplar"}
    assert Inpainter.from_bundle(bundle).finish == "exemplar"
    assert Inpainter.from_bundle(bundle, finish="none").finish == "none"


def test_plain_pictures_do_not(
    tmp_path: Path, bundle: str, write_rows: Any, make_rows: Any
) -> None:
    data = dataset(tmp_path / "data", write_rows, make_rows, textured=False)
    choice = choose_finish("net", bundle=bundle, dataset=data)
    assert choice.finish == "none"
    note_finish(choice, bundle=bundle)
    assert Inpainter.from_bundle(bundle).finish == "auto"


def test_without_a_value_the_answers_stay() -> None:
    choice = FinishChoice(name="net", alone=float("nan"), patched=float("nan"))
    assert choice.finish == "none"
    assert str(choice) == "net: no coherence on the validation split, so its answers stay as is."
