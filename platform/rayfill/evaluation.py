"""Measuring a model or a baseline on a held-out split: one way, for training and for tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rayfill.metrics import InpaintingMetrics, MetricTable
from rayfill.metrics.mask_quality import MaskQuality
from rayfill.models import JointModel, composite
from rayfill_data.batches import evaluation_batches
from rayfill_data.masks import dilate, erode

if TYPE_CHECKING:
    from rayfill.metrics import LpipsMetric
    from rayfill.training.batch import TensorBatch
    from rayfill_data.reader import PreparedDataset, SplitArrays

#: ``predict(image, hole_mask) -> prediction``: a model's forward, a recipe's, a baseline's.
Predict = Callable[[Tensor, Tensor], Tensor]

T = TypeVar("T")

#: What is measured of pictures whose holes a joint model found; without a true hole to look into.
_REMOVAL_METRICS = ("psnr", "ssim", "lpips")


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
    for batch in batches:
        hole_mask = expanded(batch.hole_mask, expand_px=expand_px)
        prediction = predict(batch.image, hole_mask)
        rounded = prediction.float().clamp(0, 1).mul(255).round().div(255)
        metrics.update(composite(rounded, batch.image, hole_mask), batch.target, batch.hole_mask)
    table: MetricTable = metrics.compute()
    return table


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
    for batch in batches:
        removal = model.remove(batch.image, object_mask=batch.object_mask)
        rounded = removal.composite.float().clamp(0, 1).mul(255).round().div(255)
        metrics.update(rounded, batch.target, batch.hole_mask)
        quality.update(removal.hole_mask, batch.object_mask)
    table: MetricTable = metrics.compute()
    return MetricTable(
        total={**_removal(table.total), **quality.compute()},
        buckets={bucket: _removal(scores) for bucket, scores in table.buckets.items()},
    )


def _removal(scores: Mapping[str, T]) -> dict[str, T]:
    """Return the metrics of whole pictures under names of their own."""
    return {f"removal_{name}": scores[name] for name in _REMOVAL_METRICS if name in scores}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A system's metrics over a split, and what they were of every sample."""

    table: MetricTable
    values: dict[str, NDArray[np.float64]]
    """(N,) by metric, in the split's order; NaN where a sample has none (no hole)."""


def evaluate(
    predict: Predict | nn.Module,
    *,
    arrays: SplitArrays,
    device: torch.device | None = None,
    batch_size: int = 32,
    lpips: LpipsMetric | None = None,
    expand_px: int = 0,
) -> Measured:
    """Return the metrics of a system over a split.

    A joint model is given the holes like any other, and, on a split with labels, measured a second
    time finding them by itself, see :func:`accumulate_removals`.

    Args:
        predict: A model (used in eval mode), or any function of the same form.
        arrays: A loaded split with frozen holes (``val`` or ``test``), to measure many systems on.
        device: Where to compute; None is the CPU.
        batch_size: Samples at a time.
        lpips: Also measure LPIPS with this network.
        expand_px: Give holes grown by so many pixels, or shrunk if below 0.

    Raises:
        DatasetError: a split without frozen holes.
    """
    from rayfill.training.feed import to_device

    device = device or torch.device("cpu")
    if isinstance(predict, nn.Module):
        predict = predict.to(device).eval()

    def batches() -> Iterator[TensorBatch]:
        for batch in evaluation_batches(arrays, batch_size=batch_size):
            yield to_device(batch, device=device)

    metrics = InpaintingMetrics(lpips=lpips, keep_values=True).to(device)
    with torch.inference_mode():
        table = accumulate(predict, batches(), metrics=metrics, expand_px=expand_px)
        values = metrics.sample_values()
        if isinstance(predict, JointModel) and arrays.labels is not None:
            metrics.reset()
            own = accumulate_removals(predict, batches(), metrics=metrics)
            values |= _removal(metrics.sample_values())
            table = MetricTable(
                total=table.total | own.total,
                buckets={
                    name: scores | own.buckets[name] for name, scores in table.buckets.items()
                },
            )
    return Measured(table=table, values=values)


def protocol(dataset: PreparedDataset, *, split: str, lpips_network: str | None) -> dict[str, str]:
    """Return the conditions that a table of metrics was measured under."""
    manifest = dataset.manifest
    return {
        "dataset": manifest.source,
        "dataset_hash": dataset.content_hash,
        "split": f"{split} ({dataset.counts[split]} samples of "
        f"{manifest.photo_counts[split]} photographs)",
        "size": f"{dataset.height}x{dataset.width}",
        "masks": "frozen in the dataset",
        "measured_on": "8-bit composite, RGB, no crop",
        "psnr": "data range 1; infinite values counted, not averaged",
        "ssim": "Gaussian window 11, sigma 1.5, mean over channels",
        "hole_metrics": "hole pixels only",
        "dice": "2 sum(y y') / sum(y + y') over all pixels; a perfect fill has dice_ceiling",
        "lpips": lpips_network or "not measured: no weights",
    }
