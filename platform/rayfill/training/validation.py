"""What a stage measures on the validation split."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torchmetrics.classification import (
    BinaryF1Score,
    MulticlassAccuracy,
    MulticlassJaccardIndex,
)

from rayfill.config.ranking import needs_lpips
from rayfill.config.run import RunConfig
from rayfill.config.sections import Stage
from rayfill.metrics import InpaintingMetrics, lpips_available
from rayfill.metrics.accumulate import Predict, accumulate, accumulate_removals
from rayfill.models import JointModel
from rayfill.models.batch import TensorBatch
from rayfill.models.edgeconnect.edges import canny_edges
from rayfill.models.edgeconnect.network import EdgeConnect, one_hot_labels
from rayfill.models.segmentation.base import IGNORED
from rayfill.training.stages import labels_of
from rayfill_data.errors import ConfigError


def check_select_metric(runs: Iterable[RunConfig]) -> None:
    """Find out that LPIPS cannot be measured before runs that are ranked by it are started.

    Raises:
        ConfigError: its network's weights cannot be had.
    """
    ranked = dict.fromkeys(run.eval for run in runs if needs_lpips(run.eval.select_metric))
    problems = []
    for config in ranked:
        found = lpips_available(config.lpips_network, weights_path=config.lpips_weights_path)
        if not found.ok:
            problems.append(
                f"eval.select_metric is {config.select_metric!r}, and LPIPS cannot be measured: "
                f"{found.reason}. {found.how_to_get} A local file is eval.lpips_weights_path; or "
                "select by another metric."
            )
    if problems:
        raise ConfigError(problems)


def validate(
    model: nn.Module,
    batches: Iterable[TensorBatch],
    *,
    stage: Stage,
    predict: Predict,
    metrics: InpaintingMetrics,
    device: torch.device,
) -> dict[str, float]:
    """Return the means that rank the epochs of a stage, reduced over all ranks.

    Pictures: what ``metrics`` measures, of given holes, or in joint training of holes the model
    found. Edges: ``edge_f1`` in the hole at probability 1/2. Label
    maps: ``label_accuracy``, the share of labelled hole pixels that are right. Segmentation:
    ``iou``, of all labels but "nothing", averaged.

    Args:
        model: the kept weights, in eval mode.
        batches: of the validation split.
        stage: which one is trained.
        predict: the model as a function of image and given hole.
        metrics: empty, of pictures.
        device: where the batches are.
    """
    if stage == "segmentation":
        assert isinstance(model, JointModel)
        return {"iou": _iou(model, batches, device=device)}
    if stage in ("edges", "labels"):
        inner = model.inpainter if isinstance(model, JointModel) else model
        assert isinstance(inner, EdgeConnect)
        if stage == "edges":
            return {"edge_f1": _edge_f1(inner, batches, device=device)}
        return {"label_accuracy": _label_accuracy(inner, batches, device=device)}
    if stage == "joint":
        assert isinstance(model, JointModel)
        table = accumulate_removals(model, batches, metrics=metrics)
    else:
        table = accumulate(predict, batches, metrics=metrics)
    return {name: score.mean for name, score in table.total.items()}


def _iou(model: JointModel, batches: Iterable[TensorBatch], *, device: torch.device) -> float:
    names = model.segmenter.labels
    index = MulticlassJaccardIndex(len(names), average="none", ignore_index=IGNORED).to(device)
    for batch in batches:
        index.update(model.segment(batch.image), labels_of(batch))
    return float(index.compute()[1:].mean())


def _edge_f1(model: EdgeConnect, batches: Iterable[TensorBatch], *, device: torch.device) -> float:
    score = BinaryF1Score(ignore_index=-1).to(device)
    for batch in batches:
        stage = model.complete_edges(batch.image, batch.hole_mask)
        truth = canny_edges(batch.target).masked_fill(batch.hole_mask < 0.5, -1)
        score.update(stage.probabilities, truth.long())
    return float(score.compute())


def _label_accuracy(
    model: EdgeConnect, batches: Iterable[TensorBatch], *, device: torch.device
) -> float:
    classes = model.config.labels
    score = MulticlassAccuracy(classes, average="micro", ignore_index=IGNORED).to(device)
    for batch in batches:
        assert batch.target_labels is not None
        known = one_hot_labels(labels_of(batch), classes=classes)
        stage = model.complete_labels(known, batch.hole_mask)
        known_pixel = batch.hole_mask[:, 0] < 0.5
        score.update(stage.logits, batch.target_labels.masked_fill(known_pixel, IGNORED))
    return float(score.compute())
