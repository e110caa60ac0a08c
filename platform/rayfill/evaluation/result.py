"""What several systems scored on a split: the table, how sure its differences are, and files."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rayfill.evaluation.differences import Difference, differences_from
from rayfill.evaluation.leaderboard import COLUMNS, Leaderboard
from rayfill.metrics import Score
from rayfill.metrics.aggregate import Measured
from rayfill.runs.table import Cell, Column, Table, plain
from rayfill_data.errors import redact_uri
from rayfill_data.storage import write_file

if TYPE_CHECKING:
    from rich.console import Console


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The outcome of :func:`rayfill.evaluation.evaluate.evaluate`."""

    board: Leaderboard
    measured: Mapping[str, Measured]
    """By system; values in the order of ``sample_id``."""
    sample_id: tuple[str, ...]
    """The samples that every system was measured on, sorted."""
    hole_ratio: NDArray[np.float32]
    """(N,) share of hole pixels of each."""
    against: str
    """The system that all are compared with."""
    left_out: Mapping[str, Sequence[str]]
    """Samples of the split that were not measured, by the system that lacks them."""
    sources: Mapping[str, Mapping[str, str]]
    """By system: where it is from and what else is known of it."""
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """By system that was left out: why."""

    @functools.cached_property
    def differences(self) -> list[Difference]:
        """Of every system from the one they are compared with, metric by metric."""
        return differences_from(self.against, measured=self.measured)

    def show(self, console: Console) -> None:
        """Print the table, its buckets, its protocol and the differences."""
        self.board.show(console)
        console.print(self._difference_table())

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the samples' values as plain values."""
        return {
            **self.board.to_dict(),
            "systems": {name: dict(facts) for name, facts in self.sources.items()},
            "num_samples": len(self.sample_id),
            "left_out": {name: list(samples) for name, samples in self.left_out.items()},
            "differences": [difference.to_dict() for difference in self.differences],
        }

    def markdown(self) -> str:
        """Return what :meth:`show` prints as Markdown."""
        table = self._difference_table()
        return f"{self.board.markdown()}\n{plain(table.title)}:\n\n{table.markdown()}"

    def csv(self) -> str:
        """Return a row for each system, bucket (``all`` is the total) and metric."""
        rows: list[list[Cell]] = []
        for name, measured in self.measured.items():
            groups = {"all": measured.table.total, **measured.table.buckets}
            for bucket, scores in groups.items():
                if any(score.n + score.n_infinite for score in scores.values()):
                    rows += [[name, bucket, metric, *score] for metric, score in scores.items()]
        columns = ("system", "bucket", "metric", *Score._fields)
        return Table(columns=columns, rows=rows).csv()

    def write(self, out: str) -> list[str]:
        """Write table.json, table.csv, table.md and samples.parquet into a folder or URI.

        Returns:
            where they are.
        """
        files = {
            "table.json": (json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n").encode(),
            "table.csv": self.csv().encode(),
            "table.md": self.markdown().encode(),
            "samples.parquet": samples_parquet(
                self.measured, sample_id=self.sample_id, hole_ratio=self.hole_ratio
            ),
        }
        root = out.rstrip("/")
        for name, content in files.items():
            write_file(f"{root}/{name}", content)
        return [redact_uri(f"{root}/{name}") for name in files]

    def _difference_table(self) -> Table:
        rows = []
        for row in self.differences:
            if row.system == row.against:
                continue
            found, shown, counted = row.interval, "", ""
            if found is not None:
                spec = f"+.{COLUMNS[row.metric].digits + 1}f"
                shown = f"{found.mean:{spec}} [{found.low:{spec}}, {found.high:{spec}}]"
                counted = found.counted
            rows.append([row.system, row.metric, shown, counted, row.verdict()])
        return Table(
            title=f"Difference from {self.against}, paired by sample, 95 % intervals",
            columns=[
                *("system", "metric"),
                *(Column(title, right=True) for title in ("difference", "over")),
                "verdict",
            ],
            rows=[*rows, [self.against, "all", "0", "", "itself"]],
        )


def samples_parquet(
    measured: Mapping[str, Measured],
    *,
    sample_id: Sequence[str],
    hole_ratio: NDArray[np.float32],
) -> bytes:
    """Return a Parquet file with a row per system and sample: its metrics, NaN where none.

    Args:
        measured: By system.
        sample_id: In the order of values.
        hole_ratio: (N,) share of hole pixels of each.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = [
        pa.table(
            {
                "system": [name] * len(sample_id),
                "sample_id": list(sample_id),
                "source_id": [None] * len(sample_id)
                if found.source_id is None
                else list(found.source_id),
                "hole_ratio": hole_ratio,
                **found.values,
            }
        )
        for name, found in measured.items()
    ]
    buffer = io.BytesIO()
    table = pa.concat_tables(parts, promote_options="default")  # not all have every metric
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
