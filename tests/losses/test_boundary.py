"""Signed distances against SciPy; where the boundary losses put the outline, and against what."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt

from rayfill.losses.boundary import (
    alpha_px,
    boundary_loss,
    mask_expansion_loss,
    signed_distance,
    signed_distance_px,
)
from rayfill_data.errors import ConfigError, RayfillError
from rayfill_data.masks.distance import signed_distance as numpy_distance


def blobs(count=3, *, size=(37, 52), seed=0):
    """Smooth random regions, also at the edges."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, 5, 5, generator=generator)
    return (F.interpolate(coarse, size=size, mode="bicubic") > 0.55).float()


def disc(radius, *, size=128):
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return torch.from_numpy((x**2 + y**2 <= radius**2).astype(np.float32))[None, None]


@pytest.mark.parametrize("seed", range(3))
def test_distance_equals_scipy(seed):
    masks = blobs(seed=seed)
    got = signed_distance_px(masks)
    assert got.dtype == torch.float32
    for mask, distance in zip(masks[:, 0].numpy() > 0, got[:, 0].numpy(), strict=True):
        assert mask.any()
        assert not mask.all()
        outside, inside = distance_transform_edt(~mask), distance_transform_edt(mask)
        expected = np.where(mask, 0.5 - inside, outside - 0.5)
        assert np.abs(distance - expected).max() < 1e-4
    scaled = signed_distance(masks)
    for mask, distance in zip(masks[:, 0].numpy() > 0, scaled[:, 0].numpy(), strict=True):
        assert (distance.min(), distance.max()) == (-1, 1)
        np.testing.assert_array_equal(distance, numpy_distance((255 * mask).astype(np.uint8)))


def test_constant_masks_have_a_finite_distance():
    masks = torch.stack([torch.zeros(1, 6, 8), torch.ones(1, 6, 8)])
    assert signed_distance(masks)[:, 0, 0, 0].tolist() == [1.0, -1.0]
    assert signed_distance_px(masks).flatten(1).unique(dim=1).flatten().tolist() == [10.0, -10.0]
    probability = torch.rand(2, 1, 6, 8, requires_grad=True)
    loss = mask_expansion_loss(probability, signed_distance(masks), alpha=0.03)
    loss.backward()
    assert loss.isfinite()
    # No object: nothing may be masked; all object: everything is.
    assert (probability.grad[0] > 0).all()
    assert (probability.grad[1] < 0).all()


def test_single_pixels_are_half_a_pixel_deep():
    mask = torch.zeros(1, 1, 5, 5)
    mask[0, 0, 2, 2] = 1
    row = signed_distance_px(mask)[0, 0, 2].tolist()
    assert row == pytest.approx([1.5, 0.5, -0.5, 0.5, 1.5])
    assert signed_distance_px(1 - mask)[0, 0, 2].tolist() == pytest.approx([-v for v in row])


@pytest.mark.parametrize("shape", [(4, 4), (2, 3, 4, 4), (1, 1, 0, 4)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(RayfillError, match=r"signed distance takes \(B, 1, H, W\)"):
        signed_distance(torch.zeros(shape))


def test_losses_equal_numpy():
    mask = blobs()
    generator = torch.Generator().manual_seed(1)
    probability = torch.rand(mask.shape, generator=generator)
    phi = signed_distance(mask)
    m, p = probability.numpy().astype(float), phi.numpy().astype(float)
    assert boundary_loss(probability, phi).item() == pytest.approx((p * m).mean(), rel=1e-5)
    expected = ((p - 0.05) * m).mean()
    assert mask_expansion_loss(probability, phi, alpha=0.05).item() == pytest.approx(expected, 1e-5)
    assert mask_expansion_loss(probability, phi, alpha=0.0) == boundary_loss(probability, phi)


def test_gradcheck():
    phi = signed_distance(blobs(size=(6, 7))).double()
    probability = torch.rand(phi.shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(boundary_loss, (probability, phi))
    assert torch.autograd.gradcheck(
        lambda m: mask_expansion_loss(m, phi, alpha=0.03), (probability,)
    )


@pytest.mark.parametrize("alpha", [0.0, 0.01, 0.03, 0.05, 0.07])
def test_a_free_mask_grows_to_alpha_and_no_further(alpha):
    mask = disc(20)
    phi = signed_distance(mask)
    probability = torch.full_like(mask, 0.5).requires_grad_()
    optimizer = torch.optim.SGD([probability], lr=1e9)
    for _ in range(20):
        optimizer.zero_grad()
        mask_expansion_loss(probability, phi, alpha=alpha).backward()
        optimizer.step()
        with torch.no_grad():
            probability.clamp_(0, 1)
    assert torch.equal(probability, (phi < alpha).float())
    grown = alpha_px(mask, alpha=alpha).item()
    assert grown == pytest.approx(alpha * (math.hypot(63.5, 63.5) - 20), abs=0.02 * 70)
    radius = math.sqrt(probability.sum().item() / math.pi)
    assert radius == pytest.approx(20 + grown, abs=0.3)


def test_weight_1000_beats_a_cross_entropy_of_the_true_mask_to_within_half_a_pixel():
    mask = disc(20)
    phi, alpha = signed_distance(mask), 0.05
    logits = torch.zeros_like(mask).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(logits, mask)
        (loss + 1000 * mask_expansion_loss(logits.sigmoid(), phi, alpha=alpha)).backward()
        optimizer.step()
    assert torch.equal(logits > 0, phi < alpha - 0.002)
    assert 0.002 * signed_distance_px(mask).max() < 0.5


@pytest.mark.parametrize("alpha", [-0.01, 1.0, math.nan])
def test_alpha_out_of_range_is_refused(alpha):
    phi = signed_distance(blobs())
    with pytest.raises(ConfigError, match=r"alpha is .*: it must be .*in \[0, 1\)"):
        mask_expansion_loss(phi, phi, alpha=alpha)
    with pytest.raises(ConfigError, match="alpha is"):
        alpha_px(blobs(), alpha=alpha)


def test_masks_of_another_size_are_refused_not_broadcast():
    phi = signed_distance(blobs())
    with pytest.raises(RayfillError, match=r"soft mask has shape \(1, 1, 37, 52\)"):
        boundary_loss(phi[:1], phi)
    with pytest.raises(RayfillError, match="Take the distance of a true mask"):
        mask_expansion_loss(phi[..., :1], phi, alpha=0.03)


def test_distance_takes_no_part_in_the_graph():
    mask = blobs().requires_grad_()
    assert not signed_distance(mask).requires_grad


@pytest.mark.gpu
def test_a_mask_on_the_gpu_gets_its_distance_there():
    mask = blobs()
    on_gpu = signed_distance(mask.cuda())
    assert on_gpu.device.type == "cuda"
    assert torch.equal(on_gpu.cpu(), signed_distance(mask))
