"""Measuring trained models on one split, and keeping what every sample scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from rayfill.config.run import EvalConfig
from rayfill.evaluation.measure import Measured, evaluate
from rayfill.metrics import LpipsMetric, lpips_available
from rayfill.runs.bundle import load_bundle

if TYPE_CHECKING:
    from rayfill_data.prepared.reader import SplitArrays


def evaluate_bundles(
    bundles: Mapping[str, str], *, arrays: SplitArrays, lpips: LpipsMetric | None
) -> dict[str, Measured]:
    """Return the metrics of trained models by name."""
    return {
        name: evaluate(load_bundle(uri).model, arrays=arrays, lpips=lpips)
        for name, uri in bundles.items()
    }


def lpips_if_available(config: EvalConfig) -> tuple[LpipsMetric | None, str]:
    """Return the LPIPS metric, or None and why it is left out of the table."""
    found = lpips_available(config.lpips_network, weights_path=config.lpips_weights_path)
    if not found.ok:
        return None, f"LPIPS is not measured: {found.reason}. {found.how_to_get}"
    return LpipsMetric(config.lpips_network, weights_path=config.lpips_weights_path), ""


class Samples(Protocol):
    """Samples and how large their holes are, such as a split."""

    @property
    def sample_id(self) -> tuple[str, ...]:
        """Names, in the order of values."""

    @property
    def hole_ratio(self) -> NDArray[np.float32]:
        """(N,) share of hole pixels of each, NaN where none is frozen."""


def samples_parquet(measured: Mapping[str, Measured], *, arrays: Samples) -> bytes:
    """Return a Parquet file with a row per system and sample: its metrics, NaN where none."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = [
        pa.table(
            {
                "system": [name] * len(arrays.sample_id),
                "sample_id": list(arrays.sample_id),
                "hole_ratio": arrays.hole_ratio,
                **found.values,
            }
        )
        for name, found in measured.items()
    ]
    buffer = io.BytesIO()
    table = pa.concat_tables(parts, promote_options="default")  # not all have every metric
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
