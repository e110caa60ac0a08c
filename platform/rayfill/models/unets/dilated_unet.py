"""A U-Net of two levels whose depth lies in dilated blocks at a quarter of the resolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rayfill.models.fills.filled import FilledNetwork, initialise_convolutions
from rayfill.models.unets.convmixer_unet import TwoLevelConfig

#: Steps between the pixels of a window, in cells of 4x4 pixels; one quarter of the channels each.
_DILATIONS = (1, 2, 4, 8)

#: As many as make the multiply-adds those of a four-level U-Net of the same width (98 %).
_BLOCKS = 7


class DilatedUNet(FilledNetwork):
    """Two strided convolutions down, seven blocks of many ranges, two levels up with skips.

    What fills a hole lies beyond its rim, so every output should see past any hole. A U-Net of four
    poolings sees about 100 px to each side of a pixel, and what is far away at 1/16 of the size.
    Here all deep layers run at 1/4 of it, where texture still is, and each block looks at four
    ranges at once: 258 px to each side, for 0.98 of the U-Net's multiply-adds at the same width and
    0.30 of its parameters. All of it is dense 3x3 convolutions, which every runtime has and which
    cost the same dilated or not: no FFT operators, as in LaMa, and no dilated depthwise
    convolutions, which ran at about a thirtieth of their arithmetic rate on a CPU. Every block has
    every range, so a small picture, where the longest one meets only the border, loses a quarter of
    the channels and no depth.

    Source: our own; the idea of splitting one convolution over dilations is that of the AOT block
    (Zeng et al. 2021, arXiv:2104.01431).
    """

    config: TwoLevelConfig

    def __init__(self, config: TwoLevelConfig) -> None:
        super().__init__(config)
        width = config.width
        self.stem = _conv(3 + int(config.mask_channel), width)
        self.down = nn.ModuleList(
            [_conv(width, 2 * width, stride=2), _conv(2 * width, 4 * width, stride=2)]
        )
        self.blocks = nn.Sequential(*(RangesBlock(4 * width) for _ in range(_BLOCKS)))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * wide, wide, kernel_size=2, stride=2)
            for wide in (2 * width, width)
        )
        self.fuse = nn.ModuleList([_conv(4 * width, 2 * width), _conv(2 * width, width)])
        self.head = nn.Conv2d(width, 3, kernel_size=1)
        initialise_convolutions(self)
        self._initialise_head(self.head)

    def _network(self, x: Tensor, hole_mask: Tensor) -> Tensor:
        x = torch.cat([x, hole_mask], dim=1) if self.config.mask_channel else x
        skips = []
        x = self.stem(x)  # (B, width, H, W)
        for down in self.down:
            skips.append(x)
            x = down(x)
        x = self.blocks(x)  # (B, 4 * width, H/4, W/4)
        for up, fuse in zip(self.up, self.fuse, strict=True):
            x = fuse(torch.cat([skips.pop(), up(x)], dim=1))
        return self.head(x)  # type: ignore[no-any-return]


class RangesBlock(nn.Module):
    """``x + norm(W * relu(norm([W_d * x for every dilation d])))``, all of them 3x3.

    Each dilation makes an equal part of the channels. The last norm starts from 0, so an untrained
    block passes ``x`` on and any number of them can be stacked.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        part = channels // len(_DILATIONS)
        self.ranges = nn.ModuleList(
            nn.Conv2d(channels, part, 3, padding=dilation, dilation=dilation, bias=False)
            for dilation in _DILATIONS
        )
        self.norm = nn.BatchNorm2d(channels)
        self.merge = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.last_norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.last_norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, h, w) for (B, C, h, w); C is a multiple of 4."""
        seen = torch.cat([look(x) for look in self.ranges], dim=1)
        return x + self.last_norm(self.merge(torch.relu_(self.norm(seen))))  # type: ignore[no-any-return]


def _conv(channels_in: int, channels_out: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )
