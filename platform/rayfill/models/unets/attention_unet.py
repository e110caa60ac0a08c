"""The U-Net with an attention gate on every skip connection."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rayfill.models.unets.unet import UNet, UNetConfig


class AttentionGate(nn.Module):
    """Additive attention: ``alpha = sigmoid(psi(relu(W_x skip + W_g decoder)))``, skip * alpha.

    ``W_x``, ``W_g`` and ``psi`` are 1x1 convolutions, each followed by a BatchNorm (so without
    bias); the inner width is half the skip's.

    Source: Oktay et al. 2018 (arXiv:1804.03999), equations 1 and 2. Deviation: the gating signal is
    the decoder's upsampled feature map, so both inputs have one size and alpha needs no resampling.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.skip = _projection(channels, inner)
        self.decoder = _projection(channels, inner)
        self.psi = _projection(inner, 1)

    def forward(self, skip: Tensor, decoder: Tensor) -> Tensor:
        """Return ``skip`` (B, C, H, W) scaled by alpha (B, 1, H, W) in [0, 1].

        Args:
            skip: (B, C, H, W) encoder features.
            decoder: (B, C, H, W) decoder features of the same size.
        """
        attended = torch.relu_(self.skip(skip) + self.decoder(decoder))
        return skip * torch.sigmoid(self.psi(attended))


def _projection(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=1, bias=False),
        nn.BatchNorm2d(channels_out),
    )


class AttentionUNet(UNet):
    """:class:`UNet` whose skips pass attention gates; 31.39 M parameters at width 64."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config, make_gate=AttentionGate)
