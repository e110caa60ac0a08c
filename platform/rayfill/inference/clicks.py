"""From a photograph of any size and clicks to the mask of what was clicked on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rayfill.models.joint import JointModel
from rayfill.models.segmentation import select_by_clicks
from rayfill_data.checks import Bounds, check_value
from rayfill_data.codec import to_nchw
from rayfill_data.errors import RayfillError

UInt8 = NDArray[np.uint8]
#: x and y in pixels from the upper left corner; 1 (this) or 0 (not this).
Click = tuple[float, float, int]

#: Longest side, in pixels, that a segmenter is shown where nothing is known of its training.
DEFAULT_MAX_SIDE = 512
_LEAST_MAX_SIDE = 32
MaxSide = Annotated[int, Bounds(ge=_LEAST_MAX_SIDE)]
_THRESHOLD = 0.5

#: Mean IoU that a version's segmenter must have been measured at to be offered for selecting; what
#: has none, or less, leaves it to GrabCut, which needs no training.
LEAST_IOU = 0.6


@dataclass(frozen=True, kw_only=True)
class FoundByClicks:
    """What was clicked on."""

    mask: UInt8
    """(H, W) uint8 of the photo's own size, 255 = object; all 0 where nothing was found."""

    found: bool
    """Whether anything was."""

    labels: tuple[str, ...]
    """What it is, by the segmenter's names, the largest first; empty where nothing was found."""


class ObjectFinder:
    """The segmenter of a joint model, ready for photographs: any size in, its mask out.

    Photographs whose longest side exceeds ``max_side`` are shown to the segmenter scaled down by
    area; probabilities are scaled back bilinearly and then thresholded, so that edges stay smooth.
    Holds no state between calls; several threads may share one.
    """

    def __init__(
        self, model: JointModel, *, device: str = "cpu", max_side: int = DEFAULT_MAX_SIDE
    ) -> None:
        """Take over a model; arguments as for :class:`rayfill.inference.inpainter.Inpainter`.

        Args:
            model: moved to the device and put into eval mode.
            device: where to run it.
            max_side: longest side, in pixels, that the segmenter is shown; what is found best looks
                as large as in the photographs it was trained on. Bounds memory, too.

        Raises:
            ConfigError: ``max_side`` below 32.
        """
        check_value("max_side", max_side, MaxSide)
        self.model = model.to(device).eval()
        self.device = torch.device(device)
        self.max_side = max_side

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the names of what it can find."""
        return self.model.segmenter.labels[1:]

    def find(self, image: UInt8, *, clicks: Sequence[Click]) -> FoundByClicks:
        """Return the mask of the objects under ``clicks``.

        Args:
            image: (H, W, 3) uint8 RGB of any size.
            clicks: in pixels of ``image``. One that misses all objects takes the nearest within 8
                pixels of the picture that the segmenter is shown.

        Raises:
            RayfillError: no positive click, one outside the photo, or a segmenter that answered
                with values that are not finite.
        """
        height, width = image.shape[:2]
        problem = click_outside(clicks, height=height, width=width)
        if problem is not None:
            raise RayfillError(problem)
        scale = min(1.0, self.max_side / max(height, width))
        small = (max(1, round(height * scale)), max(1, round(width * scale)))
        shown = image
        if small != (height, width):
            resized = cv2.resize(image, small[::-1], interpolation=cv2.INTER_AREA)
            shown = np.asarray(resized, np.uint8)
        soft, labels = self._select(shown, _moved(clicks, old=(height, width), new=small))
        if small != (height, width):
            smooth = cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR)
            soft = np.asarray(smooth, np.float32)
        mask = np.where(soft > _THRESHOLD, np.uint8(255), np.uint8(0))
        if not labels or not mask.any():
            return FoundByClicks(mask=np.zeros_like(mask), found=False, labels=())
        return FoundByClicks(mask=mask, found=True, labels=labels)

    def _select(
        self, image: UInt8, clicks: Sequence[Click]
    ) -> tuple[NDArray[np.float32], tuple[str, ...]]:
        """Return how likely each pixel is the object's, and its labels; none if nothing is found.

        A pixel of the object is likelier than a half to bear one of its labels: that is its label.
        """
        pixels = torch.from_numpy(to_nchw(image[None])).to(self.device)
        with torch.inference_mode():
            seen = self.model.segmenter(pixels)
            logits: Tensor = seen.logits.float()
            if not torch.isfinite(logits).all():
                raise RayfillError(
                    "The segmenter answered with values that are not finite. "
                    "Use another version of this model."
                )
            segments = seen.segments[0] if seen.segments else None
            selected = select_by_clicks(
                logits, clicks=clicks, segments=segments, threshold=_THRESHOLD
            )
            pixel_labels = logits.argmax(dim=1)[selected.hard[:, 0] > _THRESHOLD]
            counts = pixel_labels.bincount(minlength=logits.shape[1]).tolist()
        order = sorted(range(1, len(counts)), key=lambda label: -counts[label])
        names = tuple(self.model.segmenter.labels[label] for label in order if counts[label])
        soft: NDArray[np.float32] = selected.soft[0, 0].cpu().numpy()
        return soft, names


def is_offered(scores: Mapping[str, float]) -> bool:
    """Return whether a version's segmenter has shown that it works: its ``iou`` is at least 0.6.

    ``scores["iou"]`` on the test split counts, or else ``scores["val_iou"]``.
    """
    return scores.get("iou", scores.get("val_iou", -1.0)) >= LEAST_IOU


def offered_finder(
    model: nn.Module,
    *,
    scores: Mapping[str, float],
    protocol: Mapping[str, str],
    device: str = "cpu",
    side: int = 0,
) -> ObjectFinder | None:
    """Return the segmenter of a joint model that has shown that it works; None of any other.

    Args:
        model: any model.
        scores: of its version, as :func:`is_offered` reads them.
        protocol: of its version, as :func:`trained_side` reads it.
        device: where to run it.
        side: longest side that it is shown; 0 is the one it was trained on.
    """
    if not isinstance(model, JointModel) or not is_offered(scores):
        return None
    return ObjectFinder(model, device=device, max_side=side or trained_side(protocol))


def trained_side(protocol: Mapping[str, str]) -> int:
    """Return the longest side of the pictures a model was trained on, as its protocol notes it.

    Where ``protocol["size"]`` is no ``HxW``, 512: large enough for detail, small enough for a CPU.
    """
    size = re.fullmatch(r"(\d{1,5})x(\d{1,5})", protocol.get("size", ""))
    return max(_LEAST_MAX_SIDE, *map(int, size.groups())) if size else DEFAULT_MAX_SIDE


def click_outside(clicks: Sequence[Click], *, height: int, width: int) -> str | None:
    """Return a sentence of numbers about the first click outside a photo, or None."""
    for x, y, _ in clicks:
        if not (0 <= x < width and 0 <= y < height):
            return (
                f"Click [{x:g}, {y:g}] lies outside the photo of {width}x{height} pixels: x goes "
                f"from 0 to below {width}, y to below {height}, from the upper left corner."
            )
    return None


def _moved(clicks: Sequence[Click], *, old: tuple[int, int], new: tuple[int, int]) -> list[Click]:
    """Return clicks in a picture of one (height, width) where they lie in it at another."""
    return [
        (min(x * new[1] / old[1], new[1] - 1), min(y * new[0] / old[0], new[0] - 1), wanted)
        for x, y, wanted in clicks
    ]
