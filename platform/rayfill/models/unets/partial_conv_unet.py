"""Two U-Nets of partial convolutions: the carried report's, and Liu's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayfill.models.fills.filled import FilledNetwork, initialise_convolutions, missing
from rayfill.models.options import Depth, PyramidOptions
from rayfill.models.unets.partial_conv import PartialConv2d, Window


@dataclass(frozen=True, kw_only=True)
class PartialConvUNetConfig(PyramidOptions):
    """Options of the U-Nets of partial convolutions.

    These never see a fill: ``hole_fill`` is what a *residual* output corrects. What pads a size
    counts as unknown.
    """

    normalisation: Literal["liu", "report"] = "liu"
    """Scale of a partial convolution: liu, sum(1)/sum(known); report, 1/sum(known)."""


@dataclass(frozen=True, kw_only=True)
class LiuUNetConfig(PartialConvUNetConfig):
    """Options of Liu's network; a depth of 7 is the usual one at 256x256 pixels."""

    depth: Depth = 7
    """Number of strided layers; sizes are padded to a multiple of 2**depth."""

    freeze_encoder_norm: bool = False
    """Keep the encoder's BatchNorm as it is, for the second phase of training."""


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

    def forward(self, parts: Sequence[Tensor], window: Window) -> Tensor:
        """Return features; arguments as :meth:`PartialConv2d.convolve`."""
        x = self.conv.convolve(parts, window)
        if self.norm is not None:
            # Masked between norm and activation, in place: what BatchNorm adds to unknown places
            # must not be read by the next layer, and ReLU's own output may not be changed.
            x = self.norm(x).mul_(window.update.to(x.dtype))
        return F.leaky_relu(x, self.slope, inplace=True)


class _PartialNetwork(FilledNetwork):
    """What both forms share: padding that counts as unknown, and no fill for the network."""

    config: PartialConvUNetConfig

    def _pad(self, x: Tensor, hole_mask: Tensor) -> tuple[Tensor, Tensor]:
        padding = missing(x, self.stride)
        return F.pad(x, padding), F.pad(hole_mask, padding, value=1.0)

    def _network(self, x: Tensor, hole_mask: Tensor) -> Tensor:
        windows = self.windows(1.0 - hole_mask)
        return self._partial(x.masked_fill(hole_mask > 0.5, 0.0), windows)

    def windows(self, mask: Tensor) -> list[Window]:
        """Return what every partial convolution needs to know of the mask, in order.

        Args:
            mask: (B, 1, H, W), 1 = known, sizes that the stride divides.
        """
        raise NotImplementedError

    def _layers(self) -> list[PartialConv2d]:
        """Return the partial convolutions, which were made in the order they run."""
        return [module for module in self.modules() if isinstance(module, PartialConv2d)]

    def _partial(self, x: Tensor, windows: Sequence[Window]) -> Tensor:
        """Return (B, 3, H, W).

        Args:
            x: (B, 3, H, W), 0 where nothing is known.
            windows: those of :meth:`windows`.
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

    def forward(self, parts: Sequence[Tensor], windows: Sequence[Window]) -> Tensor:
        """Return features; arguments as :meth:`PartialConv2d.convolve`, with both windows."""
        first, second = self.blocks
        x: Tensor = second([first(parts, windows[0])], windows[1])
        return x


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

    def windows(self, mask: Tensor) -> list[Window]:
        """Return what every partial convolution needs to know of the mask, in order."""
        layers = iter(self._layers())
        windows: list[Window] = []

        def both(mask: Tensor) -> Tensor:
            for layer in (next(layers), next(layers)):
                windows.append(layer.window(mask))
                mask = windows[-1].update
            return mask

        mask, skips = both(mask), []
        for _ in self.down:
            skips.append(mask)
            mask = both(F.max_pool2d(mask, 2))
        for _ in self.fuse:
            mask = both(torch.cat([skips.pop(), _double(mask)], dim=1))
        return windows

    def _partial(self, x: Tensor, windows: Sequence[Window]) -> Tensor:
        pairs = iter(zip(windows[::2], windows[1::2], strict=True))
        skips = []
        x = self.stem([x], next(pairs))
        for down in self.down:
            skips.append(x)
            x = down([F.max_pool2d(x, 2)], next(pairs))
        for up, fuse in zip(self.up, self.fuse, strict=True):
            pair = next(pairs)
            x = up(x)
            x = x.mul_(pair[0].mask[:, 1:].to(x.dtype))
            x = fuse([skips.pop(), x], pair)
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

    def windows(self, mask: Tensor) -> list[Window]:
        """Return what every partial convolution needs to know of the mask, in order."""
        windows: list[Window] = []
        skips = []
        for number, layer in enumerate(self._layers()):
            if number < len(self.down):
                skips.append(mask)
            else:
                mask = torch.cat([_double(mask), skips.pop()], dim=1)
            windows.append(layer.window(mask))
            mask = windows[-1].update
        return windows

    def _partial(self, x: Tensor, windows: Sequence[Window]) -> Tensor:
        order = iter(windows)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down([x], next(order))
        for up in self.up:
            x = up([_double(x), skips.pop()], next(order))
        return self.head.convolve([_double(x), skips.pop()], next(order))


def _double(x: Tensor) -> Tensor:
    """Repeat every pixel in both directions: (B, C, H, W) -> (B, C, 2H, 2W)."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
