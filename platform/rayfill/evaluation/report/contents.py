"""What a comparison says: the ranking, how sure it is, and what differs between the runs."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rayfill.evaluation.differences import differences, photographs
from rayfill.evaluation.leaderboard import COLUMNS, Entry, Leaderboard, psnr_and_ssim
from rayfill.evaluation.report.found import Unranked
from rayfill.metrics import BUCKETS, bucket_of
from rayfill.metrics.aggregate import APPEARANCE, WITHOUT_TRUTH, Measured
from rayfill.metrics.significance import Interval, paired_difference
from rayfill.runs.folder import RunFolder
from rayfill.runs.table import Table

#: Parameters in which any two runs differ, or that change nothing that is learned.
_OF_NO_INTEREST = ("name", "storage", "tracking.")

#: A longer path is shown by its last parts.
_LONG_PATH = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What is known of a trained system beside its scores."""

    name: str
    params: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Its configuration by dotted key, as MLflow shows it."""
    history: Sequence[Mapping[str, float]] = ()
    """Metrics of every epoch, oldest first."""
    folder: RunFolder = RunFolder("")
    run_id: str = ""
    """In MLflow, empty where that is not known."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Systems measured under one protocol, and all that is known of them."""

    board: Leaderboard
    runs: Mapping[str, Run]
    """The trained systems by name; entries without one are baselines, or one with patches over its
    answers."""
    measured: Mapping[str, Measured]
    """Every entry's metrics per sample."""
    sample_id: Sequence[str]
    hole_ratio: NDArray[np.floating]
    """(N,) share of hole pixels of every sample, in [0, 1]."""
    dataset: str
    """Where the dataset lies that pictures are drawn from."""
    unranked: Sequence[Unranked] = ()

    @functools.cached_property
    def best(self) -> Entry | None:
        """The entry that is ranked first; None if none has a finite score."""
        first = next(iter(self.board.ranked()), None)
        return first if first and self._finite(first) else None

    @property
    def metrics(self) -> list[str]:
        """What is compared: the metric it is ranked by, and PSNR and SSIM of the same pixels."""
        wanted = dict.fromkeys([self.board.rank_by, *psnr_and_ssim(self.board.rank_by)])
        return [m for m in wanted if any(m in found.values for found in self.measured.values())]

    @property
    def sample_metric(self) -> str:
        """The first of :attr:`metrics`, or PSNR in the hole where none is known per sample."""
        return next(iter(self.metrics), "hole_psnr")

    @functools.cached_property
    def leads(self) -> dict[str, dict[str, Interval]]:
        """How much better the best is than every other, by rank, and metric; empty without a best.

        Without a metric of which they share no finite value.
        """
        if self.best is None:
            return {}
        best = self.best.name
        others = [entry.name for entry in self.board.ranked() if entry is not self.best]
        leads: dict[str, dict[str, Interval]] = {other: {} for other in others}
        for metric in self.metrics:
            able = [name for name, found in self.measured.items() if metric in found.values]
            pairs = [(best, other) for other in others if {best, other} <= {*able}]
            for found in differences(pairs, metric=metric, measured=self.measured):
                if found.lead:
                    leads[found.against][metric] = found.lead
        return leads

    def doubt(self, other: str, metric: str) -> str:
        """Return why the best cannot be told from another that it leads; empty if it can."""
        lead = self.leads[other].get(metric)
        if lead is None or lead.significant:
            return ""
        return lead.too_few or "may be chance"

    def verdict(self) -> list[str]:
        """Return the result in a sentence or two."""
        if self.best is None:
            return ["No system has a finite score, so none is best."]
        metric = self.board.rank_by
        score = self.best.table.total[metric].mean
        said = [f"{self.best.name} is best: {metric_name(metric)} {with_unit(score, metric)}."]
        tied = [other for other in self.leads if self.doubt(other, self.sample_metric)]
        if tied:
            too_few = self.leads[tied[0]][self.sample_metric].too_few
            said.append(
                f"On these {len(self.sample_id)} samples it cannot be told from {listing(tied)}"
                f"{f': {too_few}' if too_few else ''}."
            )
        elif self.leads:
            next_best, leads = next(iter(self.leads.items()))
            if self.sample_metric in leads:
                lead = leads[self.sample_metric]
                shown = f"{interval(lead, self.sample_metric)} {unit(self.sample_metric)}".rstrip()
                said.append(
                    f"It is ahead of {next_best} by {shown} over {lead.counted}, more than chance "
                    "explains."
                )
        return said

    def faults(self) -> list[str]:
        """Return what is wrong with the numbers themselves, a sentence for each fault."""
        metric, sentences = self.sample_metric, []
        if photographs(self.measured) is None:
            sentences.append("Intervals are over samples: photographs are not known.")
        for entry in self.board.ranked():
            values = self.measured[entry.name].values.get(metric)
            # How a hole looks is not defined where nothing surrounds it, which is no fault.
            if values is None or metric in {*APPEARANCE, *WITHOUT_TRUTH}:
                continue
            # Without a hole there is nothing to measure; with one, NaN is an answer gone wrong.
            missing = int((np.isnan(values) & (self.hole_ratio > 0)).sum())
            if missing:
                ranked = "" if self._finite(entry) else ", so it is ranked last"
                sentences.append(
                    f"{entry.name}: {metric_name(metric)} is not a number on {missing} of "
                    f"{len(values)} samples{ranked}."
                )
        return sentences

    def changed(self) -> Table | None:
        """Return the parameters that differ, and every run's values of them, best first.

        A parameter that a run's version of Rayfill did not have is empty, and no difference.
        """
        runs = [self.runs[e.name] for e in self.board.ranked() if e.name in self.runs]
        keys = dict.fromkeys(key for run in runs for key in run.params)
        differing = [
            key
            for key in keys
            if not key.startswith(_OF_NO_INTEREST)
            and len({run.params[key] for run in runs if key in run.params}) > 1
        ]
        if not differing:
            return None
        return Table(
            title="What differs between the runs",
            columns=["run", *differing],
            rows=[
                [run.name, *(shortened(run.params.get(key, "")) for key in differing)]
                for run in runs
            ],
        )

    def by_hole_ratio(self, name: str) -> dict[int, Interval]:
        """Return a system's means with 95 % intervals by index into :data:`.BUCKETS`."""
        values = self.measured[name].values.get(self.sample_metric)
        if values is None:
            return {}
        index = bucket_of(self.hole_ratio).numpy()
        source_id = photographs(self.measured)
        means = {}
        for bucket in range(len(BUCKETS)):
            inside = (index == bucket) & np.isfinite(values)
            if inside.any():
                own = None if source_id is None else source_id[inside].tolist()
                means[bucket] = paired_difference(
                    values[inside], np.zeros(inside.sum()), source_id=own
                )
        return means

    def _finite(self, entry: Entry) -> bool:
        score = entry.table.total.get(self.board.rank_by)
        return score is not None and math.isfinite(score.mean)


def metric_name(metric: str) -> str:
    """Return a metric as it is written in a sentence or at an axis."""
    return COLUMNS[metric].name if metric in COLUMNS else metric


def unit(metric: str) -> str:
    """Return the unit of a metric, empty if it has none."""
    return "dB" if metric.endswith("psnr") else ""


def with_unit(value: float, metric: str) -> str:
    """Return a value with the digits and the unit of its metric, and a minus that is one."""
    digits = COLUMNS[metric].digits if metric in COLUMNS else 3
    shown = "∞" if value == math.inf else f"{value:.{digits}f}".replace("-", "−")
    return f"{shown} {unit(metric)}".rstrip()


def interval(found: Interval, metric: str) -> str:
    """Return a difference and its interval, a digit finer than scores: differences are small."""
    digits = COLUMNS[metric].digits + 1 if metric in COLUMNS else 3
    mean, low, high = (
        f"{value:+.{digits}f}".replace("-", "−") for value in (found.mean, found.low, found.high)
    )
    return f"{mean} [{low}, {high}]"


def listing(names: Sequence[str], *, most: int = 4) -> str:
    """Return the first names of a list and how many more there are."""
    shown = list(names[:most])
    if len(names) > most:
        return f"{', '.join(shown)} and {len(names) - most} more"
    return " or ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)


def shortened(value: str) -> str:
    """Return a long path by its last two parts, anything else as it is."""
    if "/" not in value or len(value) <= _LONG_PATH:
        return value
    return "…/" + "/".join(value.rstrip("/").split("/")[-2:])
