"""Losses against plain numpy, modules against their functions, and the sum of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from rayfill.losses import (
    ADVERSARIAL,
    LOSSES,
    SUMS,
    build_loss,
    hole_l1_loss,
    hole_normalised_l1_loss,
    hole_valid_l1_loss,
    l1_loss,
    log_mse_loss,
    mse_loss,
    parse_loss,
    ssim_loss,
    tv_loss,
    valid_l1_loss,
)
from rayfill.metrics import ssim
from rayfill.models import composite
from rayfill_data.errors import ConfigError, RayfillError

PIXEL_TERMS = [name for name, spec in LOSSES.items() if not spec.needs_features]


def sample(*, dtype=torch.float32, seed=0, size=(13, 12)):
    generator = torch.Generator().manual_seed(seed)
    prediction, image, target = torch.rand(3, 4, 3, *size, generator=generator, dtype=dtype)
    hole_mask = (torch.rand(4, 1, *size, generator=generator) < 0.4).to(dtype)
    return prediction, image, target, hole_mask


def test_values_equal_numpy():
    prediction, _, target, hole_mask = sample()
    p, t = prediction.numpy().astype(float), target.numpy().astype(float)
    h = np.broadcast_to(hole_mask.numpy().astype(float), p.shape)
    assert mse_loss(prediction, target).item() == pytest.approx(((p - t) ** 2).mean(), rel=1e-5)
    assert l1_loss(prediction, target).item() == pytest.approx(abs(p - t).mean(), rel=1e-5)
    hole = (h * abs(p - t)).sum() / p.size
    valid = ((1 - h) * abs(p - t)).sum() / p.size
    assert hole_valid_l1_loss(prediction, target, hole_mask).item() == pytest.approx(
        6 * hole + valid, rel=1e-5
    )
    assert hole_l1_loss(prediction, target, hole_mask).item() == pytest.approx(hole, rel=1e-5)
    assert valid_l1_loss(prediction, target, hole_mask).item() == pytest.approx(valid, rel=1e-5)
    logs = [np.log(((a - b) ** 2)[m > 0].mean() + 1e-5) for a, b, m in zip(p, t, h, strict=True)]
    assert log_mse_loss(prediction, target, hole_mask).item() == pytest.approx(
        np.mean(logs), rel=1e-5
    )


def test_log_mse_leaves_out_samples_without_hole():
    prediction, _, target, hole_mask = sample()
    hole_mask[1] = 0
    without = [0, 2, 3]
    expected = log_mse_loss(prediction[without], target[without], hole_mask[without])
    torch.testing.assert_close(log_mse_loss(prediction, target, hole_mask), expected)


def test_log_mse_is_finite_at_its_edges():
    prediction, _, target, hole_mask = sample()
    prediction.requires_grad_()
    for mask in (torch.zeros_like(hole_mask), torch.ones_like(hole_mask)):
        for truth in (target, prediction.detach()):
            loss = log_mse_loss(prediction, truth, mask)
            (gradient,) = torch.autograd.grad(loss, prediction)
            assert loss.isfinite()
            assert gradient.isfinite().all()
    assert log_mse_loss(prediction, target, torch.zeros_like(hole_mask)).item() == 0


def test_log_mse_gives_known_pixels_no_gradient():
    prediction, _, target, hole_mask = sample()
    prediction.requires_grad_()
    log_mse_loss(prediction, target, hole_mask).backward()
    known = (hole_mask == 0).expand_as(prediction)
    assert prediction.grad[known].eq(0).all()
    assert prediction.grad[~known].ne(0).all()


def plain_tv(filled, hole_mask):
    """Total variation pair by pair, as the paper writes it."""
    total = 0.0
    batch, _, height, width = filled.shape
    for b in range(batch):
        hole = hole_mask[b, 0] > 0
        region = {
            (i, j)
            for i in range(height)
            for j in range(width)
            if hole[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].any()
        }
        for i, j in region:
            for k, m in ((i + 1, j), (i, j + 1)):
                if (k, m) in region:
                    total += np.abs(filled[b, :, k, m] - filled[b, :, i, j]).sum()
    return total / filled.size


@pytest.mark.parametrize("chance", [0.03, 0.4])
def test_tv_equals_a_walk_over_pairs(chance):
    filled, *_ = sample(dtype=torch.float64, seed=1)
    generator = torch.Generator().manual_seed(2)
    hole_mask = (torch.rand(4, 1, 13, 12, generator=generator) < chance).double()
    assert 0 < hole_mask.sum() < hole_mask.numel()
    expected = plain_tv(filled.numpy(), hole_mask.numpy())
    assert tv_loss(filled, hole_mask).item() == pytest.approx(expected, rel=1e-12)


def test_tv_of_no_hole_and_of_a_flat_hole_is_nothing():
    filled, _, _, hole_mask = sample()
    assert tv_loss(filled, torch.zeros_like(hole_mask)).item() == 0
    assert tv_loss(torch.full_like(filled, 0.3), hole_mask).item() == 0


def test_tv_moves_pixels_of_the_hole_only():
    prediction, image, target, hole_mask = sample()
    prediction.requires_grad_()
    LOSSES["tv"].build()(prediction, image, target, hole_mask).backward()
    known = (hole_mask == 0).expand_as(prediction)
    assert prediction.grad[known].eq(0).all()
    assert prediction.grad[~known].abs().sum() > 0


def test_ssim_equals_scikit_image_and_our_metric():
    prediction, _, target, _ = sample(dtype=torch.float64, size=(23, 31))
    each = [
        structural_similarity(
            a.numpy(),
            b.numpy(),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
            channel_axis=0,
        )
        for a, b in zip(prediction, target, strict=True)
    ]
    assert ssim_loss(prediction, target).item() == pytest.approx(1 - np.mean(each), abs=1e-12)
    single = ssim_loss(prediction.float(), target.float()).item()
    assert single == pytest.approx(1 - np.mean(each), abs=1e-6)
    metric = ssim(prediction, target, data_range=1.0).mean().item()
    assert single == pytest.approx(1 - metric, abs=1e-6)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_ssim_of_equal_and_flat_pictures_is_zero_with_a_finite_gradient(level):
    flat = torch.full((1, 3, 12, 12), level).requires_grad_()
    loss = ssim_loss(flat, flat.detach())
    (gradient,) = torch.autograd.grad(loss, flat)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert gradient.isfinite().all()


def test_ssim_refuses_pictures_smaller_than_its_window():
    small = torch.zeros(1, 3, 40, 10)
    with pytest.raises(RayfillError, match="10x40 pixels; both sides must be at least 11"):
        ssim_loss(small, small)


@pytest.mark.parametrize("name", PIXEL_TERMS)
def test_gradcheck(name):
    size = (12, 11) if name == "ssim" else (4, 4)
    prediction, *rest = (x[:2] for x in sample(dtype=torch.float64, size=size))
    prediction.requires_grad_()
    term = LOSSES[name].build()
    assert torch.autograd.gradcheck(lambda p: term(p, *rest), prediction)


def test_modules_agree_with_their_functions():
    prediction, image, target, hole_mask = sample()
    expected = {
        "mse": mse_loss(prediction, target),
        "l1": l1_loss(prediction, target),
        "hole_valid_l1": hole_valid_l1_loss(prediction, target, hole_mask),
        "log_mse": log_mse_loss(prediction, target, hole_mask),
        "hole_l1": hole_l1_loss(prediction, target, hole_mask),
        "valid_l1": valid_l1_loss(prediction, target, hole_mask),
        "hole_mean_l1": hole_normalised_l1_loss(prediction, target, hole_mask),
        "ssim": ssim_loss(prediction, target),
        "tv": tv_loss(composite(prediction, image, hole_mask), hole_mask),
    }
    assert sorted(expected) == sorted(PIXEL_TERMS)
    result = build_loss(dict.fromkeys(expected, 1.0))(prediction, image, target, hole_mask)
    for name, value in expected.items():
        assert torch.equal(result.terms[name], value)


def test_total_is_the_weighted_sum_and_carries_the_gradient():
    prediction, image, target, hole_mask = sample()
    prediction.requires_grad_()
    loss = build_loss({"mse": 2.0, "l1": 0.5})
    result = loss(prediction, image, target, hole_mask)
    expected = 2 * mse_loss(prediction, target) + 0.5 * l1_loss(prediction, target)
    torch.testing.assert_close(result.total, expected)
    (got,) = torch.autograd.grad(result.total, prediction)
    (wanted,) = torch.autograd.grad(expected, prediction)
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("mse", {"mse": 1.0}),
        ("mse+perceptual", {"mse": 1.0, "perceptual": 1.0}),
        (" l1 + 0.05 * perceptual ", {"l1": 1.0, "perceptual": 0.05}),
        ("1e-3*log_mse", {"log_mse": 1e-3}),
        ("liu", SUMS["liu"]),
        ("2*liu+ssim", {**{name: 2 * w for name, w in SUMS["liu"].items()}, "ssim": 1.0}),
    ],
)
def test_parse(text, weights):
    assert parse_loss(text) == weights


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Unknown loss term ''"),
        ("mse+", "Unknown loss term ''"),
        ("perceptul", "Did you mean 'perceptual'"),
        ("l1+l1", "twice"),
        ("liu+tv", "'tv' appears twice"),
        ("0*liu", "above 0"),
        ("0*l1", "above 0"),
        ("-1*l1", "above 0"),
        ("nan*l1", "above 0"),
        ("inf*l1", "above 0"),
        ("x*l1", "'x'"),
        ("l1*2", "Unknown loss term '2'"),
    ],
)
def test_parse_refuses(text, said):
    with pytest.raises(ConfigError) as caught:
        parse_loss(text)
    assert said in str(caught.value)


def test_sums_are_of_known_terms():
    assert not {term for sum_ in SUMS.values() for term in sum_} - set(LOSSES) - set(ADVERSARIAL)
    assert len({*SUMS, *LOSSES, *ADVERSARIAL}) == len(SUMS) + len(LOSSES) + len(ADVERSARIAL)


def test_parse_reports_every_problem():
    with pytest.raises(ConfigError) as caught:
        parse_loss("a+2*b+0*l1")
    assert len(caught.value.problems) == 3


def test_build_refuses():
    with pytest.raises(ConfigError, match="No loss terms"):
        build_loss({})
    with pytest.raises(ConfigError, match="Did you mean 'mse'"):
        build_loss({"mze": 1.0})
