"""Population-based training: members train side by side, and the worst take over from the best.

Every member trains some epochs (a generation); then each of the worst quarter takes weights,
optimiser and hyperparameters of one of the best quarter and varies the hyperparameters. A member's
part in a generation is a run of its own that goes on from another run's checkpoint, so the plan
tells the whole lineage, and a resumed sweep needs nothing else.

Source: Jaderberg et al. 2017, truncation selection; synchronous, as all members of a generation end
before the next begins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from rayfill.config.ranking import worth
from rayfill.config.run import RunConfig, flatten, replace, to_dict
from rayfill.sweeps.plan import Plan, make_trial
from rayfill.sweeps.space import (
    RANGES,
    Point,
    Space,
    changes_of,
    draw_point,
    find_point,
    values_at,
    varied_keys,
)
from rayfill.sweeps.trials import PlannedTrials

#: What may change in the middle of training without another network or optimiser.
MUTABLE = (
    "train.learning_rate",
    "train.grad_clip_norm",
    "train.discriminator_rate",
    "loss.alpha",
    "loss.mask_expansion",
    "loss.segmentation",
    "data.color_jitter",
    "data.rotate_degrees",
    "data.expand_px",
)

_FACTORS = (0.8, 1.2)
_RESAMPLE = 0.25
_SHARE = 4


def population_problems(base: RunConfig, space: Space, *, generation_epochs: int) -> Iterator[str]:
    """Yield what keeps a space from being trained as a population."""
    for key in varied_keys(space):
        if key not in MUTABLE:
            yield (
                f"sweep.scheduler pbt cannot vary {key}, which does not change in the middle of "
                f"training; it varies {', '.join(MUTABLE)}. Give {key} one value."
            )
    if generation_epochs >= base.train.epochs:
        yield (
            f"sweep.generation_epochs is {generation_epochs} and train.epochs "
            f"{base.train.epochs}: there must be two generations at least."
        )


def first_generation(
    base: RunConfig, space: Space, *, points: Sequence[Point], generation_epochs: int
) -> list[RunConfig]:
    """Return the members as they begin; the learning rate's schedule is of the whole length."""
    part = replace(
        base,
        {
            "train.epochs": min(generation_epochs, base.train.epochs),
            "train.schedule_epochs": (0, base.train.epochs),
        },
    )
    return [
        make_trial(part, space, point=point, prefix=f"{number:02d}-g1")
        for number, point in enumerate(points, start=1)
    ]


class Population(PlannedTrials):
    """Plans a generation when the one before it has ended."""

    def __init__(
        self,
        plan: Plan,
        *,
        space: Space,
        members: int,
        generation_epochs: int,
        say: Callable[[str], None],
    ) -> None:
        """Train a population.

        Args:
            plan: The first generation, and those after it that a resumed sweep had planned.
            space: What is varied.
            members: Runs in a generation.
            generation_epochs: Epochs of a generation.
            say: Told who takes over from whom.
        """
        super().__init__(plan)
        self._space = space
        self._members = members
        self._part = generation_epochs
        self._say = say
        # What came of earlier generations is in the plan already, failures included.
        self._handed = len(plan.trials) - members

    def over(self, *, live: Collection[str]) -> bool:
        """Return whether no trial will come any more."""
        return super().over(live=live) and not live and not self._can_go_on()

    def missing(self) -> int:
        """Return how many runs are still to be planned."""
        epochs, total = self._reach()
        return math.ceil((total - epochs) / self._part) * self._members

    def notes(self, runs: Sequence[RunConfig], *, worth: Callable[[RunConfig], float]) -> list[str]:
        """Return how the best run came about."""
        best = max(runs, key=worth, default=None)
        return [lineage_words(self.plan, best, space=self._space)] if best else []

    def _grow(self, live: Collection[str]) -> bool:
        if live or not self._can_go_on():
            return False
        self.plan.add(self._next_generation())
        return True

    def _can_go_on(self) -> bool:
        epochs, total = self._reach()
        last = self._last()
        ended = all(self.plan.run_folder(run).outcome() for run in last)
        return ended and epochs < total and any(map(math.isfinite, map(self._score, last)))

    def _reach(self) -> tuple[int, int]:
        train = self._last()[0].train
        return train.epochs, (train.schedule_epochs or (0, train.epochs))[1]

    def _last(self) -> list[RunConfig]:
        return self.plan.trials[-self._members :]

    def _score(self, run: RunConfig) -> float:
        """Return the score at the end of the generation; a failed run has none, NaN."""
        folder = self.plan.run_folder(run)
        outcome = folder.outcome()
        if outcome is None or outcome.status == "failed":
            return math.nan
        return folder.scores(run.eval.select_metric).get(run.train.epochs, math.nan)

    def _next_generation(self) -> list[RunConfig]:
        last = self._last()
        generation = len(self.plan.trials) // self._members + 1
        rng = np.random.default_rng([last[0].train.seed, generation])
        scores = [self._score(run) for run in last]
        metric = last[0].eval.select_metric
        order = sorted(range(len(last)), key=lambda member: -worth(scores[member], metric=metric))
        share = max(1, len(last) // _SHARE)
        best = [member for member in order[:share] if math.isfinite(scores[member])]
        losers = {*order[-share:], *(m for m in order if not math.isfinite(scores[m]))} - {*best}
        runs = []
        for member in range(len(last)):
            donor = int(rng.choice(best)) if member in losers else member
            point = find_point(self._space, flatten(to_dict(last[donor])))
            assert point is not None  # every run of the plan lies in the space
            if member in losers:
                point = explore(self._space, point, rng)
            runs.append(self._run(member, generation, donor=last[donor], point=point))
            if member in losers:
                self._say(
                    _takes_over(
                        runs[-1],
                        donor=last[donor],
                        scores=(scores[member], scores[donor]),
                        space=self._space,
                    )
                )
        return runs

    def _run(self, member: int, generation: int, *, donor: RunConfig, point: Point) -> RunConfig:
        epochs, total = self._reach()
        changes = {
            "train.epochs": min(epochs + self._part, total),
            "train.continue_from": self.plan.run_folder(donor).uri,
        }
        # The donor's weights are trained, so there is nothing to start from besides.
        base = replace(donor, changes | {"train.init_from": None})
        return make_trial(base, self._space, point=point, prefix=f"{member + 1:02d}-g{generation}")


def explore(space: Space, point: Point, rng: np.random.Generator) -> Point:
    """Return a point near another: numbers times 0.8 or 1.2, list values one place on.

    One in four is drawn afresh.
    """
    moved: Point = {}
    afresh = draw_point(space, rng)
    for key, axis in space.items():
        if rng.random() < _RESAMPLE:
            moved[key] = afresh[key]
        elif isinstance(axis, RANGES):
            moved[key] = axis.near(point[key] * rng.choice(_FACTORS))
        else:
            place = int(point[key]) + int(rng.choice((-1, 1)))
            moved[key] = min(max(place, 0), len(axis) - 1)
    return moved


def lineage_words(plan: Plan, run: RunConfig, *, space: Space) -> str:
    """Return by which hyperparameters a run came about, epoch by epoch, so it can be done again."""
    folders = {plan.run_folder(trial).uri: trial for trial in plan.trials}
    line = [run]
    while (parent := folders.get(str(line[0].train.continue_from))) is not None:
        line.insert(0, parent)
    began = 0
    parts = []
    for part in line:
        parts.append(f"epochs {began + 1} to {part.train.epochs}: {_words(part, space)}")
        began = part.train.epochs
    return f"{run.name} came about by {'; '.join(parts)}."


def _takes_over(
    run: RunConfig, *, donor: RunConfig, scores: tuple[float, float], space: Space
) -> str:
    own, better = scores
    return (
        f"{run.name} takes over from {donor.name} ({better:.3f} against {own:.3f}): "
        f"{_words(donor, space)} becomes {_words(run, space)}"
    )


def _words(run: RunConfig, space: Space) -> str:
    values = flatten(to_dict(run))
    point = find_point(space, values)
    assert point is not None
    changes = changes_of(values_at(space, point))
    return ", ".join(f"{key} {value}" for key, value in changes.items())
