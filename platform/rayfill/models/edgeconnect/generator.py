"""The generator that EdgeConnect uses for edges, label maps and pictures alike."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as spectrally_normalised

#: Two convolutions halve the picture, two transposed ones double it again.
STRIDE = 4

#: Reflecting 2 pixels, as a dilated 3x3 convolution does, needs 3 cells of 4x4 pixels.
_SMALLEST_SIDE_PX = 12

_DILATION = 2

#: Standard deviation of fresh weights.
_INITIAL_STD = 0.02


class EdgeConnectGenerator(nn.Module):
    """7x7 convolution, two strided ones, dilated residual blocks, two transposed ones, 7x7 again.

    Every convolution but the last is followed by an instance norm and therefore has no bias, which
    the norm would cancel: 4 -> 3 channels at width 64 have 10,769,859 parameters, the published
    network 4,736 biases more. The answer is raw: a sigmoid, softmax or tanh is the caller's.

    Source: Nazeri et al. 2019 (arXiv:1901.00212), section 3 and appendix A.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 64,
        blocks: int = 8,
        spectral_norm: bool = False,
    ) -> None:
        """Build the network.

        Args:
            in_channels: of what it sees.
            out_channels: of its answer.
            width: channels at full resolution; twice and four times as many below.
            blocks: residual blocks at a quarter of the resolution.
            spectral_norm: divide every weight but the last by its largest singular value, as
                published for the edge generator. The instance norms undo the scale, so it changes
                how the network learns, not what it can express.
        """
        super().__init__()
        self.body = nn.Sequential(
            nn.ReflectionPad2d(3),
            *_normed(nn.Conv2d(in_channels, width, 7, bias=False)),
            nn.ReLU(inplace=True),
            *_normed(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False)),
            nn.ReLU(inplace=True),
            *_normed(nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1, bias=False)),
            nn.ReLU(inplace=True),
            *(DilatedResidualBlock(4 * width) for _ in range(blocks)),
            *_normed(nn.ConvTranspose2d(4 * width, 2 * width, 4, stride=2, padding=1, bias=False)),
            nn.ReLU(inplace=True),
            *_normed(nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1, bias=False)),
            nn.ReLU(inplace=True),
            nn.ReflectionPad2d(3),
        )
        self.head = nn.Conv2d(width, out_channels, 7)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.normal_(module.weight, std=_INITIAL_STD)
                if spectral_norm and module is not self.head:
                    spectrally_normalised(module)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, H, W) for (B, in_channels, H, W) of any size."""
        height, width = x.shape[-2:]
        padding = (0, _lacking(width), 0, _lacking(height))
        if any(padding):
            x = F.pad(x, padding, mode="replicate")
        return self.head(self.body(x))[..., :height, :width]  # type: ignore[no-any-return]


class DilatedResidualBlock(nn.Module):
    """``x + norm(W_2 * relu(norm(W_1 * x)))``, 3x3, the first dilated by 2, borders reflected."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReflectionPad2d(_DILATION),
            *_normed(nn.Conv2d(channels, channels, 3, dilation=_DILATION, bias=False)),
            nn.ReLU(inplace=True),
            nn.ReflectionPad2d(1),
            *_normed(nn.Conv2d(channels, channels, 3, bias=False)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, channels, h, w) for the same, both sides at least 3."""
        return x + self.body(x)  # type: ignore[no-any-return]


def _normed(convolution: nn.Conv2d | nn.ConvTranspose2d) -> tuple[nn.Module, nn.Module]:
    """Return a convolution and its instance norm.

    As a group norm of one channel each, which is the same, keeps channels_last, and takes a sixth
    off a training step of the whole network on a CPU.
    """
    channels = convolution.out_channels
    return convolution, nn.GroupNorm(channels, channels, affine=False)


def _lacking(side: int) -> int:
    """Return the pixels to append to a side."""
    return max(_SMALLEST_SIDE_PX - side, -side % STRIDE)
