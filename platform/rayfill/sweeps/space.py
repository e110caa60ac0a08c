"""What a sweep may vary: listed values, variants of several keys, and ranges to draw from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

#: Significant digits of a drawn number: what is trained is what its name and the table show.
_DIGITS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """A value of a space that changes several keys together, such as a network and its options."""

    name: str
    changes: Mapping[str, Any]
    """Values by dotted config key."""

    def __str__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Any number of ``[low, high]``, all equally likely."""

    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> float:
        """Return a number of the range."""
        return self.near(rng.uniform(self.low, self.high))

    def near(self, value: float) -> float:
        """Return ``value`` in four digits, moved into the range."""
        return min(max(float(f"{value:.{_DIGITS}g}"), self.low), self.high)

    def problems(self, key: str) -> Iterator[str]:
        """Yield one sentence for everything that keeps the range from being drawn from."""
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            yield f"{key} has the range [{self.low}, {self.high}]: low must be below high."


@dataclasses.dataclass(frozen=True)
class LogUniform(Uniform):
    """Any number of ``[low, high]``, every order of magnitude equally likely."""

    def draw(self, rng: np.random.Generator) -> float:
        """Return a number of the range."""
        return self.near(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))

    def problems(self, key: str) -> Iterator[str]:
        """Yield one sentence for everything that keeps the range from being drawn from."""
        yield from super().problems(key)
        if self.low <= 0:
            yield f"{key} has the logarithmic range [{self.low}, {self.high}]: low must be above 0."


@dataclasses.dataclass(frozen=True)
class IntRange:
    """Any whole number of ``[low, high]``, both included."""

    low: int
    high: int

    def draw(self, rng: np.random.Generator) -> int:
        """Return a number of the range."""
        return int(rng.integers(self.low, self.high, endpoint=True))

    def near(self, value: float) -> int:
        """Return the whole number of the range that is nearest to ``value``."""
        return min(max(round(value), self.low), self.high)

    def problems(self, key: str) -> Iterator[str]:
        """Yield one sentence for everything that keeps the range from being drawn from."""
        if not self.low < self.high:
            yield f"{key} has the range [{self.low}, {self.high}]: low must be below high."


RANGES = (Uniform, IntRange)

Range = Uniform | IntRange
Axis = Sequence[Any] | Range
Space = Mapping[str, Axis]

#: A place in a space: a number of every range, and the position of a value in every list.
Point = dict[str, float]


def draw_point(space: Space, rng: np.random.Generator) -> Point:
    """Return a place in the space, every value of a list equally likely."""
    return {
        key: axis.draw(rng) if isinstance(axis, RANGES) else int(rng.integers(len(axis)))
        for key, axis in space.items()
    }


def values_at(space: Space, point: Mapping[str, float]) -> dict[str, Any]:
    """Return what stands at a place of the space, by its keys."""
    return {
        key: point[key] if isinstance(axis, RANGES) else axis[int(point[key])]
        for key, axis in space.items()
    }


def changes_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the dotted config keys that values of a space change, variants taken apart."""
    single = {key: value for key, value in values.items() if not isinstance(value, Variant)}
    for value in values.values():
        if isinstance(value, Variant):
            single |= value.changes
    return single


def varied_keys(space: Space) -> list[str]:
    """Return every dotted config key that a space varies, those of variants included."""
    keys: list[str] = []
    for key, axis in space.items():
        values = [None] if isinstance(axis, RANGES) else axis
        for value in values:
            keys += value.changes if isinstance(value, Variant) else [key]
    return list(dict.fromkeys(keys))


def find_point(space: Space, config: Mapping[str, Any]) -> Point | None:
    """Return the place of the space where a run lies, or None where it lies outside.

    Args:
        space: What is varied.
        config: The run's values by dotted key.
    """
    point: Point = {}
    for key, axis in space.items():
        if isinstance(axis, RANGES):
            value = config.get(key)
            if not isinstance(value, int | float) or not axis.low <= value <= axis.high:
                return None
            point[key] = value
            continue
        found = [n for n, value in enumerate(axis) if _stands_at(key, value, config)]
        if not found:
            return None
        point[key] = found[0]
    return point


def describe_space(space: Space) -> dict[str, str]:
    """Return each axis in words, for records and for telling two spaces apart."""
    return {
        key: f"{type(axis).__name__}({axis.low:g}, {axis.high:g})"
        if isinstance(axis, RANGES)
        else ", ".join(str(value) for value in axis)
        for key, axis in space.items()
    }


def _stands_at(key: str, value: Any, config: Mapping[str, Any]) -> bool:
    changes = value.changes if isinstance(value, Variant) else {key: value}
    return all(name in config and config[name] == wanted for name, wanted in changes.items())
