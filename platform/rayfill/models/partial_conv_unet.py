"""Two U-Nets of partial convolutions: the carried report's, and Liu's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayfill.models.filled import FilledNetwork, initialise_convolutions, missing
from rayfill.models.options import (
    ModelOptions,
    choice_problems,
    integer_problems,
    switch_problems,
)
from rayfill.models.partial_conv import NORMALISATIONS, PartialConv2d


@dataclass(frozen=True, kw_only=True)
class PartialConvUNetConfig(ModelOptions):
    """Options of the U-Nets of partial convolutions.

    These never see a fill: ``hole_fill`` is what a *residual* output corrects.
    """

    depth: int = 4
    """Number of downsamplings, 1 to 7; sizes are padded, as unknown, to a multiple of 2**depth."""

    normalisation: Literal["liu", "report"] = "liu"
    """Scale of a partial convolution: liu, sum(1)/sum(known); report, 1/sum(known)."""

    @property
    def stride(self) -> int:
        """Multiple that both sides of an image are padded to, in pixels."""
        return 1 << self.depth

    def problems(self) -> Iterator[str]:
        """Yield one sentence for every value that cannot be used."""
        yield from super().problems()
        yield from integer_problems("depth", self.depth, low=1, high=7)
        yield from choice_problems("normalisation", self.normalisation, NORMALISATIONS)


@dataclass(frozen=True, kw_only=True)
class LiuUNetConfig(PartialConvUNetConfig):
    """Options of Liu's network; a depth of 7 is the usual one at 256x256 pixels."""

    depth: int = 7
    """Number of strided layers, 1 to 7; sizes are padded, as unknown, to a multiple of 2**depth."""

    freeze_encoder_norm: bool = False
    """Keep the encoder's BatchNorm as it is, for the second phase of training."""

    def problems(self) -> Iterator[str]:
        """Yield one sentence for every value that cannot be used."""
        yield from super().problems()
        yield from switch_problems("freeze_encoder_norm", self.freeze_encoder_norm)


class _PartialBlock(nn.Module):
    """Partial convolution, BatchNorm if wanted, (leaky) ReLU; 0 wherever its mask is 0."""

    def __init__(
        self,
        conv: PartialConv2d,
        *,
        norm: bool = True,
        slope: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(conv.conv.out_channels) if norm else None
        self.slope = slope

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and mask; ``x`` must be 0 wherever ``mask`` is."""
        x, mask = self.conv(x, mask, masked=True)
        if self.norm is not None:
            # Masked between norm and activation, in place: what BatchNorm adds to unknown places
            # must not be read by the next layer, and ReLU's own output may not be changed.
            x = self.norm(x).mul_(mask.to(x.dtype))
        return F.leaky_relu(x, self.slope, inplace=True), mask


class _PartialNetwork(FilledNetwork):
    """What both forms share: padding that counts as unknown, and no fill for the network."""

    config: PartialConvUNetConfig

    def _pad(self, x: Tensor, hole_mask: Tensor) -> tuple[Tensor, Tensor]:
        padding = missing(x, self.stride)
        return F.pad(x, padding), F.pad(hole_mask, padding, value=1.0)

    def _network(self, x: Tensor, hole_mask: Tensor) -> Tensor:
        return self._partial(x.masked_fill(hole_mask > 0.5, 0.0), 1.0 - hole_mask)

    def _partial(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return (B, 3, H, W).

        Args:
            x: (B, 3, H, W), 0 where the mask is.
            mask: (B, 1, H, W), 1 = known.
        """
        raise NotImplementedError


class _DoublePartial(nn.Module):
    """Twice (3x3 partial convolution without bias, BatchNorm, ReLU)."""

    def __init__(self, sources: tuple[int, ...], channels_out: int, *, normalisation: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            _PartialBlock(
                PartialConv2d(
                    given, channels_out, 3, padding=1, bias=False, normalisation=normalisation
                )
            )
            for given in (sources, (channels_out,))
        )

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and mask."""
        for block in self.blocks:
            x, mask = block(x, mask)
        return x, mask


class PartialConvUNet(_PartialNetwork):
    """:class:`rayfill.models.UNet` with every 3x3 convolution partial; 31,037,763 parameters.

    A 2x2 pooling knows what any of its four pixels knew (features are 0 or more, and 0 where
    unknown); a 2x2 transposed convolution reads one pixel, so its mask is that pixel's. The 1x1
    head is an ordinary convolution: where anything is known the two are the same, and an image
    without one known pixel gets the head's bias.

    Source: the U-Net of Ronneberger et al. 2015 with the layer of Liu et al. 2018.
    """

    def __init__(self, config: PartialConvUNetConfig) -> None:
        super().__init__(config)
        widths = [config.width * 2**level for level in range(config.depth + 1)]
        rising = list(reversed(widths[:-1]))
        kind = config.normalisation
        self.stem = _DoublePartial((3,), widths[0], normalisation=kind)
        self.down = nn.ModuleList(
            _DoublePartial((width,), 2 * width, normalisation=kind) for width in widths[:-1]
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * width, width, kernel_size=2, stride=2) for width in rising
        )
        self.fuse = nn.ModuleList(
            _DoublePartial((width, width), width, normalisation=kind) for width in rising
        )
        self.head = nn.Conv2d(widths[0], 3, kernel_size=1)
        initialise_convolutions(self)
        self._initialise_head(self.head)

    def _partial(self, x: Tensor, mask: Tensor) -> Tensor:
        skips = []
        x, mask = self.stem(x, mask)
        for down in self.down:
            skips.append((x, mask))
            x, mask = down(F.max_pool2d(x, 2), F.max_pool2d(mask, 2))
        for up, fuse in zip(self.up, self.fuse, strict=True):
            skip, skip_mask = skips.pop()
            mask = F.interpolate(mask, scale_factor=2.0, mode="nearest")
            x = up(x)
            x = x.mul_(mask.to(x.dtype))
            x, mask = fuse(torch.cat([skip, x], dim=1), torch.cat([skip_mask, mask], dim=1))
        return self.head(x)  # type: ignore[no-any-return]


class LiuUNet(_PartialNetwork):
    """Liu's U-Net: strided partial convolutions down, nearest upsampling and 3x3 ones up.

    Kernels 7, 5, 5, then 3; widths w, 2w, 4w, then 8w. Each decoder level joins the upsampled
    features and mask with the encoder's one level up, the last one with the image itself. BatchNorm
    everywhere but on the first and the last layer; ReLU down, LeakyReLU 0.2 up, none at the end.
    Width 64, depth 7: 25.78 M parameters.

    Source: Liu et al. 2018 (arXiv:1804.07723), appendix; its 8 levels at 512 pixels are 7 at 256.
    """

    config: LiuUNetConfig

    def __init__(self, config: LiuUNetConfig) -> None:
        super().__init__(config)
        kind = config.normalisation
        widths = [config.width * 2 ** min(level, 3) for level in range(config.depth)]
        kernels = [(7, 5, 5)[level] if level < 3 else 3 for level in range(config.depth)]
        self.down = nn.ModuleList(
            _PartialBlock(
                PartialConv2d(
                    given,
                    width,
                    kernel,
                    stride=2,
                    padding=kernel // 2,
                    bias=level == 0,
                    normalisation=kind,
                ),
                norm=level > 0,
            )
            for level, (given, width, kernel) in enumerate(
                zip([3, *widths], widths, kernels, strict=False)
            )
        )
        self.up = nn.ModuleList(
            _PartialBlock(
                PartialConv2d((below, skip), skip, 3, padding=1, bias=False, normalisation=kind),
                slope=0.2,
            )
            for below, skip in reversed(list(zip(widths[1:], widths, strict=False)))
        )
        self.head = PartialConv2d((widths[0], 3), 3, 3, padding=1, normalisation=kind)
        initialise_convolutions(self)
        self._initialise_head(self.head.conv)
        if config.freeze_encoder_norm:
            for norm in self._encoder_norms():
                norm.requires_grad_(False)

    def train(self, mode: bool = True) -> LiuUNet:
        """Set training mode, in which a frozen BatchNorm keeps its statistics."""
        super().train(mode)
        if self.config.freeze_encoder_norm:
            for norm in self._encoder_norms():
                norm.eval()
        return self

    def _encoder_norms(self) -> Iterator[nn.BatchNorm2d]:
        return (module for module in self.down.modules() if isinstance(module, nn.BatchNorm2d))

    def _partial(self, x: Tensor, mask: Tensor) -> Tensor:
        skips = []
        for down in self.down:
            skips.append((x, mask))
            x, mask = down(x, mask)
        for up in self.up:
            x, mask = up(*_rise(x, mask, skips.pop()))
        x, mask = _rise(x, mask, skips.pop())
        return self.head(x, mask, masked=True)[0]  # type: ignore[no-any-return]


def _rise(x: Tensor, mask: Tensor, skip: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return features and masks, doubled in size and joined with those of the encoder."""
    x = F.interpolate(x, scale_factor=2.0, mode="nearest")
    mask = F.interpolate(mask, scale_factor=2.0, mode="nearest")
    return torch.cat([x, skip[0]], dim=1), torch.cat([mask, skip[1]], dim=1)
