"""A sweep as an explicit list of runs, written down before the first one starts.

The plan is our own record: a resumed sweep runs exactly the trials that were planned, whatever has
become of Ray Tune's state files.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rayfill.config import RunConfig, check, from_dict, replace, to_dict
from rayfill.folders import list_folders, read_file, write_file
from rayfill_data.errors import ConfigError, RayfillError

_PLAN = "plan.json"
_OUTCOME = "outcome.json"

Status = Literal["finished", "stopped", "failed"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """A value of a space that changes several keys together, such as a network and its options."""

    name: str
    changes: Mapping[str, Any]
    """Values by dotted config key."""

    def __str__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a trial ended: after its last epoch, stopped early by the scheduler, or by an error."""

    status: Status
    epoch: int
    reason: str = ""


def plan_trials(base: RunConfig, space: Mapping[str, Sequence[Any]]) -> list[RunConfig]:
    """Return one run for every combination of the space, named by what differs.

    Args:
        base: What all runs share.
        space: Values by dotted config key, such as ``{"train.epochs": (25, 50)}``; or variants by
            any name.

    Raises:
        ConfigError: every problem of every run, each once.
    """
    if empty := [key for key, values in space.items() if not values]:
        raise ConfigError(f"{key} of the sweep has no values: give at least one." for key in empty)
    trials = []
    for number, values in enumerate(itertools.product(*space.values()), start=1):
        changes = dict(zip(space, values, strict=True))
        label = "-".join(_slug(key, changes[key]) for key in space if len(space[key]) > 1)
        name = f"{number:02d}-{label}" if label else f"{number:02d}"
        variants = [value.changes for value in values if isinstance(value, Variant)]
        single = {k: v for k, v in changes.items() if not isinstance(v, Variant)}
        together = functools.reduce(operator.or_, map(dict, variants), single)
        trials.append(replace(base, {**together, "name": name}))
    problems = dict.fromkeys(problem for trial in trials for problem in trial.problems())
    if problems:
        raise ConfigError(problems)
    return [check(trial) for trial in trials]


def leave_out_untrainable(trials: Sequence[RunConfig]) -> tuple[list[RunConfig], list[str]]:
    """Drop the trials whose loss needs weights that cannot be had, before anything starts."""
    from rayfill.losses import LOSSES, feature_weights_available, parse_loss

    kept: list[RunConfig] = []
    left_out: dict[str, list[str]] = {}
    for trial in trials:
        loss = trial.loss
        terms = [LOSSES[term] for term in parse_loss(loss.terms) if term in LOSSES]
        if any(term.needs_features for term in terms):
            found = feature_weights_available(loss.features, weights_path=loss.weights_path)
            if not found.ok:
                why = f"{found.reason}. {found.how_to_get}"
                left_out.setdefault(why, []).append(trial.name)
                continue
        kept.append(trial)
    notes = [
        f"{len(names)} of {len(trials)} trials left out ({', '.join(names)}): {why}"
        for why, names in left_out.items()
    ]
    if not kept:
        raise RayfillError(" ".join(notes))
    return kept, notes


def open_plan(
    name: str, trials: Sequence[RunConfig], *, storage: str, resume: bool
) -> tuple[str, list[RunConfig]]:
    """Return the sweep's own name and its trials, written down or read back.

    A new sweep never shares a folder with an older one: the second of a name is called ``NAME-2``.

    Raises:
        RayfillError: nothing to resume, or the planned trials are not those of this call.
    """
    taken = [
        folder
        for folder in list_folders(storage)
        if re.fullmatch(rf"{re.escape(name)}(-\d+)?", folder)
        and read_file(f"{storage}/{folder}/{_PLAN}") is not None
    ]
    newest = max(taken, key=lambda folder: _suffix(folder, name), default=None)
    if resume:
        if newest is None:
            raise RayfillError(
                f"There is no sweep {name!r} in {storage} to resume; start it without --resume."
            )
        return newest, _read_plan(newest, trials, storage=storage)
    fresh = name if newest is None else f"{name}-{_suffix(newest, name) + 1}"
    plan = {"trials": [to_dict(trial) for trial in trials]}
    write_file(f"{storage}/{fresh}/{_PLAN}", json.dumps(plan, indent=1).encode())
    return fresh, list(trials)


def read_outcome(run_dir: str) -> Outcome | None:
    """Return how a trial ended, or None while it has not."""
    content = read_file(f"{run_dir}/{_OUTCOME}")
    return Outcome(**json.loads(content)) if content else None


def write_outcome(run_dir: str, outcome: Outcome) -> None:
    """Write down how a trial ended."""
    write_file(f"{run_dir}/{_OUTCOME}", json.dumps(dataclasses.asdict(outcome)).encode())


def _read_plan(folder: str, trials: Sequence[RunConfig], *, storage: str) -> list[RunConfig]:
    content = read_file(f"{storage}/{folder}/{_PLAN}") or b""
    try:
        planned = [from_dict(RunConfig, values) for values in json.loads(content)["trials"]]
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise RayfillError(
            f"The plan {storage}/{folder}/{_PLAN} is damaged or of another version of Rayfill; "
            "start the sweep anew without --resume."
        ) from error
    before, now = {t.name for t in planned}, {t.name for t in trials}
    if [_comparable(t) for t in planned] != [_comparable(t) for t in trials]:
        raise RayfillError(
            f"Sweep {folder!r} was planned with other settings ({len(planned)} trials; only there: "
            f"{sorted(before - now) or 'none'}; only now: {sorted(now - before) or 'none'}). "
            "Resume it with the flags it was started with, or start it anew without --resume."
        )
    return planned


def _comparable(config: RunConfig) -> dict[str, Any]:
    values = to_dict(config)
    return {part: values[part] for part in ("name", "data", "model", "loss", "train")}


def _suffix(folder: str, name: str) -> int:
    return int(folder[len(name) + 1 :] or 1)


def _slug(key: str, value: Any) -> str:
    """Return a value as part of a name; a number says what it counts: ``epochs4``."""
    named = isinstance(value, str | Variant)
    text = str(value) if named else f"{key.rpartition('.')[2]}{value}"
    return re.sub(r"[^A-Za-z0-9_.+*]", "_", text)
