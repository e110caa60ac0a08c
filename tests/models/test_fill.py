"""The fills against plain-numpy second implementations and by their properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rayfill.models import FILLS, mean_fill

#: Relaxations of every level: what tells the two fills by a pyramid apart.
PYRAMIDS = {"push_pull": 0, "harmonic": 8}
every_fill = pytest.mark.parametrize("name", FILLS)
#: All but the one that looks at no known pixel.
every_looking_fill = pytest.mark.parametrize("name", sorted(set(FILLS) - {"zero"}))


def pyramid_numpy(image, hole, *, relaxations):
    """One image (H, W, 3) and bool hole (H, W), cell by cell."""
    known = ~hole
    colour = np.where(known[..., None], image, 0.0).astype(np.float64)
    height, width = known.shape
    if height == width == 1:
        return colour if known.all() else np.full_like(colour, 0.5)
    rows, columns = (height + 1) // 2, (width + 1) // 2
    coarse = np.zeros((rows, columns, 3))
    coarse_known = np.zeros((rows, columns), bool)
    for y in range(rows):
        for x in range(columns):
            cells = [
                colour[j, i]
                for j in range(2 * y, min(2 * y + 2, height))
                for i in range(2 * x, min(2 * x + 2, width))
                if known[j, i]
            ]
            if cells:
                coarse[y, x] = np.mean(cells, axis=0)
                coarse_known[y, x] = True
    coarse = pyramid_numpy(coarse, ~coarse_known, relaxations=relaxations)
    out = colour.copy()
    for y in range(height):
        for x in range(width):
            if not known[y, x]:
                out[y, x] = bilinear(coarse, y / 2 - 0.25, x / 2 - 0.25)
    for _ in range(relaxations):
        before = out.copy()
        for y, x in np.argwhere(hole):
            around = before[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            out[y, x] = around.mean(axis=(0, 1))
    return out


def bilinear(grid, y, x):
    """Value at (y, x) in pixel-centre coordinates, the edge repeated."""
    value = np.zeros(3)
    for j in (int(np.floor(y)), int(np.floor(y)) + 1):
        for i in (int(np.floor(x)), int(np.floor(x)) + 1):
            weight = (1 - abs(y - j)) * (1 - abs(x - i))
            row, column = np.clip(j, 0, grid.shape[0] - 1), np.clip(i, 0, grid.shape[1] - 1)
            value += weight * grid[row, column]
    return value


def random_sample(height, width, *, hole_share, seed=0, batch=2):
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.random((batch, 3, height, width), dtype=np.float32))
    hole = torch.from_numpy((rng.random((batch, 1, height, width)) < hole_share).astype(np.float32))
    return image, hole


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 2), (5, 1), (9, 14), (16, 16), (17, 31)])
@pytest.mark.parametrize("hole_share", [0.1, 0.6, 0.97])
@pytest.mark.parametrize("name", PYRAMIDS)
def test_a_pyramid_equals_the_numpy_one(name, size, hole_share):
    image, hole = random_sample(*size, hole_share=hole_share)
    filled = FILLS[name](image, hole)
    for one, mask, out in zip(image, hole, filled, strict=True):
        array, bools = one.permute(1, 2, 0).numpy(), mask[0].numpy() > 0
        expected = pyramid_numpy(array, bools, relaxations=PYRAMIDS[name])
        np.testing.assert_allclose(out.permute(1, 2, 0).numpy(), expected, atol=2e-6)


@every_fill
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (17, 31), (64, 64)])
def test_known_pixels_bit_for_bit_and_hole_pixels_unread(name, size):
    image, hole = random_sample(*size, hole_share=0.4)
    image[:, :, 0, 0] = -0.0
    filled = FILLS[name](image, hole)
    known = (hole < 1).expand_as(image)
    assert torch.equal(filled[known].view(torch.int32), image[known].view(torch.int32))
    poisoned = torch.where(hole > 0, torch.full_like(image, float("inf")), image)
    assert torch.equal(FILLS[name](poisoned, hole), filled)


@every_fill
@pytest.mark.parametrize("size", [(1, 1), (5, 9), (64, 64)])
def test_nothing_known_gives_the_defined_value(name, size):
    image = torch.full((2, 3, *size), float("nan"))
    hole = torch.ones(2, 1, *size)
    torch.testing.assert_close(
        FILLS[name](image, hole), torch.full_like(image, 0 if name == "zero" else 0.5)
    )


@every_looking_fill
def test_a_constant_image_is_continued(name):
    image = torch.full((1, 3, 33, 20), 0.3)
    hole = torch.zeros(1, 1, 33, 20)
    hole[..., 3:30, 2:18] = 1
    torch.testing.assert_close(FILLS[name](image, hole), image, atol=1e-6, rtol=0)


def test_mean_fill_is_the_mean_of_known_pixels_per_image_and_channel():
    image, hole = random_sample(13, 8, hole_share=0.5)
    filled = mean_fill(image, hole)
    for one, mask, out in zip(image.numpy(), hole.numpy(), filled.numpy(), strict=True):
        for channel in range(3):
            mean = one[channel][mask[0] == 0].mean()
            np.testing.assert_allclose(out[channel][mask[0] > 0], mean, atol=1e-6)


@every_looking_fill
def test_a_fill_stays_between_the_known_colours(name):
    image, hole = random_sample(40, 40, hole_share=0.9)
    filled = FILLS[name](image, hole)
    known = image[(hole < 1).expand_as(image)]
    assert known.min() - 1e-6 <= filled.min() <= filled.max() <= known.max() + 1e-6


@every_fill
def test_channels_last_gives_the_same(name):
    image, hole = random_sample(16, 16, hole_share=0.5)
    last = image.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(FILLS[name](last, hole), FILLS[name](image, hole))
