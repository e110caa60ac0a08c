"""The U-Net of two of the carried reports, with the choice of how the hole enters it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayfill.models.fills.filled import FilledNetwork, initialise_convolutions
from rayfill.models.options import PyramidOptions


@dataclass(frozen=True, kw_only=True)
class UNetConfig(PyramidOptions):
    """Options of the U-Net, with and without attention gates."""

    mask_channel: bool = True
    """Whether the hole mask is a fourth input channel."""

    odd_sizes: Literal["pad_input", "pad_inside"] = "pad_input"
    """Where sizes that 2**depth does not divide are padded: at the input, or inside the decoder."""


class UNet(FilledNetwork):
    """U-Net: double 3x3 convolutions, max-pooling down, transposed convolutions up, skips.

    Convolutions carry no bias (a BatchNorm follows each) except the transposed ones and the 1x1
    head. Width 64, depth 4, no mask channel: 31,037,763 parameters. By default, sizes are padded
    once, at the input, by repeating the edge; padding with zeros inside the decoder, at every level
    that was odd on the way down, needs up to 15 % fewer operations and hardly less time.

    Source: Ronneberger et al. 2015 (arXiv:1505.04597), with BatchNorm and 'same' padding.
    """

    config: UNetConfig

    def __init__(
        self,
        config: UNetConfig,
        *,
        make_block: Callable[[int, int], nn.Module] | None = None,
        make_gate: Callable[[int], nn.Module] | None = None,
        extra_latent: int = 0,
    ) -> None:
        """Build the network.

        Args:
            config: the options.
            make_block: builds, for so many channels in and out, what runs at every level; None is
                the double convolution.
            make_gate: builds, for a skip of so many channels, the module ``gate(skip, decoder)``
                that the skip passes through; None leaves skips as they are.
            extra_latent: channels that :meth:`_latent` adds to the coarsest level.
        """
        super().__init__(config)
        make_block = make_block or double_conv
        widths = [config.width * 2**level for level in range(config.depth + 1)]
        self.stem = make_block(3 + int(config.mask_channel), widths[0])
        self.down = nn.ModuleList(make_block(width, 2 * width) for width in widths[:-1])
        below = [*widths[1:-1], widths[-1] + extra_latent]
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(wide, width, kernel_size=2, stride=2)
            for width, wide in reversed(list(zip(widths[:-1], below, strict=True)))
        )
        self.gates = nn.ModuleList(
            make_gate(width) if make_gate else _PlainSkip() for width in reversed(widths[:-1])
        )
        self.fuse = nn.ModuleList(make_block(2 * width, width) for width in reversed(widths[:-1]))
        self.head = nn.Conv2d(widths[0], 3, kernel_size=1)
        initialise_convolutions(self)
        self._initialise_head(self.head)

    def _pad(self, x: Tensor, hole_mask: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.odd_sizes == "pad_input":
            return super()._pad(x, hole_mask)
        # Only as far as every pooling needs at least 2x2 pixels.
        height, width = x.shape[-2:]
        padding = (0, max(0, self.stride - width), 0, max(0, self.stride - height))
        if not any(padding):
            return x, hole_mask
        return F.pad(x, padding, mode="replicate"), F.pad(hole_mask, padding, mode="replicate")

    def _network(self, x: Tensor, hole_mask: Tensor) -> Tensor:
        given = torch.cat([x, hole_mask], dim=1) if self.config.mask_channel else x
        skips = []
        x = self.stem(given)  # (B, width, H, W)
        for down in self.down:
            skips.append(x)
            x = down(F.max_pool2d(x, 2))  # (B, width * 2^level, H / 2^level, W / 2^level)
        x = self._latent(x, given)
        for up, gate, fuse in zip(self.up, self.gates, self.fuse, strict=True):
            skip = skips.pop()
            x = _pad_to(up(x), skip)
            x = fuse(torch.cat([gate(skip, x), x], dim=1))
        return self.head(x)  # type: ignore[no-any-return]

    def _latent(self, x: Tensor, given: Tensor) -> Tensor:
        """Return what the decoder starts from.

        Args:
            x: (B, width * 2**depth, H / 2**depth, W / 2**depth), the coarsest level.
            given: (B, 3 or 4, H, W), the network's input.
        """
        return x


class _PlainSkip(nn.Module):
    """A skip connection that passes the encoder's features on unchanged."""

    def forward(self, skip: Tensor, decoder: Tensor) -> Tensor:
        """Return ``skip``."""
        return skip


def double_conv(channels_in: int, channels_out: int) -> nn.Sequential:
    """Return twice (3x3 convolution without bias, BatchNorm, ReLU in place)."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels_out, channels_out, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


def _pad_to(x: Tensor, skip: Tensor) -> Tensor:
    """Append zeros at the right and bottom where pooling dropped an odd row or column."""
    missing = (0, skip.shape[-1] - x.shape[-1], 0, skip.shape[-2] - x.shape[-2])
    return F.pad(x, missing) if any(missing) else x
