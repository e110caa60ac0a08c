"""Networks that judge pictures, for adversarial training; no part of the model that is kept."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as spectrally_normalised

#: Three halvings and two 4x4 windows without padding enough need this much to answer at all.
_SMALLEST_SIDE_PX = 24

_INITIAL_STD = 0.02


class PatchDiscriminator(nn.Module):
    """70x70 PatchGAN: says of every patch of 70x70 pixels, 8 apart, whether it looks real.

    4x4 convolutions to width, 2, 4 and 8 times as many channels, the first three with stride 2,
    each followed by a LeakyReLU of slope 0.2, and one to a single channel. No other norm than the
    spectral one, with which convolutions have no bias. In training mode, each call improves the
    estimate of the largest singular value by one power iteration.

    Source: Isola et al. 2017 (arXiv:1611.07004); spectral norm as in Nazeri et al. 2019
    (arXiv:1901.00212), appendix A.
    """

    def __init__(self, in_channels: int, *, width: int = 64, spectral_norm: bool = True) -> None:
        """Build the network.

        Args:
            in_channels: of what is judged, with what it is conditioned on.
            width: channels of the first layer.
            spectral_norm: divide every weight by its largest singular value.
        """
        super().__init__()
        channels = [in_channels, width, 2 * width, 4 * width, 8 * width, 1]
        self.layers = nn.ModuleList(
            nn.Conv2d(into, out, 4, stride=2 if layer < 3 else 1, padding=1, bias=not spectral_norm)
            for layer, (into, out) in enumerate(zip(channels[:-1], channels[1:], strict=True))
        )
        for convolution in self.layers:
            nn.init.normal_(convolution.weight, std=_INITIAL_STD)  # type: ignore[arg-type]
            if spectral_norm:
                spectrally_normalised(convolution)
            else:
                nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the logits and what every layer answered, the logits last.

        Args:
            x: (B, in_channels, H, W); sides below 24 are padded to it by repeating the edge.

        Returns:
            logits (B, 1, about H/8 - 2, about W/8 - 2), and five maps, finest first.
        """
        height, width = x.shape[-2:]
        padding = (0, max(0, _SMALLEST_SIDE_PX - width), 0, max(0, _SMALLEST_SIDE_PX - height))
        if any(padding):
            x = F.pad(x, padding, mode="replicate")
        features = []
        for convolution in self.layers[:-1]:
            x = F.leaky_relu(convolution(x), 0.2)
            features.append(x)
        logits = self.layers[-1](x)
        return logits, [*features, logits]
