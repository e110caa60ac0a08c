"""Launching a run: in this process, or on the workers of Ray Train."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayfill.config.run import BUNDLED_DATA, RunConfig, from_dict, to_dict
from rayfill.runs import places
from rayfill.runs.folder import read_history
from rayfill.training.lineage import lineage_tags
from rayfill.training.memory import out_of_memory
from rayfill_data.errors import RayfillError
from rayfill_data.reader import PreparedDataset

if TYPE_CHECKING:
    from rayfill.runs.provenance import RunKind
    from rayfill.runs.tracking import Tracker
    from rayfill.training.cluster import Capacity
    from rayfill.training.loop import TrainingSummary

#: How long Ray Train waits for its workers to be placed where the cluster cannot or can grow.
_PLACEMENT_TIMEOUT_S = {False: "60", True: "1200"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One run with every path absolute: what is sent to the process that trains it."""

    config: RunConfig
    run_dir: str
    tracker_dir: str
    parent: str = ""
    sweep: str = ""
    kind: RunKind = "single"

    def to_dict(self) -> dict[str, Any]:
        """Return the job as plain values."""
        return {**dataclasses.asdict(self), "config": to_dict(self.config)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingJob:
        """Return the job that :meth:`to_dict` described."""
        return cls(**{**values, "config": from_dict(RunConfig, values["config"])})


def resolve_paths(config: RunConfig) -> RunConfig:
    """Return the config with absolute storage, dataset and tracking locations.

    Workers run in other folders and on other machines, where a relative path means something else.
    """
    uri = config.data.uri
    if uri != BUNDLED_DATA and "://" not in uri:
        uri = str(Path(uri).expanduser().absolute())
    return dataclasses.replace(
        config,
        storage=places.storage(config.storage),
        data=dataclasses.replace(config.data, uri=uri),
        tracking=dataclasses.replace(config.tracking, uri=places.tracking_uri(config.tracking.uri)),
    )


def make_job(
    config: RunConfig, *, group: str = "", parent: str = "", kind: RunKind | None = None
) -> TrainingJob:
    """Return the job of a run, in its own folder under the storage (and the group's).

    A run of a group is a trial unless ``kind`` says otherwise.
    """
    parts = [part for part in (group, config.name) if part]
    return TrainingJob(
        config=config,
        run_dir="/".join([str(config.storage), *parts]),
        tracker_dir=str(places.home().joinpath("tracking", *parts)),
        parent=parent,
        sweep=group,
        kind=kind or ("trial" if group else "single"),
    )


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
    from ray.train import FailureConfig, WorkerGroupError
    from ray.train import RunConfig as RayRunConfig
    from ray.train import ScalingConfig as RayScalingConfig
    from ray.train.torch import TorchTrainer

    scaling = job.config.scaling
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = _PLACEMENT_TIMEOUT_S[capacity.can_grow]
    resources = {"CPU": scaling.cpus_per_worker}
    if scaling.use_gpu:
        resources["GPU"] = scaling.gpus_per_worker
    trainer = TorchTrainer(
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
    try:
        with _watch_history(job, on_epoch=on_epoch):
            result = trainer.fit()
    except WorkerGroupError as error:
        raise _own_error(error, config=job.config) from error
    return _summary(result.return_value)


def attach_tracker(job: TrainingJob) -> Tracker:
    """Open the tracker of a run, by its journal or, on another machine, by its checkpoint."""
    from rayfill.runs.journal import recorded_run
    from rayfill.runs.tracking import Tracker

    folder, uri = Path(job.tracker_dir), str(job.config.tracking.uri)
    known = recorded_run(folder) or _checkpointed_run(job)
    return Tracker(folder, tracking_uri=uri, run_id=known)


def _checkpointed_run(job: TrainingJob) -> str:
    """Return the MLflow run that the newest checkpoint names; reads and verifies all of it."""
    from rayfill.training.loop import checkpoint_store

    checkpoint, _ = checkpoint_store(job.config, run_dir=job.run_dir).latest()
    return str(checkpoint.meta["run_id"]) if checkpoint else ""


def open_tracker(job: TrainingJob, *, dataset: PreparedDataset) -> Tracker:
    """Open the run's tracker and, the first time, create the run in MLflow."""
    from rayfill.runs.provenance import provenance_tags, run_tags
    from rayfill.runs.run_page import NOTE, compared_params, describe_run, record_inputs
    from rayfill.training.loop import best_bundle

    config = job.config
    tracker = attach_tracker(job)
    bundle = best_bundle(job.run_dir)
    tags = {
        **run_tags(config, kind=job.kind, sweep=job.sweep, run_dir=job.run_dir, bundle=bundle),
        **lineage_tags(config, journals=Path(job.tracker_dir).parents[bool(job.sweep)]),
        **provenance_tags(dataset_hash=dataset.content_hash, seed=config.train.seed),
        NOTE: describe_run(job),
    }
    new = tracker.start(
        config.name,
        experiment=config.tracking.experiment,
        params=compared_params(config),
        tags=tags,
        parent=job.parent,
    )
    if new:
        record_inputs(tracker, config=config, dataset=dataset)
    return tracker


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
    from rayfill_data.stream import training_dataset

    return {"train": training_dataset(config.data.uri, split="train")}


def _ray_stream(config: RunConfig, *, dataset: PreparedDataset, world_size: int) -> Any:
    import ray.train

    from rayfill.training.feed import augment_options, streams
    from rayfill_data.stream import stream_batches

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
            history = read_history(job.run_dir)
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
