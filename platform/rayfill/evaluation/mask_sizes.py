"""What a mask that is too small or too large costs: removals with holes grown or shrunk."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from rayfill.evaluation.evaluate import evaluate
from rayfill.evaluation.systems import System
from rayfill.metrics import BUCKETS, MetricTable
from rayfill.runs.table import Column, Table
from rayfill_data.errors import DatasetError
from rayfill_data.prepared.reader import PreparedDataset

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
    references: Sequence[str | System], *, data: PreparedDataset, expansions_px: Sequence[int]
) -> MaskSizes:
    """Measure systems on the test split with its masks grown or shrunk by exact discs.

    Args:
        references: as for :func:`rayfill.evaluation.evaluate.evaluate`.
        data: pairs with a true background; against a photo that still holds the object, a larger
            mask would only look worse.
        expansions_px: radii in pixels.

    Raises:
        DatasetError: a split without a single pair.

    Source: report P2, Table I.
    """
    if all((part.image == part.target).all() for part in data.load_by_size("test")):
        raise DatasetError(
            "No sample of this split has an object that its target lacks, so a mask cannot be too "
            "small. Take pairs, such as `rayfill prepare coco_pairs` makes."
        )
    found = [evaluate(references, data=data, expand_px=px).measured for px in expansions_px]
    tables = {name: [measured[name].table for measured in found] for name in found[0]}
    return MaskSizes(expansions_px=tuple(expansions_px), tables=tables)


def _cells(values: Sequence[float], digits: int) -> list[str]:
    return [f"{value:.{digits}f}" if math.isfinite(value) else "" for value in values]
