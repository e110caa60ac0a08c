"""From the matches of patches to the colours of the pixels under them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rayfill.models.fills.nearest import Field, Patches
from rayfill.models.fills.patches import RADIUS_PX, SIDE_PX

#: A patch counts less the deeper in the hole it lies, by this at every step.
_FADE = 1.5
#: Hole pixels that are voted on together: bounds memory, and stays in the cache.
_CHUNK_PIXELS = 8_192
#: A pixel that no patch covers keeps its colour.
_NO_VOTE = 1e-12


@dataclass(frozen=True)
class Ballot:
    """Who votes on what: the same in every round of a level."""

    patches: Patches
    pixels: Tensor
    """(P,) int64: the hole's pixels y * w + x."""
    trust: Tensor
    """(h * w,) float32: how much a patch counts, by its centre."""

    @classmethod
    def of(cls, patches: Patches, hole: Tensor, depth: Tensor) -> Ballot:
        """Return the ballot of a level.

        Args:
            patches: of the level.
            hole: (h, w) bool.
            depth: (h, w) steps from a pixel to what is known.
        """
        return cls(patches, hole.flatten().nonzero()[:, 0], (_FADE**-depth).flatten())

    def mean(self, planes: Tensor, field: Field) -> Tensor:
        """Return planes whose hole pixels are the mean of what the patches over them say.

        Weighted by ``trust * exp(-cost / (2 sigma))``, sigma the 75th percentile of the costs over
        a pixel.

        Args:
            planes: (C, h, w).
            field: the match of every target.
        """
        colours, answer = _rows(planes)
        for pixels, seen, costs, trust in self._votes(field):
            usable = costs.isfinite()
            count = usable.sum(dim=1, keepdim=True)
            ranked = costs.sort(dim=1).values
            sigma = ranked.gather(1, (count - 1).clamp_min(0) * 3 // 4) + 1e-6
            weight = trust.mul_(costs.div_(-2 * sigma).exp_()).add_(_NO_VOTE) * usable
            means = torch.bmm(weight[:, None], colours[seen])[:, 0] / weight.sum(1, keepdim=True)
            answer[pixels] = torch.where(count > 0, means, colours[pixels])
        return answer.T.reshape(planes.shape)

    def best(self, planes: Tensor, field: Field) -> Tensor:
        """Return planes whose hole pixels come from the patch with the least ``cost / trust``.

        Arguments as :meth:`mean`. One patch instead of a mean of many keeps what it shows sharp.
        """
        colours, answer = _rows(planes)
        for pixels, seen, costs, trust in self._votes(field):
            chosen = costs.div_(trust).argmin(dim=1, keepdim=True)
            answer[pixels] = colours[seen.gather(1, chosen)[:, 0]]
        return answer.T.reshape(planes.shape)

    def _votes(self, field: Field) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Yield pixels (n,), and what each of the 25 patches over them shows there (n, 25).

        That is the pixel it shows, its cost (infinite where there is no patch), and its trust.
        """
        height, width = self.patches.size
        # With a margin no pixel's neighbour lies beyond the frame.
        match = _with_margin(self._spread(field.source, -1), self.patches.size, value=-1)
        cost = _with_margin(self._spread(field.cost, torch.inf), self.patches.size, value=torch.inf)
        trust = _with_margin(self.trust, self.patches.size, value=1.0)
        offset = torch.arange(SIDE_PX, device=self.pixels.device) - RADIUS_PX
        inner = (offset[:, None] * width + offset).flatten()
        outer = (offset[:, None] * (width + 2 * RADIUS_PX) + offset).flatten()
        for pixels in torch.split(self.pixels, _CHUNK_PIXELS):
            rows = pixels // width
            place = pixels + 2 * RADIUS_PX * rows + RADIUS_PX * (width + 2 * RADIUS_PX + 1)
            centres = place[:, None] + outer
            matches, costs = match[centres], cost[centres]
            seen = torch.where(matches >= 0, matches - inner, pixels[:, None])
            yield pixels, seen, costs, trust[centres]

    def _spread(self, values: Tensor, otherwise: float) -> Tensor:
        """Return the targets' values by pixel, (h * w,)."""
        everywhere = values.new_full(self.trust.shape, otherwise)
        everywhere[self.patches.targets] = values
        return everywhere


def _rows(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Return (h * w, C) twice: to read, and to write."""
    colours = planes.flatten(1).T.contiguous()
    return colours, colours.clone()


def _with_margin(values: Tensor, size: tuple[int, int], *, value: float) -> Tensor:
    return F.pad(values.view(size), (RADIUS_PX,) * 4, value=value).flatten()
