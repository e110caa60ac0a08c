"""The table a sweep ends with: every trial, the winner and the classical baselines side by side."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rayfill.config.ranking import less_is_better, ordered, worth
from rayfill.metrics import BUCKETS, MetricTable, Score
from rayfill.runs.table import Cell, Column, Table, plain
from rayfill_data.errors import ConfigError, unknown_name
from rayfill_data.prepared.reader import PreparedDataset

if TYPE_CHECKING:
    from rich.console import Console


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricColumn:
    """How a metric is shown."""

    metric: str
    name: str
    """In a sentence."""
    digits: int
    """Behind the point."""
    usual: bool = True
    """Whether it is shown unasked."""

    @property
    def title(self) -> str:
        """Its name, and an arrow that says which way is better."""
        if not ordered(self.metric):
            return self.name
        return f"{self.name} {'↓' if less_is_better(self.metric) else '↑'}"


#: By metric, in the order shown.
COLUMNS = {
    column.metric: column
    for column in (
        MetricColumn(metric="hole_psnr", name="PSNR hole", digits=2),
        MetricColumn(metric="hole_ssim", name="SSIM hole", digits=4),
        MetricColumn(metric="psnr", name="PSNR", digits=2),
        MetricColumn(metric="ssim", name="SSIM", digits=4),
        MetricColumn(metric="lpips", name="LPIPS", digits=4),
        MetricColumn(metric="coherence", name="coherence", digits=3),
        MetricColumn(metric="sharpness", name="sharpness", digits=2),
        MetricColumn(metric="ring_sharpness", name="ring sharpness", digits=2),
        MetricColumn(metric="fid", name="FID", digits=2),
        MetricColumn(metric="residual_object", name="residual", digits=4),
        MetricColumn(metric="l1", name="L1", digits=4, usual=False),
        MetricColumn(metric="dice", name="Dice", digits=4, usual=False),
        MetricColumn(metric="dice_ceiling", name="Dice ceiling", digits=4, usual=False),
        MetricColumn(metric="removal_psnr", name="PSNR rem.", digits=2, usual=False),
        MetricColumn(metric="removal_ssim", name="SSIM rem.", digits=4, usual=False),
        MetricColumn(metric="removal_lpips", name="LPIPS rem.", digits=4, usual=False),
        MetricColumn(metric="removal_residual_object", name="residual rem.", digits=4, usual=False),
        MetricColumn(metric="growth_px", name="growth, px", digits=2, usual=False),
        MetricColumn(metric="uncovered", name="uncovered", digits=4, usual=False),
        MetricColumn(metric="found", name="found", digits=3, usual=False),
        MetricColumn(metric="iou", name="mask IoU", digits=3, usual=False),
    )
}


#: Kind of a run whose answers have patches of the photograph laid over them.
FINISH = "finish"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the leaderboard."""

    name: str
    kind: str
    """``trial``, ``winner``, :data:`FINISH` or ``baseline``;
    outside a sweep ``run``, ``model`` or ``pictures``."""
    table: MetricTable
    epochs: str = ""
    val_score: float = math.nan
    """Selection metric on the validation split; baselines are not selected."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportRow:
    """Numbers that a report prints of its own system, measured its own way: shown, not ranked."""

    name: str
    values: Mapping[str, float]
    """What it gives, by metric."""
    note: str = ""
    """How its protocol differs, a sentence."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """Entries, best first by ``rank_by`` on the test split, with their protocol.

    Raises:
        ConfigError: with every metric that there is no column for.
    """

    title: str
    entries: Sequence[Entry]
    rank_by: str
    protocol: Mapping[str, str]
    notes: Sequence[str] = ()
    """What was left out or went wrong, a sentence each."""
    columns: Sequence[str] = ()
    """Metrics to show instead of the usual ones, such as dice beside dice_ceiling, or growth_px and
    uncovered of models that find the holes themselves."""
    report: Sequence[ReportRow] = ()
    """What reports print of their own systems; it stands below the entries."""
    deviations: bool = False
    """Show all columns by hole ratio, with deviations, instead of the means of PSNR and SSIM."""

    def __post_init__(self) -> None:
        named = [
            self.rank_by,
            *self.columns,
            *(metric for row in self.report for metric in row.values),
        ]
        unknown = [metric for metric in dict.fromkeys(named) if metric not in COLUMNS]
        if unknown:
            raise ConfigError([unknown_name("column", metric, COLUMNS) for metric in unknown])

    def ranked(self) -> list[Entry]:
        """Return the entries, best first; those without a finite score last."""
        return sorted(self.entries, key=lambda e: _worth(e, self.rank_by), reverse=True)

    def show(self, console: Console) -> None:
        """Print the table, the buckets of its best entry and baselines, and the protocol."""
        console.print(self.table())
        console.print(self.bucket_table())
        for name, value in self.protocol.items():
            console.print(f"  {name}: {value}", highlight=False, markup=False, soft_wrap=True)
        for note in self.all_notes():
            console.print(f"Note: {note}", highlight=False, markup=False, soft_wrap=True)

    def markdown(self) -> str:
        """Return the same as Markdown."""
        notes = "".join(f"- Note: {note}\n" for note in self.all_notes())
        conditions = "".join(f"- {name}: {value}\n" for name, value in self.protocol.items())
        buckets = self.bucket_table()
        return (
            f"# {plain(self.title)}\n\n{self.table().markdown()}\n"
            f"{buckets.title}:\n\n{buckets.markdown()}\n{conditions}{notes}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "title": self.title,
            "rank_by": self.rank_by,
            "columns": list(self.columns),
            "deviations": self.deviations,
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
            "report": [
                {"name": row.name, "values": dict(row.values), "note": row.note}
                for row in self.report
            ],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Leaderboard:
        """Return the leaderboard that :meth:`to_dict` described.

        Raises:
            KeyError, TypeError, ValueError: it did not.
        """
        return cls(
            title=values["title"],
            rank_by=values["rank_by"],
            columns=values.get("columns", ()),  # older ones name none
            deviations=values.get("deviations", False),
            protocol=values["protocol"],
            notes=values["notes"],
            entries=[
                Entry(
                    name=entry["name"],
                    kind=entry["kind"],
                    epochs=entry["epochs"],
                    val_score=math.nan if entry["val_score"] is None else entry["val_score"],
                    table=MetricTable.from_dict(entry["metrics"]),
                )
                for entry in values["entries"]
            ],
            report=[ReportRow(**row) for row in values.get("report", ())],
        )

    def all_notes(self) -> list[str]:
        """Return what training was good for, the notes, and those on the numbers of reports."""
        reported = [f"{row.name}: {row.note}" for row in self.report if row.note]
        return [*self._not_beaten(), *self.notes, *reported]

    def _not_beaten(self) -> list[str]:
        """Return, by metric, which fill without learning no other system is better than."""
        lines = []
        for metric in dict.fromkeys([self.rank_by, "lpips", "coherence"]):
            fill, other = self._best(metric, baseline=True), self._best(metric, baseline=False)
            if fill and other and _worth(other, metric) <= _worth(fill, metric):
                column = COLUMNS[metric]
                shown = [
                    f"{best.name} {_number(best.table.total[metric].mean, column.digits)}"
                    for best in (fill, other)
                ]
                lines.append(
                    f"By {column.name} nothing is better than the best fill without learning:"
                    f" {shown[0]}, {shown[1]}."
                )
        return lines

    def _best(self, metric: str, *, baseline: bool) -> Entry | None:
        """Return the best of the fills without learning, or of all others; None of none."""
        able = [
            entry
            for entry in self.entries
            if (entry.kind == "baseline") == baseline and math.isfinite(_worth(entry, metric))
        ]
        return max(able, key=lambda entry: (_worth(entry, metric), entry.name), default=None)

    def _shown(self) -> list[str]:
        """Return the metrics that are columns: the usual ones that every entry has, or those asked.

        What is asked for that any entry has, or what a report gives, may stand beside empty cells.
        """
        reported = {metric for row in self.report for metric in row.values}
        known = [set(entry.table.total) for entry in self.entries]
        usual = {m for m, column in COLUMNS.items() if column.usual and all(m in k for k in known)}
        asked = {m for m in self.columns if any(m in names for names in known)}
        return [m for m in COLUMNS if m in reported | (asked if self.columns else usual)]

    def table(self) -> Table:
        """Return the table as shown: entries by rank, then reports."""
        shown = self._shown()
        rows: list[list[Cell]] = []
        for rank, entry in enumerate(self.ranked(), start=1):
            cells = [_mean_and_std(entry.table.total.get(m), COLUMNS[m].digits) for m in shown]
            val = _number(entry.val_score, 2)
            rows.append([rank, entry.name, entry.kind, entry.epochs, val, *cells])
        for reported in self.report:
            # As the report prints them: our digits would claim more, or hide some.
            values = [f"{reported.values[m]:g}" if m in reported.values else "" for m in shown]
            rows.append(["", reported.name, "report", "", "", *values])
        columns: list[Column | str] = [
            _numbers("#"),
            *("system", "kind"),
            _numbers("epochs"),
            _numbers("val"),
            *(_numbers(COLUMNS[m].title) for m in shown),
        ]
        styles = [{"winner": "bold", "report": "dim"}.get(str(row[2]), "") for row in rows]
        if not any(entry.kind in ("trial", "winner", "run") for entry in self.entries):
            columns = [*columns[:3], *columns[5:]]  # nothing was trained
            rows = [[*row[:3], *row[5:]] for row in rows]
        return Table(
            title=self.title,
            columns=columns,
            rows=rows,
            row_styles=styles,
            sections=(len(self.entries) - 1,),
        )

    def bucket_table(self) -> Table:
        """Return the table by hole ratio, samples first."""
        if self.deviations:
            return self._deviations_table()
        # Every system is measured on the same samples; those filled perfectly count too.
        psnr, ssim = psnr_and_ssim(self.rank_by)
        measured = [entry for entry in self.ranked() if psnr in entry.table.total]
        scores = {b: s[psnr] for b, s in measured[0].table.buckets.items()}
        counts = {bucket: score.n + score.n_infinite for bucket, score in scores.items()}
        filled = [bucket for bucket, count in counts.items() if count]
        rows: list[list[Cell]] = [["n", *(counts[bucket] for bucket in filled)]]
        for entry in measured:
            means = [entry.table.buckets[bucket] for bucket in filled]
            cells = [f"{_number(s[psnr].mean, 2)} / {_number(s[ssim].mean, 3)}" for s in means]
            rows.append([entry.name, *cells])
        where = {"psnr": "of the picture", "removal_psnr": "after removal"}
        return Table(
            title=f"PSNR / SSIM {where.get(psnr, 'inside the hole')} by hole ratio (percent)",
            columns=["system", *map(_numbers, filled)],
            rows=rows,
        )

    def _deviations_table(self) -> Table:
        """Return a row for each bucket that has samples, and each entry."""
        ranked = self.ranked()
        shown = [m for m in self._shown() if any(m in e.table.buckets[BUCKETS[0]] for e in ranked)]
        rows: list[list[Cell]] = []
        sections = []
        for bucket in BUCKETS:
            name = bucket
            for entry in ranked:
                scores = entry.table.buckets[bucket]
                # Every sample has an L1, a hole or not; without truth, those that can be measured.
                if count := max(score.n for score in scores.values()):
                    cells = [_mean_and_std(scores.get(m), COLUMNS[m].digits) for m in shown]
                    rows.append([name, count, entry.name, *cells])
                    name = ""
            sections.append(len(rows) - 1)
        return Table(
            title="By hole ratio (percent)",
            columns=["hole", _numbers("n"), "system", *(_numbers(COLUMNS[m].title) for m in shown)],
            rows=rows,
            sections=sections,
        )


def _worth(entry: Entry, metric: str) -> float:
    """Return what is larger the better the mean is; -inf where there is no finite one."""
    score = entry.table.total.get(metric)
    return -math.inf if score is None else worth(score.mean, metric=metric)


def protocol(
    dataset: PreparedDataset, *, split: str, lpips_network: str | None, truth: bool = True
) -> dict[str, str]:
    """Return the conditions that a table of metrics was measured under.

    Args:
        dataset: What systems were measured on.
        split: Which part of it.
        lpips_network: None where LPIPS was not measured.
        truth: Whether targets are what holes should show.
    """
    manifest = dataset.manifest
    found = {
        "dataset": manifest.source,
        "dataset_hash": dataset.content_hash,
        "split": f"{split} ({dataset.counts[split]} samples of "
        f"{manifest.photo_counts[split]} photographs)",
        "size": f"{dataset.height}x{dataset.width}" if dataset.height else "several, as given",
        "masks": "frozen in the dataset",
        "measured_on": "8-bit composite, RGB, no crop",
        "coherence": "MMD of texture and colour between hole and surroundings, 0 (alike) to 1.4",
    }
    if not truth:
        ring = "median |Laplacian| in the hole over that within 16 px around it; 1 as sharp"
        return {**found, "ring_sharpness": ring}
    return {
        **found,
        "sharpness": "median |Laplacian| in the hole over the truth's; 1 as sharp, less blurred",
        "psnr": "data range 1; infinite values counted, not averaged",
        "ssim": "Gaussian window 11, sigma 1.5, mean over channels",
        "hole_metrics": "hole pixels only",
        "dice": "2 sum(y y') / sum(y + y') over all pixels; a perfect fill has dice_ceiling",
        "lpips": lpips_network or "not measured: no weights",
    }


def psnr_and_ssim(metric: str) -> tuple[str, str]:
    """Return PSNR and SSIM of what ``metric`` is measured on: hole, whole picture or removal."""
    if metric.startswith("removal_"):
        return "removal_psnr", "removal_ssim"
    return ("psnr", "ssim") if metric in ("psnr", "ssim") else ("hole_psnr", "hole_ssim")


def _numbers(title: str) -> Column:
    return Column(title, right=True)


def _mean_and_std(score: Score | None, digits: int) -> str:
    if score is None or not math.isfinite(score.mean):
        return ""
    if not math.isfinite(score.std):  # of all pixels together
        return _number(score.mean, digits)
    return f"{_number(score.mean, digits)} ±{_number(score.std, digits - 1)}"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else ""
