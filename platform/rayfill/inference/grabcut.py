"""GrabCut on prepared features: colour models made without chance, then OpenCV's rounds.

Rother, Kolmogorov and Blake, "GrabCut", SIGGRAPH 2004. OpenCV starts it with k-means, which draws
from a generator that belongs to the calling thread: an answer would depend on what was asked of
OpenCV before. Here the first Gaussians come from Orchard and Bouman's splitting (as in the paper),
which draws nothing, and OpenCV goes on from them (``GC_EVAL``, which draws nothing either): the
same bits every time, and nobody's generator is touched.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]
Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]

#: As many as OpenCV's models hold.
_GAUSSIANS = 5
#: Added to variances, in squared levels: a flat colour would have none, and no density.
_LEAST_VARIANCE = 1.0
#: Fewer pixels than this are no model.
_FEWEST_PX = 5


def cut(features: UInt8, labels: UInt8, *, start: Flags, rounds: int) -> Flags:
    """Return what GrabCut takes for the object.

    Args:
        features: (H, W, 3) uint8, what pixels are compared by; colours, for instance.
        labels: (H, W) uint8 of ``cv2.GC_BGD``, ``GC_FGD`` (sure) and ``GC_PR_FGD`` (open).
        start: (H, W) bool, a first guess of the object: the models are made of it and of the rest.
        rounds: of models and cut in turns, at least 1.

    Returns:
        (H, W) bool; ``start`` where it leaves too little of either side to make a model of.
    """
    inside, outside = features[start], features[~start]
    if min(len(inside), len(outside)) < _FEWEST_PX or min(labels.shape) < 2:
        return start
    result = labels.copy()
    background, foreground = _model(outside), _model(inside)
    cv2.grabCut(features, result, None, background, foreground, rounds, cv2.GC_EVAL)
    found: Flags = (result == cv2.GC_FGD) | (result == cv2.GC_PR_FGD)
    return found


def _model(pixels: UInt8) -> Floats:
    """Return a mixture as OpenCV stores it: (1, 65), weights, means and covariances."""
    weights = np.zeros(_GAUSSIANS)
    means = np.zeros((_GAUSSIANS, 3))
    spreads = np.zeros((_GAUSSIANS, 3, 3))
    for index, group in enumerate(_groups(pixels.astype(np.float64))):
        weights[index] = len(group.values) / len(pixels)
        means[index] = group.mean
        spreads[index] = group.spread + _LEAST_VARIANCE * np.eye(3)
    return np.concatenate([weights, means.ravel(), spreads.ravel()])[None]


class _Group:
    """Pixels that one Gaussian stands for."""

    def __init__(self, values: Floats) -> None:
        self.values = values
        self.mean: Floats = values.mean(axis=0)
        self.spread: Floats = np.cov(values, rowvar=False, bias=True)
        widths, axes = np.linalg.eigh(self.spread)
        self.error = float(widths[-1]) * len(values)
        self.axis: Floats = axes[:, -1]

    def halves(self) -> list[_Group]:
        beyond = (self.values - self.mean) @ self.axis > 0
        return [_Group(self.values[~beyond]), _Group(self.values[beyond])]


def _groups(values: Floats) -> list[_Group]:
    """Return up to five groups: the one that strays most along an axis is halved across it.

    Orchard and Bouman, "Color quantization of images", 1991.
    """
    groups = [_Group(values)]
    while len(groups) < _GAUSSIANS:
        widest = max(groups, key=lambda group: group.error)
        if widest.error < _LEAST_VARIANCE * len(widest.values):
            break
        groups.remove(widest)
        groups += widest.halves()
    return groups
