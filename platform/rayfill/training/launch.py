"""Launching a run: in this process, or on the workers of Ray Train."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rayfill.config.run import RunConfig
from rayfill.runs.job import TrainingJob
from rayfill.runs.record import open_tracker
from rayfill.training.memory import out_of_memory
from rayfill_data.errors import RayfillError
from rayfill_data.prepared.reader import PreparedDataset

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

    from rayfill.training.cluster import Capacity
    from rayfill.training.loop import TrainingSummary

#: How long Ray Train waits for its workers to be placed where the cluster cannot or can grow.
_PLACEMENT_TIMEOUT_S = {False: "60", True: "1200"}


def train_here(
    job: TrainingJob, *, report: Callable[[dict[str, float]], None] = lambda _: None
) -> TrainingSummary:
    """Train a one-worker run in this process; SIGTERM ends it after the checkpoint at hand.

    Raises:
        RayfillError: as :func:`rayfill.training.loop.run_training`.
    """
    import torch

    from rayfill.training.loop import Runtime, run_training

    config = job.config
    dataset = PreparedDataset.open(config.data.uri)
    if config.scaling.use_gpu is None:
        raise RayfillError("scaling.use_gpu was not resolved; start the run through rayfill.train.")
    torch.set_num_threads(max(1, int(config.scaling.cpus_per_worker)))
    device = torch.device("cuda" if config.scaling.use_gpu else "cpu")
    tracker = open_tracker(job, dataset=dataset)
    status = "KILLED"
    try:
        summary = run_training(
            config,
            dataset=dataset,
            runtime=Runtime(run_dir=job.run_dir, device=device, report=report),
            recorder=tracker,
        )
        status = "FINISHED"
        return dataclasses.replace(summary, run_id=tracker.run_id)
    except Exception:
        status = "FAILED"
        raise
    finally:
        # SystemExit passes here too: that is how Tune ends a trial early.
        tracker.finish(status)


def train_on_ray(
    job: TrainingJob,
    *,
    capacity: Capacity,
    callbacks: list[Any] | None = None,
    on_epoch: Callable[[dict[str, float]], None] = lambda _: None,
) -> TrainingSummary:
    """Train a run on the workers of Ray Train, data-parallel where there are several.

    Checkpoints are ours, in the run's folder, so Ray's own bookkeeping is thrown away with every
    launch and can never be what a resume fails on.

    Args:
        job: The run, with ``use_gpu`` resolved.
        capacity: Of the cluster.
        callbacks: Ray Train callbacks, such as the one that reports to Tune.
        on_epoch: Called in this process with every epoch's metrics.
    """
    from ray.train import WorkerGroupError

    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = _PLACEMENT_TIMEOUT_S[capacity.can_grow]
    trainer = _trainer(job, callbacks=callbacks)
    try:
        with _watch_history(job, on_epoch=on_epoch):
            result = trainer.fit()
    except WorkerGroupError as error:
        raise _own_error(error, config=job.config) from error
    return _summary(result.return_value)


def _trainer(job: TrainingJob, *, callbacks: list[Any] | None) -> TorchTrainer:
    from ray.train import FailureConfig
    from ray.train import RunConfig as RayRunConfig
    from ray.train import ScalingConfig as RayScalingConfig
    from ray.train.torch import TorchTrainer

    scaling = job.config.scaling
    resources = {"CPU": scaling.cpus_per_worker}
    if scaling.use_gpu:
        resources["GPU"] = scaling.gpus_per_worker
    return TorchTrainer(
        _train_loop_per_worker,
        train_loop_config=job.to_dict(),
        scaling_config=RayScalingConfig(
            num_workers=scaling.num_workers,
            use_gpu=bool(scaling.use_gpu),
            resources_per_worker=resources,
        ),
        run_config=RayRunConfig(
            name=f"{job.config.name}-{uuid.uuid4().hex[:8]}",
            storage_path=f"{job.config.storage}/.ray-train",
            failure_config=FailureConfig(
                max_failures=scaling.max_failures, controller_failure_limit=0
            ),
            callbacks=callbacks,
        ),
        datasets=_datasets(job.config),
    )


def _train_loop_per_worker(values: dict[str, Any]) -> dict[str, Any]:
    """What every Ray Train worker runs: the only function here that knows Ray Train."""
    import ray.train
    import ray.train.torch
    import torch

    from rayfill.training.loop import Runtime, run_training

    job = TrainingJob.from_dict(values)
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(max(1, int(job.config.scaling.cpus_per_worker)))
    dataset = PreparedDataset.open(job.config.data.uri)
    tracker = open_tracker(job, dataset=dataset) if rank == 0 else None
    status = "FAILED"
    try:
        summary = run_training(
            job.config,
            dataset=dataset,
            runtime=Runtime(
                run_dir=job.run_dir,
                device=ray.train.torch.get_device(),
                rank=rank,
                world_size=world_size,
                wrap=ray.train.torch.prepare_model if world_size > 1 else None,
                stream=_ray_stream(job.config, dataset=dataset, world_size=world_size),
                report=lambda entry: ray.train.report({k: float(v) for k, v in entry.items()}),
            ),
            recorder=tracker,
        )
        status = "FINISHED"
    finally:
        if tracker:
            tracker.finish(status)
    run_id = tracker.run_id if tracker else ""
    return dataclasses.asdict(dataclasses.replace(summary, run_id=run_id))


def _datasets(config: RunConfig) -> dict[str, Any] | None:
    from rayfill.training.feed import streams

    dataset = PreparedDataset.open(config.data.uri)
    if not streams(config, dataset=dataset):
        return None
    from rayfill_data.prepared.stream import training_dataset

    return {"train": training_dataset(config.data.uri, split="train")}


def _ray_stream(config: RunConfig, *, dataset: PreparedDataset, world_size: int) -> Any:
    import ray.train

    from rayfill.training.feed import augment_options, streams
    from rayfill_data.prepared.stream import stream_batches

    if not streams(config, dataset=dataset):
        return None
    shard = ray.train.get_dataset_shard("train")

    def epoch_stream(epoch: int) -> Iterator[Any]:
        return stream_batches(
            shard,
            batch_size=config.train.batch_size // world_size,
            seed=config.train.seed,
            epoch=epoch,
            augment=augment_options(config, dataset=dataset),
        )

    return epoch_stream


@contextlib.contextmanager
def _watch_history(
    job: TrainingJob, *, on_epoch: Callable[[dict[str, float]], None]
) -> Iterator[None]:
    """Call ``on_epoch`` here with the epochs that the workers write to the run's history."""
    stop = threading.Event()

    def watch() -> None:
        seen = 0
        while True:
            stopping = stop.wait(1.0)
            history = job.folder.history()
            for entry in history[seen:]:
                on_epoch(entry)
            seen = max(seen, len(history))
            if stopping:
                return

    thread = threading.Thread(target=watch, name="history-watcher", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _own_error(error: Any, *, config: RunConfig) -> Exception:
    """Return the error of ours that a worker raised, else Ray's: a user needs the sentence."""
    for failure in error.worker_failures.values():
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, RayfillError):
                return cause
            if told := out_of_memory(cause, config=config):
                return told
            cause = getattr(cause, "cause", None) or cause.__cause__
    return error  # type: ignore[no-any-return]


def _summary(values: Any) -> TrainingSummary:
    from rayfill.training.loop import TrainingSummary

    return TrainingSummary(**values)
