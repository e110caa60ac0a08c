"""Crops of the photographs inside scikit-image and scikit-learn: data without a download."""

from __future__ import annotations

from dataclasses import dataclass

from rayfill_data.checks import Share
from rayfill_data.masks.copy_paste import paste, random_cutout
from rayfill_data.masks.hole import sample_rng
from rayfill_data.sources.bundled import (
    BundledOptions,
    bundled_crop,
    bundled_photo,
    bundled_plan,
)
from rayfill_data.sources.holes import drawn_hole
from rayfill_data.sources.pictures import PASTED_LABELS, pasted, without_object
from rayfill_data.sources.spec import Sample, SourcePlan, SourceSpec, Task


@dataclass(frozen=True, kw_only=True)
class PhotosOptions(BundledOptions):
    """Crops of the photographs that Rayfill's dependencies bring along."""

    object_share: Share = 0.5
    """Share of samples with an object pasted in; the others get the holes that masks names."""


def plan(options: PhotosOptions, seed: int) -> SourcePlan:
    """Draw a photograph for every crop and, for an object, another one to cut it from."""
    return bundled_plan(options, seed, object_share=options.object_share, labels=PASTED_LABELS)


def render(task: Task, options: PhotosOptions, seed: int) -> Sample:
    """Crop the photograph at a random place and scale, and give the crop its hole."""
    rng = sample_rng(seed, 0, task.sample_id)
    crop = bundled_crop(task, options, rng=rng)
    if task.hole_kind == "object":
        side = round(options.size * float(rng.uniform(0.25, 0.75)))
        cutout = random_cutout(bundled_photo(task.donors[0]), rng=rng, size_px=side)
        return pasted(paste(crop, cutout, rng=rng))
    mask = drawn_hole(task, options, *crop.shape[:2], rng=rng)
    return without_object(Sample(image=crop, target=None, hole_mask=mask))


PHOTOS = SourceSpec(
    options_type=PhotosOptions,
    plan=plan,
    render=render,
    locations=("mask_folder",),
    summary="crops of the photographs bundled with scikit-image and scikit-learn",
)
