"""Every baseline keeps the contract of a model and answers like the library it wraps."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from skimage import data
from skimage.restoration import inpaint_biharmonic

from rayfill.inference.baselines import BASELINES
from rayfill.inference.inpainter import Inpainter
from rayfill.models import InpaintingModel
from rayfill_data.errors import RayfillError

every_baseline = pytest.mark.parametrize("name", sorted(BASELINES))


def photos(height=40, width=48):
    picture = data.astronaut()
    return np.stack([picture[y : y + height, 200 : 200 + width] for y in (60, 160)])


def as_tensors(pictures, hole):
    image = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    return image, torch.from_numpy(hole)[:, None].float()


def holes(height=40, width=48):
    hole = np.zeros((2, height, width), bool)
    hole[0, 10:20, 12:30] = True
    hole[1, 5:9, 5:9] = hole[1, 20:38, 30:36] = True
    return hole


@every_baseline
def test_shape_range_and_known_pixels_bit_for_bit(name):
    image, hole_mask = as_tensors(photos(), holes())
    prediction = BASELINES[name](image, hole_mask)
    assert prediction.shape == image.shape
    assert prediction.dtype == torch.float32
    assert 0 <= prediction.min() <= prediction.max() <= 1
    known = (hole_mask == 0).expand_as(image)
    assert torch.equal(prediction[known], image[known])


@every_baseline
def test_hole_pixels_are_not_read_and_inputs_left_alone(name):
    image, hole_mask = as_tensors(photos(), holes())
    other = torch.where(hole_mask > 0, torch.full_like(image, float("nan")), image)
    before = image.clone()
    baseline = BASELINES[name]
    assert torch.equal(baseline(image, hole_mask), baseline(other, hole_mask))
    assert torch.equal(image, before)


@every_baseline
def test_empty_and_full_masks_and_the_smallest_pictures(name):
    baseline = BASELINES[name]
    for size in ((1, 1), (1, 9), (17, 31)):
        image = torch.rand(2, 3, *size)
        assert torch.equal(baseline(image, torch.zeros(2, 1, *size)), image)
        assert baseline(image, torch.ones(2, 1, *size)).eq(0.5).all()


@every_baseline
def test_it_beats_gray_and_works_in_the_inpainter(name):
    pictures, hole = photos(), holes()
    baseline = BASELINES[name]
    assert isinstance(baseline, InpaintingModel)
    inpainter = Inpainter(baseline, name=name)
    for picture, mask in zip(pictures, hole, strict=True):
        out = inpainter.inpaint(picture, mask.astype(np.uint8) * 255)
        assert np.array_equal(out[~mask], picture[~mask])
        error = np.abs(out[mask].astype(float) - picture[mask]).mean()
        gray = np.abs(128.0 - picture[mask]).mean()
        # One colour for the whole picture may be worse than gray; the others see where they are.
        assert error < 0.8 * gray or name == "mean"


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [("telea", cv2.INPAINT_TELEA), ("navier_stokes", cv2.INPAINT_NS)],
)
def test_opencv_baselines_are_opencv(name, algorithm):
    pictures, hole = photos(), holes()
    prediction = BASELINES[name](*as_tensors(pictures, hole))
    for picture, mask, ours in zip(pictures, hole, prediction, strict=True):
        expected = cv2.inpaint(picture, mask.astype(np.uint8), 3, algorithm)
        assert np.array_equal((ours.permute(1, 2, 0).numpy() * 255).round(), expected)


def test_biharmonic_is_skimage():
    pictures, hole = photos(), holes()
    prediction = BASELINES["biharmonic"](*as_tensors(pictures, hole))
    for picture, mask, ours in zip(pictures, hole, prediction, strict=True):
        expected = inpaint_biharmonic(picture / 255.0, mask, channel_axis=2).clip(0, 1)
        np.testing.assert_allclose(ours.permute(1, 2, 0).numpy(), expected, atol=1e-4)


@every_baseline
def test_wrong_shapes_are_refused(name):
    with pytest.raises(RayfillError, match="hole_mask has shape"):
        BASELINES[name](torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4))
