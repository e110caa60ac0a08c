"""`rayfill evaluate --residual-object`: what a segmenter still sees after removal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rayfill.inference.baselines import BASELINES
from rayfill.models import build_model, composite
from rayfill.models.segmentation import Segmenter, build_segmenter
from rayfill.runs.bundle import load_bundle, load_segmenter_bundle, save_bundle
from rayfill_data.codec import encode_png, to_nchw
from rayfill_data.contract import SCHEMA_VERSION, Manifest
from rayfill_data.prepared.reader import PreparedDataset
from rayfill_data.prepared.writer import open_writer

Cli = Callable[..., Any]

SIDE = 24
OBJECTS = 4  # and as many holes with nothing in them


@pytest.fixture
def dataset(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Gray noise with red boxes to be removed, and holes over nothing that do not count."""
    monkeypatch.setattr("rayfill.metrics.lpips.find_spec", lambda _: None)
    out = tmp_path / "data"
    with open_writer(str(out)) as writer:
        for index in range(2 * OBJECTS):
            target = np.random.default_rng(index).integers(60, 120, (SIDE, SIDE, 3), dtype=np.uint8)
            mask = np.zeros((SIDE, SIDE), np.uint8)
            mask[6 : 10 + index, 5:15] = 255
            holds = mask if index < OBJECTS else mask * 0
            red = np.array([250, 9, 9], np.uint8)
            writer.add(
                {
                    "sample_id": f"s{index}",
                    "split": "test",
                    "image": encode_png(np.where(holds[..., None] > 0, red, target)),
                    "target": encode_png(target),
                    "hole_mask": encode_png(mask),
                    "hole_ratio": float((mask > 0).mean()),
                    "source_id": str(index),
                    "height": SIDE,
                    "width": SIDE,
                    "labels": encode_png(holds // 255),
                    "target_labels": encode_png(mask * 0),
                }
            )
        writer.close()
        facts = {"source": "test", "options": {}, "seed": 0, "inputs_hash": "", "versions": {}}
        writer.write_manifest(
            Manifest(
                schema_version=SCHEMA_VERSION,
                height=SIDE,
                width=SIDE,
                labels=("nothing", "box"),
                **facts,
                **writer.facts(),
            )
        )
    return out


SEGMENTER = {"width": 4, "depth": 1}
JOINT = {
    "inpainter": "unet",
    "inpainter_options": {"width": 2, "depth": 1},
    "segmenter_options": SEGMENTER,
    "label_names": ("nothing", "box"),
}


@pytest.fixture(scope="module")
def sees_red(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a segmenter that has learnt to see red boxes."""
    torch.manual_seed(0)
    segmenter = build_segmenter("segmentation_unet", labels=("nothing", "box"), **SEGMENTER)
    optimizer = torch.optim.Adam(segmenter.parameters(), lr=0.02)
    for _ in range(60):
        image = torch.rand(8, 3, SIDE, SIDE) * 0.2 + 0.25
        labels = torch.zeros(8, SIDE, SIDE, dtype=torch.int64)
        for row in range(0, 8, 2):
            top, left = torch.randint(2, 10, (2,)).tolist()
            image[row, :, top : top + 9, left : left + 9] = torch.tensor([0.98, 0.04, 0.04]).view(
                3, 1, 1
            )
            labels[row, top : top + 9, left : left + 9] = 1
        optimizer.zero_grad()
        sum(segmenter.loss(image, labels).values()).backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("segmenter")
    config = {"labels": ("nothing", "box"), **SEGMENTER}
    save_bundle(folder, model=segmenter, name="segmentation_unet", config=config, kind="segmenter")
    return folder


def seen(segmenter: Segmenter, picture: torch.Tensor, mask: torch.Tensor) -> float:
    """The mean over photos of the share of the box's pixels taken for one, by hand."""
    shares = []
    for one, box in zip(picture, mask[:, 0] > 0, strict=True):
        with torch.no_grad():
            label = segmenter.segment(one[None])[0].argmax(dim=0)
        shares.append(float(label[box].float().mean()))
    return sum(shares) / len(shares)


def test_what_is_still_seen_is_a_column_beside_what_was_seen_before(
    cli: Cli, no_ray: None, dataset: Path, sees_red: Path, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    joint = build_model("joint", **JOINT)
    joint.segmenter.load_state_dict(load_segmenter_bundle(sees_red).model.state_dict())
    save_bundle(tmp_path / "joint" / "best", model=joint, name="joint", config=JOINT)
    done = cli(
        "evaluate", "--model", "telea", "--model", tmp_path / "joint", "--data", dataset,
        "--residual-object", sees_red, "--rank-by", "residual_object", "--batch-size", 3,
        "--out", tmp_path / "out", "--num-workers", 1,
    )  # fmt: skip
    assert done.status == 0, done.err
    assert "residual ↓" in done.out
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    arrays = PreparedDataset.open(str(dataset)).load("test").take(range(OBJECTS))
    image = torch.from_numpy(to_nchw(arrays.image))
    mask = torch.from_numpy(arrays.hole_mask > 0)[:, None].float()
    segmenter = load_segmenter_bundle(sees_red).model
    before = seen(segmenter, image, mask)
    assert before > 0.9  # else this says nothing
    assert (
        f"{before:.4f} in the photos before removal (n = {OBJECTS})"
        in (table["protocol"]["residual_object"])
    )
    assert f"taken for 'box' by {sees_red}" in table["protocol"]["residual_object"]
    scores = {e["name"]: e["metrics"]["total"] for e in table["entries"]}
    filled = BASELINES["telea"](image, mask).mul(255).round().div(255)
    after = scores["telea"]["residual_object"]
    assert after["mean"] == pytest.approx(seen(segmenter, composite(filled, image, mask), mask))
    assert after["mean"] < before / 2
    assert after["n"] == OBJECTS
    # A joint model's own removal: in the box, whatever hole it found.
    model = load_bundle(tmp_path / "joint" / "best").model
    with torch.no_grad():
        removed = model.remove(image, object_mask=mask).composite.mul(255).round().div(255)  # type: ignore[operator, union-attr]
    own = scores["joint"]["removal_residual_object"]["mean"]
    assert own == pytest.approx(seen(segmenter, removed, mask))
    assert "removal_residual_object" not in scores["telea"]


def test_parts_on_ray_add_up_to_the_same(
    cli: Cli, ray_local: None, dataset: Path, sees_red: Path, tmp_path: Path
) -> None:
    found = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        done = cli(
            "evaluate", "--model", "telea", "--data", dataset, "--residual-object", sees_red,
            "--batch-size", 2, "--out", out, "--num-workers", workers,
        )  # fmt: skip
        assert done.status == 0, done.err
        (entry,) = json.loads((out / "table.json").read_text())["entries"]
        found.append(entry["metrics"]["total"]["residual_object"])
    assert found[0] == pytest.approx(found[1])


@pytest.mark.parametrize(
    ("what", "arguments", "problem"),
    [
        ("unet", (), "has no segmenter"),
        ("several", (), "say with --residual-label"),
        ("several", ("--residual-label", "cta"), "Did you mean 'cat'"),
    ],
)
def test_what_cannot_see_objects_is_refused(
    cli: Cli, dataset: Path, tmp_path: Path, what: str, arguments: tuple[str, ...], problem: str
) -> None:
    if what == "unet":
        config: dict[str, Any] = {"width": 2, "depth": 1}
        save_bundle(
            tmp_path / what, model=build_model("unet", **config), name="unet", config=config
        )
    else:
        config = {"labels": ("nothing", "cat", "dog"), **SEGMENTER}
        save_bundle(
            tmp_path / what,
            model=build_segmenter("segmentation_unet", **config),
            name="segmentation_unet",
            config=config,
            kind="segmenter",
        )
    done = cli(
        "evaluate", "--model", "telea", "--data", dataset,
        "--residual-object", tmp_path / what, *arguments,
    )  # fmt: skip
    assert done.status == 2
    assert problem in done.err


def test_a_label_without_a_segmenter_and_ranking_without_one_are_refused(
    cli: Cli, dataset: Path
) -> None:
    done = cli("evaluate", "--model", "telea", "--data", dataset, "--residual-label", "box")
    assert done.status == 2
    assert "--residual-object" in done.err
    done = cli("evaluate", "--model", "telea", "--data", dataset, "--rank-by", "residual_object")
    assert done.status == 2
    assert "not measured here" in done.err
