"""Measuring a model or a baseline on a held-out split: one way, for training and for tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rayfill.metrics import InpaintingMetrics, MetricTable, Score
from rayfill.metrics.accumulate import (
    Fill,
    Predict,
    filled_by,
    removal_names,
    removal_table,
    take_filled,
    take_removals,
)
from rayfill.metrics.mask_quality import MaskQuality
from rayfill.metrics.states import State, add_states, state_of
from rayfill.models import JointModel
from rayfill_data.prepared.batches import evaluation_batches

if TYPE_CHECKING:
    from rayfill.metrics import FidMetric, LpipsMetric, ResidualObjectScore
    from rayfill.models.batch import TensorBatch
    from rayfill_data.prepared.reader import PreparedDataset, SplitArrays


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A system's metrics over a split, and what they were of every sample."""

    table: MetricTable
    values: dict[str, NDArray[np.float64]]
    """(N,) by metric, in the split's order; NaN where a sample has none (no hole)."""


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """How a system's pictures are made and measured."""

    batch_size: int = 32
    """Samples at a time."""
    expand_px: int = 0
    """Give holes grown by so many pixels, or shrunk if below 0."""
    raw: bool = False
    """Measure what the system answers, known pixels included, instead of the composite."""
    residual_object: ResidualObjectScore | None = None
    """Also measure what is still seen of the objects; what it has collected before is dropped."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What metrics have added up over some samples; parts add up to a whole split."""

    given: State
    """Of holes that were given."""
    removals: State | None = None
    """Of holes that a joint model found by itself."""
    masks: State | None = None
    """Of the masks that it found."""
    fid: State | None = None
    residual: State | None = None
    """Of what is still seen of the objects in given holes."""
    removal_residual: State | None = None
    """Of what is still seen of those that a joint model found by itself."""


def measure_part(
    fill: Fill,
    *,
    arrays: SplitArrays,
    options: MeasureOptions,
    device: torch.device,
    lpips: LpipsMetric | None = None,
    fid: FidMetric | None = None,
    joint: JointModel | None = None,
) -> Part:
    """Return what a system's metrics add up to over some samples.

    Args:
        fill: Fills given holes.
        arrays: Some samples with frozen holes, all of a size.
        options: How.
        device: Where the system and the metrics are.
        lpips: Also measure LPIPS with this network.
        fid: Also collect what FID needs; what it has collected before is dropped.
        joint: Measure a second time, this model finding the holes by itself.

    Raises:
        DatasetError: samples without frozen holes.
    """
    from rayfill.models.batch import to_device

    def batches() -> Iterator[TensorBatch]:
        for batch in evaluation_batches(arrays, batch_size=options.batch_size):
            yield to_device(batch, device=device)

    metrics = InpaintingMetrics(lpips=lpips, keep_values=True).to(device)
    residual = None if options.residual_object is None else options.residual_object.to(device)
    for collecting in (fid, residual):
        if collecting is not None:
            collecting.reset()
    with torch.inference_mode():
        take_filled(
            fill,
            batches(),
            metrics=metrics,
            expand_px=options.expand_px,
            raw=options.raw,
            fid=fid,
            residual=residual,
        )
        part = Part(
            given=state_of(metrics),
            fid=None if fid is None else state_of(fid),
            residual=None if residual is None else state_of(residual),
        )
        if joint is None or arrays.labels is None:
            return part
        metrics.reset()
        if residual is not None:
            residual.reset()
        quality = MaskQuality().to(device)
        take_removals(joint, batches(), metrics=metrics, quality=quality, residual=residual)
    return replace(
        part,
        removals=state_of(metrics),
        masks=state_of(quality),
        removal_residual=None if residual is None else state_of(residual),
    )


def merged(
    parts: Sequence[Part],
    *,
    lpips: LpipsMetric | None = None,
    fid: FidMetric | None = None,
    residual: ResidualObjectScore | None = None,
) -> Measured:
    """Return what a system scored over all parts, values in the order of the parts.

    Args:
        parts: Disjoint parts of a split, one or more.
        lpips: What the parts were measured with.
        fid: What the parts were measured with; what it has collected before is dropped.
        residual: As ``fid``.

    Raises:
        RayfillError: too few samples for an FID.
    """
    metrics = InpaintingMetrics(lpips=lpips, keep_values=True)
    add_states(metrics, [part.given for part in parts])
    table: MetricTable = metrics.compute()
    values = metrics.sample_values()
    removals = [part.removals for part in parts if part.removals is not None]
    if removals:
        own, quality = InpaintingMetrics(lpips=lpips, keep_values=True), MaskQuality()
        add_states(own, removals)
        add_states(quality, [part.masks for part in parts if part.masks is not None])
        values |= removal_names(own.sample_values())
        found = removal_table(own, quality)
        table = MetricTable(
            total=table.total | found.total,
            buckets={name: scores | found.buckets[name] for name, scores in table.buckets.items()},
        )
    if fid is not None:
        fid.to("cpu").reset()
        add_states(fid, [part.fid for part in parts if part.fid is not None])
        count = int(fid.real_features_num_samples)
        table.total["fid"] = Score(mean=float(fid.compute()), std=math.nan, n=count, n_infinite=0)
    if residual is not None:
        table.total.update(_residual(residual, [part.residual for part in parts]))
        own_residual = _residual(residual, [part.removal_residual for part in parts])
        table.total.update(removal_names(own_residual))
    return Measured(table=table, values=values)


def _residual(score: ResidualObjectScore, states: Sequence[State | None]) -> dict[str, Score]:
    """Return what is still seen of the objects, where that was measured."""
    known = [state for state in states if state is not None]
    score.to("cpu").reset()
    add_states(score, known)
    return score.compute() if known else {}


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
    device = device or torch.device("cpu")
    if isinstance(predict, nn.Module):
        predict = predict.to(device).eval()
    part = measure_part(
        filled_by(predict),
        arrays=arrays,
        options=MeasureOptions(batch_size=batch_size, expand_px=expand_px),
        device=device,
        lpips=lpips,
        joint=predict if isinstance(predict, JointModel) else None,
    )
    return merged([part], lpips=lpips)


def protocol(dataset: PreparedDataset, *, split: str, lpips_network: str | None) -> dict[str, str]:
    """Return the conditions that a table of metrics was measured under."""
    manifest = dataset.manifest
    return {
        "dataset": manifest.source,
        "dataset_hash": dataset.content_hash,
        "split": f"{split} ({dataset.counts[split]} samples of "
        f"{manifest.photo_counts[split]} photographs)",
        "size": f"{dataset.height}x{dataset.width}" if dataset.height else "several, as given",
        "masks": "frozen in the dataset",
        "measured_on": "8-bit composite, RGB, no crop",
        "psnr": "data range 1; infinite values counted, not averaged",
        "ssim": "Gaussian window 11, sigma 1.5, mean over channels",
        "hole_metrics": "hole pixels only",
        "dice": "2 sum(y y') / sum(y + y') over all pixels; a perfect fill has dice_ceiling",
        "lpips": lpips_network or "not measured: no weights",
    }
