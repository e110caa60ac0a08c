"""Partial convolution: a convolution over known pixels only, and which of its outputs are known."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORMALISATIONS = ("liu", "report")

#: One number for both axes, or one for each: (vertical, horizontal).
Pair = int | tuple[int, int]


class Window(NamedTuple):
    """What a layer needs to know of the masks; holds for every channel alike, and no weights."""

    mask: Tensor
    """(B, sources, H, W): the mask of every source."""

    scale: Tensor
    """(B, kinds of groups, H', W'): what outputs are multiplied by, 0 where nothing is known."""

    update: Tensor
    """(B, kinds of groups, H', W'): the mask of the output, 1 = known."""


class PartialConv2d(nn.Module):
    """Convolution that reads known pixels only and scales by how many it read.

    ``y = scale * (W * (x . m)) + b`` and ``m' = 1`` where a window holds a known value, else both
    are 0. ``scale = sum(1) / sum(m)`` over the window ("liu"), or ``1 / sum(m)`` as two of the
    carried reports print it ("report"); ``sum(1)`` is kernel height x width x channels per group,
    so pixels beyond the border count as unknown.

    The channels come in *sources*, each with one mask for all its channels: an image and its mask
    are one source, the two halves of a skip concatenation are two. So the mask's sums are box
    filters of one channel per source instead of a convolution as wide as the features.

    Source: Liu et al. 2018 (arXiv:1804.07723), equations 1 and 2.
    """

    def __init__(
        self,
        sources: int | Sequence[int],
        channels_out: int,
        kernel_size: Pair,
        *,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        normalisation: str = "liu",
    ) -> None:
        """Build the layer.

        Args:
            sources: number of channels of every source, in order; one number is one source.
            channels_out: output channels.
            kernel_size: side of the window; it and the following as in ``nn.Conv2d``.
            stride: step between windows.
            padding: zeros, counted as unknown, at each border.
            dilation: step between the pixels of one window.
            groups: independent groups of channels; they may cut through sources.
            bias: whether known outputs get a learned constant.
            normalisation: "liu" or "report".
        """
        super().__init__()
        assert normalisation in NORMALISATIONS, normalisation
        self.sources = (sources,) if isinstance(sources, int) else tuple(sources)
        channels_in = sum(self.sources)
        self.conv = nn.Conv2d(
            channels_in,
            channels_out,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=False,
        )
        self.bias = nn.Parameter(torch.zeros(channels_out)) if bias else None
        self.normalisation = normalisation
        self._group_counts = _group_counts(self.sources, groups)

    @property
    def mask_channels(self) -> int:
        """Channels of the output mask: 1, or one per group where groups see different sources."""
        return len(self._group_counts)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output (B, C_out, H', W') and its mask (B, :attr:`mask_channels`, H', W').

        Args:
            x: (B, sum of the sources, H, W); what lies under the hole is not read, not even a NaN.
            mask: (B, number of sources, H, W), exactly 0 or 1, 1 = known.
        """
        window = self.window(mask)
        return self.convolve([self._hide(x, mask)], window), window.update

    def convolve(self, parts: Sequence[Tensor], window: Window) -> Tensor:
        """Return the output (B, C_out, H', W') for masks that were summed before.

        Args:
            parts: the sources (B, C, H, W) each by itself, which spares joining them, or already
                joined as one; 0 wherever their masks are.
            window: what :meth:`window` gave for those masks.
        """
        # Nothing below needs the convolution's own output for its gradient: in place is safe.
        out = self._raw(parts)
        out.mul_(_per_channel(window.scale, out))
        if self.bias is not None:
            bias = self.bias.to(out.dtype).view(1, -1, 1, 1)
            out.addcmul_(_per_channel(window.update, out).to(out.dtype), bias)
        return out

    def window(self, mask: Tensor) -> Window:
        """Return scale and updated mask of a mask (B, sources, H, W).

        In float32 (float64 for a float64 mask) whatever autocast says: the sums are whole numbers
        that bfloat16 cannot hold.
        """
        dtype = torch.promote_types(mask.dtype, torch.float32)
        with torch.no_grad(), _full_precision(mask.device):
            known = self._known_per_window(mask.detach().to(dtype))
            update = (known > 0).to(dtype)
            constant = 1 if self.normalisation == "report" else self._window_size()
            scale = update * constant / known.clamp_min(1.0)
        return Window(mask=mask, scale=scale, update=update)

    def _raw(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the plain convolution, which is the sum of those of the sources."""
        conv = self.conv
        if len(parts) == 1 or conv.groups > 1:
            out: Tensor = conv(parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1))
            return out
        weights = torch.split(conv.weight, list(self.sources), dim=1)
        first, *others = (
            F.conv2d(part, weight, None, conv.stride, conv.padding, conv.dilation)
            for part, weight in zip(parts, weights, strict=True)
        )
        for other in others:
            first.add_(other)
        return first

    def _window_size(self) -> int:
        height, width = self.conv.kernel_size
        return height * width * self.conv.in_channels // self.conv.groups

    def _known_per_window(self, mask: Tensor) -> Tensor:
        """Return how many known values every window of every kind of group holds."""
        boxes = self._box(mask)
        if len(self.sources) == 1:
            return boxes * self._group_counts[0][0]
        counts = boxes.new_tensor(self._group_counts)[:, :, None, None]
        return F.conv2d(boxes, counts)

    def _box(self, mask: Tensor) -> Tensor:
        """Return the sum over the kernel's window, for every channel by itself."""
        conv = self.conv
        vertical, horizontal = (int(side) for side in conv.padding)
        mask = F.pad(mask, (horizontal, horizontal, vertical, vertical))
        if conv.dilation == (1, 1):
            return F.avg_pool2d(mask, conv.kernel_size, conv.stride, divisor_override=1)
        channels = mask.shape[1]
        ones = mask.new_ones(channels, 1, *conv.kernel_size)
        return F.conv2d(mask, ones, stride=conv.stride, dilation=conv.dilation, groups=channels)

    def _hide(self, x: Tensor, mask: Tensor) -> Tensor:
        known = mask > 0.5
        if len(self.sources) > 1:
            counts = torch.tensor(self.sources, device=x.device)
            known = known.repeat_interleave(counts, dim=1, output_size=x.shape[1])
        return torch.where(known, x, 0.0)  # masked_fill takes twice the time, both ways


def _group_counts(sources: tuple[int, ...], groups: int) -> list[list[int]]:
    """Return, for every kind of group, how many of its input channels each source has.

    One row if all groups are alike (always so for one source or one group), else one per group.
    """
    per_group = sum(sources) // groups
    rows = []
    for group in range(groups):
        low, high = group * per_group, (group + 1) * per_group
        row, start = [], 0
        for channels in sources:
            row.append(max(0, min(high, start + channels) - max(low, start)))
            start += channels
        rows.append(row)
    return rows[:1] if all(row == rows[0] for row in rows) else rows


def _per_channel(values: Tensor, out: Tensor) -> Tensor:
    """Repeat one channel per group for all output channels of the group; one for all stays."""
    channels = values.shape[1]
    return values if channels == 1 else values.repeat_interleave(out.shape[1] // channels, dim=1)


def _full_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return a context without autocast, on devices that have it."""
    if not torch.amp.is_autocast_available(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)
