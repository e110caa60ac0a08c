"""What a box or a click selects without learning, against outlines of people in COCO photos."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from harness import Case, Theme
from numpy.typing import NDArray

from rayfill.inference.selection import select
from rayfill_data.codec import decode_photo
from rayfill_data.sources.coco.objects import CocoPhoto, full_mask
from rayfill_data.sources.coco.read import read_instances

UInt8 = NDArray[np.uint8]
Flags = NDArray[np.bool_]
Select = Callable[["Person"], UInt8]

#: Photos and instances.json with COCO's annotations; beside the project, never in it.
COCO = Path(__file__).parents[2] / "shared/data/coco_person"
#: Least share of the photo, people measured, and how much wider a box is than the person's.
_LEAST_SHARE, _COUNT, _LOOSE = 0.01, 30, 0.05
_PLAIN_SIDE_PX = 640


@dataclass(frozen=True, kw_only=True)
class Person:
    """The largest person of a photo."""

    image: UInt8
    truth: Flags

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Return left, top, right, bottom, 5 % loose, within the photo."""
        columns, lines = (np.flatnonzero(self.truth.any(axis=axis)) for axis in (0, 1))
        spans = []
        for places, end in zip((columns, lines), self.truth.shape[::-1], strict=True):
            slack = _LOOSE * len(range(places[0], places[-1] + 1))
            spans.append((max(0.0, places[0] - slack), min(float(end), places[-1] + 1 + slack)))
        (left, right), (top, bottom) = spans
        return left, top, right, bottom

    @property
    def click(self) -> tuple[float, float, int]:
        """Return the innermost point."""
        padded = np.pad(self.truth.astype(np.uint8), 1)
        depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
        line, column = np.unravel_index(int(depth.argmax()), depth.shape)
        return column + 0.5, line + 0.5, 1


def people(folder: Path = COCO, *, count: int = _COUNT) -> list[Person]:
    """Return the first of the people that nothing was tuned on.

    Of every photo the largest person, if it covers more than 1 % of it; by name of the photo; every
    second one, beginning with the second. The others served for tuning.
    """
    names = {path.name for path in (folder / "images").iterdir()}
    text = (folder / "instances.json").read_bytes()
    found = read_instances(text, where="instances.json", photos=names).photos
    by_name = sorted(found, key=lambda photo: photo.name)
    shown = [photo for photo in by_name if _largest(photo) is not None]
    return [_person(folder, photo) for photo in shown[1::2][:count]]


def _largest(photo: CocoPhoto) -> UInt8 | None:
    least = _LEAST_SHARE * photo.height * photo.width
    able = [
        thing
        for thing in photo.objects
        if thing.category == "person" and not thing.crowd and thing.area_px > least
    ]
    return full_mask(max(able, key=lambda thing: thing.area_px), photo, None) if able else None


def _person(folder: Path, photo: CocoPhoto) -> Person:
    data = (folder / "images" / photo.name).read_bytes()
    truth = _largest(photo)
    assert truth is not None
    return Person(image=decode_photo(data, max_pixels=10**7).rgb, truth=truth > 0)


def iou(mask: UInt8, truth: Flags) -> float:
    """Return intersection over union, in [0, 1]."""
    chosen = mask > 0
    return float((chosen & truth).sum() / max(1, (chosen | truth).sum()))


def plain(person: Person) -> UInt8:
    """Return what OpenCV's GrabCut makes of the box in five rounds, at up to 640 px."""
    height, width = person.image.shape[:2]
    scale = min(1.0, _PLAIN_SIDE_PX / max(height, width))
    size = round(width * scale), round(height * scale)
    small = np.asarray(cv2.resize(person.image, size, interpolation=cv2.INTER_AREA), np.uint8)
    left, top, right, bottom = (round(edge * scale) for edge in person.box)
    labels = np.zeros(size[::-1], np.uint8)
    labels[top:bottom, left:right] = cv2.GC_PR_FGD
    labels[0] = cv2.GC_BGD  # a box of the whole photo has nothing else for sure
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(small, labels, None, *models, 5, cv2.GC_INIT_WITH_MASK)
    levels = np.where(labels % 2 == 1, np.uint8(255), np.uint8(0))
    return np.asarray(cv2.resize(levels, (width, height), interpolation=cv2.INTER_NEAREST))


def by_box(person: Person) -> UInt8:
    """Return what Rayfill selects from the box."""
    return select(person.image, box=person.box)


def by_click(person: Person) -> UInt8:
    """Return what Rayfill selects from one click."""
    return select(person.image, clicks=[person.click])


def cases(folder: Path) -> Iterator[Case]:
    everyone = people()
    ways: dict[str, dict[str, Select]] = {
        "A box, 5 % loose": {"plain GrabCut": plain, "Rayfill": by_box},
        "One click on the innermost point": {"Rayfill": by_click},
    }
    for title, selectors in ways.items():
        yield Case(
            title=f"{title}: {len(everyone)} people",
            ways={name: functools.partial(_all, one, everyone) for name, one in selectors.items()},
            units=len(everyone),
            unit="selection",
            rounds=3,
            notes=tuple(_quality(name, one, everyone) for name, one in selectors.items()),
        )


def _all(one: Select, everyone: Sequence[Person]) -> None:
    for person in everyone:
        one(person)


def _quality(name: str, one: Select, everyone: Sequence[Person]) -> str:
    overlaps, seconds = [], []
    for person in everyone:
        started = time.perf_counter()
        mask = one(person)
        seconds.append(time.perf_counter() - started)
        overlaps.append(iou(mask, person.truth))
    return (
        f"{name}: median IoU {np.median(overlaps):.3f}, mean {np.mean(overlaps):.3f}, "
        f"{np.mean(np.array(overlaps) > 0.5):.0%} above 0.5; {np.median(seconds):.2f} s in the "
        f"median, at most {max(seconds):.2f} s."
    )


THEME = Theme(
    title="Selecting what to remove, without learning",
    about="People of COCO photos of 640 px that nothing was tuned on: of every photo the largest, "
    "if it covers more than 1 % of it; by name, every second of them, the first 30. What is "
    "selected is compared with COCO's outline.",
    libraries=("opencv-python", "numpy"),
    cases=cases,
)
