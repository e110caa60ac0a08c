"""Taking what a system makes of batches into metrics: one way, for training and for tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from rayfill.metrics.aggregate import InpaintingMetrics, MetricTable
from rayfill.metrics.mask_quality import MaskQuality
from rayfill.models import JointModel, composite
from rayfill_data.masks.hole import dilate, erode

if TYPE_CHECKING:
    from rayfill.metrics import FidMetric, ResidualObjectScore
    from rayfill.models.batch import TensorBatch
    from rayfill.models.joint import Removal

#: ``predict(image, hole_mask) -> prediction``: a model's forward, a recipe's, a baseline's.
Predict = Callable[[Tensor, Tensor], Tensor]


#: ``fill(batch, hole_mask) -> prediction``: where it matters which samples these are.
Fill = Callable[["TensorBatch", Tensor], Tensor]


T = TypeVar("T")


#: What is measured of pictures whose holes a joint model found; without a true hole to look into.
_REMOVAL_METRICS = ("psnr", "ssim", "lpips", "residual_object")


def accumulate(
    predict: Predict,
    batches: Iterable[TensorBatch],
    *,
    metrics: InpaintingMetrics,
    expand_px: int = 0,
) -> MetricTable:
    """Return the metrics of 8-bit composites over all batches, reduced over all ranks.

    Composites are rounded to 8 bits, as a user gets them, so that networks, classical baselines and
    finished pictures from a folder are measured alike.

    Args:
        predict: Fills given holes.
        batches: With true holes, by which samples are sorted and ``hole_`` metrics look.
        metrics: Takes the samples.
        expand_px: Fill holes grown by a disc of this radius instead, or shrunk if below 0.
    """
    take_filled(filled_by(predict), batches, metrics=metrics, expand_px=expand_px)
    table: MetricTable = metrics.compute()
    return table


def filled_by(predict: Predict) -> Fill:
    """Return what fills the holes of batches as ``predict`` does."""
    return lambda batch, hole_mask: predict(batch.image, hole_mask)


def take_filled(
    fill: Fill,
    batches: Iterable[TensorBatch],
    *,
    metrics: InpaintingMetrics,
    expand_px: int = 0,
    raw: bool = False,
    fid: FidMetric | None = None,
    residual: ResidualObjectScore | None = None,
) -> None:
    """Let metrics take what ``fill`` makes of batches; ``raw``: its pictures, no composites."""
    for batch in batches:
        hole_mask = expanded(batch.hole_mask, expand_px=expand_px)
        picture = in_8_bits(fill(batch, hole_mask))
        if not raw:
            picture = composite(picture, batch.image, hole_mask)
        metrics.update(picture, batch.target, batch.hole_mask)
        if fid is not None:
            fid.update(picture, batch.target)
        if residual is not None:
            residual.update(picture, batch.object_mask)


def in_8_bits(prediction: Tensor) -> Tensor:
    """Return a picture (B, 3, H, W) as a user gets it: clamped to [0, 1], in steps of 1/255."""
    return prediction.float().clamp(0, 1).mul(255).round().div(255)


def expanded(hole_mask: Tensor, *, expand_px: int) -> Tensor:
    """Return holes grown by an exact disc of ``expand_px`` pixels, or shrunk if below 0.

    Args:
        hole_mask: (B, 1, H, W), exactly 0 or 1.
        expand_px: radius in pixels.
    """
    if not expand_px:
        return hole_mask
    change = dilate if expand_px > 0 else erode
    masks = (hole_mask[:, 0] > 0.5).to("cpu", torch.uint8).mul(255).numpy()
    changed = np.stack([change(mask, radius_px=abs(expand_px)) for mask in masks])
    return torch.from_numpy(changed > 0)[:, None].to(hole_mask)


def accumulate_removals(
    model: JointModel, batches: Iterable[TensorBatch], *, metrics: InpaintingMetrics
) -> MetricTable:
    """Return the metrics of what a joint model makes of photos, finding the holes by itself.

    ``removal_psnr`` and so on: of whole pictures, in total and by the true hole's share. The true
    masks say which object is meant; an object that was not found, or remains of it outside the
    found hole, stay in the composite and count. The total has the scores of
    :class:`rayfill.metrics.mask_quality.MaskQuality` as well.

    Args:
        model: in eval mode.
        batches: with labels; a hole in which there is no object is none.
        metrics: takes the samples.
    """
    quality = MaskQuality().to(metrics.device)
    take_removals(
        lambda batch: model.remove(batch.image, object_mask=batch.object_mask),
        batches,
        metrics=metrics,
        quality=quality,
    )
    return removal_table(metrics, quality)


def take_removals(
    remove: Callable[[TensorBatch], Removal],
    batches: Iterable[TensorBatch],
    *,
    metrics: InpaintingMetrics,
    quality: MaskQuality,
    residual: ResidualObjectScore | None = None,
) -> None:
    """Let metrics take what ``remove`` makes of photos, finding the holes by itself."""
    for batch in batches:
        removal = remove(batch)
        picture = in_8_bits(removal.composite)
        metrics.update(picture, batch.target, batch.hole_mask)
        quality.update(removal.hole_mask, batch.object_mask)
        if residual is not None:
            residual.update(picture, batch.object_mask)


def removal_table(metrics: InpaintingMetrics, quality: MaskQuality) -> MetricTable:
    """Return what metrics took of removals, under names of their own, with the masks' scores."""
    table: MetricTable = metrics.compute()
    return MetricTable(
        total={**removal_names(table.total), **quality.compute()},
        buckets={bucket: removal_names(scores) for bucket, scores in table.buckets.items()},
    )


def removal_names(scores: Mapping[str, T]) -> dict[str, T]:
    """Return the metrics of whole pictures under names of their own."""
    return {f"removal_{name}": scores[name] for name in _REMOVAL_METRICS if name in scores}
