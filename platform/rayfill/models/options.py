"""The options that every network has, and how wrong ones are named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from rayfill.models.fills.fill import FILLS
from rayfill_data.errors import ConfigError, unknown_name

OUTPUTS = ("direct", "residual")


@dataclass(frozen=True, kw_only=True)
class CheckedOptions:
    """Options that are checked when they are made.

    Raises:
        ConfigError: with every value that is not allowed.
    """

    def __post_init__(self) -> None:
        problems = list(self.problems())
        if problems:
            raise ConfigError(problems)

    def problems(self) -> Iterator[str]:
        """Yield one sentence for every value that cannot be used."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ModelOptions(CheckedOptions):
    """Options of every single network; each network's own type adds its own."""

    width: int = 64
    """Channels of the first level. 1 to 1024."""

    hole_fill: Literal["zero", "mean", "push_pull", "harmonic"] = "zero"
    """What stands under the hole: 0, the mean known colour, or a smooth pyramid fill."""

    output: Literal["direct", "residual"] = "direct"
    """direct: the network makes the colours; residual: it corrects the filled input, from 0 on."""

    @property
    def stride(self) -> int:
        """Multiple that both sides of an image are padded to, in pixels."""
        raise NotImplementedError

    def problems(self) -> Iterator[str]:
        """Yield one sentence for every value that cannot be used."""
        yield from integer_problems("width", self.width, low=1, high=1024)
        yield from choice_problems("hole_fill", self.hole_fill, FILLS)
        yield from choice_problems("output", self.output, OUTPUTS)


@dataclass(frozen=True, kw_only=True)
class PyramidOptions(ModelOptions):
    """Options of networks that halve the picture as often as they are told."""

    depth: int = 4
    """Number of halvings, 1 to 7; sizes are padded to a multiple of 2**depth."""

    @property
    def stride(self) -> int:
        """Multiple that both sides of an image are padded to, in pixels."""
        return 1 << self.depth

    def problems(self) -> Iterator[str]:
        """Yield one sentence for every value that cannot be used."""
        yield from super().problems()
        yield from integer_problems("depth", self.depth, low=1, high=7)


def integer_problems(name: str, value: int, *, low: int, high: int) -> Iterator[str]:
    """Yield the one-line problem of an integer option, or nothing."""
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not (is_integer and low <= value <= high):
        yield f"{name} is {value!r}; allowed: an integer from {low} to {high}."


def choice_problems(name: str, value: str, allowed: Iterable[str]) -> Iterator[str]:
    """Yield the one-line problem of an option that takes one of several words, or nothing."""
    words = tuple(allowed)
    if value not in words:
        yield unknown_name(name, str(value), words)


def switch_problems(name: str, value: bool) -> Iterator[str]:
    """Yield the one-line problem of an option that is on or off, or nothing."""
    if not isinstance(value, bool):
        yield f"{name} is {value!r}; allowed: true or false."
