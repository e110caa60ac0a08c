"""What a mask that is too small or too large costs: removals with holes grown or shrunk."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from torch import nn

from rayfill.evaluation.measure import evaluate
from rayfill.metrics import BUCKETS, MetricTable
from rayfill.metrics.accumulate import Predict
from rayfill.runs.table import Column, Table
from rayfill_data.errors import DatasetError
from rayfill_data.prepared.reader import SplitArrays

_METRICS = {"psnr": 2, "ssim": 3}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskSizes:
    """Metrics of several systems at several mask sizes."""

    expansions_px: Sequence[int]
    """Radii by which true masks were grown, or shrunk where below 0."""
    tables: Mapping[str, Sequence[MetricTable]]
    """By system, one for each radius."""

    def table(self) -> Table:
        """Return a row for each system, metric and bucket of the true mask."""
        rows = []
        for system, tables in self.tables.items():
            for metric, digits in _METRICS.items():
                for bucket in BUCKETS:
                    if tables[0].buckets[bucket][metric].n:
                        values = [table.buckets[bucket][metric].mean for table in tables]
                        rows.append([system, metric.upper(), bucket, *_cells(values, digits)])
                totals = [table.total[metric].mean for table in tables]
                rows.append([system, metric.upper(), "all", *_cells(totals, digits)])
        return Table(
            title="Whole pictures, by how far the mask is grown (+) or shrunk (-)",
            columns=[
                "system",
                "metric",
                "bucket",
                *(Column(f"{px:+d} px", right=True) for px in self.expansions_px),
            ],
            rows=rows,
            sections=[number for number, row in enumerate(rows) if row[2] == "all"],
        )


def measure_mask_sizes(
    systems: Mapping[str, Predict | nn.Module],
    *,
    arrays: SplitArrays,
    expansions_px: Sequence[int],
) -> MaskSizes:
    """Measure systems on a split with its masks grown or shrunk by exact discs.

    Args:
        systems: models or baselines by name.
        arrays: pairs with a true background; against a photo that still holds the object, a larger
            mask would only look worse.
        expansions_px: radii in pixels.

    Raises:
        DatasetError: a split without a single pair.

    Source: report P2, Table I.
    """
    if (arrays.image == arrays.target).all():
        raise DatasetError(
            "No sample of this split has an object that its target lacks, so a mask cannot be too "
            "small. Take pairs, such as `rayfill prepare coco_pairs` makes."
        )
    tables = {
        name: [evaluate(system, arrays=arrays, expand_px=px).table for px in expansions_px]
        for name, system in systems.items()
    }
    return MaskSizes(expansions_px=tuple(expansions_px), tables=tables)


def _cells(values: Sequence[float], digits: int) -> list[str]:
    return [f"{value:.{digits}f}" if math.isfinite(value) else "" for value in values]
