"""A segmenter and an inpainter as one model, which finds what to remove by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from rayfill.models.base import InpaintingModel, composite
from rayfill.models.fills.fill import mean_fill
from rayfill_data.checks import Checked
from rayfill_data.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from rayfill.models.segmentation.base import SegmenterOutput
    from rayfill.models.segmentation.selection import SelectedMask

# The tables of networks and segmenters are read late: the table of networks holds this model.


@dataclass(frozen=True, kw_only=True)
class JointConfig(Checked):
    """Which segmenter, which inpainter, and their options."""

    inpainter: str = "unet"
    """Any other key of :data:`rayfill.models.MODELS`, or a network from outside."""

    inpainter_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the inpainter; an edgeconnect with as many labels as there are names completes
    label maps."""

    segmenter: str = "segmentation_unet"
    """A key of :data:`rayfill.models.segmentation.SEGMENTERS`, or one from outside."""

    segmenter_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the segmenter."""

    label_names: Sequence[str] = ("nothing", "person")
    """What label maps hold, the first "nothing"."""

    selects: Literal["object", "label"] = "object"
    """What is removed: the one object that shares most pixels with the wanted one, or all of its
    label, such as every letter of a caption."""

    def relations(self) -> Iterator[str]:
        """Yield what is wrong with the two networks, and between them."""
        from rayfill.models.segmentation.table import segmenter_config
        from rayfill.models.table import MODELS, model_config

        try:
            if self.inpainter == "joint":
                others = [name for name in MODELS if name != "joint"]
                raise ConfigError([unknown_name("inpainter", self.inpainter, others)])
            options = model_config(self.inpainter, **self.inpainter_options)
            labels = getattr(options, "labels", 0)
            if labels not in (0, len(self.label_names)):
                yield (
                    f"inpainter_options.labels is {labels}; allowed: 0, or "
                    f"{len(self.label_names)}, one for each of label_names."
                )
        except ConfigError as error:
            yield from error.problems
        try:
            segmenter_config(self.segmenter, **self.segmenter_options)
        except ConfigError as error:
            yield from error.problems


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was taken for the object."""

    hole_mask: Tensor
    """(B, 1, H, W), exactly 0 or 1 in value, with the gradient of the soft mask."""

    selected: SelectedMask
    """The object's mask, soft and hard, and whether anything was found."""

    labelled: SegmenterOutput
    """What the segmenter said."""


@dataclass(frozen=True, kw_only=True)
class Removal:
    """A photo without its object."""

    composite: Tensor
    """(B, 3, H, W) in [0, 1]; outside the hole, the photo bit for bit."""

    hole_mask: Tensor
    """(B, 1, H, W), exactly 0 or 1: what was filled; empty where nothing was found."""

    found: Tensor
    """(B,) bool."""


class JointModel(InpaintingModel):
    """``forward(image, hole_mask)`` fills a given hole; :meth:`remove` finds the hole first.

    Source: report P2 (Shimosato and Ukita, TTI), figure 2, with any segmenter and any inpainter.

    Attributes:
        segmenter: says what every pixel shows.
        inpainter: fills the hole.
        needs_labels: whether the inpainter wants label maps beside the photo.
    """

    def __init__(self, config: JointConfig) -> None:
        super().__init__()
        from rayfill.models.segmentation.table import segmenter_architecture
        from rayfill.models.table import build_model

        self.config = config
        self.segmenter = segmenter_architecture(
            config.segmenter, labels=config.label_names, **config.segmenter_options
        )
        self.inpainter = build_model(config.inpainter, **config.inpainter_options)
        self.stride = self.inpainter.stride
        self.needs_labels = bool(config.inpainter_options.get("labels", 0))

    def forward(self, image: Tensor, hole_mask: Tensor) -> Tensor:
        """Return the prediction (B, 3, H, W) for a given hole, under which nothing is read."""
        labels = None
        if self.needs_labels:
            labels = self.segment(mean_fill(image, hole_mask)).softmax(dim=1)
        return self.fill(image, hole_mask, labels)

    def segment(self, image: Tensor) -> Tensor:
        """Return label logits (B, K, H, W) of a photo (B, 3, H, W)."""
        return self.segmenter.segment(image)

    def find(self, image: Tensor, *, object_mask: Tensor, labels: Tensor | None = None) -> Found:
        """Find the object of each photo that shares most pixels with ``object_mask``, or its label.

        The true mask only says which object is meant, as in the report's training and evaluation;
        a person clicks, see :func:`.select_by_clicks`. The label is the one
        that the segmenter finds likeliest over ``object_mask``.

        Args:
            image: (B, 3, H, W) in [0, 1], with the object.
            object_mask: (B, 1, H, W), exactly 0 or 1, where the object is.
            labels: (B, H, W) int64, the truth, to get the segmenter's losses as well.
        """
        labelled: SegmenterOutput = self.segmenter(image, labels)
        selected = select(labelled, object_mask=object_mask, selects=self.config.selects)
        hole = selected.hard + (selected.soft - selected.soft.detach())
        return Found(hole_mask=hole, selected=selected, labelled=labelled)

    def remove(self, image: Tensor, *, object_mask: Tensor) -> Removal:
        """Find the object and fill its place; arguments as :meth:`find`."""
        found = self.find(image, object_mask=object_mask)
        hole = found.selected.hard
        labels = found.labelled.logits.softmax(dim=1) if self.needs_labels else None
        prediction = self.fill(image, hole, labels)
        return Removal(
            composite=composite(prediction, image, hole),
            hole_mask=hole,
            found=found.selected.found,
        )

    def fill(self, image: Tensor, hole_mask: Tensor, labels: Tensor | None) -> Tensor:
        """Return the inpainter's prediction, with label probabilities where it wants them."""
        prediction: Tensor = (
            self.inpainter(image, hole_mask)
            if labels is None
            else self.inpainter(image, hole_mask, labels)
        )
        return prediction


def select(
    labelled: SegmenterOutput, *, object_mask: Tensor, selects: Literal["object", "label"]
) -> SelectedMask:
    """Return the object of each photo that shares most pixels with its ``object_mask``.

    Args:
        labelled: what the segmenter said of the photos.
        object_mask: (B, 1, H, W), exactly 0 or 1.
        selects: that object alone, or all of its label.
    """
    from rayfill.models.segmentation.selection import (
        SelectedMask,
        select_by_overlap,
        select_label,
    )

    logits = labelled.logits
    inside = (logits.detach().softmax(dim=1) * object_mask).sum(dim=(2, 3))  # (B, K)
    label = 1 + inside[:, 1:].argmax(dim=1)
    parts = []
    for row, wanted in enumerate(label.tolist()):
        one = slice(row, row + 1)
        if selects == "label":
            parts.append(select_label(logits[one], label=wanted))
            continue
        segments = labelled.segments[one] if labelled.segments else None
        parts.append(
            select_by_overlap(logits[one], label=wanted, truth=object_mask[one], segments=segments)
        )
    return SelectedMask(
        soft=torch.cat([part.soft for part in parts]),
        hard=torch.cat([part.hard for part in parts]),
        found=torch.cat([part.found for part in parts]),
    )


def differentiable_composite(prediction: Tensor, image: Tensor, hole_mask: Tensor) -> Tensor:
    """Return ``hole_mask * prediction + (1 - hole_mask) * image``, with the mask's gradient.

    In value :func:`rayfill.models.composite`; what it says of the picture reaches the network that
    drew the mask.

    Args:
        prediction: (B, 3, H, W).
        image: (B, 3, H, W), finite.
        hole_mask: (B, 1, H, W), exactly 0 or 1 in value.
    """
    return hole_mask * prediction + (1 - hole_mask) * image
