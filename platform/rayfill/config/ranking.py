"""Which way a metric is better: what ranks epochs, trials, models and tables asks here."""

from __future__ import annotations

import math
from collections.abc import Iterable

#: Of these less is better.
_LESS = frozenset(
    {
        "lpips", "coherence", "fid", "residual_object", "l1", "removal_lpips",
        "removal_residual_object", "uncovered",
    }
)  # fmt: skip
#: These are best at some value, or say nothing of good and bad.
_NEITHER = frozenset({"sharpness", "ring_sharpness", "dice_ceiling", "growth_px"})


def less_is_better(metric: str) -> bool:
    """Tell whether less of a metric is better."""
    return metric in _LESS


def ordered(metric: str) -> bool:
    """Tell whether more of a metric, or less, is always better: a sharpness is best at 1."""
    return metric not in _NEITHER


def worth(score: float, *, metric: str) -> float:
    """Return what is larger the better a score is; -inf for one that is not finite: it never wins.

    Args:
        score: A value of the metric.
        metric: Its name, of whatever split.
    """
    if not math.isfinite(score):
        return -math.inf
    return -score if less_is_better(metric) else score


def best_of(scores: Iterable[float], *, metric: str) -> float:
    """Return the best finite score of a metric; NaN where there is none."""
    finite = (score for score in scores if math.isfinite(score))
    return max(finite, key=lambda score: worth(score, metric=metric), default=math.nan)


def needs_lpips(metric: str) -> bool:
    """Tell whether a metric is measured with an LPIPS network, whose weights must be had."""
    return metric.endswith("lpips")
