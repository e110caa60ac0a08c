"""Sentences that compare the systems of a sweep on the samples they were all measured on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from rayfill.config import RunConfig, to_dict
from rayfill.evaluation import Measured
from rayfill.significance import paired_difference

_METRICS = {"hole_psnr": ("PSNR", " dB"), "hole_ssim": ("SSIM", "")}


def against_baselines(
    name: str, *, baselines: Sequence[str], measured: Mapping[str, Measured]
) -> list[str]:
    """Return how one system differs from each baseline, in the hole, with a 95 % interval."""
    return [
        f"{name} - {baseline}, in the hole: " + _differences([name], [baseline], measured)
        for baseline in baselines
    ]


def over_seeds(trials: Sequence[RunConfig], *, measured: Mapping[str, Measured]) -> list[str]:
    """Return what trials that differ in their seed alone come to, and how such groups differ.

    The first group is what the others are compared with. Nothing where there is but one seed.
    """
    groups: dict[str, list[RunConfig]] = {}
    for trial in trials:
        if trial.name in measured:
            groups.setdefault(_without_seed(trial), []).append(trial)
    systems = [sorted(group, key=lambda trial: trial.train.seed) for group in groups.values()]
    if not any(len(system) > 1 for system in systems):
        return []
    labels = _labels([system[0] for system in systems])
    sentences = []
    for label, system in zip(labels, systems, strict=True):
        tables = [measured[trial.name].table.total for trial in system]
        means = {metric: [table[metric].mean for table in tables] for metric in (*_METRICS, "dice")}
        parts = [
            f"{metric} {np.mean(values):.4f} +-{np.std(values):.4f}"
            for metric, values in means.items()
        ]
        sentences.append(f"{label} over {len(system)} seeds: {', '.join(parts)}")
    first, names = systems[0], [[trial.name for trial in system] for system in systems]
    for label, system, runs in zip(labels[1:], systems[1:], names[1:], strict=True):
        if [trial.train.seed for trial in system] == [trial.train.seed for trial in first]:
            shown = _differences(runs, names[0], measured)
            sentences.append(f"{label} - {labels[0]} over {len(runs)} seeds, in the hole: {shown}")
    return sentences


def _differences(
    runs: Sequence[str], others: Sequence[str], measured: Mapping[str, Measured]
) -> str:
    parts = []
    for metric, (title, unit) in _METRICS.items():
        found = paired_difference(
            [measured[name].values[metric] for name in runs],
            [measured[name].values[metric] for name in others],
        )
        verdict = "" if found.significant else " (not significant)"
        parts.append(f"{title} {found}{unit}{verdict}")
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
