"""The training loop in plain torch: it knows neither Ray nor MLflow, nor which recipe it runs."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from rayfill.config.ranking import worth
from rayfill.config.run import RunConfig, written
from rayfill.models.batch import TensorBatch
from rayfill.runs.bundle import save_bundle
from rayfill.runs.checkpoint import Checkpoint, CheckpointStore
from rayfill.runs.folder import RunFolder
from rayfill.training.feed import EpochStream, Feed
from rayfill.training.lineage import take_over
from rayfill.training.memory import out_of_memory
from rayfill.training.pictures import picture_sheets
from rayfill.training.ranks import mean_over_ranks
from rayfill.training.recipes import Recipe
from rayfill.training.stages import Wrap
from rayfill.training.system import begin_system_metrics, system_metrics
from rayfill_data.errors import RayfillError, redact_uri
from rayfill_data.prepared.reader import PreparedDataset

logger = logging.getLogger(__name__)


class Recorder(Protocol):
    """Where a run's numbers and pictures go; :class:`rayfill.runs.tracking.Tracker` is one."""

    @property
    def run_id(self) -> str:
        """Identity of the recorded run, empty while unknown."""

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Record metrics at a step."""

    def picture(self, key: str, image: NDArray[np.uint8], *, step: int) -> None:
        """Record a picture at a step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runtime:
    """What the launcher tells the loop about the processes around it."""

    run_dir: str
    """Folder or URI of this run's checkpoints and best bundle."""
    device: torch.device
    rank: int = 0
    world_size: int = 1
    wrap: Wrap | None = None
    stream: EpochStream | None = None
    report: Callable[[dict[str, float]], None] = lambda _: None
    """Called on every rank after every epoch; it may end the process's part of the run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSummary:
    """How a run ended: its best validation and where the weights of that epoch lie."""

    name: str
    run_dir: str
    run_id: str
    epochs: int
    steps: int
    bad_steps: int
    best_epoch: int
    best: dict[str, float]
    history: list[dict[str, float]]

    @property
    def bundle(self) -> str:
        """Where the best epoch's model bundle lies."""
        return RunFolder(self.run_dir).bundle


def run_training(
    config: RunConfig,
    *,
    dataset: PreparedDataset,
    runtime: Runtime,
    recorder: Recorder | None = None,
) -> TrainingSummary:
    """Train, or go on training, one run to its last epoch.

    A run whose folder holds a checkpoint continues from it: epochs already done are reported again
    from its history, not repeated.

    Raises:
        RayfillError: too many bad steps in a row, or a checkpoint of another configuration.
    """
    try:
        return Training(config, dataset=dataset, runtime=runtime, recorder=recorder).run()
    except (MemoryError, RuntimeError) as error:
        told = out_of_memory(error, config=config)
        if told is None:
            raise
        raise told from error


class Training:
    """One run in one process: the recipe, its feed, and how far it has come."""

    def __init__(
        self,
        config: RunConfig,
        *,
        dataset: PreparedDataset,
        runtime: Runtime,
        recorder: Recorder | None,
    ) -> None:
        self._config = config
        self._runtime = runtime
        self._recorder = recorder if runtime.rank == 0 else None
        self._dataset_hash = dataset.content_hash
        self._side = max(dataset.manifest.height, dataset.manifest.width)
        self._feed = Feed(
            config,
            dataset=dataset,
            device=runtime.device,
            rank=runtime.rank,
            world_size=runtime.world_size,
            stream=runtime.stream,
        )
        self._recipe = Recipe(
            config,
            device=runtime.device,
            total_steps=config.train.epochs * self._feed.steps_per_epoch,
            wrap=runtime.wrap,
        )
        self._folder = RunFolder(runtime.run_dir)
        self._store = CheckpointStore(self._folder.checkpoints, keep=config.train.keep_checkpoints)
        self._pictures = self._feed.pictures(config.tracking.pictures) if self._recorder else None
        self._epoch = 0
        self._step = 0
        self._bad = BadSteps(limit=config.train.max_bad_steps)
        self._history: list[dict[str, float]] = []

    def run(self) -> TrainingSummary:
        """Train from the newest whole checkpoint to the last epoch."""
        self._resume()
        if not self._epoch:
            self._show(step=0)
        begin_system_metrics()
        while self._epoch < self._config.train.epochs:
            self._run_epoch()
            self._runtime.report(self._history[-1])
        best = self._best()
        return TrainingSummary(
            name=self._config.name,
            run_dir=self._runtime.run_dir,
            run_id=self._recorder.run_id if self._recorder else "",
            epochs=self._epoch,
            steps=self._step,
            bad_steps=self._bad.total,
            best_epoch=int(best["epoch"]),
            best=best,
            history=self._history,
        )

    def _run_epoch(self) -> None:
        started = time.perf_counter()
        steps, losses = train_epoch(self._recipe, self._feed.train(self._epoch), bad=self._bad)
        train_s = time.perf_counter() - started
        self._epoch += 1
        self._step += steps
        entry: dict[str, float] = {"epoch": self._epoch, "step": self._step, "epoch_s": train_s}
        entry["images_per_s"] = steps * self._config.train.batch_size / train_s
        entry |= {f"train/{name}": value for name, value in losses.items()}
        entry["train/bad_steps"] = self._bad.total
        validated = self._validates()
        if validated:
            scores = self._recipe.validate(self._feed.val())
            entry |= {f"val/{name}": value for name, value in scores.items()}
        self._history.append(entry)
        # Recorded before it is kept: killed in between, the epoch is done again and its metrics,
        # which the journal knows, are not doubled; the other way round they would be missing.
        self._record(entry, with_pictures=validated)
        if self._runtime.rank == 0:
            if validated:
                self._keep()
            self._folder.write_history(self._history)

    def _validates(self) -> bool:
        train = self._config.train
        return self._epoch % train.validate_every == 0 or self._epoch == train.epochs

    def _keep(self) -> None:
        """Write the best bundle first: a checkpoint promises that it is there."""
        if self._best()["epoch"] == self._epoch:
            self._save_best()
        self._store.save(
            Checkpoint(
                epoch=self._epoch,
                step=self._step,
                weights=self._recipe.weights(),
                state=self._recipe.state(),
                meta={
                    "config": written(self._config),
                    "dataset_hash": self._dataset_hash,
                    "history": self._history,
                    "bad_steps": self._bad.total,
                    "run_id": self._recorder.run_id if self._recorder else "",
                },
            )
        )

    def _save_best(self) -> None:
        scores = {
            key: value
            for key, value in self._history[-1].items()
            if key.startswith("val/") and math.isfinite(value)
        }
        save_bundle(
            self._folder.bundle,
            model=self._recipe.kept_model(),
            name=self._config.model.name,
            config=self._config.model.options(),
            extra={
                "epoch": self._epoch,
                "scores": scores,
                "dataset_hash": self._dataset_hash,
                "trained_side": self._side,
                "run": written(self._config),
            },
        )

    def _best(self) -> dict[str, float]:
        key = f"val/{self._config.eval.select_metric}"
        # The earliest best epoch wins.
        return max(
            (entry for entry in self._history if key in entry),
            key=lambda entry: worth(entry[key], metric=self._config.eval.select_metric),
        )

    def _resume(self) -> None:
        checkpoint, passed_over = self._store.latest()
        for problem in passed_over:
            logger.warning("Passed over a damaged checkpoint: %s", problem)
        if checkpoint is None and self._config.train.continue_from:
            checkpoint = take_over(
                self._config,
                weights=self._recipe.weights(),
                dataset_hash=self._dataset_hash,
                # Until a better epoch comes, the best is the other run's.
                best_to=self._folder.bundle if self._runtime.rank == 0 else None,
            )
        elif checkpoint is not None:
            _check_same_run(self._config, self._dataset_hash, checkpoint.meta)
        if checkpoint is None:
            return
        self._recipe.restore(checkpoint.weights, checkpoint.state)
        self._epoch = checkpoint.epoch
        self._step = checkpoint.step
        self._bad.total = checkpoint.meta["bad_steps"]
        self._history = list(checkpoint.meta["history"])
        for entry in self._history:
            self._runtime.report(entry)

    def _record(self, entry: dict[str, float], *, with_pictures: bool) -> None:
        if self._recorder is None:
            return
        epoch = int(entry["epoch"])
        # MLflow groups by what stands before the slash: how fast training goes is part of it.
        values = {k if "/" in k else f"train/{k}": v for k, v in entry.items() if k != "epoch"}
        self._recorder.metrics(values | system_metrics(self._runtime.device), step=epoch)
        if with_pictures:
            self._show(step=epoch)

    def _show(self, *, step: int) -> None:
        """Record what the kept weights make of the same validation samples every time."""
        if self._recorder is None or self._pictures is None:
            return
        prediction = self._recipe.predict(self._pictures.image, self._pictures.hole_mask)
        sheets = picture_sheets(self._pictures, prediction)
        for sample_id, sheet in zip(self._pictures.sample_id, sheets, strict=True):
            self._recorder.picture(f"pictures/{sample_id}", sheet, step=step)


class BadSteps:
    """Counts steps that were not applied, and stops a run that has too many in a row."""

    def __init__(self, *, limit: int) -> None:
        self.total = 0
        self._limit = limit
        self._row: list[tuple[str, ...]] = []

    def record(self, batch: TensorBatch, *, applied: bool) -> None:
        """Count one step.

        Raises:
            RayfillError: ``limit`` bad steps in a row, naming the samples of the last one.
        """
        if applied:
            self._row.clear()
            return
        self.total += 1
        self._row.append(batch.sample_id)
        logger.warning("Skipped a step with a non-finite loss: samples %s", batch.sample_id)
        if len(self._row) >= self._limit:
            raise RayfillError(
                f"{self._limit} steps in a row had a loss or gradient that is not finite; the last "
                f"batches were {json.dumps(self._row[-3:])}. Lower train.learning_rate, or look at "
                "these samples."
            )


def train_epoch(
    recipe: Recipe, batches: Iterable[TensorBatch], *, bad: BadSteps
) -> tuple[int, dict[str, float]]:
    """Train one epoch; return its steps and the mean of every loss term over those applied.

    The mean is over all ranks, which apply and skip the same steps.
    """
    sums: dict[str, torch.Tensor] = {}
    steps = count = 0
    for batch in batches:
        result = recipe.step(batch)
        bad.record(batch, applied=result.applied)
        steps += 1
        if result.applied:
            count += 1
            for name, value in result.terms.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value
    return steps, mean_over_ranks({name: value / count for name, value in sums.items()})


def _check_same_run(config: RunConfig, dataset_hash: str, meta: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that another configuration or dataset wrote."""
    before, now = json.loads(redact_uri(json.dumps(meta["config"]))), written(config)
    parts = ("model", "loss", "data", "train")
    changed = [
        f"{part}.{key} was {before[part].get(key)!r} and is {value!r}"
        for part in parts
        for key, value in now[part].items()
        if before[part].get(key) != value
    ]
    if meta["dataset_hash"] != dataset_hash:
        changed.append("the dataset's content changed")
    if changed:
        raise RayfillError(
            f"Run {config.name!r} was begun with another configuration: {'; '.join(changed)}. "
            "Give the run another name, or restore the configuration."
        )
