"""A searcher of Ray Tune's own kind as the source of a sweep's trials."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from rayfill.config.ranking import best_of, less_is_better
from rayfill.config.run import RunConfig
from rayfill.sweeps.plan import Plan
from rayfill.sweeps.search import Observation
from rayfill.sweeps.space import RANGES, IntRange, LogUniform, Point, Space, Variant
from rayfill.sweeps.trials import OptunaTrials
from rayfill_data.errors import RayfillError

if TYPE_CHECKING:
    from ray.tune.search import Searcher


class SearcherTrials(OptunaTrials):
    """Plans each trial where a searcher suggests, and tells it what came of those before."""

    def __init__(
        self,
        plan: Plan,
        *,
        base: RunConfig,
        space: Space,
        count: int,
        searcher: Searcher,
        say: Callable[[str], None],
    ) -> None:
        """Search a space.

        Args:
            plan: With what was planned before, if the sweep is resumed.
            base: What all trials share, placed on the cluster.
            space: What is varied.
            count: Trials in all.
            searcher: Suggests a value for each key of the space; of a variant, its name.
            say: Told that the searcher cannot learn of earlier trials.
        """
        super().__init__(plan, base=base, space=space, count=count)
        self._searcher = searcher
        self._metric = base.eval.select_metric
        mode = "min" if less_is_better(self._metric) else "max"
        # False is the answer of one that has its own space and metric.
        searcher.set_search_properties(f"val/{self._metric}", mode, tune_space(space))
        self._waiting: set[int] = set()
        try:
            for told in self._observations(()):
                if told.status != "running" and told.scores:
                    searcher.add_evaluated_point(
                        suggestion_at(space, told.point), self._best_of(told)
                    )
        except NotImplementedError:
            say(f"{type(searcher).__name__} cannot be told of earlier trials: it begins afresh.")

    def _next_point(self, number: int, *, live: Collection[str]) -> Point | None:
        from ray.tune.search import Searcher

        self._tell_ended(live)
        suggestion = self._searcher.suggest(str(number))
        self._used_up = suggestion == Searcher.FINISHED
        if suggestion is None or self._used_up:
            return None
        self._waiting.add(number)
        return point_of(self._space, suggestion)

    def _tell_ended(self, live: Collection[str]) -> None:
        """Tell the searcher what came of its own suggestions, each once."""
        own = self._observations(live)[len(self.plan.observations) :]
        ended = {number for number in self._waiting if own[number].status != "running"}
        for number in sorted(ended):
            told = own[number]
            failed = told.status == "failed" or not told.scores
            scored = {f"val/{self._metric}": self._best_of(told)}
            result = {**scored, "training_iteration": len(told.scores)}
            self._searcher.on_trial_complete(str(number), None if failed else result, error=failed)
        self._waiting -= ended

    def _best_of(self, told: Observation) -> float:
        return best_of(told.scores.values(), metric=self._metric)


def tune_space(space: Space) -> dict[str, Any]:
    """Return a space as Ray Tune writes it; variants by their names."""
    from ray import tune

    found: dict[str, Any] = {}
    for key, axis in space.items():
        if isinstance(axis, IntRange):
            found[key] = tune.randint(axis.low, axis.high + 1)
        elif isinstance(axis, RANGES):
            draw = tune.loguniform if isinstance(axis, LogUniform) else tune.uniform
            found[key] = draw(axis.low, axis.high)
        else:
            found[key] = tune.choice([_plain(value) for value in axis])
    return found


def suggestion_at(space: Space, point: Mapping[str, float]) -> dict[str, Any]:
    """Return what a searcher would have suggested for a point."""
    return {
        key: point[key] if isinstance(axis, RANGES) else _plain(axis[int(point[key])])
        for key, axis in space.items()
    }


def point_of(space: Space, suggestion: Mapping[str, Any]) -> Point:
    """Return where a suggestion lies in the space.

    Raises:
        RayfillError: outside of it, or not all of its keys and no others.
    """
    if suggestion.keys() != space.keys():
        raise RayfillError(
            f"Sweep.searcher suggested values for {', '.join(map(str, suggestion)) or 'nothing'}; "
            f"the space has {', '.join(space)}."
        )
    point: Point = {}
    for key, axis in space.items():
        value = suggestion[key]
        if isinstance(axis, RANGES):
            inside = isinstance(value, int | float) and axis.low <= value <= axis.high
            allowed = f"a number from {axis.low} to {axis.high}"
        else:
            names = [_plain(one) for one in axis]
            inside = value in names
            allowed = f"one of {', '.join(map(str, names))}"
        if not inside:
            raise RayfillError(
                f"Sweep.searcher suggested {key} = {value!r}, outside the space: it has {allowed}."
            )
        point[key] = axis.near(value) if isinstance(axis, RANGES) else names.index(value)
    return point


def _plain(value: Any) -> Any:
    return value.name if isinstance(value, Variant) else value
