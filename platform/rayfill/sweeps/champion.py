"""Deciding which registered model is the champion and how its answers are finished, and why."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from rayfill.config.ranking import needs_lpips, worth
from rayfill.config.run import RunConfig
from rayfill.evaluation.evaluate import evaluate
from rayfill.evaluation.systems import System
from rayfill.runs.bundle import load_bundle, save_bundle
from rayfill.runs.job import TrainingJob
from rayfill.runs.record import attach_tracker
from rayfill.runs.registry import (
    NoSuchModelError,
    RegisteredModel,
    find_model,
    promote,
    register_bundle,
)
from rayfill_data.prepared.reader import PreparedDataset

if TYPE_CHECKING:
    from rayfill.metrics import MetricTable


#: How scores on the validation split are called in the registry.
_VAL = "val_"


def register_champion(
    config: RunConfig,
    *,
    job: TrainingJob,
    table: MetricTable,
    val_metric: str,
    val_score: float,
    protocol: Mapping[str, str],
    console: Console,
) -> RegisteredModel | None:
    """Register a run's best model and make it champion unless the present one is better.

    Two models are compared by their validation score on the same dataset, and of LPIPS with the
    same network; against a champion of another there is nothing to compare, and the new model takes
    its place. One whose score is not finite takes nobody's.

    Returns:
        The new version, or None where MLflow does not hold the run (an outage).
    """
    tracking_uri = str(config.tracking.uri)
    tracker = attach_tracker(job)
    tracker.close()
    run_id = tracker.run_id
    if not run_id:
        console.print("MLflow does not answer, so no model was registered; see `rayfill replay`.")
        return None
    metric = f"{_VAL}{val_metric}"
    scores = {name: score.mean for name, score in table.total.items()} | {metric: val_score}
    model = register_bundle(
        job.folder.bundle,
        name=config.tracking.model_name,
        run_id=run_id,
        scores=scores,
        protocol=protocol,
        tracking_uri=tracking_uri,
    )
    present = _present_champion(model.name, tracking_uri=tracking_uri)
    reason = _why_promote(model, present=present, metric=metric)
    if reason:
        promote(model, reason=reason, tracking_uri=tracking_uri)
        console.print(f"Champion: {model.name} version {model.version} ({reason}).")
    elif present:
        console.print(
            f"Version {present.version} stays champion: its {metric} is "
            f"{present.scores.get(metric, math.nan):.3f}, the new version {model.version} has "
            f"{val_score:.3f}."
        )
    return model


def _why_promote(model: RegisteredModel, *, present: RegisteredModel | None, metric: str) -> str:
    if present is None:
        return "the first of its name"
    if metric not in model.scores:  # it was not finite
        return ""
    if present.protocol.get("dataset_hash") != model.protocol["dataset_hash"]:
        return f"version {present.version} was measured on another dataset"
    networks = [one.protocol.get("lpips") for one in (model, present)]
    if needs_lpips(metric) and networks[0] != networks[1]:
        return f"version {present.version} was measured with another LPIPS network"
    if metric not in present.scores:
        return f"version {present.version} has no {metric}"
    new, old = (one.scores[metric] for one in (model, present))
    measured = metric.removeprefix(_VAL)
    better = worth(new, metric=measured) > worth(old, metric=measured)
    return f"{metric} {new:.3f} against {old:.3f}" if better else ""


def _present_champion(name: str, *, tracking_uri: str) -> RegisteredModel | None:
    try:
        return find_model(name, tracking_uri=tracking_uri)
    except NoSuchModelError:
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinishChoice:
    """Which finish goes better with the surroundings of validation holes."""

    name: str
    """Of the model."""
    alone: float
    """Mean coherence of the model's own answers; lower is better."""
    patched: float
    """The same with patches over them."""

    @property
    def finish(self) -> Literal["none", "exemplar"]:
        """The better one; none where there is no difference, or nothing to measure."""
        return "exemplar" if self.patched < self.alone else "none"

    def __str__(self) -> str:
        """Return what was decided and why, a sentence."""
        if math.isnan(self.alone + self.patched):
            return f"{self.name}: no coherence on the validation split, so its answers stay as is."
        verb = "are" if self.finish == "exemplar" else "are not"
        return (
            f"{self.name}: patches of the photo {verb} laid over its answers where it is used; "
            f"coherence on the validation split is {self.alone:.3f}, with patches "
            f"{self.patched:.3f}."
        )


def choose_finish(name: str, *, bundle: str, dataset: PreparedDataset) -> FinishChoice:
    """Measure a model on the validation split with and without patches.

    Args:
        name: what to call it.
        bundle: where it lies.
        dataset: whose validation split.
    """
    own = System(name=name, kind="model", source=bundle, bundle=bundle)
    found = evaluate([own], data=dataset, split="val", with_patches=True)
    alone, patched = (
        found.measured[system].table.total["coherence"].mean
        for system in (name, own.patched().name)
    )
    return FinishChoice(name=name, alone=alone, patched=patched)


def note_finish(choice: FinishChoice, *, bundle: str) -> None:
    """Write into a bundle what was decided: whoever loads it with ``finish="auto"`` gets it."""
    loaded = load_bundle(bundle)
    save_bundle(
        bundle,
        model=loaded.model,
        name=loaded.name,
        config=loaded.config,
        extra=loaded.extra | {"finish": choice.finish},
    )
