"""Per-sample metrics against scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from rayfill.metrics import hole_psnr, hole_ssim, l1, psnr, ssim, ssim_map
from rayfill.metrics.functional import _map_by_products, inner_mean
from rayfill_data.errors import RayfillError

SIZES = [(64, 64), (11, 11), (17, 31), (50, 23)]

#: How SSIM maps are made: on a CPU, and (here on a CPU too) on a GPU; error of mean and of pixel.
FORMS = {"cpu": (ssim_map, 1e-6, 2e-4), "products": (_map_by_products, 1e-9, 1e-8)}


def pairs(height, width):
    """Real pictures, noise, constants and extremes beside distorted copies of themselves."""
    rng = np.random.default_rng(0)
    photo = data.astronaut()[100 : 100 + height, 120 : 120 + width].astype(np.float32) / 255
    noise = rng.random((height, width, 3), dtype=np.float32)
    constant = np.full_like(photo, 0.7)
    targets = [photo, photo, noise, constant, np.zeros_like(photo), photo]
    others = [
        np.clip(photo + 0.1 * rng.standard_normal(photo.shape).astype(np.float32), 0, 1),
        np.roll(photo, 1, axis=1),
        1 - noise,
        constant + np.float32(1e-3),
        np.ones_like(photo),
        photo,
    ]
    return np.stack(others), np.stack(targets)


def tensors(*arrays):
    return [torch.from_numpy(array).permute(0, 3, 1, 2) for array in arrays]


def reference(a, b, **options):
    return structural_similarity(
        a.astype(np.float64),
        b.astype(np.float64),
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        **{"data_range": 1.0, **options},
    )


def hardest(height=128, width=128):
    """Faint noise on bright, on dark beside bright, and on stripes: float32 loses most there."""
    rng = np.random.default_rng(2)
    columns = np.arange(width)
    grounds = [
        np.full(width, 0.98),
        np.where(columns < width // 2, 0.02, 0.98),
        np.where(columns // 16 % 2, 0.98, 0.02),
        np.where(columns < width // 8, 0.0, 0.97),
    ]
    noisy = [
        np.clip(ground[None, :, None] + rng.normal(0, 0.02, (2, height, width, 3)), 0, 1)
        for ground in grounds
    ]
    others, targets = np.stack(noisy, axis=1).astype(np.float32)
    return others, targets


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "make", [*SIZES, hardest], ids=lambda make: getattr(make, "__name__", str(make))
)
def test_ssim_equals_skimage_up_to_the_edges(make, form):
    others, targets = hardest() if make is hardest else pairs(*make)
    ssim_of, mean_error, pixel_error = FORMS[form]
    got = ssim_of(*tensors(others, targets), data_range=1.0)
    assert got.dtype == torch.float64
    for a, b, ours in zip(others, targets, got, strict=True):
        mean, full = reference(a, b, full=True)
        np.testing.assert_allclose(ours.permute(1, 2, 0), full, atol=pixel_error)
        assert inner_mean(ours[None]).item() == pytest.approx(mean, abs=mean_error)


def test_ssim_of_equal_pictures_is_exactly_one():
    picture, _ = tensors(*pairs(32, 40))
    assert ssim(picture, picture, data_range=1.0).eq(1.0).all()


@pytest.mark.parametrize("form", FORMS)
def test_ssim_scales_with_the_data_range(form):
    others, targets = pairs(32, 32)
    ssim_of, mean_error, _ = FORMS[form]
    got = inner_mean(ssim_of(*tensors(others * 255, targets * 255), data_range=255.0))
    expected = [
        reference(a * 255, b * 255, data_range=255) for a, b in zip(others, targets, strict=True)
    ]
    np.testing.assert_allclose(got.numpy(), expected, atol=mean_error)


def test_both_forms_of_ssim_agree_whatever_the_memory_layout():
    a, b = tensors(*hardest())
    assert not a.is_contiguous()
    expected = _map_by_products(a, b, data_range=1.0)
    for got in (
        ssim_map(a, b, data_range=1.0),
        ssim_map(a.contiguous(), b.contiguous(), data_range=1.0),
        ssim_map(a.mT, b.mT, data_range=1.0).mT,
    ):
        torch.testing.assert_close(got, expected, atol=2e-4, rtol=0)
        torch.testing.assert_close(got.mean(), expected.mean(), atol=1e-6, rtol=0)


def test_ssim_refuses_pictures_smaller_than_its_window():
    with pytest.raises(RayfillError, match="10x11 pixels.*at least 11"):
        ssim(torch.rand(1, 3, 11, 10), torch.rand(1, 3, 11, 10), data_range=1.0)


@pytest.mark.parametrize("size", [(1, 1), (3, 4)])
def test_ssim_map_is_defined_for_the_smallest_pictures(size):
    picture = torch.rand(2, 3, *size)
    torch.testing.assert_close(
        ssim_map(picture, picture, data_range=1.0), torch.ones(2, 3, *size).double()
    )


def test_psnr_equals_skimage():
    others, targets = pairs(32, 40)
    got = psnr(*tensors(others, targets), data_range=1.0)
    for a, b, ours in zip(others[:-1], targets[:-1], got, strict=False):
        expected = peak_signal_noise_ratio(
            b.astype(np.float64), a.astype(np.float64), data_range=1.0
        )
        assert ours.item() == pytest.approx(expected, abs=1e-6)
    assert got[-1] == float("inf")


def test_hole_metrics_are_those_of_the_hole_alone():
    others, targets = pairs(32, 40)
    hole = np.random.default_rng(1).random((len(others), 32, 40)) < 0.2
    mask = torch.from_numpy(hole)[:, None].float()
    a, b = tensors(others, targets)
    got_psnr = hole_psnr(a, b, mask, data_range=1.0)
    got_ssim = hole_ssim(a, b, mask, data_range=1.0)
    for i in range(len(others) - 1):
        error = (others[i][hole[i]].astype(float) - targets[i][hole[i]].astype(float)) ** 2
        assert got_psnr[i].item() == pytest.approx(-10 * np.log10(error.mean()), abs=1e-6)
        expected = reference(others[i], targets[i], full=True)[1][hole[i]].mean()
        assert got_ssim[i].item() == pytest.approx(expected, abs=1e-6)
    assert got_psnr[-1] == float("inf")
    assert got_ssim[-1].item() == pytest.approx(1.0)


def test_hole_metrics_without_a_hole_are_nan():
    picture, mask = torch.rand(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
    assert hole_psnr(picture, picture, mask, data_range=1.0).isnan().all()
    assert hole_ssim(picture, picture, mask, data_range=1.0).isnan().all()


def test_l1_equals_numpy():
    others, targets = pairs(16, 20)
    expected = abs(others.astype(float) - targets).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(l1(*tensors(others, targets)).numpy(), expected, atol=1e-8)


@pytest.mark.gpu
def test_ssim_on_a_gpu_is_as_exact_with_reduced_precision_products_allowed():
    a, b = tensors(*pairs(64, 64))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        got = ssim_map(a.cuda(), b.cuda(), data_range=1.0).cpu()
    finally:
        torch.set_float32_matmul_precision(before)
    torch.testing.assert_close(got, _map_by_products(a, b, data_range=1.0), atol=1e-9, rtol=0)
