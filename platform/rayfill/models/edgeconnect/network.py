"""Three inpainters in a row: edges first, then what each pixel shows, then colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayfill.models.base import InpaintingModel, check_inputs
from rayfill.models.edgeconnect.edges import canny_edges, luma
from rayfill.models.edgeconnect.generator import STRIDE, EdgeConnectGenerator
from rayfill.models.fills.fill import FILLS
from rayfill.models.fills.local_scale import local_scale
from rayfill.models.options import ModelOptions
from rayfill_data.checks import Bounds
from rayfill_data.errors import RayfillError


@dataclass(frozen=True, kw_only=True)
class EdgeConnectConfig(ModelOptions):
    """Options of the staged inpainter."""

    blocks: Annotated[int, Bounds(ge=1, le=32)] = 8
    """Dilated residual blocks of each generator."""

    labels: Annotated[int, Bounds(ge=0, le=256)] = 0
    """Classes of the label maps; 0: no label maps and no network for them."""

    edge_spectral_norm: bool = True
    """Whether the edge generator's weights are divided by their largest singular value."""

    @property
    def stride(self) -> int:
        """Multiple that both sides of an image are padded to, in pixels."""
        return STRIDE


@dataclass(frozen=True, kw_only=True)
class EdgeStage:
    """What the edge inpainter made of a picture."""

    known: Tensor
    """(B, 1, H, W), exactly 0 or 1: Canny edges of the known part, 0 in the hole."""

    logits: Tensor
    """(B, 1, H, W): its answer for every pixel, known ones included."""

    edges: Tensor
    """(B, 1, H, W) in [0, 1]: the known edges, and in the hole its probabilities."""

    @property
    def probabilities(self) -> Tensor:
        """(B, 1, H, W): its answer as probabilities, what an edge discriminator judges."""
        return torch.sigmoid(self.logits)


@dataclass(frozen=True, kw_only=True)
class LabelStage:
    """What the segmentation inpainter made of a label map."""

    logits: Tensor
    """(B, K, H, W): its answer for every pixel, known ones included."""

    labels: Tensor
    """(B, K, H, W) in [0, 1]: the known labels, and in the hole its probabilities."""


class EdgeConnect(InpaintingModel):
    """``e = E(luma, Canny edges, H)``, ``s = S(labels, H)``, ``prediction = I(filled, H, e, s)``.

    Each of the three is an :class:`EdgeConnectGenerator` and can be trained alone: what one stage
    needs of the others can be the truth. Completed edges and labels keep what is known and take
    probabilities in the hole, so that the picture's losses reach the networks that drew them; Canny
    has no gradient. With ``labels`` 0, the default, there is no ``S``, and the picture follows from
    image and mask alone.

    A segmenter may be trained through the mask: what exceeds 1/2 is hole, and the value itself,
    which every generator sees as a channel, carries the gradient.

    Deviations from the published networks: the picture generator sees the mask, as in report P2; a
    hole is filled by the option ``hole_fill`` (0 by default) where EdgeConnect has white; the edges
    of the known part are found without looking into the hole, in training too.

    Source: Nazeri et al. 2019 (arXiv:1901.00212); with label maps: report P2 (Shimosato and Ukita,
    TTI).

    Attributes:
        edge_generator: 3 channels (luma, known edges, mask) -> 1.
        label_generator: ``labels`` + 1 channels (known labels, mask) -> ``labels``; None without.
        image_generator: 5 + ``labels`` channels (colours, mask, edges, labels) -> 3.
    """

    def __init__(self, config: EdgeConnectConfig) -> None:
        super().__init__()
        self.config = config
        self.stride = config.stride
        classes = config.labels
        self.edge_generator = EdgeConnectGenerator(
            3,
            1,
            width=config.width,
            blocks=config.blocks,
            spectral_norm=config.edge_spectral_norm,
        )
        self.label_generator = (
            EdgeConnectGenerator(classes + 1, classes, width=config.width, blocks=config.blocks)
            if classes
            else None
        )
        self.image_generator = EdgeConnectGenerator(
            5 + classes, 3, width=config.width, blocks=config.blocks
        )
        if config.output == "residual":
            nn.init.zeros_(self.image_generator.head.weight)

    def forward(self, image: Tensor, hole_mask: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the prediction (B, 3, H, W) of all stages in a row.

        Args:
            image: as in :class:`InpaintingModel`.
            hole_mask: as in :class:`InpaintingModel`.
            labels: (B, K, H, W) in [0, 1], what each pixel shows; not read in the hole. Needed
                where the configuration has labels, refused where it has none.

        Raises:
            RayfillError: shapes that do not fit, or labels missing or not expected.
        """
        check_inputs(image, hole_mask)
        self._check_labels(labels, hole_mask)
        edges = self.complete_edges(image, hole_mask).edges
        if labels is not None:
            labels = self.complete_labels(labels, hole_mask).labels
        return self.paint(image, hole_mask, edges=edges, labels=labels)

    def complete_edges(self, image: Tensor, hole_mask: Tensor) -> EdgeStage:
        """Return the edges of the known part and what belongs to them in the hole."""
        check_inputs(image, hole_mask)
        known = canny_edges(image, hole_mask)
        gray = luma(FILLS[self.config.hole_fill](image, hole_mask))
        logits = self.edge_generator(torch.cat([gray, known, hole_mask], dim=1)).to(image.dtype)
        edges = torch.where(hole_mask > 0.5, torch.sigmoid(logits), known)
        return EdgeStage(known=known, logits=logits, edges=edges)

    def complete_labels(self, labels: Tensor, hole_mask: Tensor) -> LabelStage:
        """Return what the pixels in the hole would show.

        Args:
            labels: (B, K, H, W) in [0, 1], such as :func:`one_hot_labels` gives; not read in the
                hole.
            hole_mask: (B, 1, H, W).

        Raises:
            RayfillError: a network without labels, or another shape.
        """
        self._check_labels(labels, hole_mask)
        assert self.label_generator is not None
        hole = hole_mask > 0.5
        known = labels.masked_fill(hole, 0.0)
        logits = self.label_generator(torch.cat([known, hole_mask], dim=1)).to(known.dtype)
        return LabelStage(logits=logits, labels=torch.where(hole, logits.softmax(dim=1), known))

    def paint(
        self, image: Tensor, hole_mask: Tensor, *, edges: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """Return the prediction (B, 3, H, W) that follows given edges and labels.

        Args:
            image: as in :class:`InpaintingModel`.
            hole_mask: as in :class:`InpaintingModel`.
            edges: (B, 1, H, W) in [0, 1], of the whole picture.
            labels: (B, K, H, W) in [0, 1], of the whole picture; None in a network without labels.

        Raises:
            RayfillError: shapes that do not fit, or labels missing or not expected.
        """
        check_inputs(image, hole_mask)
        self._check_labels(labels, hole_mask)
        guides = [hole_mask, edges] if labels is None else [hole_mask, edges, labels]
        filled = FILLS[self.config.hole_fill](image, hole_mask)
        if self.config.output == "residual":
            mean, contrast = local_scale(image, hole_mask)
            scaled = (filled - mean) / contrast
            change: Tensor = self.image_generator(torch.cat([scaled, *guides], dim=1))
            out = filled + contrast * change.to(image.dtype)
        else:
            colours: Tensor = self.image_generator(torch.cat([filled, *guides], dim=1))
            out = (torch.tanh(colours.to(image.dtype)) + 1) / 2
        return out if self.training else out.clamp(0.0, 1.0)

    def _check_labels(self, labels: Tensor | None, hole_mask: Tensor) -> None:
        """Refuse labels that this network does not take, and their absence where it needs them."""
        classes = self.config.labels
        if not classes and labels is not None:
            raise RayfillError(
                f"Label maps of shape {tuple(labels.shape)} were given to a network without "
                "labels. Build it with labels=K, or leave them out."
            )
        expected = (len(hole_mask), classes, *hole_mask.shape[2:])
        if classes and (labels is None or labels.shape != expected):
            got = "none" if labels is None else f"shape {tuple(labels.shape)}"
            raise RayfillError(
                f"This network needs label maps of shape {expected}; got {got}. Give what a "
                "segmenter says of the picture, as one_hot_labels makes it."
            )


def one_hot_labels(labels: Tensor, *, classes: int, ignore: int = 255) -> Tensor:
    """Return a label map as (B, K, H, W) float32 of 0 and 1; all 0 where a pixel has no label.

    Args:
        labels: (B, H, W) integers, 0 to K - 1, or ``ignore``.
        classes: K.
        ignore: marks pixels without a label.
    """
    labelled = labels != ignore
    hot = F.one_hot(labels.masked_fill(~labelled, 0).long(), classes) * labelled[..., None]
    return hot.permute(0, 3, 1, 2).float()
