"""A shallow U-Net, and the same with a ConvMixer encoding the image beside it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rayfill.models.options import ModelOptions
from rayfill.models.unets.unet import UNet, UNetConfig

#: Both networks halve the picture twice; the ConvMixer's patches are as large as a latent cell.
_DEPTH = 2

_MIXER_LAYERS = 2

_MIXER_KERNEL = 5


@dataclass(frozen=True, kw_only=True)
class TwoLevelConfig(ModelOptions):
    """Options of the networks that halve the picture exactly twice."""

    mask_channel: bool = True
    """Whether the hole mask is a fourth input channel."""

    @property
    def stride(self) -> int:
        """Multiple that both sides of an image are padded to, in pixels."""
        return 1 << _DEPTH

    def as_unet(self) -> UNetConfig:
        """Return the options of the U-Net that this is."""
        return UNetConfig(
            width=self.width,
            depth=_DEPTH,
            hole_fill=self.hole_fill,
            output=self.output,
            mask_channel=self.mask_channel,
        )


class ShallowUNet(UNet):
    """:class:`rayfill.models.UNet` with two poolings: the plain twin of :class:`ConvMixerUNet`."""

    def __init__(self, config: TwoLevelConfig) -> None:
        super().__init__(config.as_unet())


class ConvMixerUNet(UNet):
    """Shallow U-Net whose decoder starts from its own latent and a ConvMixer's, side by side.

    The ConvMixer sees the same input: 4x4 patches embedded in as many channels as the latent has
    (4 x width), then two layers of depthwise 5x5 and pointwise convolutions. The report names
    neither widths nor kernels: these make both halves of the latent equal in size and meaning.

    Source: the ConvMixer of Trockman and Kolter 2022 (arXiv:2201.09792), equations 1 to 3.
    """

    def __init__(self, config: TwoLevelConfig) -> None:
        channels = config.width << _DEPTH
        super().__init__(config.as_unet(), extra_latent=channels)
        self.mixer = _conv_mixer(3 + int(config.mask_channel), channels)

    def _latent(self, x: Tensor, given: Tensor) -> Tensor:
        return torch.cat([x, self.mixer(given)], dim=1)


class MixerLayer(nn.Module):
    """``z' = z + BN(GELU(depthwise(z)))``, then ``BN(GELU(pointwise(z')))``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Sequential(
            nn.Conv2d(channels, channels, _MIXER_KERNEL, padding="same", groups=channels),
            nn.GELU(),
            nn.BatchNorm2d(channels),
        )
        self.pointwise = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size=1), nn.GELU(), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, h, w) for (B, C, h, w)."""
        return self.pointwise(x + self.depthwise(x))  # type: ignore[no-any-return]


def _conv_mixer(channels_in: int, channels: int) -> nn.Sequential:
    """Return the patch embedding and the layers: (B, C, H, W) -> (B, channels, H/4, W/4)."""
    patch = 1 << _DEPTH
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, kernel_size=patch, stride=patch),
        nn.GELU(),
        nn.BatchNorm2d(channels),
        *(MixerLayer(channels) for _ in range(_MIXER_LAYERS)),
    )
