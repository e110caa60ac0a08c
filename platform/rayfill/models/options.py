"""The options that every network has, and how wrong ones are named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from rayfill_data.checks import Bounds, Checked

Output = Literal["direct", "residual"]
Width = Annotated[int, Bounds(ge=1, le=1024)]
Depth = Annotated[int, Bounds(ge=1, le=7)]


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Checked):
    """Options of every single network; each network's own type adds its own."""

    width: Width = 64
    """Channels of the first level."""

    hole_fill: Literal["zero", "mean", "push_pull", "harmonic"] = "zero"
    """What stands under the hole: 0, the mean known colour, or a smooth pyramid fill."""

    output: Output = "direct"
    """direct: the network makes the colours; residual: it corrects the filled input, from 0 on."""

    @property
    def stride(self) -> int:
        """Multiple that both sides of an image are padded to, in pixels."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class PyramidOptions(ModelOptions):
    """Options of networks that halve the picture as often as they are told."""

    depth: Depth = 4
    """Number of halvings; sizes are padded to a multiple of 2**depth."""

    @property
    def stride(self) -> int:
        """Multiple that both sides of an image are padded to, in pixels."""
        return 1 << self.depth
