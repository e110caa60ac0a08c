"""A sweep as an explicit list of runs, written down before the first one starts.

The plan is our own record: a resumed sweep runs exactly the trials that were planned, whatever has
become of Ray Tune's state files.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rayfill.config.run import RunConfig, flatten, from_dict, replace, to_dict, written
from rayfill.runs.folder import RunFolder
from rayfill.runs.sweep_folder import SweepFolder, newest_sweep, sweep_number
from rayfill.sweeps.search import Observation, next_random
from rayfill.sweeps.space import RANGES, Point, Space, Variant, changes_of, values_at
from rayfill_data.checks import check_all
from rayfill_data.errors import ConfigError, RayfillError, redact_uri


@dataclasses.dataclass(kw_only=True)
class Plan:
    """The trials of a sweep, written down; a search adds to them, each before it starts."""

    name: str
    """The sweep's own name, which is that of its folder."""
    storage: str
    trials: list[RunConfig]
    search: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What the trials were planned from, in plain values: a resumed sweep must give the same."""
    points: list[Point] = dataclasses.field(default_factory=list)
    """Where in the space each trial lies, if a search chose it."""
    observations: list[Observation] = dataclasses.field(default_factory=list)
    """Trials of another sweep that the search knew from the start."""
    started_from: dict[str, str] = dataclasses.field(default_factory=dict)
    """Where the weights lay that ``train.init_from`` named when the sweep was planned."""

    def add(self, trials: Sequence[RunConfig], *, points: Sequence[Point] = ()) -> None:
        """Plan more trials, written down together."""
        self.trials += trials
        self.points += points
        self.folder.write_plan(self._content())

    @property
    def folder(self) -> SweepFolder:
        """Where the plan and its runs lie."""
        return SweepFolder(f"{self.storage}/{self.name}")

    def run_folder(self, trial: RunConfig) -> RunFolder:
        """Return the folder of a trial's checkpoints and records."""
        return self.folder.run(trial.name)

    def _content(self) -> dict[str, Any]:
        return {
            "trials": [to_dict(trial) for trial in self.trials],
            "search": dict(self.search),
            "points": self.points,
            "told": [dataclasses.asdict(one) for one in self.observations],
            "started_from": self.started_from,
        }

    def create(self) -> bool:
        """Write the plan down unless there is one of that name; return whether it was written."""
        return self.folder.create_plan(self._content())


def grid_points(space: Space) -> list[Point]:
    """Return every combination of a space of lists.

    Raises:
        ConfigError: an axis without values, or a range, which has no end of them.
    """
    problems = [
        f"{key} of the sweep is a range, and a grid needs listed values: list some, or search with "
        "--sweep.search random or optuna."
        for key, axis in space.items()
        if isinstance(axis, RANGES)
    ]
    problems += axis_problems(space)
    if problems:
        raise ConfigError(problems)
    lengths = [range(len(axis)) for axis in space.values() if not isinstance(axis, RANGES)]
    return [dict(zip(space, place, strict=True)) for place in itertools.product(*lengths)]


def random_points(space: Space, *, count: int, seed: int) -> list[Point]:
    """Return ``count`` different points of a space, or all there are where there are fewer."""
    if problems := axis_problems(space):
        raise ConfigError(problems)
    points: list[Point] = []
    for number in range(count):
        point = next_random(space, tried=points, seed=seed, number=number)
        if point is None:
            break
        points.append(point)
    return points


def make_trial(
    base: RunConfig, space: Space, *, point: Mapping[str, float], prefix: str
) -> RunConfig:
    """Return the run at a point of a space, named by a prefix and what differs."""
    values = values_at(space, point)
    varied = [key for key, axis in space.items() if isinstance(axis, RANGES) or len(axis) > 1]
    label = "-".join(_slug(key, values[key]) for key in varied)
    name = f"{prefix}-{label}" if label else prefix
    return replace(base, {**changes_of(values), "name": name})


def plan_trials(
    base: RunConfig, space: Space, *, points: Sequence[Point] | None = None
) -> list[RunConfig]:
    """Return one run for every point of a space, or for every combination of its values.

    Args:
        base: What all runs share.
        space: Values by dotted config key, such as ``{"train.epochs": (25, 50)}``; or variants by
            any name.
        points: Where to look instead of everywhere.

    Raises:
        ConfigError: every problem of every run, each once.
    """
    points = grid_points(space) if points is None else points
    trials = [
        make_trial(base, space, point=point, prefix=f"{number:02d}")
        for number, point in enumerate(points, start=1)
    ]
    return list(check_all(trials))


def leave_out_untrainable(trials: Sequence[RunConfig]) -> tuple[list[RunConfig], list[str]]:
    """Drop the trials whose loss needs weights that cannot be had, before anything starts."""
    kept: list[RunConfig] = []
    left_out: dict[str, list[str]] = {}
    for trial in trials:
        if why := why_untrainable(trial):
            left_out.setdefault(why, []).append(trial.name)
        else:
            kept.append(trial)
    notes = [
        f"{len(names)} of {len(trials)} trials left out ({', '.join(names)}): {why}"
        for why, names in left_out.items()
    ]
    if not kept:
        raise RayfillError(" ".join(notes))
    return kept, notes


def why_untrainable(trial: RunConfig) -> str:
    """Return which weights a run's loss needs that cannot be had; empty where it needs none."""
    from rayfill.losses import ADVERSARIAL, feature_weights_available, loss_spec, parse_loss

    loss = trial.loss
    terms = [loss_spec(term) for term in parse_loss(loss.terms) if term not in ADVERSARIAL]
    if any(term.needs_features for term in terms):
        found = feature_weights_available(loss.features, weights_path=loss.weights_path)
        if not found.ok:
            return f"{found.reason}. {found.how_to_get}"
    return ""


def open_plan(plan: Plan, *, resume: bool) -> Plan:
    """Return a plan written down under a name of its own, or the one to resume read back.

    A new sweep never shares a folder with an older one: the second of a name is called ``NAME-2``.

    Args:
        plan: Under the name that was asked for.
        resume: Go on with the newest sweep of that name.

    Raises:
        RayfillError: nothing to resume, or the planned trials are not those of this call.
    """
    if resume:
        return _resumed(plan_to_resume(plan.name, storage=plan.storage), now=plan)
    name, newest = plan.name, newest_sweep(plan.name, storage=plan.storage)
    number = 1 if newest is None else sweep_number(newest, name=name) + 1
    while True:
        fresh = dataclasses.replace(plan, name=name if number == 1 else f"{name}-{number}")
        if fresh.create():
            return fresh
        number += 1  # another sweep of that name began in the same moment


def plan_to_resume(name: str, *, storage: str) -> Plan:
    """Return the plan of the newest sweep of a name.

    Raises:
        RayfillError: there is none, or its plan cannot be read.
    """
    newest = newest_sweep(name, storage=storage)
    if newest is None:
        raise RayfillError(
            f"There is no sweep {name!r} in {storage} to resume; start it without --resume."
        )
    return read_plan(newest)


def read_plan(folder: SweepFolder) -> Plan:
    """Return the plan of the sweep in a folder.

    Raises:
        RayfillError: no plan, or one that cannot be read.
    """
    values = folder.plan()
    if values is None:
        raise folder.missing()
    try:
        return Plan(
            name=folder.name,
            storage=folder.uri.removesuffix(f"/{folder.name}"),
            trials=[from_dict(RunConfig, trial) for trial in values["trials"]],
            search=values.get("search", {}),
            points=values.get("points", []),
            observations=[_read_observation(one) for one in values.get("told", [])],
            started_from=values.get("started_from", {}),
        )
    except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise folder.damaged() from error


def _resumed(before: Plan, *, now: Plan) -> Plan:
    """Return the written plan, with what this call adds to it, or refuse another sweep's."""
    old, new = map(_comparables, (before.trials, now.trials))
    shared = min(len(old), len(new))
    # A search adds trials as it goes; a random one is only drawn further.
    grows = ("optuna", "pbt") if len(old) > len(new) else ("random",)
    kind = str(now.search.get("kind", "grid"))
    same = before.search == dict(now.search) or not before.search
    if not same or old[:shared] != new[:shared] or (len(old) != len(new) and kind not in grows):
        then, here = ({trial.name for trial in plan.trials} for plan in (before, now))
        raise RayfillError(
            f"Sweep {before.name!r} was planned with other settings ({len(old)} trials; only "
            f"there: {sorted(then - here) or 'none'}; only now: {sorted(here - then) or 'none'}). "
            "Resume it with the flags it was started with, or start it anew without --resume."
        )
    if now.trials:
        before.trials = [_with_credentials(one, now=now.trials[0]) for one in before.trials]
    before.add(now.trials[shared:])
    return before


def _with_credentials(trial: RunConfig, *, now: RunConfig) -> RunConfig:
    """Return a trial that was written down with the credentials that this call names again."""
    named = {redact_uri(one): one for one in flatten(to_dict(now)).values() if isinstance(one, str)}
    return replace(
        trial,
        {
            key: named[value]
            for key, value in flatten(to_dict(trial)).items()
            if isinstance(value, str) and "://" in value and value in named
        },
    )


def axis_problems(space: Space) -> list[str]:
    """Return a sentence for every axis that nothing can be drawn from."""
    problems: list[str] = []
    for key, axis in space.items():
        if isinstance(axis, RANGES):
            problems += axis.problems(key)
        elif not axis:
            problems.append(f"{key} of the sweep has no values: give at least one.")
    return problems


def _comparables(trials: Sequence[RunConfig]) -> list[dict[str, Any]]:
    return [comparable(trial) for trial in trials]


def _read_observation(values: Mapping[str, Any]) -> Observation:
    scores = {int(epoch): score for epoch, score in values["scores"].items()}
    return Observation(point=values["point"], scores=scores, status=values["status"])


def comparable(config: RunConfig) -> dict[str, Any]:
    """Return what a run computes, in plain values as JSON gives them back."""
    values = written(config)
    return {part: values[part] for part in ("name", "data", "model", "loss", "train")}


def _slug(key: str, value: Any) -> str:
    """Return a value as part of a name; a number says what it counts: ``epochs4``."""
    named = isinstance(value, str | Variant)
    text = str(value) if named else f"{key.rpartition('.')[2]}{value}"
    return re.sub(r"[^A-Za-z0-9_.+*]", "_", text)


def leaves(plan: Plan) -> list[RunConfig]:
    """Return the trials that none of the others goes on from."""
    continued = {trial.train.continue_from for trial in plan.trials}
    return [trial for trial in plan.trials if plan.run_folder(trial).uri not in continued]
