"""Splitting by source photo, with a stable hash, for sources that bring no split of their own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

from rayfill_data.errors import ConfigError


class Shares(Protocol):
    """Options with the shares of two splits; the rest is for training."""

    @property
    def val_share(self) -> float:
        """Share for validation, in (0, 1)."""

    @property
    def test_share(self) -> float:
        """Share for testing, in (0, 1)."""


@dataclass(frozen=True, kw_only=True)
class SizeOptions:
    """The size of samples, and how many of them may be lost."""

    size: int = 256
    """Side of a sample in pixels; smaller pictures are rejected, never blown up."""

    max_rejected: float = 0.01
    """Share of the pictures that may be unusable before preparation fails."""

    def size_problems(self) -> list[str]:
        """Return one sentence for every value that cannot be used."""
        problems = []
        if not 16 <= self.size <= 2048:
            problems.append(f"size is {self.size}; it must lie in [16, 2048].")
        if not 0 <= self.max_rejected <= 1:
            problems.append(f"max_rejected is {self.max_rejected}; it must lie in [0, 1].")
        return problems


@dataclass(frozen=True, kw_only=True)
class SplitOptions(SizeOptions):
    """The size of samples, and how they are split."""

    val_share: float = 0.1
    """Share of the photos for validation."""

    test_share: float = 0.1
    """Share of the photos for testing."""

    def split_problems(self) -> list[str]:
        """Return one sentence for every value that cannot be used."""
        return [*self.size_problems(), *share_problems(self)]


def share_problems(options: Shares) -> list[str]:
    """Return one sentence for every share that cannot be used."""
    problems = []
    for name in ("val_share", "test_share"):
        if not 0 < getattr(options, name) < 1:
            problems.append(f"{name} is {getattr(options, name)}; it must lie in (0, 1).")
    if options.val_share + options.test_share >= 1:
        problems.append("val_share + test_share leaves nothing to train on; lower them.")
    return problems


def check(problems: list[str]) -> None:
    """Raise one ConfigError with every problem, or do nothing where there is none."""
    if problems:
        raise ConfigError(problems)


def split_sources(distinct: list[str], options: Shares) -> dict[str, str]:
    """Give every source a split by its hash, and every split at least one of three or more."""
    place = {source: unit_hash(source) for source in distinct}
    ordered = sorted(distinct, key=lambda source: (place[source], source))
    test = sum(place[source] < options.test_share for source in ordered)
    val = sum(place[source] < options.test_share + options.val_share for source in ordered) - test
    test = min(max(test, 1), len(ordered) - 2)
    val = min(max(val, 1), len(ordered) - test - 1)
    names = ["test"] * test + ["val"] * val + ["train"] * (len(ordered) - test - val)
    return dict(zip(ordered, names, strict=True))


def unit_hash(name: str) -> float:
    """Return a number in [0, 1) that depends on the name alone."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=7).digest()
    return int.from_bytes(digest) / 2**56
