"""How systems differ that were measured on the same samples: one pair and metric at a time."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayfill.config.ranking import less_is_better, ordered
from rayfill.config.run import RunConfig, to_dict
from rayfill.evaluation.leaderboard import COLUMNS
from rayfill.metrics import BUCKETS, bucket_of
from rayfill.metrics.aggregate import Measured
from rayfill.metrics.significance import Interval, holm, paired_difference
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
        if lead is not None and lead.too_few:
            return lead.too_few
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


def differences(
    pairs: Sequence[tuple[str, str]], *, metric: str, measured: Mapping[str, Measured]
) -> list[Difference]:
    """Return how systems differ, p-values corrected by :func:`.holm` for their number.

    Args:
        pairs: Two systems each; of one with itself the difference is 0, and it counts for none.
        metric: One that all have per sample.
        measured: Systems by name, on the same samples.
    """
    found = [
        _difference([system], [against], metric=metric, measured=measured)
        for system, against in pairs
    ]
    others = [number for number, (system, against) in enumerate(pairs) if system != against]
    corrected = dict(zip(others, holm([found[number] for number in others]), strict=True))
    return [
        Difference(
            system=system,
            against=against,
            metric=metric,
            interval=corrected.get(number, found[number]),
        )
        for number, (system, against) in enumerate(pairs)
    ]


def differences_from(against: str, *, measured: Mapping[str, Measured]) -> list[Difference]:
    """Return how every system differs from one of them in every metric that all have per sample.

    One by itself is listed, too: its difference is 0 and not significant, which shows that the
    comparison finds nothing where there is nothing.
    """
    common = set.intersection(*(set(found.values) for found in measured.values()))
    pairs = [(name, against) for name in measured]
    by_metric = [
        differences(pairs, metric=metric, measured=measured)
        for metric in COLUMNS
        if metric in common
    ]
    return [found[number] for number in range(len(pairs)) for found in by_metric]


def photographs(measured: Mapping[str, Measured]) -> NDArray[np.str_] | None:
    """Return the (N,) photographs of samples that systems share; None where none knows them."""
    known = (found.source_id for found in measured.values() if found.source_id is not None)
    source_id = next(known, None)
    return None if source_id is None else np.asarray(source_id)


def _difference(
    runs: Sequence[str],
    others: Sequence[str],
    *,
    metric: str,
    measured: Mapping[str, Measured],
    inside: NDArray[np.bool_] | None = None,
) -> Interval | None:
    """Return how runs of several seeds differ on some samples; None without common finite ones."""
    rows = slice(None) if inside is None else inside
    first, second = (
        np.stack([measured[name].values[metric][rows] for name in names])
        for names in (runs, others)
    )
    source_id = photographs(measured)
    try:
        return paired_difference(
            first, second, source_id=None if source_id is None else source_id[rows].tolist()
        )
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
    able = [b for b in baselines if all(metric in measured[b].values for metric in metrics)]
    said = _said([([name], [baseline]) for baseline in able], measured=measured, metrics=metrics)
    return [f"{name} - {baseline}: {shown}" for baseline, shown in zip(able, said, strict=True)]


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
    able = [number for number in range(1, len(names)) if seeds[number] == seeds[0]]
    pairs = [(names[number], names[0]) for number in able]
    said = _said(pairs, measured=measured, metrics=metrics)
    by_ratio = _by_hole_ratio(pairs, measured=measured, metric=metrics[0], hole_ratio=hole_ratio)
    for number, shown, shown_by_ratio in zip(able, said, by_ratio, strict=True):
        sentences.append(f"{labels[number]} - {labels[0]}: {shown}")
        sentences.append(f"{labels[number]} - {labels[0]}, by hole ratio: {shown_by_ratio}")
    return sentences


#: Runs of a system and of another, a run for each training seed.
_Pair = tuple[Sequence[str], Sequence[str]]


def _by_hole_ratio(
    pairs: Sequence[_Pair],
    *,
    measured: Mapping[str, Measured],
    metric: str,
    hole_ratio: NDArray[np.floating],
) -> list[str]:
    """Return, for each pair, the difference of one metric in every bucket that has samples."""
    bucket = bucket_of(hole_ratio).numpy()
    parts: list[list[str]] = [[] for _ in pairs]
    for index, name in enumerate(BUCKETS):
        intervals = _intervals(pairs, metric=metric, measured=measured, inside=bucket == index)
        for own, found in zip(parts, intervals, strict=True):
            if found:
                own.append(f"{name} {found} {_counted(found)}")
    return [f"{metric} {'; '.join(own)}" for own in parts]


def _said(
    pairs: Sequence[_Pair], *, measured: Mapping[str, Measured], metrics: Sequence[str]
) -> list[str]:
    """Return, for each pair, the difference of every metric."""
    parts: list[list[str]] = [[] for _ in pairs]
    for metric in metrics:
        unit = " dB" if metric.endswith("psnr") else ""
        intervals = _intervals(pairs, metric=metric, measured=measured)
        for own, found in zip(parts, intervals, strict=True):
            shown = f"{found}{unit} {_counted(found)}" if found else "no finite values of both"
            own.append(f"{metric} {shown}")
    return ["; ".join(own) for own in parts]


def _intervals(
    pairs: Sequence[_Pair],
    *,
    metric: str,
    measured: Mapping[str, Measured],
    inside: NDArray[np.bool_] | None = None,
) -> list[Interval | None]:
    """Return the difference of each pair, p-values corrected for their number."""
    return holm(
        [
            _difference(runs, others, metric=metric, measured=measured, inside=inside)
            for runs, others in pairs
        ]
    )


def _counted(found: Interval) -> str:
    chance = "" if found.significant else ", not significant"
    return f"({found.too_few or found.counted + chance})"


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
