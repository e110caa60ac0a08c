"""Masks that are too small or too large, and what a joint model removes by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio

from rayfill.evaluation.evaluate import evaluate
from rayfill.evaluation.mask_sizes import measure_mask_sizes
from rayfill.evaluation.systems import System
from rayfill.metrics.accumulate import expanded
from rayfill.models import build_model
from rayfill_data.codec import encode_png
from rayfill_data.contract import SPLITS
from rayfill_data.errors import DatasetError
from rayfill_data.prepared.reader import PreparedDataset, SplitArrays

SIDE = 16


@pytest.fixture
def dataset(tmp_path: Path, make_picture: Any, write_rows: Any) -> PreparedDataset:
    """Smooth pictures with a red box pasted in, whose label is 1."""
    rows = []
    for split in SPLITS:
        for index in range(6):
            target = make_picture(SIDE, SIDE, seed=index)
            mask = np.zeros((SIDE, SIDE), np.uint8)
            mask[4:11, 5 : 10 + index % 2] = 255
            image = np.where(mask[..., None] > 0, np.array([255, 0, 0], np.uint8), target)
            rows.append(
                {
                    "sample_id": f"{split}-{index}",
                    "split": split,
                    "image": encode_png(image),
                    "target": encode_png(target),
                    "hole_mask": encode_png(mask),
                    "hole_ratio": float((mask > 0).mean()),
                    "source_id": f"{split}-{index}",
                    "height": SIDE,
                    "width": SIDE,
                    "labels": encode_png((mask > 0).astype(np.uint8)),
                    "target_labels": encode_png(np.zeros_like(mask)),
                }
            )
    write_rows(str(tmp_path / "pairs"), rows, labels=("nothing", "object"))
    return PreparedDataset.open(str(tmp_path / "pairs"))


@pytest.fixture
def pairs(dataset: PreparedDataset) -> SplitArrays:
    return dataset.load("test")


@pytest.mark.parametrize("expand_px", [-2, 0, 1, 3])
def test_holes_are_grown_and_shrunk_by_exact_discs(pairs: SplitArrays, expand_px: int) -> None:
    masks = torch.from_numpy((pairs.hole_mask > 0)[:, None].astype(np.float32))
    got = expanded(masks, expand_px=expand_px)
    for before, after in zip(masks[:, 0].numpy() > 0, got[:, 0].numpy() > 0, strict=True):
        inside, outside = (ndimage.distance_transform_edt(m) for m in (before, ~before))
        expected = outside <= expand_px if expand_px >= 0 else inside > -expand_px
        assert np.array_equal(after, expected)


def test_a_mask_too_small_leaves_the_object_in_and_samples_stay_in_their_bucket(
    dataset: PreparedDataset,
) -> None:
    sizes = measure_mask_sizes(["harmonic"], data=dataset, expansions_px=(-1, 0, 2))
    small, true, large = (table.total["psnr"].mean for table in sizes.tables["harmonic"])
    assert small < large < true
    whole = evaluate(["harmonic"], data=dataset).measured["harmonic"].table
    assert sizes.tables["harmonic"][1] == whole
    filled = {b for b, scores in whole.buckets.items() if scores["psnr"].n}
    for table in sizes.tables["harmonic"]:
        assert {b for b, scores in table.buckets.items() if scores["psnr"].n} == filled
    shown = sizes.table()
    assert shown.header()[-3:] == ["-1 px", "+0 px", "+2 px"]
    means = [f"{mean:.2f}" for mean in (small, true, large)]
    assert ["harmonic", "PSNR", "all", *means] in shown.cells()


def test_sizes_of_masks_mean_nothing_where_the_target_holds_the_object(
    tmp_path: Path, make_rows: Any, write_rows: Any
) -> None:
    rows = [{**row, "target": None} for split in SPLITS for row in make_rows(2, split=split)]
    write_rows(str(tmp_path / "photos"), rows)
    photos = PreparedDataset.open(str(tmp_path / "photos"))
    with pytest.raises(DatasetError, match="coco_pairs"):
        measure_mask_sizes(["telea"], data=photos, expansions_px=(0,))


def test_a_joint_model_is_measured_with_given_holes_and_with_its_own(
    dataset: PreparedDataset, pairs: SplitArrays
) -> None:
    torch.manual_seed(0)
    model = build_model(
        "joint",
        inpainter="unet",
        inpainter_options={
            "width": 2, "depth": 1, "hole_fill": "harmonic", "output": "residual",
        },
        segmenter_options={"width": 4, "depth": 1},
        label_names=("nothing", "object"),
    )  # fmt: skip
    optimiser = torch.optim.Adam(model.segmenter.parameters(), lr=0.02)
    image = torch.from_numpy(pairs.image).permute(0, 3, 1, 2).float() / 255
    assert pairs.labels is not None
    labels = torch.from_numpy(pairs.labels).long()
    for _ in range(80):
        loss = sum(model.segmenter.loss(image, labels).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    joint = System(name="joint", kind="model", source="here", model=model)
    found = evaluate([joint, "harmonic"], data=dataset).measured
    measured, given = found["joint"], found["harmonic"]
    # An untrained residual network answers with its fill.
    assert measured.table.total["psnr"] == given.table.total["psnr"]
    total = measured.table.total
    assert total["found"].mean == 1
    assert total["iou"].mean > 0.8
    with torch.inference_mode():
        mask = torch.from_numpy((pairs.hole_mask > 0)[:, None].astype(np.float32))
        removal = model.eval().remove(image, object_mask=mask)
    composites = (removal.composite * 255).round().byte().permute(0, 2, 3, 1).numpy()
    expected = [
        peak_signal_noise_ratio(target, composite)
        for target, composite in zip(pairs.target, composites, strict=True)
    ]
    np.testing.assert_allclose(measured.values["removal_psnr"], expected, atol=1e-3)
    assert total["removal_psnr"].mean == pytest.approx(np.mean(expected), abs=1e-3)
    assert "removal_psnr" not in given.table.total
    assert {"removal_psnr", "removal_ssim"} <= set(measured.table.buckets["[10,20)"])
