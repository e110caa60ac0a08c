"""Values per sample as a file, of systems that were measured by different metrics."""

from __future__ import annotations

import io
import math

import numpy as np
import pyarrow.parquet as pq

from rayfill.evaluation.result import samples_parquet
from rayfill.metrics import MetricTable
from rayfill.metrics.aggregate import Measured


def test_every_system_and_sample_has_a_row_with_what_was_measured_of_it() -> None:
    empty = MetricTable(total={}, buckets={})
    measured = {
        "joint": Measured(
            table=empty,
            values={"psnr": np.array([20.0, np.inf]), "removal_psnr": np.array([18.0, np.nan])},
            source_id=("photo", "photo"),
        ),
        "telea": Measured(table=empty, values={"psnr": np.array([19.0, 21.0])}),
    }
    ratio = np.array([0.1, np.nan], np.float32)
    content = samples_parquet(measured, sample_id=("a", "b"), hole_ratio=ratio)
    rows = pq.read_table(io.BytesIO(content)).to_pylist()
    assert [(row["system"], row["sample_id"]) for row in rows] == [
        ("joint", "a"), ("joint", "b"), ("telea", "a"), ("telea", "b"),
    ]  # fmt: skip
    assert [row["source_id"] for row in rows] == ["photo", "photo", None, None]
    assert rows[1]["psnr"] == math.inf
    assert rows[0]["removal_psnr"] == 18.0
    assert math.isnan(rows[1]["removal_psnr"])
    assert rows[2]["removal_psnr"] is None
