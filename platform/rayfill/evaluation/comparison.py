"""Sentences that compare the systems of a sweep on the samples they were all measured on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rayfill.config.run import RunConfig, to_dict
from rayfill.evaluation.measure import Measured
from rayfill.metrics import BUCKETS, bucket_of
from rayfill.metrics.significance import paired_difference


def against_baselines(
    name: str,
    *,
    baselines: Sequence[str],
    measured: Mapping[str, Measured],
    metrics: Sequence[str],
) -> list[str]:
    """Return how one system differs from each baseline, with a 95 % interval."""
    return [
        f"{name} - {baseline}: {_differences([name], [baseline], measured, metrics)}"
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
            shown = _differences(runs, names[0], measured, metrics)
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
    parts = []
    for index, name in enumerate(BUCKETS):
        inside = bucket == index
        first = [measured[run].values[metric][inside] for run in runs]
        second = [measured[run].values[metric][inside] for run in others]
        if np.isfinite([*first, *second]).all(axis=0).any():
            found = paired_difference(first, second)
            verdict = "" if found.significant else " (not significant)"
            parts.append(f"{name} {found}{verdict}")
    return f"{metric} {'; '.join(parts)}"


def _differences(
    runs: Sequence[str],
    others: Sequence[str],
    measured: Mapping[str, Measured],
    metrics: Sequence[str],
) -> str:
    parts = []
    for metric in metrics:
        found = paired_difference(
            [measured[name].values[metric] for name in runs],
            [measured[name].values[metric] for name in others],
        )
        verdict = "" if found.significant else " (not significant)"
        unit = " dB" if metric.endswith("psnr") else ""
        parts.append(f"{metric} {found}{unit}{verdict}")
    return "; ".join(parts)


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
