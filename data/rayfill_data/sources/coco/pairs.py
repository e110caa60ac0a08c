"""Pairs with a true background: COCO's objects pasted on COCO's photos (report P2)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rayfill_data.contract import SPLITS
from rayfill_data.errors import DatasetError
from rayfill_data.masks.hole import sample_rng
from rayfill_data.sources.coco.files import (
    NEEDS,
    CocoFiles,
    Cut,
    cuts_by_split,
    draw_donors,
    load,
)
from rayfill_data.sources.coco.objects import CocoPhoto, to_json
from rayfill_data.sources.coco.pairs_options import BUCKETS, CocoPairsOptions
from rayfill_data.sources.coco.paste import busy, render
from rayfill_data.sources.coco.places import Context, fit_context, largest_window
from rayfill_data.sources.files import refuse
from rayfill_data.sources.spec import SourcePlan, SourceSpec, Task

#: Sets of objects drawn for a sample, in case that the first cannot be made to fit.
SETS = 4


def plan(options: CocoPairsOptions, seed: int) -> SourcePlan:
    """Read the annotations, split by photo, choose backgrounds, and draw the objects to paste.

    Raises:
        DatasetError: files that are missing or not COCO's, categories without a usable object,
            objects too small for the sizes asked for, or too few photos; all of it listed at once.
    """
    files = load(options)
    cuts = cuts_by_split(files, options)
    names = options.categories if options.label_set == "categories" else files.coco.categories
    backgrounds = [
        photo for photo in files.coco.photos if largest_window(photo, busy(photo, options), options)
    ]
    _check_backgrounds(backgrounds, files, options)
    drawing = _Drawing(files, cuts, options, ("nothing", *names))
    left_out = len(files.coco.photos) - len(backgrounds)
    without = f" and without {', '.join(options.categories)}"
    note = (
        f"{left_out} of {len(files.coco.photos)} photos have no square that is large enough"
        f"{without * (options.backgrounds == 'without')}; their objects are used, they are no "
        "backgrounds."
    )
    return SourcePlan(
        tasks=tuple(drawing.tasks(backgrounds, seed)),
        inputs_hash=files.inputs_hash,
        size=options.size,
        max_rejected=options.max_rejected,
        notes=(note,) if left_out else (),
        rejected=files.coco.rejected,
        labels=drawing.labels,
    )


class _Drawing:
    """Draws what is pasted where."""

    def __init__(
        self,
        files: CocoFiles,
        cuts: dict[str, list[Cut]],
        options: CocoPairsOptions,
        labels: tuple[str, ...],
    ) -> None:
        self.files, self.cuts, self.options, self.labels = files, cuts, options, labels
        self.context: dict[str, Context] = {}
        if options.placement == "context":
            self.context = fit_context(cuts["train"], options.categories)
        self._fitting: dict[tuple[str, float], list[Cut]] = {}
        self._check()

    def tasks(self, backgrounds: Sequence[CocoPhoto], seed: int) -> Iterator[Task]:
        """Make every background's tasks; buckets take turns within a split."""
        turns: Counter[str] = Counter()
        for photo in backgrounds:
            split = self.files.splits[photo.name]
            for repeat in range(self.options.repeats):
                yield self._task(photo, repeat, turns[split], seed)
                turns[split] += 1

    def _task(self, photo: CocoPhoto, repeat: int, turn: int, seed: int) -> Task:
        options = self.options
        split, source = self.files.splits[photo.name], self.files.sources[photo.name]
        sample_id = f"{photo.name}-{repeat:03d}"
        rng = sample_rng(seed, 0, f"{sample_id}: objects")
        count = int(rng.integers(*options.pastes, endpoint=True))
        low, high = self._range(turn)
        fitting = self.fitting(split, low / count)
        drawn = list(draw_donors(fitting, source, self.files, rng=rng, count=SETS * count))
        shown = [thing for thing in photo.objects if self._named(thing.category)]
        kinds = {thing.category for thing in shown} | {cut.thing.category for cut in drawn}
        annotation = {
            "photo": asdict(photo.keeping(shown)),
            "count": count,
            "range": [low, high],
            "labels": {kind: self.labels.index(kind) for kind in sorted(kinds)},
            "context": {kind: asdict(fit) for kind, fit in self.context.items() if kind in kinds},
        }
        return Task(
            sample_id=sample_id,
            split=split,
            source_id=source,
            path=photo.name,
            hole_kind="object",
            donors=tuple(to_json(cut.photo.keeping([cut.thing])) for cut in drawn),
            annotation=json.dumps(annotation, separators=(",", ":")),
        )

    def _named(self, category: str) -> bool:
        return category in self.labels

    def _range(self, turn: int) -> tuple[float, float]:
        """Return the share of the picture that all objects, or one, may cover."""
        small, large = self.options.object_size
        if not self.options.balance_ratios:
            return small, large
        low, high = BUCKETS[turn % len(BUCKETS)]
        return max(low, small), high

    def fitting(self, split: str, share: float) -> list[Cut]:
        """Return a split's objects that can cover that share without being blown up."""
        key = (split, share)
        if key not in self._fitting:
            size = self.options.size
            self._fitting[key] = [
                cut
                for cut in self.cuts[split]
                if cut.thing.area_px / max(cut.thing.width, cut.thing.height, size) ** 2 >= share
            ]
        return self._fitting[key]

    def _check(self) -> None:
        """Refuse sizes that no split, or not every split, has objects for."""
        options = self.options
        turns = range(len(BUCKETS) if options.balance_ratios else 1)
        problems = []
        for split in SPLITS:
            for low in sorted({self._range(turn)[0] / options.pastes[1] for turn in turns}):
                # Rounding and soft rims cost a little of what an object can cover.
                found = self.fitting(split, low)
                if len({self.files.sources[cut.photo.name] for cut in found}) < 2:
                    problems.append(
                        f"Split {split} has {len(found)} objects that can cover {low:.0%} of a "
                        f"picture of {options.size} pixels without being blown up, of "
                        f"{len(self.cuts[split])}; some of two photos are needed. Choose a smaller "
                        "size, smaller objects, more pastes, or give more photos."
                    )
        refuse(options.annotations, problems)


def _check_backgrounds(
    backgrounds: Sequence[CocoPhoto], files: CocoFiles, options: CocoPairsOptions
) -> None:
    """Refuse splits without a background."""
    counts = Counter(files.splits[photo.name] for photo in backgrounds)
    if empty := [split for split in SPLITS if not counts[split]]:
        shares = ", ".join(f"{split} {counts[split]}" for split in SPLITS)
        raise DatasetError(
            f"{options.annotations}: no background photo is left for {', '.join(empty)} ({shares} "
            f"of {len(files.coco.photos)}). Give more photos, a smaller --window or --size, or "
            "--backgrounds any."
        )


COCO_PAIRS = SourceSpec(
    options_type=CocoPairsOptions,
    plan=plan,
    render=render,
    summary="objects of COCO pasted on its photos: pairs with a true background (report P2)",
    needs=NEEDS,
    locations=("images", "annotations", "panoptic_masks"),
)
