"""Measuring systems shard by shard: in this process, or every shard as a task of Ray."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from rayfill.evaluation.systems import System
from rayfill.metrics import (
    FidMetric,
    InpaintingMetrics,
    LpipsMetric,
    MaskQuality,
    MetricTable,
    ResidualObjectScore,
    Score,
)
from rayfill.metrics.accumulate import (
    Fill,
    removal_names,
    removal_table,
    take_filled,
    take_removals,
)
from rayfill.metrics.aggregate import Measured, may_lack
from rayfill.metrics.states import State, add_states, taken
from rayfill.models import JointModel
from rayfill.models.batch import TensorBatch, to_device
from rayfill_data.errors import RayfillError
from rayfill_data.prepared.batches import evaluation_batches
from rayfill_data.prepared.reader import SplitArrays
from rayfill_data.progress import ProgressCallback
from rayfill_data.sources.files import some

#: A Ray cluster of one's own takes 15 to 20 s to start and to import everything in every worker:
#: what is finished here in less than this is finished here.
RAY_PAYS_OFF_S = 60.0

#: The same where a cluster is connected, whose workers only have to import torch.
CONNECTED_PAYS_OFF_S = 10.0

#: Which system, on which shard.
Task = tuple[int, int]


class NotFiniteError(RayfillError):
    """A system that answered with values that are not finite, and for which samples."""

    def __init__(self, system: str, samples: Sequence[str]) -> None:
        self.system, self.samples = system, tuple(samples)
        super().__init__(
            f"System {system!r} answered with values that are not finite for {some(samples)}. A "
            "mean over the others would hide it: use another version of it, or leave it out."
        )

    def __reduce__(self) -> tuple[type[NotFiniteError], tuple[str, tuple[str, ...]]]:
        """Let the error cross processes with what it says."""
        return type(self), (self.system, self.samples)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditions:
    """How systems' pictures are made, and what is measured of them."""

    batch_size: int = 32
    """Samples at a time."""
    expand_px: int = 0
    """Give holes grown by so many pixels, or shrunk if below 0."""
    raw: bool = False
    """Measure what a system answers, known pixels included, instead of the composite."""
    truth: bool = True
    """Targets are what holes should show; False: measure only what needs no truth."""
    lpips: LpipsMetric | None = None
    fid: FidMetric | None = None
    residual_object: ResidualObjectScore | None = None
    """Of this, as of FID, what it has collected before is dropped."""

    def metrics(self) -> InpaintingMetrics:
        """Return empty metrics of given holes."""
        return InpaintingMetrics(
            lpips=self.lpips, appearance=True, truth=self.truth, keep_values=True
        )

    def removal_metrics(self) -> InpaintingMetrics:
        """Return empty metrics of holes that were found: none that look into given ones."""
        return InpaintingMetrics(lpips=self.lpips, keep_values=True)

    def to(self, device: torch.device | str) -> Conditions:
        """Move the networks to a device, and return the same with what was collected dropped."""
        for network in (self.lpips, self.fid, self.residual_object):
            if network is not None:
                network.to(device)
        for metric in (self.fid, self.residual_object):
            if metric is not None:
                metric.reset()
        return self


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """What metrics took of one batch; in order, parts add up to the same bits in any shards."""

    given: State
    """Of holes that were given."""
    residual: State | None = None
    """Of what is still seen of the objects in them."""
    removals: State | None = None
    """Of holes that a joint model found by itself."""
    masks: State | None = None
    """Of the masks that it found."""
    removal_residual: State | None = None
    fid: State | None = None
    """Of a whole shard, with its last batch: it is large."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """Every system on every shard of a split."""

    systems: Sequence[System]
    shards: Sequence[SplitArrays]
    """Whole batches each, so that no value depends on how many shards there are."""
    conditions: Conditions

    def run(
        self, *, num_workers: int | None, allow_broken: bool, progress: ProgressCallback
    ) -> tuple[dict[str, Measured], dict[str, str]]:
        """Return what systems scored, values in the order of the shards, and which are refused.

        Args:
            num_workers: 1: one after the other in this process. More: so many at a time on Ray.
                None: in this process, but on all of a Ray cluster as soon as the pace so far says
                that this pays off.
            allow_broken: Go on without systems whose answers are not finite; why, is said by name.
            progress: Called with samples done and in all.

        Raises:
            NotFiniteError: answers of a system, or of all, that are not finite, naming samples.
            RayfillError: too few samples for an FID, or whatever else a shard raised.
        """
        shards = range(len(self.shards))
        # The first shard of every system goes first: it tells the pace, and most that is broken.
        tasks = sorted(
            itertools.product(range(len(self.systems)), shards), key=lambda t: (t[1] > 0, t)
        )
        found: dict[Task, list[Part] | NotFiniteError] = {}
        done, count = 0, len(self.systems) * sum(map(len, self.shards))
        for task, parts in self._measure(tasks, num_workers=num_workers, count=count):
            if isinstance(parts, NotFiniteError) and not allow_broken:
                raise parts
            found[task] = parts
            done += len(self.shards[task[1]])
            progress(done, count)
        measured, refused = dict[str, Measured](), dict[str, NotFiniteError]()
        for index, system in enumerate(self.systems):
            parts = []
            for shard in shards:
                one = found[index, shard]
                if isinstance(one, NotFiniteError):
                    refused.setdefault(system.name, one)
                else:
                    parts += one
            if system.name not in refused:
                measured[system.name] = merged(parts, self.conditions)
        if not measured:
            raise next(iter(refused.values()))
        return measured, {name: str(error) for name, error in refused.items()}

    def _measure(
        self, tasks: Sequence[Task], *, num_workers: int | None, count: int
    ) -> Iterator[tuple[Task, list[Part] | NotFiniteError]]:
        opened = functools.lru_cache(maxsize=1)(lambda index: self.systems[index].opened())
        began, done = time.monotonic(), 0
        for number, (index, shard) in enumerate(tasks):
            spent_s = time.monotonic() - began
            if num_workers is None:
                on_ray = pays_off(spent_s=spent_s, done=done, left=count - done)
            else:
                on_ray = num_workers > 1
            if on_ray:
                yield from self._on_ray(tasks[number:], at_a_time=num_workers, opened=opened)
                return
            yield (index, shard), measure(opened(index), self.shards[shard], self.conditions)
            done += len(self.shards[shard])

    def _on_ray(
        self, tasks: Sequence[Task], *, at_a_time: int | None, opened: Callable[[int], System]
    ) -> Iterator[tuple[Task, list[Part] | NotFiniteError]]:
        import ray

        from rayfill.training.cluster import ray_cluster

        with ray_cluster() as capacity:
            remote = ray.remote(measure)
            # What is on this process's GPU could not be unpacked where there is none.
            conditions = ray.put(self.conditions.to("cpu"))
            shards = {shard: ray.put(self.shards[shard]) for shard in {s for _, s in tasks}}

            @functools.lru_cache(maxsize=1)  # tasks go system by system
            def put(index: int) -> Any:
                system = opened(index)
                if system.model is not None:
                    system.model.to("cpu")
                return ray.put(system)

            def start(task: Task) -> Any:
                index, shard = task
                system = self.systems[index]
                gpus = 1 if system.kind == "model" and capacity.gpus else 0
                what = system.only(self.shards[shard].sample_id) if system.finished else put(index)
                return remote.options(num_cpus=1, num_gpus=gpus).remote(
                    what, shards[shard], conditions
                )

            yield from _as_they_end(start, tasks, at_a_time=at_a_time)


def _as_they_end(
    start: Callable[[Task], Any], tasks: Sequence[Task], *, at_a_time: int | None
) -> Iterator[tuple[Task, list[Part] | NotFiniteError]]:
    """Yield tasks with what they returned; those that wait are given up when one has failed."""
    import ray
    from ray.exceptions import RayTaskError

    waiting = list(reversed(tasks))
    running: dict[Any, Task] = {}
    try:
        while waiting or running:
            while waiting and (at_a_time is None or len(running) < at_a_time):
                task = waiting.pop()
                running[start(task)] = task
            (ended,), _ = ray.wait(list(running), num_returns=1)
            yield running.pop(ended), ray.get(ended)
    except RayTaskError as error:
        if isinstance(error.cause, RayfillError):
            raise error.cause from None  # with the message it would have had in this process
        raise
    finally:
        for ref in running:
            ray.cancel(ref)


def pays_off(*, spent_s: float, done: int, left: int) -> bool:
    """Tell whether what is left takes so long that going on on Ray is worth it.

    Args:
        spent_s: Seconds that ``done`` samples took.
        done: Samples measured; no pace is known before the first.
        left: Samples to measure.
    """
    connected = "ray" in sys.modules and sys.modules["ray"].is_initialized()
    least_s = CONNECTED_PAYS_OFF_S if connected else RAY_PAYS_OFF_S
    elsewhere = connected or (os.cpu_count() or 1) > 1
    return elsewhere and done > 0 and spent_s * left / done > least_s


def measure(
    system: System, arrays: SplitArrays, conditions: Conditions
) -> list[Part] | NotFiniteError:
    """Return what metrics take of a system's answers by batch, or that they are not finite.

    Runs in this process, and as a task of Ray. A joint model is given the holes like any other,
    and, on a split with labels, measured a second time finding them by itself.

    Raises:
        DatasetError: samples without frozen holes.
    """
    # Ray hides GPUs from a task that asked for none.
    on_gpu = system.kind == "model" and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    fid = conditions.to(device).fid
    if system.model is not None:
        system.model.to(device).eval()
    parts = []
    with torch.inference_mode():
        for batch in evaluation_batches(arrays, batch_size=conditions.batch_size):
            try:
                parts.append(_part(system, to_device(batch, device=device), conditions))
            except NotFiniteError as error:
                return error
    if fid is not None:
        parts[-1] = dataclasses.replace(parts[-1], fid=taken(fid))
    return parts


def _part(system: System, batch: TensorBatch, conditions: Conditions) -> Part:
    device, residual = batch.image.device, conditions.residual_object
    metrics = conditions.metrics().to(device)
    take_filled(
        _finite(system, raw=conditions.raw),
        [batch],
        metrics=metrics,
        expand_px=conditions.expand_px,
        raw=conditions.raw,
        fid=conditions.fid,
        residual=residual,
    )
    _refuse_nan(metrics, batch=batch, system=system)
    part = Part(given=taken(metrics), residual=taken(residual) if residual else None)
    if not isinstance(system.model, JointModel) or batch.labels is None or not conditions.truth:
        return part
    metrics, quality = conditions.removal_metrics().to(device), MaskQuality().to(device)
    take_removals(system.remove, [batch], metrics=metrics, quality=quality, residual=residual)
    _refuse_nan(metrics, batch=batch, system=system)
    return dataclasses.replace(
        part,
        removals=taken(metrics),
        masks=taken(quality),
        removal_residual=taken(residual) if residual else None,
    )


def _finite(system: System, *, raw: bool) -> Fill:
    """Return what fills, refusing answers that are not finite where they would be measured."""

    def filled(batch: TensorBatch, hole_mask: Tensor) -> Tensor:
        prediction = system.fill(batch, hole_mask)
        known = torch.zeros_like(hole_mask) if raw else 1 - hole_mask
        usable = (prediction.isfinite() | (known > 0.5)).flatten(1).all(dim=1)
        _refuse(~usable, batch=batch, system=system)
        return prediction

    return filled


def _refuse_nan(metrics: InpaintingMetrics, *, batch: TensorBatch, system: System) -> None:
    """Refuse values that are none where every sample has one."""
    for metric, values in metrics.sample_values().items():
        if not may_lack(metric):  # samples without a hole have none
            _refuse(torch.from_numpy(values).isnan(), batch=batch, system=system)


def _refuse(bad: Tensor, *, batch: TensorBatch, system: System) -> None:
    if bad.any():
        samples = [batch.sample_id[row] for row in bad.nonzero().flatten().tolist()]
        raise NotFiniteError(system.name, samples)


def merged(parts: Sequence[Part], conditions: Conditions) -> Measured:
    """Return what a system scored over all parts, values in their order.

    Args:
        parts: Of all batches of a split, one or more.
        conditions: What they were measured under.

    Raises:
        RayfillError: too few samples for an FID.
    """
    fid, residual = conditions.to("cpu").fid, conditions.residual_object
    metrics = _refilled(conditions.metrics(), [part.given for part in parts])
    table: MetricTable = metrics.compute()
    values = metrics.sample_values()
    removals = [part.removals for part in parts if part.removals is not None]
    if removals:
        own, quality = _refilled(conditions.removal_metrics(), removals), MaskQuality()
        add_states(quality, [part.masks for part in parts if part.masks is not None])
        values |= removal_names(own.sample_values())
        found = removal_table(own, quality)
        table = MetricTable(
            total=table.total | found.total,
            buckets={name: scores | found.buckets[name] for name, scores in table.buckets.items()},
        )
    if fid is not None:
        add_states(fid, [part.fid for part in parts if part.fid is not None])
        count = int(fid.real_features_num_samples)
        table.total["fid"] = Score(mean=float(fid.compute()), std=math.nan, n=count, n_infinite=0)
    if residual is not None:
        table.total.update(_residual(residual, [part.residual for part in parts]))
        own_residual = _residual(residual, [part.removal_residual for part in parts])
        table.total.update(removal_names(own_residual))
    return Measured(table=table, values=values)


def _refilled(metrics: InpaintingMetrics, states: Sequence[State]) -> InpaintingMetrics:
    """Return empty metrics after letting them see what others have seen, sample by sample."""
    metrics.add(torch.cat([rows for state in states for rows in state["rows"]]))
    metrics._update_count += 1  # else it warns of a value without samples
    return metrics


def _residual(score: ResidualObjectScore, states: Sequence[State | None]) -> dict[str, Score]:
    """Return what is still seen of the objects, where that was measured."""
    known = [state for state in states if state is not None]
    score.reset()
    add_states(score, known)
    return score.compute() if known else {}
