"""Losses against plain numpy, modules against their functions, and the sum of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rayfill.losses import (
    LOSSES,
    build_loss,
    hole_valid_l1_loss,
    l1_loss,
    log_mse_loss,
    mse_loss,
    parse_loss,
)
from rayfill_data.errors import ConfigError

PIXEL_TERMS = [name for name, spec in LOSSES.items() if not spec.needs_features]


def sample(*, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    prediction, image, target = torch.rand(3, 4, 3, 9, 7, generator=generator, dtype=dtype)
    hole_mask = (torch.rand(4, 1, 9, 7, generator=generator) < 0.4).to(dtype)
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


@pytest.mark.parametrize("name", PIXEL_TERMS)
def test_gradcheck(name):
    prediction, image, target, hole_mask = sample(dtype=torch.float64)
    term = LOSSES[name].build(None)
    prediction = prediction[:2, :, :4, :4].requires_grad_()
    rest = [x[:2, :, :4, :4] for x in (image, target, hole_mask)]
    assert torch.autograd.gradcheck(lambda p: term(p, *rest), prediction)


def test_modules_agree_with_their_functions():
    prediction, image, target, hole_mask = sample()
    expected = {
        "mse": mse_loss(prediction, target),
        "l1": l1_loss(prediction, target),
        "hole_valid_l1": hole_valid_l1_loss(prediction, target, hole_mask),
        "log_mse": log_mse_loss(prediction, target, hole_mask),
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


def test_parse_reports_every_problem():
    with pytest.raises(ConfigError) as caught:
        parse_loss("a+2*b+0*l1")
    assert len(caught.value.problems) == 3


def test_build_refuses():
    with pytest.raises(ConfigError, match="No loss terms"):
        build_loss({})
    with pytest.raises(ConfigError, match="Did you mean 'mse'"):
        build_loss({"mze": 1.0})
