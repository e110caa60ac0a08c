"""The U-Net of two of the carried reports, with the choice of how the hole enters it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayfill.models.base import InpaintingModel, check_inputs
from rayfill.models.fill import FILLS
from rayfill.models.local_scale import local_scale
from rayfill_data.errors import ConfigError, unknown_name

OUTPUTS = ("direct", "residual")


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Options of the U-Net, with and without attention gates."""

    width: int = 64
    """Channels of the first level; each level below has twice as many. 1 to 1024."""

    depth: int = 4
    """Number of 2x2 poolings, 1 to 7; sizes are padded to a multiple of 2**depth."""

    hole_fill: Literal["zero", "mean", "push_pull", "harmonic"] = "zero"
    """What the network sees under the hole: 0, the mean known colour, or a smooth pyramid fill."""

    output: Literal["direct", "residual"] = "direct"
    """direct: the network makes the colours; residual: it corrects the filled input, from 0 on."""

    mask_channel: bool = True
    """Whether the hole mask is a fourth input channel."""

    def __post_init__(self) -> None:
        problems = [
            *_integer_problems("width", self.width, low=1, high=1024),
            *_integer_problems("depth", self.depth, low=1, high=7),
        ]
        if self.hole_fill not in FILLS:
            problems.append(unknown_name("hole_fill", str(self.hole_fill), FILLS))
        if self.output not in OUTPUTS:
            problems.append(unknown_name("output", str(self.output), OUTPUTS))
        if not isinstance(self.mask_channel, bool):
            problems.append(f"mask_channel is {self.mask_channel!r}; allowed: true or false.")
        if problems:
            raise ConfigError(problems)

    @property
    def stride(self) -> int:
        """Multiple that both sides of an image are padded to, in pixels."""
        return 1 << self.depth


def _integer_problems(name: str, value: int, *, low: int, high: int) -> list[str]:
    """Return the one-line problem of an integer option, or nothing."""
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if is_integer and low <= value <= high:
        return []
    return [f"{name} is {value!r}; allowed: an integer from {low} to {high}."]


class UNet(InpaintingModel):
    """U-Net: double 3x3 convolutions, max-pooling down, transposed convolutions up, skips.

    Convolutions carry no bias (a BatchNorm follows each) except the transposed ones and the 1x1
    head. Width 64, depth 4, no mask channel: 31,037,763 parameters. Sizes are padded once, at the
    input, by repeating the edge; the original pads inside the decoder, which is slower.

    Source: Ronneberger et al. 2015 (arXiv:1505.04597), with BatchNorm and 'same' padding.
    """

    def __init__(
        self, config: UNetConfig, *, make_gate: Callable[[int], nn.Module] | None = None
    ) -> None:
        """Build the network.

        Args:
            config: the options.
            make_gate: builds, for a skip of so many channels, the module ``gate(skip, decoder)``
                that the skip passes through; None leaves skips as they are.
        """
        super().__init__()
        self.config = config
        self.stride = config.stride
        widths = [config.width * 2**level for level in range(config.depth + 1)]
        self.stem = _double_conv(3 + int(config.mask_channel), widths[0])
        self.down = nn.ModuleList(_double_conv(width, 2 * width) for width in widths[:-1])
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * width, width, kernel_size=2, stride=2)
            for width in reversed(widths[:-1])
        )
        self.gates = nn.ModuleList(
            make_gate(width) if make_gate else _PlainSkip() for width in reversed(widths[:-1])
        )
        self.fuse = nn.ModuleList(_double_conv(2 * width, width) for width in reversed(widths[:-1]))
        self.head = nn.Conv2d(widths[0], 3, kernel_size=1)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.config.output == "residual":
            # An untrained residual network then answers with the fill itself.
            nn.init.zeros_(self.head.weight)
        else:
            nn.init.xavier_normal_(self.head.weight)

    def forward(self, image: Tensor, hole_mask: Tensor) -> Tensor:
        """Return the prediction (B, 3, H, W); shapes and ranges as in :class:`InpaintingModel`."""
        check_inputs(image, hole_mask)
        filled = FILLS[self.config.hole_fill](image, hole_mask)
        if self.config.output == "residual":
            mean, contrast = local_scale(image, hole_mask)
            out = filled + contrast * self._run((filled - mean) / contrast, hole_mask)
        else:
            out = self._run(filled, hole_mask)
        return out if self.training else out.clamp(0.0, 1.0)

    def _run(self, x: Tensor, hole_mask: Tensor) -> Tensor:
        """Run the network on (B, 3, H, W) of any size."""
        height, width = x.shape[-2:]
        given = torch.cat([x, hole_mask], dim=1) if self.config.mask_channel else x
        return self._network(_pad(given, self.stride))[..., :height, :width].to(x.dtype)

    def _network(self, x: Tensor) -> Tensor:
        skips = []
        x = self.stem(x)  # (B, width, H, W)
        for down in self.down:
            skips.append(x)
            x = down(F.max_pool2d(x, 2))  # (B, width * 2^level, H / 2^level, W / 2^level)
        for up, gate, fuse in zip(self.up, self.gates, self.fuse, strict=True):
            x = up(x)
            x = fuse(torch.cat([gate(skips.pop(), x), x], dim=1))
        return self.head(x)  # type: ignore[no-any-return]


class _PlainSkip(nn.Module):
    """A skip connection that passes the encoder's features on unchanged."""

    def forward(self, skip: Tensor, decoder: Tensor) -> Tensor:
        """Return ``skip``."""
        return skip


def _double_conv(channels_in: int, channels_out: int) -> nn.Sequential:
    """Return twice (3x3 convolution without bias, BatchNorm, ReLU in place)."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels_out, channels_out, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


def _pad(x: Tensor, stride: int) -> Tensor:
    """Repeat the right and bottom edge up to a multiple of ``stride``."""
    height, width = x.shape[-2:]
    pad_bottom, pad_right = -height % stride, -width % stride
    if not (pad_bottom or pad_right):
        return x
    return F.pad(x, (0, pad_right, 0, pad_bottom), mode="replicate")
