"""Canny edges: against scikit-image and geometry, and blind to what lies in the hole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.color import rgb2gray
from skimage.feature import canny

from rayfill.models.edgeconnect.edges import canny_edges, luma
from rayfill_data.errors import RayfillError


def blobs(height=64, width=48, *, batch=2, seed=0):
    """Smooth pictures of strong contrast: they have edges."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.random((batch, 3, height, width)), (0, 0, 3, 3))
    low, high = noise.min(axis=(2, 3), keepdims=True), noise.max(axis=(2, 3), keepdims=True)
    return torch.from_numpy((noise - low) / (high - low)).float()


def square_hole(image):
    hole_mask = torch.zeros_like(image[:, :1])
    height, width = image.shape[-2:]
    hole_mask[..., height // 4 : height // 2, width // 4 : width // 2] = 1
    return hole_mask


def test_luma_is_that_of_scikit_image_in_any_memory_layout():
    image = torch.rand(2, 3, 9, 7)
    expected = rgb2gray(image.permute(0, 2, 3, 1).double().numpy())
    np.testing.assert_allclose(luma(image)[:, 0], expected, atol=1e-6)
    assert torch.equal(luma(image), luma(image.contiguous(memory_format=torch.channels_last)))


def test_without_a_hole_they_are_those_of_scikit_image():
    image = blobs()
    gray = rgb2gray(image.permute(0, 2, 3, 1).numpy())
    expected = np.stack([canny(picture, sigma=2.0) for picture in gray])
    edges = canny_edges(image)
    assert edges.shape == (2, 1, 64, 48)
    assert edges.dtype == torch.float32
    assert edges.sum() > 100
    np.testing.assert_array_equal(edges[:, 0].numpy(), expected)
    assert torch.equal(canny_edges(image, torch.zeros_like(image[:, :1])), edges)
    assert torch.equal(canny_edges(luma(image)), edges)
    wider = np.stack([canny(picture, sigma=3.0) for picture in gray])
    np.testing.assert_array_equal(canny_edges(image, sigma=3.0)[:, 0].numpy(), wider)


def test_edges_of_a_disc_lie_on_its_circle_all_around():
    y, x = np.mgrid[:64, :64] - 31.5
    image = torch.from_numpy((np.hypot(x, y) < 20).astype(np.float32))[None, None]
    rows, columns = np.nonzero(canny_edges(image)[0, 0].numpy())
    radius = np.hypot(rows - 31.5, columns - 31.5)
    assert abs(radius - 20).max() < 1.5
    angles = np.sort(np.arctan2(rows - 31.5, columns - 31.5))
    assert np.diff(angles, append=angles[0] + 2 * np.pi).max() < np.pi / 15


@pytest.mark.parametrize("inside", [float("nan"), float("inf"), 0.0, 1.0])
def test_hole_pixels_change_nothing(inside):
    image = blobs()
    hole_mask = square_hole(image)
    edges = canny_edges(image, hole_mask)
    other = torch.where(hole_mask > 0, inside, image)
    assert edges.sum() > 100
    assert not torch.equal(edges, canny_edges(image)), "the hole must cover edges"
    assert torch.equal(canny_edges(other, hole_mask), edges)


def test_neither_the_hole_nor_its_rim_carries_edges():
    image = torch.linspace(0.4, 1.0, 48).expand(1, 3, 64, 48).clone()
    hole_mask = square_hole(image)
    assert canny_edges(image.masked_fill(hole_mask > 0, 0.0)).sum() > 50, "a rim could be seen"
    assert canny_edges(image, hole_mask).sum() == 0
    image = blobs()
    touching = ndimage.binary_dilation(square_hole(image).numpy() > 0, np.ones((1, 1, 3, 3)))
    assert not canny_edges(image, square_hole(image)).numpy()[touching].any()


def test_far_from_the_hole_edges_are_those_of_the_whole_picture():
    image = torch.zeros(1, 3, 64, 64)
    image[..., :, 40:] = 1
    hole_mask = torch.zeros(1, 1, 64, 64)
    hole_mask[..., 20:40, 5:15] = 1
    edges = canny_edges(image, hole_mask)
    assert edges.sum() > 50
    assert torch.equal(edges, canny_edges(image))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2)], ids=str)
def test_tiny_pictures_and_nothing_known_give_no_edges(size):
    image = torch.rand(2, 3, *size)
    assert canny_edges(image).sum() == 0
    assert canny_edges(image, torch.ones(2, 1, *size)).sum() == 0


def test_no_gradient_and_no_computation_without_data():
    image = blobs().requires_grad_()
    assert not canny_edges(image, square_hole(image)).requires_grad
    with torch.device("meta"):
        edges = canny_edges(torch.empty(2, 3, 8, 9))
    assert edges.is_meta
    assert edges.shape == (2, 1, 8, 9)


def test_wrong_shapes_are_refused():
    with pytest.raises(RayfillError, match=r"\(3, 8, 8\)"):
        canny_edges(torch.zeros(3, 8, 8))
    with pytest.raises(RayfillError, match=r"\(1, 2, 8, 8\)"):
        canny_edges(torch.zeros(1, 2, 8, 8))
    with pytest.raises(RayfillError, match=r"need \(2, 1, 8, 8\)"):
        canny_edges(torch.zeros(2, 3, 8, 8), torch.zeros(1, 1, 8, 8))
