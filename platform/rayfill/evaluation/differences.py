"""How systems differ that were measured on the same samples: one pair and metric at a time."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rayfill.config.ranking import less_is_better, ordered
from rayfill.config.run import RunConfig, to_dict
from rayfill.evaluation.leaderboard import COLUMNS
from rayfill.metrics import BUCKETS, bucket_of
from rayfill.metrics.aggregate import Measured
from rayfill.metrics.significance import Interval, paired_difference
from rayfill_data.errors import RayfillError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """How much more of a metric one system has than another on the same samples."""

    system: str
    against: str
    metric: str
    interval: Interval | None
    """None where no sample has a finite value of both."""

    @property
    def lead(self) -> Interval | None:
        """How much better the system is: how much more it has, or less where less is better."""
        less = less_is_better(self.metric)
        return -self.interval if self.interval and less else self.interval

    def verdict(self) -> str:
        """Return which one is better, or has more where neither is, as far as the samples tell."""
        lead = self.lead
        if lead is None or not lead.significant:
            return "no difference found"
        if not ordered(self.metric):
            return "more" if lead.mean > 0 else "less"
        return "better" if lead.mean > 0 else "worse"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        found = self.interval
        return {
            "system": self.system,
            "against": self.against,
            "metric": self.metric,
            "difference": None if found is None else dataclasses.asdict(found),
            "significant": found is not None and found.significant,
            "verdict": self.verdict(),
        }


def difference(
    system: str, against: str, *, metric: str, measured: Mapping[str, Measured]
) -> Difference:
    """Return how one system differs from another in a metric that both have per sample."""
    first, second = (measured[name].values[metric] for name in (system, against))
    found = _interval(first, second)
    return Difference(system=system, against=against, metric=metric, interval=found)


def differences_from(against: str, *, measured: Mapping[str, Measured]) -> Iterator[Difference]:
    """Yield how every system differs from one of them in every metric that all have per sample.

    One by itself is listed, too: its difference is 0 and not significant, which shows that the
    comparison finds nothing where there is nothing.
    """
    common = set.intersection(*(set(found.values) for found in measured.values()))
    for name in measured:
        for metric in COLUMNS:
            if metric in common:
                yield difference(name, against, metric=metric, measured=measured)


def _interval(first: ArrayLike, second: ArrayLike) -> Interval | None:
    try:
        return paired_difference(first, second)
    except RayfillError:  # all infinite, or samples without a hole
        return None


def against_baselines(
    name: str,
    *,
    baselines: Sequence[str],
    measured: Mapping[str, Measured],
    metrics: Sequence[str],
) -> list[str]:
    """Return how one system differs from each baseline, with a 95 % interval."""
    return [
        f"{name} - {baseline}: {_said([name], [baseline], measured, metrics)}"
        for baseline in baselines
        if all(metric in measured[baseline].values for metric in metrics)
    ]


def between_systems(
    trials: Sequence[RunConfig],
    *,
    measured: Mapping[str, Measured],
    metrics: Sequence[str],
    hole_ratio: NDArray[np.floating],
) -> list[str]:
    """Return how trials differ from the first, trials that differ in their seed alone as one.

    Where there are several seeds, also what each system comes to over them.

    Args:
        trials: Runs that were measured, or not.
        measured: Their metrics by name.
        metrics: What to compare; the first also by hole-ratio bucket.
        hole_ratio: (N,) share of hole of every sample, in [0, 1].
    """
    groups: dict[str, list[RunConfig]] = {}
    for trial in trials:
        if trial.name in measured:
            groups.setdefault(_without_seed(trial), []).append(trial)
    systems = [sorted(group, key=lambda trial: trial.train.seed) for group in groups.values()]
    labels = _labels([system[0] for system in systems])
    sentences = []
    for label, system in zip(labels, systems, strict=True):
        if len(system) > 1:
            tables = [measured[trial.name].table.total for trial in system]
            means = {m: [table[m].mean for table in tables] for m in (*metrics, "dice")}
            parts = [f"{m} {np.mean(v):.4f} ±{np.std(v):.4f}" for m, v in means.items()]
            sentences.append(f"{label} over {len(system)} seeds: {', '.join(parts)}")
    seeds = [[trial.train.seed for trial in system] for system in systems]
    names = [[trial.name for trial in system] for system in systems]
    for label, runs, own in zip(labels[1:], names[1:], seeds[1:], strict=True):
        if own == seeds[0]:
            shown = _said(runs, names[0], measured, metrics)
            by_ratio = _by_hole_ratio(runs, names[0], measured, metrics[0], hole_ratio)
            sentences.append(f"{label} - {labels[0]}: {shown}")
            sentences.append(f"{label} - {labels[0]}, by hole ratio: {by_ratio}")
    return sentences


def _by_hole_ratio(
    runs: Sequence[str],
    others: Sequence[str],
    measured: Mapping[str, Measured],
    metric: str,
    hole_ratio: NDArray[np.floating],
) -> str:
    """Return the difference of one metric in every bucket that has samples."""
    bucket = bucket_of(hole_ratio).numpy()
    first, second = (_values(names, measured, metric) for names in (runs, others))
    parts = []
    for index, name in enumerate(BUCKETS):
        inside = bucket == index
        if found := _interval(first[:, inside], second[:, inside]):
            parts.append(f"{name} {found}{_chance(found)}")
    return f"{metric} {'; '.join(parts)}"


def _said(
    runs: Sequence[str],
    others: Sequence[str],
    measured: Mapping[str, Measured],
    metrics: Sequence[str],
) -> str:
    parts = []
    for metric in metrics:
        found = _interval(*(_values(names, measured, metric) for names in (runs, others)))
        unit = " dB" if metric.endswith("psnr") else ""
        shown = f"{found}{unit}{_chance(found)}" if found else "no finite values of both"
        parts.append(f"{metric} {shown}")
    return "; ".join(parts)


def _values(
    runs: Sequence[str], measured: Mapping[str, Measured], metric: str
) -> NDArray[np.float64]:
    return np.stack([measured[run].values[metric] for run in runs])


def _chance(found: Interval) -> str:
    return "" if found.significant else " (not significant)"


def _without_seed(trial: RunConfig) -> str:
    values = to_dict(trial)
    values["train"]["seed"] = values["name"] = None
    return json.dumps(values, sort_keys=True)


def _labels(trials: Sequence[RunConfig]) -> list[str]:
    """Return the parts of the trials' names that are not number or seed."""
    return [
        "-".join(part for part in trial.name.split("-")[1:] if not part.startswith("seed"))
        or trial.model.name
        for trial in trials
    ]
