"""Classical inpainting behind the interface of a model: what a network has to beat."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayfill.models import (
    InpaintingModel,
    check_inputs,
    exemplar_fill,
    harmonic_fill,
    mean_fill,
    push_pull_fill,
)
from rayfill_data.codec import to_nchw, to_uint8

_OPENCV_RADIUS_PX = 3.0

UInt8 = NDArray[np.uint8]


class OpenCVInpainting(InpaintingModel):
    """cv2.inpaint with radius 3, on the CPU.

    OpenCV works on 8-bit colours: the image is rounded to 8 bits first and the fill comes in 8-bit
    steps. Known pixels come back as given. Where nothing is known the answer is mid gray.

    Source: Telea 2004 (fast marching) or Bertalmio et al. 2001 (Navier-Stokes).
    """

    any_size = True

    def __init__(self, algorithm: int) -> None:
        """Choose the algorithm.

        Args:
            algorithm: ``cv2.INPAINT_TELEA`` or ``cv2.INPAINT_NS``.
        """
        super().__init__()
        self.algorithm = algorithm

    def forward(self, image: Tensor, hole_mask: Tensor) -> Tensor:
        """Return the prediction (B, 3, H, W); shapes and ranges as in :class:`InpaintingModel`."""
        return _filled_one_by_one(image, hole_mask, fill=self._fill)

    def _fill(self, image: NDArray[np.float32], hole: UInt8) -> NDArray[np.float32]:
        levels = to_uint8(image[None])[0]
        filled = cv2.inpaint(levels, hole, _OPENCV_RADIUS_PX, self.algorithm)
        planes: NDArray[np.float32] = to_nchw(filled[None])[0]
        return planes


class BiharmonicInpainting(InpaintingModel):
    """skimage.restoration.inpaint_biharmonic, on the CPU; slow, its cost grows with the hole.

    The fill is clamped to [0, 1]. Known pixels come back as given. Where nothing is known the
    answer is mid gray.

    Source: Damelin and Hoang 2018, doi:10.1155/2018/3950312.
    """

    def forward(self, image: Tensor, hole_mask: Tensor) -> Tensor:
        """Return the prediction (B, 3, H, W); shapes and ranges as in :class:`InpaintingModel`."""
        return _filled_one_by_one(image, hole_mask, fill=self._fill)

    def _fill(self, image: NDArray[np.float32], hole: UInt8) -> NDArray[np.float32]:
        # Imported late: it takes a second that the other baselines need not pay.
        from skimage.restoration import inpaint_biharmonic

        filled = inpaint_biharmonic(image, hole > 0, channel_axis=0)
        return np.asarray(np.clip(filled, 0.0, 1.0), np.float32)


class FillInpainting(InpaintingModel):
    """A learning-free fill by itself, such as what a residual network starts from."""

    any_size = True

    def __init__(self, fill: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Take a fill, such as one of :data:`rayfill.models.FILLS`."""
        super().__init__()
        self._fill = fill

    def forward(self, image: Tensor, hole_mask: Tensor) -> Tensor:
        """Return the filled picture; shapes and ranges as in :class:`InpaintingModel`."""
        check_inputs(image, hole_mask)
        return self._fill(image, hole_mask)


class ExemplarInpainting(InpaintingModel):
    """Patches of the photograph itself; see :func:`rayfill.models.fills.exemplar.exemplar_fill`."""

    any_size = True
    #: Small holes need patches to choose from, too.
    context_px = 96

    def forward(self, image: Tensor, hole_mask: Tensor) -> Tensor:
        """Return the filled picture; shapes and ranges as in :class:`InpaintingModel`."""
        check_inputs(image, hole_mask)
        return exemplar_fill(image, hole_mask)


BASELINES: dict[str, InpaintingModel] = {
    "exemplar": ExemplarInpainting(),
    "telea": OpenCVInpainting(cv2.INPAINT_TELEA),
    "navier_stokes": OpenCVInpainting(cv2.INPAINT_NS),
    "biharmonic": BiharmonicInpainting(),
    "mean": FillInpainting(mean_fill),
    "push_pull": FillInpainting(push_pull_fill),
    "harmonic": FillInpainting(harmonic_fill),
}


def _filled_one_by_one(
    image: Tensor,
    hole_mask: Tensor,
    *,
    fill: Callable[[NDArray[np.float32], UInt8], NDArray[np.float32]],
) -> Tensor:
    """Run ``fill((3, H, W), (H, W) in {0, 255})`` on every picture that has known and hole pixels.

    What is under the hole is blanked first: the methods must not see it, and cannot take a NaN.
    """
    check_inputs(image, hole_mask)
    hole = hole_mask > 0.5
    prediction = image.masked_fill(hole, 0.5)
    for index, mask in enumerate(hole[:, 0].cpu().numpy()):
        if mask.any() and not mask.all():
            filled = fill(prediction[index].cpu().numpy(), mask.astype(np.uint8) * 255)
            placed = torch.from_numpy(filled).to(image.device)
            prediction[index] = torch.where(hole[index], placed, prediction[index])
    return prediction
