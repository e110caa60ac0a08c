"""Measuring systems part by part: in this process, or every part as a task of Ray."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rayfill.evaluation.finished_pictures import FinishedPictures
from rayfill.evaluation.measure import MeasureOptions, Part, measure_part
from rayfill.metrics import FidMetric, LpipsMetric
from rayfill.metrics.accumulate import Fill, filled_by
from rayfill.models import InpaintingModel, JointModel
from rayfill_data.errors import RayfillError
from rayfill_data.prepared.reader import SplitArrays
from rayfill_data.progress import ProgressCallback
from rayfill_data.sources.files import some

if TYPE_CHECKING:
    from rayfill.models.batch import TensorBatch

#: A Ray cluster of one's own takes 15 to 20 s to start and to import everything in every worker:
#: what is finished here in less than this is finished here.
RAY_PAYS_OFF_S = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurable:
    """A system in the form in which it is measured, and in which it travels."""

    name: str
    model: InpaintingModel | None = None
    finished: FinishedPictures | None = None
    """Its pictures, where it is no model."""
    wants_gpu: bool = False

    def only(self, samples: Sequence[str]) -> Measurable:
        """Return the system with no other finished pictures than those of some samples."""
        if self.finished is None:
            return self
        return dataclasses.replace(self, finished=self.finished.only(samples))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """Every system on every shard of a split."""

    systems: Sequence[Measurable]
    shards: Sequence[SplitArrays]
    """Whole batches each, so that no value depends on how many shards there are."""
    options: MeasureOptions
    lpips: LpipsMetric | None = None
    fid: FidMetric | None = None

    def run(self, *, num_workers: int | None, progress: ProgressCallback) -> dict[str, list[Part]]:
        """Return the parts of every system, in the order of the shards.

        Args:
            num_workers: 1: one after the other in this process. More: so many at a time on Ray.
                None: in this process, but on all of a Ray cluster once the pace of the first part
                of each system says that more than a minute is left.
            progress: Called with samples done and in all.

        Raises:
            RayfillError: whatever a part raised.
        """
        # The first part of every system goes first: it tells the system's pace.
        tasks = [
            (system, shard)
            for shard in range(len(self.shards))
            for system in range(len(self.systems))
        ]
        found: dict[tuple[int, int], Part] = {}
        count = sum(len(self.shards[shard]) for _, shard in tasks)
        done = 0

        def take(task: tuple[int, int], part: Part) -> None:
            nonlocal done
            found[task] = part
            done += len(self.shards[task[1]])
            progress(done, count)

        here = {None: tasks[: len(self.systems)], 1: tasks}.get(num_workers, [])
        began = time.monotonic()
        for task in here:
            take(task, self._measure(*task))
        rest = tasks[len(here) :]
        spent_s = time.monotonic() - began
        if num_workers is not None or pays_off(spent_s=spent_s, done=done, left=count - done):
            self._on_ray(rest, num_workers=num_workers, take=take)
        else:
            for task in rest:
                take(task, self._measure(*task))
        return {
            system.name: [found[index, shard] for shard in range(len(self.shards))]
            for index, system in enumerate(self.systems)
        }

    def _measure(self, system: int, shard: int) -> Part:
        return measure(self.systems[system], self.shards[shard], self.options, self.lpips, self.fid)

    def _on_ray(
        self,
        tasks: Sequence[tuple[int, int]],
        *,
        num_workers: int | None,
        take: Callable[[tuple[int, int], Part], None],
    ) -> None:
        if not tasks:
            return
        import ray

        from rayfill.training.cluster import ray_cluster

        # What is on this process's GPU could not be unpacked where there is none.
        own = (self.lpips, self.fid, self.options.residual_object)
        for module in (*own, *(system.model for system in self.systems)):
            if module is not None:
                module.to("cpu")
        with ray_cluster() as capacity:
            remote = ray.remote(measure)
            shared = [ray.put(value) for value in (self.options, self.lpips, self.fid)]
            shards = {shard: ray.put(self.shards[shard]) for shard in {s for _, s in tasks}}
            models = {
                index: ray.put(system)
                for index, system in enumerate(self.systems)
                if system.finished is None
            }

            def start(task: tuple[int, int]) -> Any:
                index, shard = task
                system = self.systems[index]
                gpus = 1 if system.wants_gpu and capacity.gpus else 0
                what = models.get(index) or system.only(self.shards[shard].sample_id)
                return remote.options(num_cpus=1, num_gpus=gpus).remote(
                    what, shards[shard], *shared
                )

            for task, part in _as_they_end(start, tasks, at_a_time=num_workers):
                take(task, part)


def _as_they_end(
    start: Callable[[tuple[int, int]], Any],
    tasks: Sequence[tuple[int, int]],
    *,
    at_a_time: int | None,
) -> Iterator[tuple[tuple[int, int], Part]]:
    """Yield tasks with what they returned; those that wait are given up when one has failed."""
    import ray
    from ray.exceptions import RayTaskError

    waiting = list(reversed(tasks))
    running: dict[Any, tuple[int, int]] = {}
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
    """Tell whether what is left takes so long that starting Ray is worth it.

    Args:
        spent_s: Seconds that ``done`` samples took.
        done: Samples measured.
        left: Samples to measure.
    """
    return (os.cpu_count() or 1) > 1 and spent_s * left / max(done, 1) > RAY_PAYS_OFF_S


def measure(
    system: Measurable,
    arrays: SplitArrays,
    options: MeasureOptions,
    lpips: LpipsMetric | None,
    fid: FidMetric | None,
) -> Part:
    """Return what a system's metrics add up to over some samples; a task of Ray, too.

    Raises:
        RayfillError: answers that are not finite, naming the sample.
    """
    # Ray hides GPUs from a task that asked for none.
    device = torch.device("cuda" if system.wants_gpu and torch.cuda.is_available() else "cpu")
    model = None if system.model is None else system.model.to(device).eval()
    if model is not None:
        fill = filled_by(model)
    else:
        assert system.finished is not None
        fill = system.finished.fill
    return measure_part(
        _finite(fill, name=system.name, raw=options.raw),
        arrays=arrays,
        options=options,
        device=device,
        lpips=None if lpips is None else lpips.to(device),
        fid=None if fid is None else fid.to(device),
        joint=model if isinstance(model, JointModel) else None,
    )


def _finite(fill: Fill, *, name: str, raw: bool) -> Fill:
    """Return ``fill``, refusing answers that are not finite where they would be measured."""

    def filled(batch: TensorBatch, hole_mask: Tensor) -> Tensor:
        prediction = fill(batch, hole_mask)
        known = torch.zeros_like(hole_mask) if raw else 1 - hole_mask
        usable = (prediction.isfinite() | (known > 0.5)).flatten(1).all(dim=1).tolist()
        bad = [sample for sample, good in zip(batch.sample_id, usable, strict=True) if not good]
        if bad:
            raise RayfillError(
                f"System {name!r} answered with values that are not finite for {some(bad)}. A mean "
                "over the others would hide it: use another version of it, or leave it out."
            )
        return prediction

    return filled
