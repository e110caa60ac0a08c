"""How good a filled picture is: per-sample functions, LPIPS, and tables over a split."""

from rayfill.metrics.aggregate import BUCKETS, InpaintingMetrics, MetricTable, Score
from rayfill.metrics.functional import hole_psnr, hole_ssim, l1, psnr, ssim, ssim_map
from rayfill.metrics.lpips import LpipsMetric, lpips_available

__all__ = [
    "BUCKETS",
    "InpaintingMetrics",
    "LpipsMetric",
    "MetricTable",
    "Score",
    "hole_psnr",
    "hole_ssim",
    "l1",
    "lpips_available",
    "psnr",
    "ssim",
    "ssim_map",
]
