"""One request to a model from file bytes to file bytes; knows nothing of HTTP or Ray."""

from __future__ import annotations

import logging
import math
from typing import Protocol

import torch

from rayfill.inference.clicks import ObjectFinder, click_outside
from rayfill.inference.selection import box_problem, select
from rayfill.metrics import removal_coherence
from rayfill_data.codec import Photo, UInt8Array, decode_mask, decode_photo, encode_png
from rayfill_data.errors import ImageError, RayfillError
from rayfill_data.masks.hole import dilate
from rayfill_serving.models import LoadedModel, ModelShelf
from rayfill_serving.pictures import MEDIA_TYPES, encode_picture
from rayfill_serving.problems import ApiError, Problem, image_problem, problem
from rayfill_serving.schemas import (
    GRABCUT,
    InpaintJob,
    InpaintReply,
    ModelInfo,
    SegmentJob,
    SegmentReply,
)
from rayfill_serving.work_queue import WorkQueue

logger = logging.getLogger(__name__)


class Backend(Protocol):
    """What the HTTP layer needs: models that answer, wherever they run."""

    async def inpaint(self, job: InpaintJob) -> InpaintReply | Problem:
        """Fill the hole, or say why not."""

    async def segment(self, job: SegmentJob) -> SegmentReply | Problem:
        """Find what was clicked on, or say why not."""

    async def models(self) -> list[ModelInfo]:
        """Return what is being served now."""


class InpaintService:
    """The backend in this process: a queue, a few threads and the models.

    Problems are returned, not raised: they cross process boundaries as plain data.
    """

    def __init__(
        self,
        shelf: ModelShelf,
        *,
        threads: int,
        waiting: int,
        max_pixels: int,
        search_s: float | None = None,
    ) -> None:
        """Answer from a shelf.

        Args:
            shelf: the models.
            threads: requests worked on at a time.
            waiting: requests that may wait.
            max_pixels: of the largest photo.
            search_s: seconds that a search for patches may take in one part of a hole.
        """
        self._shelf = shelf
        self._search_s = search_s
        self._max_pixels = max_pixels
        self._queue = WorkQueue(threads=threads, waiting=waiting)

    async def inpaint(self, job: InpaintJob) -> InpaintReply | Problem:
        """Fill the hole, or say why not."""
        try:
            model = self._shelf.get(job.options.model)
            return await self._queue.run(lambda: self._work(job, model))
        except ApiError as error:
            return error.problem

    async def segment(self, job: SegmentJob) -> SegmentReply | Problem:
        """Find what was clicked on, or say why not."""
        options = job.options
        clicks_alone = options.box is None and job.scribbles is None
        if clicks_alone and not options.has_a_positive_click:
            return problem("nothing_marked")
        try:
            chosen = None
            if options.model != GRABCUT and (clicks_alone or options.model is not None):
                chosen = self._shelf.find_finder(options.model)
            if chosen is None:
                return await self._queue.run(lambda: self._cut(job))
            if not clicks_alone:
                return problem("clicks_alone")
            return await self._queue.run(lambda: self._find(job, *chosen))
        except ApiError as error:
            return error.problem

    async def models(self) -> list[ModelInfo]:
        """Return what is being served now."""
        return self._shelf.describe()

    def close(self) -> None:
        """Stop following the models and take no more work."""
        self._shelf.close()
        self._queue.close()

    def _work(self, job: InpaintJob, model: LoadedModel) -> InpaintReply | Problem:
        options = job.options
        try:
            photo = decode_photo(job.image, max_pixels=self._max_pixels)
        except ImageError as error:
            return image_problem(error, part="image")
        try:
            reading = decode_mask(job.mask, max_pixels=self._max_pixels)
        except ImageError as error:
            return image_problem(error, part="mask")
        height, width = photo.rgb.shape[:2]
        mask_height, mask_width = reading.mask.shape
        if (height, width) != (mask_height, mask_width):
            return problem(
                "size_mismatch",
                text=f"The photo is {width}x{height} pixels and the mask {mask_width}x"
                f"{mask_height}: make them the same size.",
            )
        try:
            filled = model.inpainter.inpaint(
                photo.rgb,
                reading.mask,
                expand_px=options.expand_px,
                feather_px=options.feather_px,
                variant=options.variant,
                time_limit_s=self._search_s,
            )
        except Exception:  # a model may fail in any way; the server must not
            logger.exception("%s failed on a photo of %dx%d", model.label, width, height)
            return problem("model_failed")
        return InpaintReply(
            body=encode_picture(filled, form=options.format, icc_profile=photo.icc_profile),
            media_type=MEDIA_TYPES[options.format],
            model=model.label,
            run_id=model.run_id,
            notes=reading.notes,
            coherence=_coherence(filled, dilate(reading.mask, radius_px=options.expand_px)),
        )

    def _find(
        self, job: SegmentJob, model: LoadedModel, finder: ObjectFinder
    ) -> SegmentReply | Problem:
        """Find by a trained segmenter what was clicked on."""
        photo = self._marked_photo(job)
        if isinstance(photo, Problem):
            return photo
        try:
            found = finder.find(photo.rgb, clicks=job.options.as_clicks)
        except Exception:  # a model may fail in any way; the server must not
            height, width = photo.rgb.shape[:2]
            logger.exception("%s failed on a photo of %dx%d", model.label, width, height)
            return problem("model_failed")
        return SegmentReply(
            body=encode_png(found.mask),
            found=found.found,
            labels=found.labels,
            model=model.label,
            run_id=model.run_id,
        )

    def _cut(self, job: SegmentJob) -> SegmentReply | Problem:
        """Find by GrabCut what box, clicks and scribbles mean."""
        photo = self._marked_photo(job)
        if isinstance(photo, Problem):
            return photo
        scribbles = None
        if job.scribbles is not None:
            try:
                drawn = decode_photo(job.scribbles, max_pixels=self._max_pixels).rgb
            except ImageError as error:
                return image_problem(error, part="scribbles")
            if drawn.shape != photo.rgb.shape:
                return problem("size_mismatch", text=_sizes(photo, drawn.shape))
            scribbles = drawn.min(axis=2)
        try:
            mask = select(
                photo.rgb,
                box=job.options.as_box,
                clicks=job.options.as_clicks,
                scribbles=scribbles,
            )
        except RayfillError:  # black scribbles alone: all else was looked at
            return problem("nothing_marked")
        return SegmentReply(
            body=encode_png(mask), found=bool(mask.any()), labels=(), model=GRABCUT, run_id=""
        )

    def _marked_photo(self, job: SegmentJob) -> Photo | Problem:
        """Return the photo, if what is marked lies on it."""
        try:
            photo = decode_photo(job.image, max_pixels=self._max_pixels)
        except ImageError as error:
            return image_problem(error, part="image")
        height, width = photo.rgb.shape[:2]
        outside = click_outside(job.options.as_clicks, height=height, width=width)
        if outside is not None:
            return problem("click_outside", text=outside)
        box = job.options.as_box
        no_box = box_problem(box, height=height, width=width) if box else None
        return problem("box_outside", text=no_box) if no_box else photo


def _coherence(composite: UInt8Array, hole_mask: UInt8Array) -> float | None:
    """Return the removal coherence of a filled photo, None where it has none."""
    pixels, hole = torch.from_numpy(composite), torch.from_numpy(hole_mask > 0)
    value = float(removal_coherence(pixels.permute(2, 0, 1)[None], hole[None, None]))
    return None if math.isnan(value) else value


def _sizes(photo: Photo, drawn: tuple[int, ...]) -> str:
    height, width = photo.rgb.shape[:2]
    return (
        f"The photo is {width}x{height} pixels and the scribbles {drawn[1]}x{drawn[0]}: make them "
        "the same size."
    )
