"""A U-Net small enough to be trained, jointly with an inpainter, on two CPU cores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayfill.models.fills.filled import initialise_convolutions, pad_edge
from rayfill.models.options import Depth, Width
from rayfill.models.segmentation.base import (
    Segmenter,
    SegmenterOptions,
    SegmenterOutput,
    check_segmenter_inputs,
)
from rayfill.models.segmentation.losses import balanced_cross_entropy
from rayfill.models.unets.unet import double_conv
from rayfill_data.checks import Share


@dataclass(frozen=True, kw_only=True)
class SegmentationUNetConfig(SegmenterOptions):
    """Options of the small segmenter."""

    width: Width = 16
    """Channels of the first level, doubled at every pooling."""

    depth: Depth = 4
    """Number of 2x2 poolings; a pixel's label depends on 13 * 2**depth - 8 pixels."""

    balance: Share = 0.5
    """How far the loss evens labels out: 0 every pixel counts alike, 1 every label. More leaves
    fewer pixels of objects out of the mask, and takes more of their surroundings in."""

    @property
    def stride(self) -> int:
        """Multiple that both sides of an image are padded to, in pixels."""
        return 1 << self.depth


class SegmentationUNet(Segmenter):
    """The double convolutions of :class:`rayfill.models.UNet` from photo to label logits.

    Loss: ``cross_entropy``, see :func:`.balanced_cross_entropy`. A label
    depends on ``13 * 2**depth - 8`` pixels across: 200 at depth 4. Sizes are padded at the right
    and bottom, by repeating the edge, to a multiple of ``2**depth``.

    Source: Ronneberger et al. 2015 (arXiv:1505.04597), with BatchNorm and 'same' padding.
    """

    def __init__(self, config: SegmentationUNetConfig, *, labels: Sequence[str]) -> None:
        super().__init__(labels)
        self.config = config
        widths = [config.width * 2**level for level in range(config.depth + 1)]
        self.stem = double_conv(3, widths[0])
        self.down = nn.ModuleList(double_conv(width, 2 * width) for width in widths[:-1])
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * width, width, kernel_size=2, stride=2)
            for width in reversed(widths[:-1])
        )
        self.fuse = nn.ModuleList(double_conv(2 * width, width) for width in reversed(widths[:-1]))
        self.head = nn.Conv2d(widths[0], len(self.labels), kernel_size=1)
        initialise_convolutions(self)
        nn.init.xavier_normal_(self.head.weight)

    def forward(self, image: Tensor, labels: Tensor | None = None) -> SegmenterOutput:
        """Return logits and, with labels, ``cross_entropy``; see :meth:`Segmenter.forward`."""
        check_segmenter_inputs(image, labels)
        height, width = image.shape[-2:]
        logits = self._network(pad_edge(image, self.config.stride))
        logits = logits[..., :height, :width].float()
        if labels is None:
            return SegmenterOutput(logits=logits)
        loss = balanced_cross_entropy(logits, labels, balance=self.config.balance)
        return SegmenterOutput(logits=logits, losses={"cross_entropy": loss})

    def _network(self, x: Tensor) -> Tensor:
        skips = []
        x = self.stem(x)  # (B, width, H, W)
        for down in self.down:
            skips.append(x)
            x = down(F.max_pool2d(x, 2))  # (B, width * 2^level, H / 2^level, W / 2^level)
        for up, fuse in zip(self.up, self.fuse, strict=True):
            x = fuse(torch.cat([skips.pop(), up(x)], dim=1))
        logits: Tensor = self.head(x)
        return logits
