"""What all our networks share: the fill before them, the correction and the clamp after them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from rayfill.models.base import InpaintingModel, check_inputs
from rayfill.models.fills.fill import FILLS
from rayfill.models.fills.local_scale import local_scale
from rayfill.models.options import ModelOptions


class FilledNetwork(InpaintingModel):
    """``filled = fill(image)``, then the network's colours or its correction of ``filled``.

    direct: ``network(filled)``. residual: ``filled + contrast * network((filled - mean) /
    contrast)`` with the mean and contrast of :func:`.local_scale`. A
    network implements :meth:`_network` for sizes that its stride divides.
    """

    def __init__(self, config: ModelOptions) -> None:
        super().__init__()
        self.config = config
        self.stride = config.stride

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
        """Run the network on (B, 3, H, W) and (B, 1, H, W) of any size."""
        height, width = x.shape[-2:]
        out = self._network(*self._pad(x, hole_mask))
        return out[..., :height, :width].to(x.dtype)

    def _pad(self, x: Tensor, hole_mask: Tensor) -> tuple[Tensor, Tensor]:
        return pad_edge(x, self.stride), pad_edge(hole_mask, self.stride)

    def _network(self, x: Tensor, hole_mask: Tensor) -> Tensor:
        """Return (B, 3, H, W) for (B, 3, H, W) and (B, 1, H, W), as large as :meth:`_pad` makes."""
        raise NotImplementedError

    def _initialise_head(self, head: nn.Conv2d) -> None:
        """Start the last convolution: an untrained residual network answers with the fill."""
        if self.config.output == "residual":
            nn.init.zeros_(head.weight)
        else:
            nn.init.xavier_normal_(head.weight)
        if head.bias is not None:
            nn.init.zeros_(head.bias)


def initialise_convolutions(network: nn.Module) -> None:
    """Start every convolution from He's normal weights and, where it has one, bias 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def missing(x: Tensor, stride: int) -> tuple[int, int, int, int]:
    """Return what pads the right and bottom of ``x`` to a multiple of ``stride``, for F.pad."""
    height, width = x.shape[-2:]
    return (0, -width % stride, 0, -height % stride)


def pad_edge(x: Tensor, stride: int) -> Tensor:
    """Repeat the right and bottom edge up to a multiple of ``stride``."""
    padding = missing(x, stride)
    return F.pad(x, padding, mode="replicate") if any(padding) else x
