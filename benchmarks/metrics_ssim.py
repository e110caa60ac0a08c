"""SSIM and PSNR of a batch against scikit-image, picture by picture."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from harness import Case, Theme
from numpy.typing import NDArray
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from rayfill.metrics import psnr, ssim

Pixels = NDArray[np.float64]


def skimage_ssim(a: Pixels, b: Pixels) -> float:
    value: float = structural_similarity(
        a,
        b,
        channel_axis=0,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return value


def skimage_psnr(a: Pixels, b: Pixels) -> float:
    value: float = peak_signal_noise_ratio(b, a, data_range=1.0)
    return value


def cases(folder: Path) -> Iterator[Case]:
    metrics = {"SSIM": (ssim, skimage_ssim), "PSNR": (psnr, skimage_psnr)}
    for metric, size, count in (("SSIM", 256, 4), ("SSIM", 64, 32), ("PSNR", 256, 16)):
        ours, theirs = metrics[metric]
        prediction, target = pictures(size, count=count)
        pairs = list(zip(prediction.double().numpy(), target.double().numpy(), strict=True))
        reference = functools.partial(_one_by_one, theirs, pairs)
        candidate = functools.partial(ours, prediction, target, data_range=1.0)
        error = np.abs(candidate().numpy() - reference()).max()
        yield Case(
            title=f"{metric}, {count} pictures of {size} px",
            ways={"scikit-image, float64": reference, "Rayfill": candidate},
            units=count,
            unit="picture",
            rounds=30,
            notes=(f"Largest difference of the two: {error:.1e}.",),
        )


def _one_by_one(
    metric: Callable[[Pixels, Pixels], float], pairs: list[tuple[Pixels, Pixels]]
) -> list[float]:
    return [metric(a, b) for a, b in pairs]


def pictures(size: int, *, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return crops of a photograph with noise, and without: (N, 3, size, size) in [0, 1]."""
    rng = np.random.default_rng(0)
    photo = data.astronaut().astype(np.float32).transpose(2, 0, 1) / 255
    corners = rng.integers(0, photo.shape[1] - size, (count, 2))
    target = torch.from_numpy(np.stack([photo[:, y : y + size, x : x + size] for y, x in corners]))
    noise = torch.from_numpy(rng.normal(0, 0.05, target.shape).astype(np.float32))
    return (target + noise).clamp(0, 1), target


THEME = Theme(
    title="Metrics against scikit-image",
    about="The metrics that are logged at every validation, on one thread, for float32 batches. "
    "scikit-image gets its pictures in float64 already.",
    libraries=("torch", "opencv-python", "scikit-image", "numpy"),
    cases=cases,
)
