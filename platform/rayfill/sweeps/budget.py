"""What a sweep will use, as far as that is known before it starts, and what it may use."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from rayfill.config.run import RunConfig
from rayfill.models.cost import model_cost
from rayfill.runs.folder import continued_epochs
from rayfill.sweeps.spec import SweepOptions
from rayfill.training.cluster import Capacity, concurrent_trials
from rayfill.training.feed import training_count
from rayfill_data.prepared.reader import PreparedDataset

if TYPE_CHECKING:
    from rayfill.sweeps.spec import SweepOptions


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


#: A training step costs a prediction and twice as much again for its gradients.
_STEP_PREDICTIONS = 3

#: What convolution networks reach on one data-centre GPU in bf16: about a third of its peak.
_GPU_FLOPS = 100e12

#: Starting Ray, preparing the table, and starting each trial.
_START_S = 30.0
_TRIAL_S = 3.0

#: Share of a convolution's speed that a whole training step keeps on a CPU.
_CPU_EFFICIENCY = 0.6


def training_flops(config: RunConfig, *, dataset: PreparedDataset) -> float:
    """Return the floating-point operations of all epochs of a run, validation included.

    Convolutions of the network only: losses that look through a pretrained network, and
    discriminators, come on top.
    """
    size = (dataset.height, dataset.width)
    cost = model_cost(config.model.name, size=size, **config.model.options())
    count = training_count(config, dataset=dataset)
    per_epoch = _STEP_PREDICTIONS * count + dataset.counts["val"] / config.train.validate_every
    epochs = config.train.epochs - continued_epochs(config)
    return 2.0 * cost.multiply_adds * per_epoch * epochs


def estimate(
    trials: Sequence[RunConfig], *, dataset: PreparedDataset, capacity: Capacity
) -> tuple[float, str]:
    """Return about how many seconds all trials take in full, and a sentence that says why.

    Early stopping makes it less; other work on the machine, narrow networks and losses that look
    through pretrained ones make it more.

    Args:
        trials: Placed runs.
        dataset: What they train on.
        capacity: Of the cluster, which may still grow.
    """
    flops = sum(training_flops(trial, dataset=dataset) for trial in trials)
    scaling = trials[0].scaling
    concurrent = min(concurrent_trials(trials[0], capacity=capacity), len(trials))
    if scaling.use_gpu:
        speed = _GPU_FLOPS * scaling.gpus_per_worker * scaling.num_workers
        unit = f"{scaling.gpus_per_worker * scaling.num_workers:g} GPUs"
    else:
        speed = _core_flops() * _CPU_EFFICIENCY * scaling.cpus_per_worker * scaling.num_workers
        unit = f"{scaling.cpus_per_worker * scaling.num_workers:g} CPU cores"
    start_s = _START_S + _TRIAL_S * len(trials) / concurrent
    seconds = start_s + flops / (speed * concurrent)
    epochs = sum(trial.train.epochs - continued_epochs(trial) for trial in trials)
    counts = sorted({training_count(trial, dataset=dataset) for trial in trials})
    samples = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else counts[0]
    return seconds, (
        f"{len(trials)} trials, {epochs} epochs of {samples} samples: "
        f"{flops / 1e12:,.0f} TFLOP at about {speed / 1e9:,.0f} GFLOP/s a trial ({unit} each), "
        f"{concurrent} at a time: about {_in_words(seconds)} without early stopping."
    )


def budget_words(
    seconds: float, *, options: SweepOptions, trials: Sequence[RunConfig], capacity: Capacity
) -> str:
    """Return what an estimate costs, and how much of it the budget pays for, in a sentence or none.

    Args:
        seconds: What :func:`estimate` returned.
        options: With limits and prices.
        trials: Those that were estimated.
        capacity: Of the cluster.
    """
    together = min(concurrent_trials(trials[0], capacity=capacity), len(trials))
    cost = seconds / 3600 * together * hourly_cost(trials[0], options)
    limits = {
        "sweep.max_hours": (options.max_hours, seconds / 3600),
        "sweep.max_cost": (options.max_cost, cost),
        "sweep.max_trials": (options.max_trials, len(trials)),
    }
    words = [f"Cost: about {cost:,.2f}."] if cost else []
    words += [
        f"{name} {limit:g} pays for {min(1.0, limit / wanted):.0%} of it."
        for name, (limit, wanted) in limits.items()
        if limit is not None and wanted
    ]
    return " ".join(words)


def _core_flops() -> float:
    """Return what one core of this machine makes of a convolution, in operations per second."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        image = torch.rand(1, 64, 64, 64).contiguous(memory_format=torch.channels_last)
        convolution = torch.nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last)
        best = float("inf")
        with torch.inference_mode():
            for _ in range(8):
                began = time.perf_counter()
                convolution(image)
                best = min(best, time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return 2 * 64 * 64 * 9 * 64 * 64 / best


def _in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:,.1f} h"
