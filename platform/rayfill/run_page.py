"""What the page of a run says in MLflow: parameters to compare, what went in, what came out."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rayfill.config import RunConfig, flatten, to_dict
from rayfill.training.lineage import BEST
from rayfill_data.reader import PreparedDataset

if TYPE_CHECKING:
    from rayfill.leaderboard import Leaderboard
    from rayfill.metrics import MetricTable
    from rayfill.ranges import Space
    from rayfill.tracking import Tracker
    from rayfill.training.driver import TrainingJob

#: MLflow's tag for what stands at the top of a run's page, in Markdown.
NOTE = "mlflow.note.content"
CONFIG_FILE = "config.json"

#: Parameters of every run, in the order shown.
_ALWAYS = ("model.name", "loss.terms", "train.epochs")
#: What can change a result, and is compared where somebody changed it ...
_COMPARED = ("data.", "model.", "loss.", "train.", "scaling.num_workers")
#: ... but for places, which tags and config.json hold, and for what only sets when things are done.
_NOT_COMPARED = (
    "data.uri",
    "data.feed",
    "data.memory_gib",
    "loss.weights_path",
    "train.continue_from",
    "train.init_from",
    "train.keep_checkpoints",
    "train.max_bad_steps",
    "train.validate_every",
)


def compared_params(config: RunConfig, *, without: Sequence[str] = ()) -> dict[str, Any]:
    """Return the few parameters that tell a run from others, what a sweep varies first.

    MLflow prints all parameters above every picture, so a whole configuration would push the
    picture out of its tile. Those at their default are left out, but for the main ones and those of
    ``tracking.params``.
    """
    values, usual = flatten(to_dict(config)), flatten(to_dict(RunConfig()))
    changed = [
        key
        for key in values
        if key.startswith(_COMPARED) and key not in _NOT_COMPARED and values[key] != usual[key]
    ]
    shown = dict.fromkeys([*config.tracking.params, *_ALWAYS, *changed])
    return {key: values[key] for key in shown if key not in without}


def comparing(config: RunConfig, keys: Sequence[str]) -> RunConfig:
    """Return the config with ``keys`` among those that are always parameters."""
    params = tuple(dict.fromkeys([*config.tracking.params, *keys]))
    return dataclasses.replace(config, tracking=dataclasses.replace(config.tracking, params=params))


def varied_keys(space: Space) -> list[str]:
    """Return the config keys that a space varies, those of its variants included."""
    from rayfill.ranges import RANGES, Variant

    keys: dict[str, None] = {}
    for key, axis in space.items():
        values = () if isinstance(axis, RANGES) else axis
        variants = [value for value in values if isinstance(value, Variant)]
        keys |= dict.fromkeys(name for variant in variants for name in variant.changes)
        if len(variants) < len(values) or not values:
            keys[key] = None
    return list(keys)


def differing_keys(runs: Sequence[RunConfig]) -> list[str]:
    """Return the config keys in which runs differ, but for their names and places."""
    flat = [flatten(to_dict(run)) for run in runs]
    return [
        key
        for key in flat[0]
        if key.startswith(_COMPARED) and any(one[key] != flat[0][key] for one in flat)
    ]


def record_inputs(tracker: Tracker, *, config: RunConfig, dataset: PreparedDataset) -> None:
    """Record the whole configuration as a file, and the dataset as MLflow's input."""
    tracker.text(json.dumps(to_dict(config), indent=1), CONFIG_FILE)
    manifest = dataset.manifest
    tracker.dataset(
        config.data.uri.rstrip("/").rpartition("/")[2],
        digest=dataset.content_hash,
        uri=config.data.uri,
        profile={
            "num_rows": sum(dataset.counts.values()),
            **dataset.counts,
            "size": f"{dataset.height}x{dataset.width}",
            "source": manifest.source,
            "content_hash": dataset.content_hash,
        },
    )


def describe_run(job: TrainingJob) -> str:
    """Return what a run is and how to use what it trains, in Markdown."""
    place = {
        "phase": f"Phase of sweep **{job.sweep}**",
        "winner": f"Winner of sweep **{job.sweep}**, trained on",
        "trial": f"Trial of sweep **{job.sweep}**",
    }.get(job.kind, "Run by itself")
    params = [f"{key} `{value}`" for key, value in compared_params(job.config).items()]
    bundle = f"{job.run_dir}/{BEST}"
    return (
        f"{place}: {', '.join(params)}.\n\n"
        "Its best weights so far:\n\n"
        f"```\nrayfill erase photo.jpg --mask mask.png -o out.png --model {bundle}\n```\n\n"
        f"The whole configuration is `{CONFIG_FILE}` (Artifacts)."
    )


def describe_sweep(
    *, space: Mapping[str, str], run_dir: str, board: Leaderboard | None = None
) -> str:
    """Return what a sweep varies and, when it is done, its table, in Markdown."""
    rows = "".join(f"| `{key}` | {values} |\n" for key, values in space.items())
    varied = f"| varied | values |\n| --- | --- |\n{rows}\n" if rows else ""
    if board is None:
        return f"{varied}Trials are under way; the leaderboard stands here when they are done."
    return (
        f"{_short_table(board)}\n{varied}"
        "The whole leaderboard, with deviations and by hole ratio: `leaderboard.md` (Artifacts). "
        f"As a page with pictures:\n\n```\nrayfill compare {run_dir}\n```\n"
    )


def record_result(tracker: Tracker, *, job: TrainingJob, table: MetricTable, epochs: str) -> None:
    """Record how a run ended and what it scored on the test split.

    Args:
        tracker: Of the run.
        job: The run.
        table: Its scores on the test split.
        epochs: Done and planned, such as ``2/4``.
    """
    from rayfill.sweep_plan import read_outcome

    outcome = read_outcome(job.run_dir)
    shown = {k: score.mean for k, score in table.total.items() if math.isfinite(score.mean)}
    head = "| " + " | ".join(shown) + " |\n" + "| ---: " * len(shown) + "|\n"
    cells = "| " + " | ".join(f"{value:.4g}" for value in shown.values()) + " |\n"
    early = outcome is not None and outcome.status == "stopped"
    how = f"stopped early, {epochs} epochs" if early else f"{epochs} epochs"
    note = f"Test split ({how}):\n\n{head}{cells}\n{describe_run(job)}"
    tracker.tags({NOTE: note, "rayfill.outcome": how})
    if outcome is not None and outcome.status in ("finished", "stopped"):
        # Tune ends a trial in the way that a kill does, which MLflow would show as one.
        tracker.status("FINISHED")


def _short_table(board: Leaderboard) -> str:
    """Return the metric that ranks, of everything measured, best first."""
    lines = [
        f"| # | system | kind | epochs | {board.rank_by} |\n| --- | --- | --- | --- | ---: |\n"
    ]
    for rank, entry in enumerate(board.ranked(), start=1):
        score = entry.table.total.get(board.rank_by)
        value = f"{score.mean:.4g}" if score and math.isfinite(score.mean) else ""
        lines.append(f"| {rank} | {entry.name} | {entry.kind} | {entry.epochs} | {value} |\n")
    return "".join(lines)
