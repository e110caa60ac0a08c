"""What a sweep may use: hours, trials, money. What that leaves out goes on with a resume."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rayfill.config.run import RunConfig

if TYPE_CHECKING:
    from rayfill.sweeps.options import SweepOptions


def hourly_cost(config: RunConfig, options: SweepOptions) -> float:
    """Return what an hour of a placed run costs, all its workers together."""
    scaling = config.scaling
    gpus = scaling.gpus_per_worker if scaling.use_gpu else 0.0
    each = scaling.cpus_per_worker * options.cost_per_cpu_hour + gpus * options.cost_per_gpu_hour
    return scaling.num_workers * each


class Budget:
    """Counts what this call of a sweep has used.

    The time is that of the whole call, the cost that of cores and GPUs while runs hold them.
    """

    def __init__(
        self, options: SweepOptions, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._options = options
        self._clock = clock
        self._start = clock()
        self._ended_cost = 0.0
        self._running: dict[str, tuple[float, float]] = {}
        self._begun: set[str] = set()

    def begin(self, config: RunConfig) -> None:
        """Note that a run holds its resources from now on."""
        self._begun.add(config.name)
        self._running[config.name] = (self._clock(), hourly_cost(config, self._options))

    def end(self, name: str) -> None:
        """Note that a run has given its resources back."""
        if name in self._running:
            began, rate = self._running.pop(name)
            self._ended_cost += (self._clock() - began) / 3600 * rate

    @contextlib.contextmanager
    def counting(self, config: RunConfig) -> Iterator[None]:
        """Count the cost of a run that is no trial."""
        self.begin(config)
        self._begun.discard(config.name)
        try:
            yield
        finally:
            self.end(config.name)

    @property
    def hours(self) -> float:
        """Hours since the start."""
        return (self._clock() - self._start) / 3600

    @property
    def cost(self) -> float:
        """What all runs together have cost by now."""
        now = self._clock()
        running = sum((now - began) / 3600 * rate for began, rate in self._running.values())
        return self._ended_cost + running

    def spent(self) -> str:
        """Return which limit running trials have reached, empty while there is none."""
        options = self._options
        if options.max_hours is not None and self.hours >= options.max_hours:
            return f"sweep.max_hours {options.max_hours:g} is used up"
        if options.max_cost is not None and self.cost >= options.max_cost:
            return f"sweep.max_cost {options.max_cost:g} is used up"
        return ""

    def full(self) -> str:
        """Return which limit keeps another trial from being begun, empty while there is none."""
        most = self._options.max_trials
        if most is not None and len(self._begun) >= most:
            return f"sweep.max_trials {most} have been begun"
        return self.spent()

    def words(self) -> str:
        """Return what was used, in a sentence; empty where nothing costs or limits anything."""
        options = self._options
        if options.cost_per_cpu_hour or options.cost_per_gpu_hour:
            return f"Used: {self.hours:.2f} h, cost {self.cost:.2f}."
        return f"Used: {self.hours:.2f} h." if options.max_hours is not None else ""
