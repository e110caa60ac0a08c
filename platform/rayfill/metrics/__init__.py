"""How good a filled picture is: per-sample functions, LPIPS, FID, and tables over a split."""

from rayfill.metrics.aggregate import BUCKETS, InpaintingMetrics, MetricTable, Score, bucket_of
from rayfill.metrics.coherence import removal_coherence
from rayfill.metrics.contrast import sharpness, sharpness_beside_surroundings
from rayfill.metrics.fid import FID_MIN_SAMPLES, FidMetric, fid_available
from rayfill.metrics.functional import hole_psnr, hole_ssim, l1, psnr, ssim, ssim_map
from rayfill.metrics.lpips import LpipsMetric, lpips_available
from rayfill.metrics.mask_quality import MaskQuality, mask_growth_px
from rayfill.metrics.residual_object import ResidualObjectScore
from rayfill.metrics.scores import SampleScores

__all__ = [
    "BUCKETS",
    "FID_MIN_SAMPLES",
    "FidMetric",
    "InpaintingMetrics",
    "LpipsMetric",
    "MaskQuality",
    "MetricTable",
    "ResidualObjectScore",
    "SampleScores",
    "Score",
    "bucket_of",
    "fid_available",
    "hole_psnr",
    "hole_ssim",
    "l1",
    "lpips_available",
    "mask_growth_px",
    "psnr",
    "removal_coherence",
    "sharpness",
    "sharpness_beside_surroundings",
    "ssim",
    "ssim_map",
]
