"""Turning training samples by small angles."""

from __future__ import annotations

import cv2
import numpy as np

from rayfill_data.codec import Float32Array, UInt8Array


def rotated(maps: UInt8Array, degrees: Float32Array, *, smooth: bool) -> UInt8Array:
    """Return maps turned about their centres, counter-clockwise; the edge is mirrored outward.

    Args:
        maps: (B, H, W) or (B, H, W, 3) uint8.
        degrees: (B,).
        smooth: interpolate, as pictures want it; masks and labels keep their values.
    """
    height, width = maps.shape[1:3]
    centre = ((width - 1) / 2, (height - 1) / 2)
    interpolation = cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST
    turned = [
        cv2.warpAffine(
            one,
            cv2.getRotationMatrix2D(centre, float(angle), 1.0),
            (width, height),
            flags=interpolation,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        if angle
        else one
        for one, angle in zip(maps, degrees, strict=True)
    ]
    return np.asarray(np.stack(turned), np.uint8)
