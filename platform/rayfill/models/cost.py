"""What a network costs, known without running it: parameters and multiply-adds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from rayfill.models.table import build_model
from rayfill_data.errors import RayfillError


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """Size and work of a network."""

    parameters: int
    """Trained numbers."""

    multiply_adds: int
    """Multiplications, each with its addition, of one image's prediction."""

    stride: int
    """Multiple that both sides of an image are padded to, in pixels."""


def model_cost(name: str, /, *, size: tuple[int, int] = (256, 256), **config: object) -> ModelCost:
    """Return the cost of predicting one image, without allocating weights or computing anything.

    Convolutions are counted, element-wise work is not; a transposed convolution at the size of its
    *input*, where its multiplications are (counters that take the output's find 26.1 G instead of
    23.0 G for the U-Net at 178x178). Sizes count as the network pads them.

    Args:
        name: a key of :data:`rayfill.models.MODELS`.
        size: height and width in pixels.
        **config: options of the network.

    Raises:
        ConfigError: as :func:`rayfill.models.build_model`.
        RayfillError: a network from outside that reads values.

    >>> model_cost("unet", mask_channel=False).parameters
    31037763
    """
    with torch.device("meta"), torch.no_grad():
        model = build_model(name, **config).eval()
        image, hole_mask = torch.empty(1, 3, *size), torch.empty(1, 1, *size)
        try:
            with FlopCounterMode(display=False) as counter:
                model(image, hole_mask)
        except (NotImplementedError, RuntimeError) as error:
            raise RayfillError(
                f"{name} cannot be counted, which needs a forward that no value decides: "
                f"{str(error).partition(chr(10))[0]} (`rayfill models --check` says more)."
            ) from error
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return ModelCost(
        parameters=parameters, multiply_adds=counter.get_total_flops() // 2, stride=model.stride
    )
