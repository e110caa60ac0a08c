"""The exemplar fill: by what it may show, on every hole, and against naive code."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from skimage import data

from rayfill.models import exemplar_fill, guided_fill, harmonic_fill
from rayfill.models.fills import exemplar, nearest
from rayfill.models.fills.exemplar import ExemplarOptions
from rayfill.models.fills.nearest import Patches
from rayfill.models.fills.patches import descriptors, patch_filters


def noise(height, width, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.random((1, 3, height, width), dtype=np.float32))


def box(height, width, top, bottom, left, right):
    mask = torch.zeros(1, 1, height, width)
    mask[..., top:bottom, left:right] = 1
    return mask


def stripes(height, width, period=6):
    wave = (torch.arange(width) % period < period // 2).float()
    return wave.expand(1, 3, height, width).clone()


SIZES = [(1, 1), (3, 4), (5, 5), (7, 40), (20, 20), (33, 57), (64, 64)]
HOLES = ["empty", "all", "one pixel", "frame", "lines", "speckle", "most", "half"]


def hole_of(kind, height, width):
    mask = torch.zeros(1, 1, height, width)
    generator = torch.Generator().manual_seed(0)
    if kind == "all":
        mask[:] = 1
    elif kind == "one pixel":
        mask[..., height // 2, width // 2] = 1
    elif kind == "frame":
        mask[..., :1, :], mask[..., -1:, :], mask[..., :1], mask[..., -1:] = 1, 1, 1, 1
    elif kind == "lines":
        mask[..., ::7, :] = 1
    elif kind == "speckle":
        mask = (torch.rand(mask.shape, generator=generator) < 0.2).float()
    elif kind == "most":
        mask = (torch.rand(mask.shape, generator=generator) < 0.96).float()
    elif kind == "half":
        mask[..., : (width + 1) // 2] = 1
    return mask


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", HOLES)
def test_every_hole_of_every_size_is_filled_and_the_rest_is_untouched(size, kind):
    image, mask = noise(*size), hole_of(kind, *size)
    poisoned = image.masked_fill(mask > 0.5, float("nan"))
    filled = exemplar_fill(poisoned, mask)
    known = (mask < 0.5).expand_as(image)
    assert torch.equal(filled[known], image[known])
    assert bool(filled.isfinite().all())
    assert 0 <= float(filled.min()) <= float(filled.max()) <= 1


def test_what_it_shows_was_there(monkeypatch):
    """Every colour of the hole is one of the photograph, where nothing is interpolated."""
    image, mask = noise(64, 64), box(64, 64, 20, 45, 18, 40)
    filled = exemplar_fill(image, mask)
    there = {tuple(c) for c in image[0, :, mask[0, 0] < 0.5].T.tolist()}
    assert {tuple(c) for c in filled[0, :, mask[0, 0] > 0.5].T.tolist()} <= there


@pytest.mark.parametrize("period", [4, 6, 8])
def test_a_regular_pattern_is_continued_exactly(period):
    image, mask = stripes(96, 96, period), box(96, 96, 30, 66, 30, 66)
    filled = exemplar_fill(image, mask)
    wrong = (filled - image).abs().mean(dim=1)[mask[:, 0] > 0.5]
    smooth = (harmonic_fill(image, mask) - image).abs().mean(dim=1)[mask[:, 0] > 0.5]
    assert float(wrong.mean()) < 0.02 < 0.3 < float(smooth.mean())


@pytest.mark.parametrize("constant", [0.0, 0.3, 1.0])
def test_a_plain_photo_stays_plain(constant):
    image, mask = torch.full((1, 3, 50, 60), constant), box(50, 60, 10, 40, 10, 50)
    assert torch.equal(exemplar_fill(image, mask), image)


@pytest.mark.parametrize("side", [48, 300])
def test_the_same_bits_for_any_number_of_threads(side):
    image, mask = noise(side, side), box(side, side, side // 4, side // 2, side // 4, side - 9)
    blurred = torch.from_numpy(cv2.blur(image[0].permute(1, 2, 0).numpy(), (5, 5)))
    image = blurred.permute(2, 0, 1)[None].contiguous()
    before, fills = (torch.get_num_threads(), cv2.getNumThreads()), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            cv2.setNumThreads(threads)
            fills.append(exemplar_fill(image, mask))
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
    assert torch.equal(fills[0], fills[1])
    assert torch.equal(fills[0], fills[2])


def test_a_picture_of_a_batch_is_filled_as_alone():
    images = torch.cat([noise(40, 40, seed) for seed in range(3)])
    masks = torch.cat(
        [box(40, 40, 5, 20, 5, 25), torch.zeros(1, 1, 40, 40), box(40, 40, 9, 30, 3, 9)]
    )
    together = exemplar_fill(images, masks)
    for index in range(3):
        at = slice(index, index + 1)
        assert torch.equal(together[at], exemplar_fill(images[at], masks[at]))


def test_another_seed_is_another_fill():
    image, mask = noise(200, 200), box(200, 200, 60, 150, 50, 140)
    image = torch.nn.functional.avg_pool2d(image, 3, stride=1, padding=1)
    fills = [
        guided_fill(image, mask, guide=None, options=ExemplarOptions(seed=seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(fills[0], fills[1])
    assert not torch.equal(fills[0], fills[2])


def test_a_guide_says_which_of_two_textures():
    """Dark noise on the left, bright noise on the right, and a guide that is one of them."""
    image = noise(80, 160) * 0.2
    image[..., 80:] += 0.8
    mask = box(80, 160, 20, 60, 60, 100)
    for wanted in (0.1, 0.9):
        guide = torch.full_like(image, wanted)
        options = ExemplarOptions(guide_weight=2.0)
        filled = guided_fill(image, mask, guide=guide, options=options)
        inside = filled[..., 28:52, 68:92]
        assert float((inside.mean() - wanted).abs()) < 0.1
        assert float(inside.std()) > 0.04  # noise, not the guide


def test_a_guide_may_be_smaller_and_its_known_pixels_are_not_read():
    image, mask = noise(64, 80), box(64, 80, 10, 40, 20, 60)
    guide = harmonic_fill(image, mask)
    changed = torch.where(mask > 0.5, guide, 1 - guide)
    assert torch.equal(
        guided_fill(image, mask, guide=guide), guided_fill(image, mask, guide=changed)
    )
    small = torch.nn.functional.interpolate(guide, (16, 20), mode="area")
    assert bool(guided_fill(image, mask, guide=small).isfinite().all())


def test_a_time_limit_ends_the_search_and_leaves_no_hole(monkeypatch):
    image, mask = noise(256, 256), box(256, 256, 60, 200, 60, 200)
    searches = []
    search = exemplar.nearest
    monkeypatch.setattr(exemplar, "nearest", lambda *a, **k: searches.append(1) or search(*a, **k))
    options = ExemplarOptions(time_limit_s=1e-9)
    filled = guided_fill(image, mask, guide=None, options=options)
    assert len(searches) == 8  # the coarsest level's rounds
    there = {tuple(c) for c in image[0, :, mask[0, 0] < 0.5].T.tolist()}
    shown = [tuple(c) in there for c in filled[0, :, mask[0, 0] > 0.5].T.tolist()]
    assert np.mean(shown) > 0.95


def test_a_large_picture_is_searched_small_and_filled_at_full_size(monkeypatch):
    image, mask = noise(200, 260), box(200, 260, 60, 140, 80, 180)
    monkeypatch.setattr(exemplar, "_LARGEST_PIXELS", 10_000)
    monkeypatch.setattr(exemplar, "_COPIED_FROM_PIXELS", 15_000)
    filled = exemplar_fill(image, mask)
    known = (mask < 0.5).expand_as(image)
    assert torch.equal(filled[known], image[known])
    inside = filled[..., 65:135, 85:175]
    assert float(inside.std()) == pytest.approx(float(image.std()), rel=0.1)  # as sharp


@pytest.mark.parametrize("exhaustive", [True, False])
def test_matches_are_those_of_a_plain_search(monkeypatch, exhaustive):
    photo = torch.from_numpy(data.astronaut()[:240:3, :240:3]).permute(2, 0, 1).float() / 255
    height, width = photo.shape[1:]
    rows = descriptors(torch.cat([photo, photo[:2]]))
    is_target = torch.zeros(height, width, dtype=torch.bool)
    is_target[40:60, 50:75] = True
    patches = Patches(
        size=(height, width),
        targets=is_target.flatten().nonzero()[:, 0],
        sources=(~is_target).flatten().nonzero()[:, 0],
        is_source=~is_target.flatten(),
    )
    distances = (rows[patches.targets][:, None] - rows[patches.sources][None]).square().sum(2)
    least = distances.min(dim=1)
    if not exhaustive:
        monkeypatch.setattr(nearest, "_EXHAUSTIVE_PAIRS", 0)
    generator = torch.Generator().manual_seed(0)
    field = nearest.nearest(
        rows, patches, patches.drawn(len(patches.targets), generator), generator=generator
    )
    assert bool(patches.is_source[field.source].all())
    own = (rows[patches.targets] - rows[field.source]).square().sum(1)
    torch.testing.assert_close(field.cost, own, atol=1e-4, rtol=1e-4)
    if exhaustive:
        torch.testing.assert_close(own, least.values, atol=1e-4, rtol=0)
    else:
        # One pass from matches by chance; levels begin from good ones, and pass several times.
        nearer = distances.lt(own[:, None]).float().mean(dim=1)
        assert float(nearer.mean()) < 0.03


def test_filters_are_orthonormal_and_see_what_differs():
    flat = patch_filters().flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(24), atol=1e-5, rtol=0)
    photo = torch.from_numpy(data.astronaut()[:256, :256]).permute(2, 0, 1).float() / 255
    planes = torch.cat([photo, photo[:2] * 0])
    rows = descriptors(planes).view(*planes.shape[1:], 24)[8:-8:9, 8:-8:9].flatten(0, 1)
    windows = torch.nn.functional.unfold(planes[None], 5, padding=2)[0].T
    patches = windows.view(*planes.shape[1:], -1)[8:-8:9, 8:-8:9].flatten(0, 1)
    kept = torch.pdist(rows).square().sum() / torch.pdist(patches).square().sum()
    assert 0.95 < float(kept) <= 1.0 + 1e-5
