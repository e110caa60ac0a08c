"""What several systems scored on a split: the table, how sure its differences are, and files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from rayfill.evaluation.evaluate_all import samples_parquet
from rayfill.evaluation.leaderboard import COLUMNS, Leaderboard
from rayfill.evaluation.measure import Measured
from rayfill.metrics import Score
from rayfill.metrics.significance import Difference, paired_difference
from rayfill.runs.table import Cell, Column, Table, plain
from rayfill_data.errors import RayfillError, redact_uri
from rayfill_data.storage import write_file


@dataclasses.dataclass(frozen=True, kw_only=True)
class SystemDifference:
    """How much more of a metric one system has than another on the same samples."""

    system: str
    against: str
    metric: str
    difference: Difference | None
    """None where no sample has a finite value of both."""

    def verdict(self) -> str:
        """Return which one is better, as far as the samples tell."""
        found = self.difference
        if found is None or not found.significant:
            return "no difference found"
        better = (found.mean > 0) != COLUMNS[self.metric].less_is_better
        return "better" if better else "worse"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        found = self.difference
        numbers = None if found is None else dataclasses.asdict(found)
        return {
            "system": self.system,
            "against": self.against,
            "metric": self.metric,
            "difference": numbers,
            "significant": found is not None and found.significant,
            "verdict": self.verdict(),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The outcome of :func:`rayfill.evaluation.evaluate.evaluate_systems`."""

    board: Leaderboard
    measured: Mapping[str, Measured]
    """By system; values in the order of ``sample_id``."""
    sample_id: tuple[str, ...]
    """The samples that every system was measured on, sorted."""
    hole_ratio: NDArray[np.float32]
    """(N,) share of hole pixels of each."""
    differences: Sequence[SystemDifference]
    """Of every system from the one they are compared with, metric by metric."""
    left_out: Mapping[str, Sequence[str]]
    """Samples of the split that were not measured, by the system that lacks them."""
    sources: Mapping[str, Mapping[str, str]]
    """By system: where it is from and what else is known of it."""

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
            "samples.parquet": samples_parquet(self.measured, arrays=self),
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
            found, shown = row.difference, ""
            if found is not None:
                spec = f"+.{COLUMNS[row.metric].digits + 1}f"
                shown = f"{found.mean:{spec}} [{found.low:{spec}}, {found.high:{spec}}]"
            rows.append([row.system, row.metric, shown, row.verdict()])
        against = self.differences[0].against
        return Table(
            title=f"Difference from {against}, paired by sample, 95 % intervals",
            columns=["system", "metric", Column("difference", right=True), "verdict"],
            rows=[*rows, [against, "all", "0", "itself"]],
        )


def differences_from(
    against: str, *, measured: Mapping[str, Measured]
) -> Iterator[SystemDifference]:
    """Yield how every system differs from one of them in every metric that all have per sample.

    One by itself is listed, too: its difference is 0 and not significant, which shows that the
    comparison finds nothing where there is nothing.
    """
    common = set.intersection(*(set(found.values) for found in measured.values()))
    for name, found in measured.items():
        for metric in COLUMNS:
            if metric in common:
                yield SystemDifference(
                    system=name,
                    against=against,
                    metric=metric,
                    difference=_difference(found.values[metric], measured[against].values[metric]),
                )


def _difference(first: NDArray[np.float64], second: NDArray[np.float64]) -> Difference | None:
    try:
        return paired_difference(first, second)
    except RayfillError:  # all infinite, or samples without a hole
        return None
