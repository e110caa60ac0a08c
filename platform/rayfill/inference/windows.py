"""The parts of a photograph that a hole's filling has to see."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]

#: Parts of a hole nearer to each other than this are filled together.
_JOINED_PX = 32
#: Known pixels shown around a hole: half the hole's longer side, within these bounds.
_MOST_CONTEXT_PX = 512
#: Windows are widened to whole multiples of this where the photograph allows, so that a model pads
#: nothing and the convolution library meets few different shapes.
_ALIGN_PX = 32


@dataclass(frozen=True)
class Box:
    """Rows [top, bottom) and columns [left, right) of a picture."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def index(self) -> tuple[slice, slice]:
        """Return what cuts the box out of an array."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def within(self, other: Box) -> tuple[slice, slice]:
        """Return what cuts the box out of what another box has cut out."""
        return (
            slice(self.top - other.top, self.bottom - other.top),
            slice(self.left - other.left, self.right - other.left),
        )


def regions(hole: Flags) -> list[Box]:
    """Return boxes that together cover a hole (H, W); parts near each other share one."""
    reach = _JOINED_PX // 2
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    joined = cv2.dilate(hole.astype(np.uint8), kernel)
    _, _, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    height, width = hole.shape
    boxes = []
    for left, top, box_width, box_height, _ in stats[1:].tolist():  # the first is the background
        right, bottom = left + box_width, top + box_height
        boxes.append(
            Box(
                # A grown part that was cut off at the frame may keep its margin there.
                top=top + reach if top > 0 else 0,
                bottom=bottom - reach if bottom < height else height,
                left=left + reach if left > 0 else 0,
                right=right - reach if right < width else width,
            )
        )
    return boxes


def window(region: Box, *, size: tuple[int, int], context_px: int) -> Box:
    """Return a region with its surroundings, within a photograph of (height, width).

    Args:
        region: of the hole.
        size: of the photograph.
        context_px: fewest known pixels to show on every side, where there are so many.
    """
    longer = max(region.bottom - region.top, region.right - region.left)
    context = max(context_px, min(longer // 2, _MOST_CONTEXT_PX))
    top, bottom = _widened(region.top, region.bottom, context=context, size=size[0])
    left, right = _widened(region.left, region.right, context=context, size=size[1])
    return Box(top, bottom, left, right)


def _widened(start: int, stop: int, *, context: int, size: int) -> tuple[int, int]:
    wanted = stop - start + 2 * context
    length = min(-(-wanted // _ALIGN_PX) * _ALIGN_PX, size)
    # Centred on the region, then moved inside the picture.
    first = min(max((start + stop - length) // 2, 0), size - length)
    return first, first + length
