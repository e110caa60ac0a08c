"""Splitting by source photo, with a stable hash, for sources that bring no split of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from rayfill_data.checks import Bounds, Checked, Share


@dataclass(frozen=True, kw_only=True)
class SizeOptions(Checked):
    """The size of samples, and how many of them may be lost."""

    size: Annotated[int, Bounds(ge=16, le=2048)] = 256
    """Side of a sample in pixels; smaller pictures are rejected, never blown up."""

    max_rejected: Share = 0.01
    """Share of the pictures that may be unusable before preparation fails."""


@dataclass(frozen=True, kw_only=True)
class SplitOptions(SizeOptions):
    """The size of samples, and how they are split."""

    val_share: Annotated[float, Bounds(gt=0, lt=1)] = 0.1
    """Share of the photos for validation."""

    test_share: Annotated[float, Bounds(gt=0, lt=1)] = 0.1
    """Share of the photos for testing."""

    def relations(self) -> Iterator[str]:
        """Yield the sentence for shares that leave nothing."""
        yield from super().relations()
        if self.val_share + self.test_share >= 1:
            yield "val_share + test_share leaves nothing to train on; lower them."


def split_sources(distinct: list[str], options: SplitOptions) -> dict[str, str]:
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
