"""Filling a hole with patches of what is known around it, coarse to fine; nothing is learned."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from rayfill.models.fills.fill import harmonic_fill
from rayfill.models.fills.nearest import Field, Patches, nearest
from rayfill.models.fills.patches import (
    RADIUS_PX,
    SIDE_PX,
    Level,
    blurred,
    depth_in_hole,
    descriptors,
    halved,
    near,
    pyramid,
)
from rayfill.models.fills.resize import resized
from rayfill.models.fills.voting import Ballot
from rayfill_data.checks import Checked, NotNegative, Positive, Whole

#: Fewer patches than these say nothing about a picture.
_FEWEST_SOURCES = 40
#: Patches are searched for in pictures up to this size; matches are then brought to the full one.
_LARGEST_PIXELS = 1_500_000
#: Larger than this, the last halving is not searched either: half the time, and what is copied as
#: it lies is sharper than what was searched for once more (20 photographs of 512 px).
_COPIED_FROM_PIXELS = 100_000
#: From this on a harmonic guide is made at half the size: only a blur of it is looked at.
_HALVED_GUIDE_FROM_PX = 64
#: Rounds of matching and voting by level, the coarsest first; the last for all that follow.
_ROUNDS = (8, 6, 4, 2, 1)


@dataclass(frozen=True, kw_only=True)
class ExemplarOptions(Checked):
    """What may be asked of :func:`guided_fill`."""

    guide_weight: NotNegative | None = None
    """How much the guide's colours count against a patch's; None: little for objects, much for
    holes above some 40 %, which patches alone would pave with one texture."""
    seed: Whole = 0
    """Of chance: another one gives another fill."""
    time_limit_s: Positive | None = None
    """After this nothing more is searched for: what is there is brought to full size."""


#: Ways to fill the same hole, the one that is best on most photographs first.
VARIANTS = (
    ExemplarOptions(),
    ExemplarOptions(guide_weight=2.0, seed=1),
    ExemplarOptions(guide_weight=0.0, seed=2),
    ExemplarOptions(seed=3),
)


def exemplar_fill(image: Tensor, hole_mask: Tensor) -> Tensor:
    """Return ``image`` with the hole filled by patches of its surroundings, guided harmonically.

    Multi-scale completion: at every level of a pyramid, in turn, every 5x5 patch that touches the
    hole gets the most similar patch that does not (by PatchMatch), and every hole pixel becomes the
    weighted mean of the patches over it; at last the single best one, so that it stays sharp. Where
    too little is known (fewer than 40 patches) the harmonic fill stays. Known pixels come back bit
    for bit; the same bits for any number of threads. Some 15 s of one CPU core for a hole of a
    megapixel.

    Args:
        image: (B, 3, H, W) of any size; what is under the hole is not read, not even a NaN.
        hole_mask: (B, 1, H, W), exactly 0 or 1, 1 = to fill.

    Source: Wexler et al. 2007 (space-time completion), Barnes et al. 2009 (PatchMatch), Newson et
    al. 2014 (texture features). Deviations: patches are compared by 24 cosine filters; a guide; the
    weights of the vote.
    """
    return guided_fill(image, hole_mask, guide=None)


def guided_fill(
    image: Tensor,
    hole_mask: Tensor,
    *,
    guide: Tensor | None,
    options: ExemplarOptions | None = None,
) -> Tensor:
    """Return ``image`` with the hole filled by patches that look like another fill from afar.

    Args:
        image: as :func:`exemplar_fill`.
        hole_mask: as :func:`exemplar_fill`.
        guide: (B, 3, h, w) in [0, 1], of any size: any fill, a network's prediction too; only its
            hole is read, and of that what a blur leaves. None is the harmonic fill.
        options: None for their defaults.
    """
    asked = options or ExemplarOptions()
    hole = hole_mask[:, 0] > 0.5
    filled = image.masked_fill(hole[:, None], 0.0)
    for index in range(len(filled)):
        if hole[index].any():
            own = None if guide is None else guide[index].float()
            found = _completed(filled[index].float(), hole[index], own, asked)
            filled[index] = torch.where(hole[index], found.to(image), filled[index])
    return filled


@dataclass(frozen=True)
class _State:
    """A level with its hole filled, and by which patches."""

    planes: Tensor
    """(C, h, w)."""
    patches: Patches
    field: Field


def _completed(
    image: Tensor, hole: Tensor, guide: Tensor | None, options: ExemplarOptions
) -> Tensor:
    """Return (3, H, W) with the hole filled."""
    finer: list[Level] = []
    while hole.numel() > (_LARGEST_PIXELS if finer else _COPIED_FROM_PIXELS):
        finer.append(Level(image, hole))
        smaller = halved(finer[-1])
        image, hole = smaller.planes, smaller.hole
    given = _smooth(image, hole) if guide is None else resized(guide, _size(hole))
    smooth = torch.where(hole, given, image)
    state = _search(image, hole, smooth, options)
    if state is None:
        return resized(smooth, _size(finer[0].hole if finer else hole))
    for level in reversed(finer):
        state = _enlarged(state, level)
    return state.planes[:3]


def _smooth(image: Tensor, hole: Tensor) -> Tensor:
    """Return the harmonic fill; of large pictures at half their size, where it costs a quarter."""
    level = Level(image, hole)
    if min(hole.shape) >= _HALVED_GUIDE_FROM_PX:
        level = halved(level)
    filled = harmonic_fill(level.planes[None], level.hole[None, None].float())[0]
    return resized(filled, _size(hole))


def _search(image: Tensor, hole: Tensor, guide: Tensor, options: ExemplarOptions) -> _State | None:
    """Return the picture completed by its patches; None where there are too few of them."""
    began = time.monotonic()
    generator = torch.Generator().manual_seed(options.seed)
    weight = _guide_weight(hole) if options.guide_weight is None else options.guide_weight
    levels = pyramid(image, hole)
    # No finer than what the coarsest level shows.
    wanted = blurred(guide, sigma_px=2.0 ** (len(levels) - 1)) * (SIDE_PX * weight**0.5)
    state: _State | None = None
    for number, level in enumerate(reversed(levels)):
        late = options.time_limit_s is not None and time.monotonic() - began > options.time_limit_s
        if state is not None and late:
            state = _enlarged(state, level)
            continue
        patches = _patches(level.hole)
        if len(patches.sources) >= _FEWEST_SOURCES:
            state = _refined(
                _begun(level, patches, state, generator),
                resized(wanted, _size(level.hole)).flatten(1).T,
                hole=level.hole,
                rounds=_ROUNDS[min(number, len(_ROUNDS) - 1)],
                final=level is levels[0],
                generator=generator,
            )
    return state


def _guide_weight(hole: Tensor) -> float:
    share = float(hole.float().mean())
    return 0.1 + 1.9 * min(max((share - 0.3) / 0.2, 0.0), 1.0)


def _size(hole: Tensor) -> tuple[int, int]:
    return hole.shape[0], hole.shape[1]


def _patches(hole: Tensor) -> Patches:
    """Return the patches of a level that touch the hole, and those that do not."""
    fits = torch.zeros_like(hole)
    fits[RADIUS_PX:-RADIUS_PX, RADIUS_PX:-RADIUS_PX] = True
    touched = near(hole, RADIUS_PX)
    is_source = (fits & ~touched).flatten()
    return Patches(
        size=_size(hole),
        targets=(fits & touched).flatten().nonzero()[:, 0],
        sources=is_source.nonzero()[:, 0],
        is_source=is_source,
    )


def _begun(
    level: Level, patches: Patches, coarser: _State | None, generator: torch.Generator
) -> _State:
    """Return a level as the coarser one leaves it, its matches doubled; the coarsest: smooth."""
    drawn = patches.drawn(len(patches.targets), generator)
    if coarser is None:
        smooth = harmonic_fill(level.planes[None], level.hole[None, None].float())[0]
        return _State(smooth, patches, Field(drawn, torch.zeros_like(drawn, dtype=torch.float32)))
    planes = torch.where(level.hole, resized(coarser.planes, _size(level.hole)), level.planes)
    field = _doubled(coarser, patches)
    return _State(
        planes, patches, Field(torch.where(field.source < 0, drawn, field.source), field.cost)
    )


def _doubled(coarser: _State, patches: Patches) -> Field:
    """Return matches twice as far away as the coarser level's; -1 where that is none."""
    width, old = patches.size[1], coarser.patches
    slot = torch.full_like(old.is_source, -1, dtype=torch.int64)
    slot[old.targets] = torch.arange(len(old.targets), device=slot.device)
    y, x = patches.targets // width, patches.targets % width
    above_y = (y // 2).clamp_max(old.size[0] - 1)
    above_x = (x // 2).clamp_max(old.size[1] - 1)
    at = slot[above_y * old.size[1] + above_x]
    match, cost = coarser.field.source[at], coarser.field.cost[at]
    doubled, usable = patches.inside(
        y + 2 * (match // old.size[1] - above_y), x + 2 * (match % old.size[1] - above_x)
    )
    usable &= (at >= 0) & (match >= 0)
    return Field(torch.where(usable, doubled, -1), torch.where(usable, cost, torch.inf))


def _enlarged(coarser: _State, level: Level) -> _State:
    """Return a level filled by the coarser one's matches, without looking for better ones."""
    patches = _patches(level.hole)
    field = _doubled(coarser, patches)
    colours = resized(coarser.planes[: len(level.planes)], _size(level.hole))
    planes = torch.where(level.hole, colours, level.planes)
    ballot = Ballot.of(patches, level.hole, depth_in_hole(level.hole))
    return _State(ballot.best(planes, field), patches, field)


def _refined(
    state: _State,
    guide: Tensor,
    *,
    hole: Tensor,
    rounds: int,
    final: bool,
    generator: torch.Generator,
) -> _State:
    """Return a level after rounds of matching and voting.

    Args:
        state: what to begin from.
        guide: (h * w, 3), to be compared beside what patches show.
        hole: (h, w) bool.
        rounds: so many.
        final: whether the last vote is for the single best patch.
        generator: of chance.
    """
    patches, field, planes = state.patches, state.field, state.planes
    ballot = Ballot.of(patches, hole, depth_in_hole(hole))
    for number in range(rounds):
        rows = torch.cat([guide, descriptors(planes)], dim=1)
        field = nearest(rows, patches, field.source, generator=generator)
        vote = ballot.best if final and number == rounds - 1 else ballot.mean
        planes = vote(planes, field)
    return _State(planes, patches, field)
