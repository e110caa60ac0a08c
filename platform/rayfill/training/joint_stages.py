"""Stages of report P2: EdgeConnect's three inpainters, alone or in a row, and joint training."""

from __future__ import annotations

import torch
from torch import Tensor

from rayfill.config.run import RunConfig
from rayfill.losses.boundary import mask_expansion_loss, signed_distance
from rayfill.losses.table import P2Weights
from rayfill.models import InpaintingModel, JointModel
from rayfill.models.batch import TensorBatch
from rayfill.models.edgeconnect.edges import canny_edges, luma
from rayfill.models.edgeconnect.network import EdgeConnect, one_hot_labels
from rayfill.models.joint import Found, differentiable_composite
from rayfill.models.segmentation.base import IGNORED
from rayfill.models.segmentation.losses import label_cross_entropy
from rayfill.training.stages import (
    InpaintingStage,
    Judge,
    Judged,
    Painted,
    StageOutput,
    Term,
    TrainingStage,
    judged_pictures,
    labels_of,
    picture_judges,
)

_P2 = P2Weights()


class EdgeConnectStage(TrainingStage):
    """EdgeConnect's edge, label and picture generators: one of them by itself, or all in a row.

    By itself, a generator gets the truth from the others. Losses: report P2, equations 1 to 7; the
    picture's are the run's own.
    """

    def __init__(self, network: InpaintingModel, *, config: RunConfig) -> None:
        """Train what ``config.train.stage`` names; ``network`` is or holds an EdgeConnect."""
        inner = network.inpainter if isinstance(network, JointModel) else network
        assert isinstance(inner, EdgeConnect)
        stage = config.train.stage
        parts = {"edges": ("edges",), "labels": ("labels",), "image": ("image",)}.get(
            stage, ("edges", "labels", "image")
        )
        modules = {
            "edges": inner.edge_generator,
            "labels": inner.label_generator,
            "image": inner.image_generator,
        }
        trained = torch.nn.ModuleList(
            module for part in parts if (module := modules[part]) is not None
        )
        judges: dict[str, Judge] = {}
        if "edges" in parts:
            weights = {"gan": _P2.edge_gan, "feature_matching": _P2.edge_features}
            judges["edges"] = Judge(channels=2, weights=weights)
        if "labels" in parts and inner.label_generator is not None:
            judges["labels"] = Judge(channels=inner.config.labels, weights={"gan": _P2.label_gan})
        if "image" in parts:
            judges |= picture_judges(config)
        super().__init__(network, trained=trained, judges=judges)
        self._parts = parts
        self._inner = inner

    def forward(self, batch: TensorBatch) -> StageOutput:
        """Complete what the stage trains."""
        known = None
        if self._inner.config.labels:
            known = one_hot_labels(labels_of(batch), classes=self._inner.config.labels)
        return self.complete(batch, hole_mask=batch.hole_mask, labels=known)

    def complete(
        self, batch: TensorBatch, *, hole_mask: Tensor, labels: Tensor | None
    ) -> StageOutput:
        """Complete a batch around holes and label probabilities that may have gradients."""
        terms: dict[str, Term] = {}
        judged: dict[str, Judged] = {}
        edges = self._edges(batch, hole_mask, judged)
        if labels is not None:
            labels = self._labels(batch, hole_mask, labels, terms=terms, judged=judged)
        if "image" not in self._parts:
            return StageOutput(terms=terms, judged=judged)
        prediction = self._inner.paint(batch.image, hole_mask, edges=edges, labels=labels)
        painted = Painted(prediction=prediction, hole_mask=hole_mask.detach())
        judged |= judged_pictures(self, painted, batch)
        return StageOutput(painted=painted, terms=terms, judged=judged)

    def _edges(self, batch: TensorBatch, hole_mask: Tensor, judged: dict[str, Judged]) -> Tensor:
        """Return the edges that the picture follows: completed, or true where not trained."""
        if self._parts == ("labels",):
            return torch.zeros_like(hole_mask)
        true_edges = canny_edges(batch.target)
        if "edges" not in self._parts:
            return true_edges
        completed = self._inner.complete_edges(batch.image, hole_mask)
        gray = luma(batch.target)
        judged["edges"] = Judged(
            real=torch.cat([true_edges, gray], dim=1),
            fake=torch.cat([completed.probabilities, gray], dim=1),
        )
        return completed.edges

    def _labels(
        self,
        batch: TensorBatch,
        hole_mask: Tensor,
        labels: Tensor,
        *,
        terms: dict[str, Term],
        judged: dict[str, Judged],
    ) -> Tensor:
        """Return the label map that the picture follows: completed, or true where not trained."""
        truth = batch.target_labels
        assert truth is not None
        real = one_hot_labels(truth, classes=self._inner.config.labels)
        if "labels" not in self._parts:
            return real
        completed = self._inner.complete_labels(labels, hole_mask)
        terms["label_cross_entropy"] = Term(
            value=label_cross_entropy(completed.logits, truth, ignore=IGNORED),
            weight=_P2.label_cross_entropy,
        )
        judged["labels"] = Judged(real=real, fake=completed.logits.softmax(dim=1))
        return completed.labels


class JointStage(TrainingStage):
    """Segmenter and inpainter through the mask: report P2, equation 10.

    The segmenter finds the object of each photo; the hole that the inpainter fills is its mask,
    exactly 0 or 1, and passes gradients on as the soft mask would. The picture losses see the
    composite, and take for hole what was filled *and* what is left of the object: measured inside
    the found hole alone, ``hole_l1``, ``hole_mean_l1`` and ``log_mse`` do not change with what the
    mask leaves out, so nothing would push it outward (a deviation from report P2, equation 7,
    whose norm runs over the whole picture).
    """

    def __init__(self, network: JointModel, *, config: RunConfig) -> None:
        inner: InpaintingStage | EdgeConnectStage
        if isinstance(network.inpainter, EdgeConnect):
            inner = EdgeConnectStage(network, config=config)
        else:
            inner = InpaintingStage(network, config=config)
        super().__init__(network, trained=network, judges=inner.judges)
        self._joint = network
        # Not registered: it holds the same network.
        self._inner = (inner,)
        self._loss = config.loss

    def forward(self, batch: TensorBatch) -> StageOutput:
        """Find the objects of a batch and fill their places."""
        (inner,) = self._inner
        found = self._joint.find(
            batch.image, object_mask=batch.object_mask, labels=labels_of(batch)
        )
        context = found.labelled.logits.softmax(dim=1)
        if isinstance(inner, EdgeConnectStage):
            wanted = context if self._joint.needs_labels else None
            output = inner.complete(batch, hole_mask=found.hole_mask, labels=wanted)
        else:
            prediction = self._joint.fill(batch.image, found.hole_mask, None)
            painted = Painted(prediction=prediction, hole_mask=found.hole_mask.detach())
            output = StageOutput(painted=painted)
        assert output.painted is not None
        composite = differentiable_composite(
            output.painted.prediction, batch.image, found.hole_mask
        )
        damaged = torch.maximum(found.hole_mask.detach(), batch.object_mask)
        painted = Painted(prediction=composite, hole_mask=damaged)
        judged = {**output.judged, **judged_pictures(self, painted, batch)}
        return StageOutput(
            painted=painted,
            terms={**output.terms, **self._mask_terms(found, batch)},
            judged=judged,
        )

    def _mask_terms(self, found: Found, batch: TensorBatch) -> dict[str, Term]:
        losses = found.labelled.losses
        terms = {
            f"segmentation_{name}": Term(value=value, weight=self._loss.segmentation)
            for name, value in losses.items()
        }
        if self._loss.mask_expansion:
            distance = batch.signed_distance
            if distance is None:
                distance = signed_distance(batch.hole_mask)
            # Where there is no object, every pixel is far outside of one.
            holds_object = batch.object_mask.flatten(1).any(dim=1).view(-1, 1, 1, 1)
            distance = torch.where(holds_object, distance, torch.ones_like(distance))
            value = mask_expansion_loss(found.selected.soft, distance, alpha=self._loss.alpha)
            terms["mask_expansion"] = Term(value=value, weight=self._loss.mask_expansion)
        return terms
