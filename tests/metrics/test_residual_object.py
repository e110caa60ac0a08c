"""What is still seen after removal, and masks against true objects, by hand and by SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from torch import nn

from rayfill.metrics import MaskQuality, ResidualObjectScore, mask_growth_px
from rayfill.models.segmentation import Segmenter, SegmenterOutput
from rayfill_data.errors import ConfigError


class RedIsPerson(Segmenter):
    """Sees a person wherever a picture is redder than half."""

    def __init__(self):
        super().__init__(("nothing", "dog", "person"))
        self.dropout = nn.Dropout(0.5)

    def forward(self, image, labels=None):
        red = self.dropout(20 * (image[:, :1] - 0.5))
        return SegmenterOutput(logits=torch.cat([-red, torch.full_like(red, -50.0), red], dim=1))


def disc(radius, *, size=96, at=None):
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    if at:
        y, x = y - at[0], x - at[1]
    return x**2 + y**2 <= radius**2


def as_masks(*masks):
    return torch.from_numpy(np.stack(masks).astype(np.float32))[:, None]


def merged(make, first, second):
    """One metric with the states of two, reduced as torchmetrics reduces them."""
    metric = make()
    for state, reduction in metric._reductions.items():
        assert reduction is not None
        parts = torch.stack([getattr(first, state), getattr(second, state)])
        setattr(metric, state, reduction(parts))
    metric._update_count = 1
    return metric.compute()


def test_residual_object_is_the_share_of_the_hole_still_seen():
    composite = torch.zeros(4, 3, 10, 10)
    hole_mask = torch.zeros(4, 1, 10, 10)
    hole_mask[:3, :, 2:6, 2:7] = 1  # 20 pixels
    composite[0, 0, 2:4, 2:7] = 1  # 10 of them
    composite[1, 0, 6:] = 1  # none of them: what stands outside was not to be removed
    composite[2, 0] = 1  # all
    composite[3, 0] = 1  # no hole
    metric = ResidualObjectScore(RedIsPerson(), label="person")
    metric.update(composite[:1], hole_mask[:1])
    metric.update(composite[1:], hole_mask[1:])
    score = metric.compute()["residual_object"]
    assert score.mean == pytest.approx((0.5 + 0 + 1) / 3)
    assert score.std == pytest.approx(np.std([0.5, 0, 1]))
    assert score.n == 3
    dog = ResidualObjectScore(RedIsPerson(), label="dog")
    dog.update(composite, hole_mask)
    assert dog.compute()["residual_object"].mean == 0


def test_residual_object_of_no_hole_at_all_is_no_number():
    metric = ResidualObjectScore(RedIsPerson(), label="person")
    metric.update(torch.rand(2, 3, 8, 8), torch.zeros(2, 1, 8, 8))
    score = metric.compute()["residual_object"]
    assert score.n == 0
    assert math.isnan(score.mean)


def test_a_segmenter_that_breaks_is_not_taken_for_one_that_sees_nothing():
    metric = ResidualObjectScore(RedIsPerson(), label="person")
    metric.update(torch.full((1, 3, 8, 8), math.nan), torch.ones(1, 1, 8, 8))
    assert math.isnan(metric.compute()["residual_object"].mean)


def test_the_segmenter_stays_in_eval_mode_and_gets_no_gradient():
    metric = ResidualObjectScore(RedIsPerson(), label="person").train()
    assert not metric.segmenter.training
    assert not metric.segmenter.dropout.training
    composite = torch.rand(2, 3, 8, 8, requires_grad=True)
    metric.update(composite, torch.ones(2, 1, 8, 8))
    first = metric.compute()
    metric.reset()
    metric.update(composite, torch.ones(2, 1, 8, 8))
    assert metric.compute() == first
    assert not metric.sums.requires_grad


def test_a_label_that_the_segmenter_lacks_is_refused():
    with pytest.raises(ConfigError, match="Unknown label 'cat'"):
        ResidualObjectScore(RedIsPerson(), label="cat")


@pytest.mark.parametrize("radius", [8, 20])
@pytest.mark.parametrize("grown", [-5, -2, 0, 1, 3, 6, 10])
def test_a_disc_dilated_by_d_has_grown_by_d(radius, grown):
    true = disc(radius)
    if grown >= 0:
        mask = distance_transform_edt(~true) <= grown
    else:
        mask = distance_transform_edt(true) > -grown
    (growth,) = mask_growth_px(as_masks(mask), as_masks(true)).tolist()
    assert growth == pytest.approx(grown, abs=0.5)
    if grown == 0:
        assert growth == 0
    (back,) = mask_growth_px(as_masks(true), as_masks(mask)).tolist()
    assert back == pytest.approx(-growth)


def test_growth_of_a_dilated_ragged_object_and_of_a_shifted_one():
    rng = np.random.default_rng(0)
    true = np.zeros((96, 96), bool)
    for y, x, r in zip(*rng.uniform([[-15], [-15], [5]], [[15], [15], [14]], (3, 6)), strict=True):
        true |= disc(r, at=(y, x))
    grown = distance_transform_edt(~true) <= 4
    assert mask_growth_px(as_masks(grown), as_masks(true)).item() == pytest.approx(4, abs=0.7)
    shrunk = distance_transform_edt(true) > 3
    assert mask_growth_px(as_masks(shrunk), as_masks(true)).item() == pytest.approx(-3, abs=0.7)
    shifted = np.roll(true, 4, axis=1)
    assert mask_growth_px(as_masks(shifted), as_masks(true)).item() == pytest.approx(0, abs=0.3)


def test_a_missing_limb_counts_as_shrinking():
    true = disc(10)
    true[46:50, 58:80] = True
    growth = mask_growth_px(as_masks(disc(10)), as_masks(true)).item()
    assert growth < -1


def test_mask_quality_equals_counting():
    true = [
        disc(12),
        disc(9, at=(5, -7)),
        np.zeros((96, 96), bool),
        disc(6),
        np.zeros((96, 96), bool),
    ]
    mask = [
        disc(15),
        disc(9, at=(2, -3)),
        disc(4),
        np.zeros((96, 96), bool),
        np.zeros((96, 96), bool),
    ]
    metric = MaskQuality()
    metric.update(as_masks(*mask[:2]), as_masks(*true[:2]))
    metric.update(as_masks(*mask[2:]), as_masks(*true[2:]))
    scores = metric.compute()
    pairs = list(zip(mask, true, strict=True))
    iou = [(m & t).sum() / (m | t).sum() for m, t in pairs if (m | t).any()]
    uncovered = [(t & ~m).sum() / t.sum() for m, t in pairs if t.any()]
    extra = [(m & ~t).sum() / m.sum() for m, t in pairs if m.any()]
    for name, values in (("iou", iou), ("uncovered", uncovered), ("extra", extra)):
        assert scores[name].mean == pytest.approx(np.mean(values))
        assert scores[name].std == pytest.approx(np.std(values))
        assert scores[name].n == len(values)
    assert len(iou) == 4
    assert scores["growth_px"].n == 2
    assert scores["growth_px"].mean == pytest.approx(1.5, abs=0.5)


def test_full_masks_have_no_growth_and_do_not_crash():
    full, empty = np.ones((8, 8), bool), np.zeros((8, 8), bool)
    growth = mask_growth_px(as_masks(full, empty, full), as_masks(full, full, disc(2, size=8)))
    assert growth.isnan().all()


def test_states_are_summed_over_ranks():
    generator = torch.Generator().manual_seed(0)
    masks, truths = torch.rand(2, 5, 1, 12, 13, generator=generator).gt(0.5).float()
    composite = torch.rand(5, 3, 12, 13, generator=generator)
    cases = [
        (MaskQuality, (masks, truths)),
        (lambda: ResidualObjectScore(RedIsPerson(), label="person"), (composite, masks)),
    ]
    for make, batch in cases:
        whole, first, second = make(), make(), make()
        whole.update(*batch)
        first.update(*(part[:1] for part in batch))  # uneven shards
        second.update(*(part[1:] for part in batch))
        wanted, got = whole.compute(), merged(make, first, second)
        assert got.keys() == wanted.keys()
        for name, value in wanted.items():
            assert got[name] == pytest.approx(value, rel=1e-9)
