"""A run's record in MLflow: begun, or taken up again, wherever it is trained."""

from __future__ import annotations

from pathlib import Path

from rayfill.config.run import RunConfig
from rayfill.runs.checkpoint import CheckpointStore
from rayfill.runs.folder import RunFolder
from rayfill.runs.job import TrainingJob
from rayfill.runs.journal import recorded_run
from rayfill.runs.provenance import provenance_tags, run_tags
from rayfill.runs.run_page import NOTE, compared_params, describe_run, record_inputs
from rayfill.runs.tracking import Tracker
from rayfill_data.prepared.reader import PreparedDataset


def attach_tracker(job: TrainingJob) -> Tracker:
    """Open the tracker of a run, by its journal or, on another machine, by its checkpoint."""
    folder, uri = Path(job.tracker_dir), str(job.config.tracking.uri)
    known = recorded_run(folder) or _checkpointed_run(job)
    return Tracker(folder, tracking_uri=uri, run_id=known)


def _checkpointed_run(job: TrainingJob) -> str:
    """Return the MLflow run that the newest checkpoint names; reads and verifies all of it."""
    checkpoint, _ = CheckpointStore(job.folder.checkpoints).latest()
    return str(checkpoint.meta["run_id"]) if checkpoint else ""


def open_tracker(job: TrainingJob, *, dataset: PreparedDataset) -> Tracker:
    """Open the run's tracker and, the first time, create the run in MLflow."""
    config = job.config
    tracker = attach_tracker(job)
    tags = {
        **run_tags(config, kind=job.kind, sweep=job.sweep, folder=job.folder),
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


def lineage_tags(config: RunConfig, *, journals: Path) -> dict[str, str]:
    """Return MLflow tags that link a run to the one it goes on from, if there is one.

    Args:
        config: Of the run.
        journals: Folder under which this machine keeps what it recorded of runs.
    """
    parent = config.train.continue_from
    if not parent:
        return {}
    meta = RunFolder(parent).checkpoint_meta()
    # The journal knows the MLflow run even if the last checkpoint was written before MLflow did.
    within = parent.removeprefix(f"{config.storage}/").split("/")
    run_id = recorded_run(journals.joinpath(*within)) or meta.get("run_id", "")
    tags = {
        "rayfill.continued_from": parent,
        "rayfill.continued_run_id": str(run_id),
        "rayfill.continued_at_epoch": str(meta.get("epoch", "")),
    }
    return {key: value for key, value in tags.items() if value}
