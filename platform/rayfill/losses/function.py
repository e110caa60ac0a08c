"""A plain function as a loss term."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import Tensor, nn

from rayfill.models.base import composite


class FunctionLoss(nn.Module):
    """Gives a function those tensors of a loss term that it takes, by name."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        """Take over a function.

        Args:
            function: of ``prediction``, ``image``, ``target``, ``hole_mask`` or ``composite``, the
                prediction in the image's hole; further arguments keep their defaults.
        """
        super().__init__()
        self.function = function
        self._takes = frozenset(inspect.signature(function).parameters)

    def forward(
        self, prediction: Tensor, image: Tensor, target: Tensor, hole_mask: Tensor
    ) -> Tensor:
        """Return the loss, a scalar."""
        given = {
            "prediction": prediction,
            "image": image,
            "target": target,
            "hole_mask": hole_mask,
        }
        if "composite" in self._takes:
            given["composite"] = composite(prediction, image, hole_mask)
        return self.function(**{name: given[name] for name in given.keys() & self._takes})
