"""Choosing the next point of a space: at random, or where Optuna expects the most.

Every choice is a function of the seed, its number and the results known at that time, and of
nothing else: no study is kept, so a resumed sweep needs none.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rayfill.config.ranking import best_of, less_is_better
from rayfill.sweeps.space import RANGES, IntRange, LogUniform, Point, Space, draw_point

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

#: Trials drawn at random before the results of earlier ones say where to look.
_STARTUP = 8

#: How often a point that was tried before is drawn again before the space counts as used up.
_ATTEMPTS = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observation:
    """What is known of a point that was tried or is being tried."""

    point: Mapping[str, float]
    scores: Mapping[int, float] = dataclasses.field(default_factory=dict)
    """Finite validation score by epoch."""
    status: str = "running"
    """``finished``, ``stopped`` early, ``failed`` or ``running``."""


def next_random(
    space: Space, *, tried: Sequence[Mapping[str, float]], seed: int, number: int
) -> Point | None:
    """Return a random point that was not tried, or None where none is found."""
    for attempt in range(_ATTEMPTS):
        point = draw_point(space, np.random.default_rng([seed, number, attempt]))
        if point not in tried:
            return point
    return None


def next_by_optuna(
    space: Space, *, observations: Sequence[Observation], metric: str, seed: int, number: int
) -> Point | None:
    """Return the point that a tree-structured Parzen estimator proposes, or None as above.

    ``metric`` is what the observations' scores are of.

    The estimator models where the better quarter or so of the points lie and where the others do,
    and proposes where the first is likeliest against the second. Trials stopped early count as
    worse than those that finished, running ones as if they would be bad, so that side by side they
    spread out.

    Source: Bergstra et al. 2011, as Optuna implements it; all axes together (multivariate).
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    axes = {key: _distribution(axis) for key, axis in space.items()}
    tried = [dict(one.point) for one in observations]
    for attempt in range(_ATTEMPTS):
        sampler = optuna.samplers.TPESampler(
            # One integer out of three, so that neighbouring trials draw independently.
            seed=int(np.random.SeedSequence([seed, number, attempt]).generate_state(1)[0]),
            n_startup_trials=_STARTUP,
            multivariate=True,
            constant_liar=True,
        )
        study = optuna.create_study(
            direction="minimize" if less_is_better(metric) else "maximize", sampler=sampler
        )
        for one in observations:
            study.add_trial(_frozen(one, axes, metric=metric))
        asked = study.ask(axes).params
        point: Point = {
            key: axis.near(asked[key]) if isinstance(axis, RANGES) else int(asked[key])
            for key, axis in space.items()
        }
        if point not in tried:
            return point
    return None


def _distribution(axis: Any) -> BaseDistribution:
    from optuna import distributions

    if isinstance(axis, IntRange):
        return distributions.IntDistribution(axis.low, axis.high)
    if isinstance(axis, RANGES):
        return distributions.FloatDistribution(
            axis.low, axis.high, log=isinstance(axis, LogUniform)
        )
    return distributions.CategoricalDistribution(range(len(axis)))


def _frozen(
    observation: Observation, axes: Mapping[str, BaseDistribution], *, metric: str
) -> FrozenTrial:
    from optuna.trial import TrialState, create_trial

    states = {
        "finished": TrialState.COMPLETE,
        "stopped": TrialState.PRUNED,
        "failed": TrialState.FAIL,
        "running": TrialState.RUNNING,
    }
    state = states[observation.status]
    best = best_of(observation.scores.values(), metric=metric)
    if state in (TrialState.COMPLETE, TrialState.PRUNED) and not math.isfinite(best):
        state = TrialState.FAIL
    return create_trial(
        state=state,
        params=dict(observation.point),
        distributions=dict(axes),
        value=best if state == TrialState.COMPLETE else None,
        intermediate_values={e: s for e, s in observation.scores.items() if math.isfinite(s)},
    )
