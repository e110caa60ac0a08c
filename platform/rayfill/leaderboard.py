"""The table a sweep ends with: every trial, the winner and the classical baselines side by side."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, JustifyMethod
from rich.table import Table

from rayfill.metrics import MetricTable, Score

#: Column, metric, digits, and whether more is better.
_COLUMNS = (
    ("PSNR hole", "hole_psnr", 2, True),
    ("SSIM hole", "hole_ssim", 4, True),
    ("PSNR", "psnr", 2, True),
    ("SSIM", "ssim", 4, True),
    ("LPIPS", "lpips", 4, False),
    ("L1", "l1", 4, False),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the leaderboard."""

    name: str
    kind: str
    """``trial``, ``winner`` or ``baseline``."""
    table: MetricTable
    epochs: str = ""
    val_score: float = math.nan
    """Selection metric on the validation split; baselines are not selected."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """Entries, best first by ``rank_by`` on the test split, with their protocol."""

    title: str
    entries: Sequence[Entry]
    rank_by: str
    protocol: Mapping[str, str]
    notes: Sequence[str] = ()
    """What was left out or went wrong, a sentence each."""

    def ranked(self) -> list[Entry]:
        """Return the entries, best first; those without a finite score last."""

        def key(entry: Entry) -> float:
            mean = entry.table.total[self.rank_by].mean
            return mean if math.isfinite(mean) else -math.inf

        return sorted(self.entries, key=key, reverse=True)

    def show(self, console: Console) -> None:
        """Print the table, the buckets of its best entry and baselines, and the protocol."""
        header, rows = self._cells()
        table = Table(title=self.title)
        for column in header:
            left = column in ("system", "kind")
            justify: JustifyMethod = "left" if left else "right"
            table.add_column(column, justify=justify, no_wrap=not left, overflow="fold")
        for entry, row in zip(self.ranked(), rows, strict=True):
            table.add_row(*row, style="bold" if entry.kind == "winner" else None)
        console.print(table)
        header, rows = self._bucket_cells()
        buckets = Table(title="PSNR / SSIM inside the hole by hole ratio (percent)")
        for column in header:
            buckets.add_column(column, justify="left" if column == "system" else "right")
        for row in rows:
            buckets.add_row(*row)
        console.print(buckets)
        for name, value in self.protocol.items():
            console.print(f"  {name}: {value}", highlight=False, markup=False, soft_wrap=True)
        for note in self.notes:
            console.print(f"Note: {note}", highlight=False, markup=False, soft_wrap=True)

    def markdown(self) -> str:
        """Return the same as Markdown."""
        notes = "".join(f"- Note: {note}\n" for note in self.notes)
        conditions = "".join(f"- {name}: {value}\n" for name, value in self.protocol.items())
        return (
            f"# {self.title}\n\n{_markdown(*self._cells())}\n"
            f"PSNR / SSIM inside the hole by hole ratio (percent):\n\n"
            f"{_markdown(*self._bucket_cells())}\n{conditions}{notes}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "title": self.title,
            "rank_by": self.rank_by,
            "protocol": dict(self.protocol),
            "notes": list(self.notes),
            "entries": [
                {
                    "name": entry.name,
                    "kind": entry.kind,
                    "epochs": entry.epochs,
                    "val_score": entry.val_score if math.isfinite(entry.val_score) else None,
                    "metrics": entry.table.to_dict(),
                }
                for entry in self.ranked()
            ],
        }

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        shown = [c for c in _COLUMNS if all(c[1] in e.table.total for e in self.entries)]
        header = ["#", "system", "kind", "epochs", "val"]
        header += [f"{title} {'↑' if more else '↓'}" for title, _, _, more in shown]
        rows = []
        for rank, entry in enumerate(self.ranked(), start=1):
            row = [str(rank), entry.name, entry.kind, entry.epochs, _number(entry.val_score, 2)]
            for _, metric, digits, _ in shown:
                score = entry.table.total[metric]
                row.append(_mean_and_std(score, digits))
            rows.append(row)
        return header, rows

    def _bucket_cells(self) -> tuple[list[str], list[list[str]]]:
        # Every system is measured on the same samples; those filled perfectly count too.
        scores = {b: s["hole_psnr"] for b, s in self.entries[0].table.buckets.items()}
        counts = {bucket: score.n + score.n_infinite for bucket, score in scores.items()}
        filled = [bucket for bucket, count in counts.items() if count]
        header = ["system", *filled]
        rows = [["n", *(str(counts[bucket]) for bucket in filled)]]
        for entry in self.ranked():
            means = [entry.table.buckets[bucket] for bucket in filled]
            cells = [
                f"{_number(s['hole_psnr'].mean, 2)} / {_number(s['hole_ssim'].mean, 3)}"
                for s in means
            ]
            rows.append([entry.name, *cells])
        return header, rows


def _mean_and_std(score: Score, digits: int) -> str:
    if not math.isfinite(score.mean):
        return ""
    return f"{_number(score.mean, digits)} ±{_number(score.std, digits - 1)}"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else ""


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
