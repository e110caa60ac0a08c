"""The U-Net of gated convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayfill.models.unets.unet import UNet, UNetConfig


class GatedConv2d(nn.Module):
    """3x3 gated convolution: ``y = elu(norm(W_f * x)) . sigmoid(W_g * x + b_g)``.

    Features and gate are two halves of one convolution. Where a partial convolution is told what is
    known, this learns for every channel and place how much to let through.

    Source: Yu et al. 2019 (arXiv:1806.03589), equation 3. Deviation: a BatchNorm on the features,
    for the same reason as in the other U-Nets; the paper trains its network without.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, 2 * channels_out, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)
        self.gate_bias = nn.Parameter(torch.zeros(channels_out, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C_out, H, W) for (B, C_in, H, W)."""
        features, gate = self.conv(x).chunk(2, dim=1)
        return F.elu(self.norm(features)) * torch.sigmoid(gate + self.gate_bias)


class GatedConvUNet(UNet):
    """:class:`rayfill.models.UNet` whose 3x3 convolutions are gated; 59.3 M parameters.

    Source: the layer of Yu et al. 2019 in the U of 2015, so that a comparison with ``unet`` and
    ``partial_conv_unet`` is one of layers alone. Every layer computes twice the channels; at equal
    cost its width is 0.72 of theirs (the paper slims by a quarter). Not carried over: the paper's
    second stage, its contextual attention and its discriminator.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config, make_block=_double_gated)


def _double_gated(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        GatedConv2d(channels_in, channels_out), GatedConv2d(channels_out, channels_out)
    )
