"""For every patch that touches the hole, the most similar patch of what is known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: So many pairs of patches are compared one by one; of more, PatchMatch looks at some.
_EXHAUSTIVE_PAIRS = 5_000_000
#: Distances held at a time.
_CHUNK_PAIRS = 2_000_000
#: Targets whose rows are looked at together: they stay in the cache.
_CHUNK_ROWS = 16_384
#: Leading numbers of a row that refuse most candidates by themselves.
_HEAD = 8
#: A random search looks in squares whose radius shrinks by this.
_SHRINK = 3
#: From how far away a neighbour's match is tried, in turn.
_STEPS_PX = (4, 1)
_DIRECTIONS = ((0, 1), (1, 0), (0, -1), (-1, 0))


@dataclass(frozen=True)
class Patches:
    """Which patches of a level are looked for, and among which."""

    size: tuple[int, int]
    """Height and width of the level."""
    targets: Tensor
    """(T,) int64: centres y * w + x of the patches that touch the hole."""
    sources: Tensor
    """(S,) int64: centres of the patches that do not."""
    is_source: Tensor
    """(h * w,) bool."""

    def drawn(self, count: int, generator: torch.Generator) -> Tensor:
        """Return sources drawn at random, (count,)."""
        at = torch.randint(len(self.sources), (count,), generator=generator)
        return self.sources[at.to(self.sources.device)]

    def inside(self, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return centres and which of them are sources; what lies beyond the frame is none."""
        height, width = self.size
        within = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        index = torch.where(within, y * width + x, 0)
        return index, within & self.is_source[index]


@dataclass
class Field:
    """The match of every target so far."""

    source: Tensor
    """(T,) int64: centre of the most similar source known."""
    cost: Tensor
    """(T,) float32: squared distance of the rows."""


def nearest(rows: Tensor, patches: Patches, start: Tensor, *, generator: torch.Generator) -> Field:
    """Return the most similar source of every target: exactly where that is quick.

    Args:
        rows: (h * w, K) float32, by which patches are compared.
        patches: to look for, and among which.
        start: (T,) sources to begin from, where there are too many pairs for all.
        generator: of chance, on the CPU.
    """
    if len(patches.targets) * len(patches.sources) <= _EXHAUSTIVE_PAIRS:
        return _exhaustive(rows, patches)
    return _patch_match(rows, patches, start, generator=generator)


def _exhaustive(rows: Tensor, patches: Patches) -> Field:
    sources = rows[patches.sources]
    half_norms = sources.square().sum(dim=1) / 2
    found, costs = [], []
    for targets in torch.split(patches.targets, max(1, _CHUNK_PAIRS // len(sources))):
        wanted = rows[targets]
        # |t - s|^2 = |t|^2 + 2 (|s|^2 / 2 - t s)
        half, at = torch.addmm(half_norms, wanted, sources.T, alpha=-1).min(dim=1)
        found.append(patches.sources[at])
        costs.append(wanted.square().sum(dim=1) + 2 * half)
    return Field(torch.cat(found), torch.cat(costs).clamp_min(0))


def _patch_match(
    rows: Tensor, patches: Patches, start: Tensor, *, generator: torch.Generator
) -> Field:
    """Improve matches by those of neighbours and by chance.

    Source: Barnes et al. 2009 (PatchMatch), all targets at once instead of one after the other.
    """
    search = _Search(rows, patches, start)
    for step in _STEPS_PX:
        for down, right in _DIRECTIONS:
            search.propagate(down * step, right * step)
    radius = max(patches.size) // 2
    while radius >= 1:
        search.wander(radius, generator)
        radius //= _SHRINK
    return search.field


class _Search:
    """Matches that candidates may replace."""

    def __init__(self, rows: Tensor, patches: Patches, start: Tensor) -> None:
        self._patches, self._width = patches, patches.size[1]
        self._head, self._tail = rows[:, :_HEAD].contiguous(), rows[:, _HEAD:].contiguous()
        self._y, self._x = patches.targets // self._width, patches.targets % self._width
        self._by_pixel = torch.full_like(patches.is_source, -1, dtype=torch.int64)
        self.field = Field(start.clone(), torch.full(start.shape, torch.inf).to(rows))
        self._try(start, torch.ones_like(start, dtype=torch.bool), first=True)

    def propagate(self, down: int, right: int) -> None:
        """Try, for every target, what lies beside the match of the target beside it."""
        self._by_pixel[self._patches.targets] = self.field.source
        height, width = self._patches.size
        y, x = self._y - down, self._x - right
        within = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        theirs = self._by_pixel[torch.where(within, y * width + x, 0)]
        candidates, usable = self._patches.inside(theirs // width + down, theirs % width + right)
        self._try(candidates, usable & within & (theirs >= 0))

    def wander(self, radius_px: int, generator: torch.Generator) -> None:
        """Try, for every target, one patch at random around its match."""
        shape = (2, len(self._y))
        moved = torch.randint(-radius_px, radius_px + 1, shape, generator=generator)
        moved = moved.to(self._y.device)
        source = self.field.source
        y, x = source // self._width + moved[0], source % self._width + moved[1]
        self._try(*self._patches.inside(y, x))

    def _try(self, candidates: Tensor, usable: Tensor, *, first: bool = False) -> None:
        """Take over what is nearer; most is refused by the first few numbers of its row."""
        field, targets = self.field, self._patches.targets
        if not first:
            usable = usable & (candidates != field.source)
        for at in torch.split(usable.nonzero()[:, 0], _CHUNK_ROWS):
            target, source = targets[at], candidates[at]
            cost = (self._head[target] - self._head[source]).square_().sum(dim=1)
            left = (cost < field.cost[at]).nonzero()[:, 0]
            at, target, source = at[left], target[left], source[left]
            cost = cost[left] + (self._tail[target] - self._tail[source]).square_().sum(dim=1)
            nearer = cost < field.cost[at]
            field.source[at[nearer]] = source[nearer]
            field.cost[at[nearer]] = cost[nearer]
