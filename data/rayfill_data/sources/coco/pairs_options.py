"""What pairs of COCO objects and backgrounds are made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from rayfill_data.checks import Bounds
from rayfill_data.contract import IGNORE_LABEL
from rayfill_data.masks.hole import RatioRange
from rayfill_data.sources.coco.files import CocoOptions

#: Shares of the picture that balanced holes cover, one bucket after the other.
BUCKETS = ((0.0, 0.1), (0.1, 0.2), (0.2, 0.3), (0.3, 0.4))


@dataclass(frozen=True, kw_only=True)
class CocoPairsOptions(CocoOptions):
    """Objects of some categories pasted on squares of other photos of the same split."""

    pastes: Annotated[tuple[int, int], Bounds(ge=1, le=8)] = (1, 1)
    """Fewest and most objects pasted into a picture."""

    object_size: RatioRange = (0.02, 0.3)
    """Smallest and largest share of the picture that one object covers; objects are only ever
    scaled down."""

    balance_ratios: bool = False
    """Let as many holes cover 0-10 %, 10-20 %, 20-30 % and 30-40 % of the picture, whatever
    object_size allows; of that only the lower limit of the first bucket is kept."""

    placement: Literal["random", "context"] = "random"
    """random: anywhere. context: with its feet on a row where such objects have theirs, and as high
    as those are there, by a fit to the training photos."""

    backgrounds: Literal["without", "any"] = "without"
    """without: squares of a photo that hold nothing of the categories, so that a segmenter or
    detector finds none but what was pasted. any: any square."""

    window: Annotated[float, Bounds(gt=0, le=1)] = 0.5
    """Smallest side of the square taken from a background, as a share of the photo's shorter side;
    at least `size` pixels."""

    repeats: Annotated[int, Bounds(ge=1, le=1000)] = 1
    """Samples made of every background photo."""

    flip: bool = True
    """Mirror every other object left-right."""

    feather_px: Annotated[float, Bounds(ge=0, le=8)] = 1.0
    """Width of the soft rim inside an object's outline, in pixels of the sample."""

    label_set: Literal["categories", "panoptic"] = "categories"
    """What label maps name: the pasted categories, or all of a panoptic file."""

    def relations(self) -> Iterator[str]:
        """Yield what does not go together."""
        yield from super().relations()
        small, most = self.object_size[0], BUCKETS[0][1]
        if self.balance_ratios and small >= most:
            yield f"object_size begins at {small}; balance_ratios needs some below {most}."
        if self.label_set == "panoptic" and self.panoptic_masks is None:
            yield "label_set is 'panoptic'; it needs panoptic_masks."
        if len(self.categories) >= IGNORE_LABEL:
            yield f"{len(self.categories)} categories; 254 is the most."
