"""What a sweep is going to try: drafted and checked before anything starts."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rayfill.config.run import RunConfig, flatten, to_dict
from rayfill.runs.folder import RunFolder
from rayfill.runs.sweep_folder import newest_sweep
from rayfill.sweeps.plan import (
    Plan,
    axis_problems,
    comparable,
    grid_points,
    leave_out_untrainable,
    plan_trials,
    random_points,
    read_plan,
    why_untrainable,
)
from rayfill.sweeps.population import Population, first_generation, population_problems
from rayfill.sweeps.search import Observation
from rayfill.sweeps.searcher import SearcherTrials
from rayfill.sweeps.space import RANGES, Point, Space, describe_space, find_point
from rayfill.sweeps.trials import OptunaTrials, PlannedTrials, observation_of
from rayfill_data.checks import check_all
from rayfill_data.errors import ConfigError, RayfillError

if TYPE_CHECKING:
    from ray.tune.search import Searcher

    from rayfill.sweeps.spec import SweepOptions

#: Above so many combinations of a space, values are checked one axis at a time.
_MOST_PROBES = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draft:
    """The trials of a sweep as far as they are known before it starts."""

    trials: Sequence[RunConfig]
    """Those that are planned from the start."""
    examples: Sequence[RunConfig]
    """Runs that take as long as all that will be trained, for an estimate."""
    space: Space
    """What is varied, without the values that cannot be trained."""
    search: Mapping[str, Any]
    """What makes it another search, in plain values."""
    notes: Sequence[str] = ()
    """What was left out, a sentence each."""

    def changed(self, change: Callable[[RunConfig], RunConfig]) -> Draft:
        """Return the same of runs that were all changed."""
        return dataclasses.replace(
            self,
            trials=[change(trial) for trial in self.trials],
            examples=[change(trial) for trial in self.examples],
        )


def draft_search(
    base: RunConfig, space: Space, *, options: SweepOptions, searcher: Searcher | None = None
) -> Draft:
    """Return what a search of a space starts with.

    Args:
        base: What all runs share.
        space: What is varied.
        options: How to search.
        searcher: One of Ray Tune's, which stands in for Optuna.

    Raises:
        ConfigError: every value that cannot be used.
        RayfillError: nothing that can be trained.
    """
    kind = "pbt" if options.scheduler == "pbt" else options.search
    search: dict[str, Any] = {"kind": kind, "space": describe_space(space)}
    if kind == "grid":
        kept, notes = leave_out_untrainable(plan_trials(base, space))
        return Draft(trials=kept, examples=kept, space=space, search=search, notes=notes)
    if problems := axis_problems(space):
        raise ConfigError(problems)
    space, notes = _trainable(base, space)
    points = _points(base, space, options=options)
    if len(points) < (options.trials or 0):
        notes = [*notes, f"The space has no more than {len(points)} points to try."]
    examples = plan_trials(base, space, points=points)
    if kind == "optuna":
        search["base"] = comparable(base)
        if searcher is not None:
            search["searcher"] = type(searcher).__name__
        return Draft(trials=[], examples=examples, space=space, search=search, notes=notes)
    if kind == "random":
        return Draft(trials=examples, examples=examples, space=space, search=search, notes=notes)
    parts = options.generation_epochs
    problems = list(population_problems(base, space, generation_epochs=parts))
    if len(points) < 2:
        problems.append("sweep.scheduler pbt needs two members at least: give sweep.trials.")
    if problems:
        raise ConfigError(problems)
    members = first_generation(base, space, points=points, generation_epochs=parts)
    search["generation_epochs"] = parts
    return Draft(trials=members, examples=examples, space=space, search=search, notes=notes)


def draft_runs(runs: Sequence[RunConfig]) -> Draft:
    """Return a draft of given runs.

    Raises:
        ConfigError: every value that cannot be used.
    """
    check_all(runs)
    return Draft(trials=runs, examples=runs, space={}, search={"kind": "runs"})


def make_source(
    plan: Plan,
    draft: Draft,
    *,
    base: RunConfig,
    options: SweepOptions,
    say: Callable[[str], None],
    searcher: Searcher | None = None,
) -> PlannedTrials:
    """Return where the trials of a sweep come from.

    Args:
        plan: As written down.
        draft: What it was made from.
        base: What all trials share, placed on the cluster.
        options: How to search.
        say: Told what a population does, and what a searcher cannot do.
        searcher: As for :func:`draft_search`.
    """
    if draft.search["kind"] == "pbt":
        return Population(
            plan,
            space=draft.space,
            members=len(draft.trials),
            generation_epochs=options.generation_epochs,
            say=say,
        )
    if draft.search["kind"] == "optuna":
        count = options.trials or 0
        if searcher is not None:
            return SearcherTrials(
                plan, base=base, space=draft.space, count=count, searcher=searcher, say=say
            )
        return OptunaTrials(plan, base=base, space=draft.space, count=count)
    return PlannedTrials(plan)


def earlier_observations(
    name: str, *, space: Space, base: RunConfig, dataset_hash: str
) -> tuple[list[Observation], str]:
    """Return what trials of another sweep say of points of this space, and a note about them.

    Args:
        name: The other sweep.
        space: Of this one.
        base: What this one's trials share.
        dataset_hash: Only trials of the same dataset, and of the same metric, are comparable.

    Raises:
        RayfillError: no such sweep, or no trial of it that can be used.
    """
    plan = read_earlier(name, storage=str(base.storage))
    observations: list[Observation] = []
    why_not: dict[str, int] = {}
    for trial in plan.trials:
        point = find_point(space, flatten(to_dict(trial)))
        if point is None:
            reason = "lie outside the space"
        elif trial.eval.ranked_by != base.eval.ranked_by:
            reason = f"were ranked by {trial.eval.ranked_by}"
        elif _dataset_of(plan.run_folder(trial)) != dataset_hash:
            reason = "have no result on this dataset"
        else:
            one = observation_of(trial, folder=plan.run_folder(trial), point=point)
            if one.status in ("finished", "stopped") and one.scores:
                observations.append(one)
                continue
            reason = "did not end"
        why_not[reason] = why_not.get(reason, 0) + 1
    left_out = "".join(f"; {count} {reason}" for reason, count in why_not.items())
    known = f"{len(observations)} of {len(plan.trials)}"
    note = f"The search knew {known} trials of {plan.name}{left_out}."
    if not observations:
        raise RayfillError(f"sweep.warm_from {name!r}: no trial can be used{left_out}.")
    return observations, note


def read_earlier(name: str, *, storage: str) -> Plan:
    """Return the plan of the newest sweep of a name.

    Raises:
        RayfillError: there is none.
    """
    folder = newest_sweep(name, storage=storage)
    if folder is None:
        raise RayfillError(
            f"There is no sweep {name!r} in {storage}. Name one by its folder there, or give the "
            "storage it was run with."
        )
    return read_plan(folder)


def _points(base: RunConfig, space: Space, *, options: SweepOptions) -> list[Point]:
    if options.search == "grid":
        return grid_points(space)
    return random_points(space, count=options.trials or 0, seed=base.train.seed)


def _trainable(base: RunConfig, space: Space) -> tuple[Space, list[str]]:
    """Return the space without listed values that no run can be trained with, and why."""
    probes = _probes(space)
    reasons = [why_untrainable(trial) for trial in plan_trials(base, space, points=probes)]
    if all(reasons):
        raise RayfillError(f"Nothing of the space can be trained: {reasons[0]}")
    narrowed: dict[str, Any] = dict(space)
    notes = []
    for key, axis in space.items():
        if isinstance(axis, RANGES):
            continue
        held = [
            [why for probe, why in zip(probes, reasons, strict=True) if probe[key] == place]
            for place in range(len(axis))
        ]
        narrowed[key] = tuple(v for v, whys in zip(axis, held, strict=True) if not all(whys))
        notes += [
            f"{key} {value} left out of the search: {whys[0]}"
            for value, whys in zip(axis, held, strict=True)
            if all(whys)
        ]
    return narrowed, notes


def _probes(space: Space) -> list[Point]:
    """Return points at which every listed value and both ends of every range are tried."""
    ends: dict[str, list[float]] = {
        key: [axis.low, axis.high] if isinstance(axis, RANGES) else list(range(len(axis)))
        for key, axis in space.items()
    }
    if math.prod(map(len, ends.values())) <= _MOST_PROBES:
        return [
            dict(zip(ends, places, strict=True)) for places in itertools.product(*ends.values())
        ]
    first = {key: places[0] for key, places in ends.items()}
    return [{**first, key: place} for key, places in ends.items() for place in places]


def _dataset_of(folder: RunFolder) -> str:
    """Return the content hash of what a run was trained on, empty where nothing is kept of it."""
    return str((folder.bundle_config() or {"extra": {}})["extra"].get("dataset_hash", ""))
