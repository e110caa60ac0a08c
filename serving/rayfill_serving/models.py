"""The models being served: loaded, and changed over when what their names mean changes.

A follower thread looks whether an alias has moved or a bundle was replaced, loads the new version
beside the old one and then swaps one reference; requests that hold the old model finish on it. A
version that cannot be used is refused with one line in the log, and the old one keeps answering.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import time
from collections.abc import Collection, Sequence

import numpy as np

from rayfill.inference.clicks import LEAST_IOU, ObjectFinder, offered_finder
from rayfill.inference.inpainter import Inpainter
from rayfill.models.joint import JointModel
from rayfill.runs.registry import NoSuchModelError
from rayfill_data.errors import RayfillError
from rayfill_serving.problems import ApiError
from rayfill_serving.schemas import GRABCUT, ModelInfo
from rayfill_serving.sources import ModelSource, ServedVersion

logger = logging.getLogger(__name__)

#: A refused version is looked at again after this long: it may have been a broken connection.
_RETRY_REFUSED_S = 30.0
_WARM_UP_PX = 32

#: Fills without learning: what they are, and what to expect of them.
ENGINES = {
    "exemplar": (
        "Patches",
        "Copies texture from the photo: sharp; seconds for large holes.",
    ),
    "telea": ("Quick smear", "Draws the surroundings inward: at once, blurred in large holes."),
    "navier_stokes": ("Quick flow", "Continues lines inward: at once, blurred in large holes."),
    "harmonic": ("Smooth", "The softest transition: for sky and plain walls."),
    "push_pull": ("Soft blocks", "A rough, smooth fill: at once."),
    "mean": ("Plain colour", "One colour, the mean of the photo."),
    "biharmonic": ("Smooth curves", "Continues shades: slow, for small scratches."),
}
#: What to expect of networks, by their finish; and of other fills without learning under patches.
_TRAINED = {
    "exemplar": "Draws what it has learned, with patches of the photo on top.",
    "auto": "Draws what it has learned, in large holes with patches of the photo on top.",
    "none": "Draws what it has learned.",
}
_PATCHED = "Guides patches of the photo, which go on top: sharp; seconds for large holes."


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A version with its network in memory."""

    served: ServedVersion
    inpainter: Inpainter
    finder: ObjectFinder | None = None
    """The segmenter, of models that have one which was measured to work."""

    @property
    def label(self) -> str:
        """Return ``name/version``."""
        return f"{self.served.name}/{self.served.version}"

    @property
    def run_id(self) -> str:
        """Return the MLflow run that trained it, empty where that is not known."""
        registered = self.served.registered
        return registered.run_id if registered else self.inpainter.run_id


class ModelShelf:
    """The current model of each name."""

    def __init__(
        self,
        names: Sequence[str],
        *,
        source: ModelSource,
        poll_s: float,
        segment_side: int = 0,
        awaited: Collection[str] = (),
    ) -> None:
        """Begin with nothing loaded.

        Args:
            names: to serve; the first answers by default.
            source: where their versions come from.
            poll_s: seconds between two looks.
            segment_side: longest side that a segmenter is shown; 0 is the one it was trained on.
            awaited: those that need not be there.
        """
        self._names = tuple(names)
        self._source = source
        self._poll_s = poll_s
        self._segment_side = segment_side
        self._awaited = frozenset(awaited)
        self._loaded: dict[str, LoadedModel] = {}
        self._refused: dict[str, tuple[str, float]] = {}
        self._said: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self) -> None:
        """Load what there is now, then keep following it in the background."""
        self.refresh()
        self._thread = threading.Thread(target=self._poll, name="follow-models", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop following."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def refresh(self) -> None:
        """Look once at every name and change over where another is meant; never raises."""
        for name in self._names:
            try:
                self._refresh(name)
            except NoSuchModelError as error:
                if name not in self._awaited or name in self._loaded:
                    self._say(name, f"{name}: {error}")
            except RayfillError as error:
                self._say(name, f"{name}: {error}")
            except Exception as error:  # noqa: BLE001 - the old model must keep answering
                self._say(name, f"{name}: cannot be looked up ({error!r})", error)

    def get(self, wanted: str | None) -> LoadedModel:
        """Return the model named ``name`` or ``name/version``; the first one by default.

        Raises:
            ApiError: ``unknown_model`` when it is not served, ``no_model`` when it is not ready.
        """
        name, _, version = (wanted or self._names[0]).partition("/")
        if name not in self._names:
            raise ApiError("unknown_model")
        model = self._loaded.get(name)
        if model is None:
            raise ApiError("no_model")
        if version and version != model.served.version:
            raise ApiError("unknown_model")
        return model

    def find_finder(self, wanted: str | None) -> tuple[LoadedModel, ObjectFinder] | None:
        """Return the model of that name, which has a segmenter; by default the first that has one.

        Only segmenters that were measured to work count; None where there is none to choose from.

        Raises:
            ApiError: as :meth:`get`, and ``no_segmenter``, naming the models that have one.
        """
        loaded = self._loaded
        able = [name for name in self._names if name in loaded and loaded[name].finder]
        if wanted is None and not able:
            return None
        model = self.get(wanted or able[0])
        if model.finder is None:
            names = ", ".join([*able, GRABCUT])
            raise ApiError(
                "no_segmenter",
                text=f"{model.label} has no segmenter with a measured IoU of {LEAST_IOU} or more. "
                f"What selects here: {names}.",
            )
        return model, model.finder

    def describe(self) -> list[ModelInfo]:
        """Return what is being served, the default first."""
        loaded = self._loaded
        return [_info(loaded[name]) for name in self._names if name in loaded]

    def _poll(self) -> None:
        while not self._stop.wait(self._poll_s):
            self.refresh()

    def _refresh(self, name: str) -> None:
        found = self._source.find(name)
        current = self._loaded.get(name)
        if current is not None and current.served.version == found.version:
            return
        version, until = self._refused.get(name, ("", 0.0))
        if version == found.version and time.monotonic() < until:
            return
        self._refused[name] = (found.version, time.monotonic() + _RETRY_REFUSED_S)
        inpainter = self._source.load(found)
        finder = self._finder(inpainter, found)
        _try_out(inpainter, finder)
        # One assignment of a new dictionary: a reader sees the old shelf or the new one.
        self._loaded = {**self._loaded, name: LoadedModel(found, inpainter, finder)}
        del self._refused[name]
        self._said.pop(name, None)
        logger.info("%s: serving version %s", name, found.version)

    def _finder(self, inpainter: Inpainter, served: ServedVersion) -> ObjectFinder | None:
        known = served.registered
        if known is None:
            return None
        finder = offered_finder(
            inpainter.model,
            scores=known.scores,
            protocol=known.protocol,
            device=str(inpainter.device),
            side=self._segment_side,
        )
        if finder is None and isinstance(inpainter.model, JointModel):
            logger.info("%s: its segmenter is not offered, see LEAST_IOU", served.name)
        return finder

    def _say(self, name: str, line: str, error: Exception | None = None) -> None:
        if self._said.get(name) != line:  # a line once, not one every two seconds
            self._said[name] = line
            logger.warning("%s", line, exc_info=error)


def _try_out(inpainter: Inpainter, finder: ObjectFinder | None) -> None:
    """Fill one small hole, and look: the first request shall neither warm up nor find NaN."""
    photo = np.full((_WARM_UP_PX, _WARM_UP_PX, 3), 128, np.uint8)
    hole = np.zeros((_WARM_UP_PX, _WARM_UP_PX), np.uint8)
    hole[12:20, 12:20] = 255
    inpainter.inpaint(photo, hole)
    if finder is not None:
        finder.find(photo, clicks=[(_WARM_UP_PX / 2, _WARM_UP_PX / 2, 1)])


def _info(model: LoadedModel) -> ModelInfo:
    served, registered = model.served, model.served.registered
    known = dataclasses.asdict(registered) if registered else {}
    scores = {k: v for k, v in known.pop("scores", {}).items() if math.isfinite(v)}
    own = {"name": served.name, "version": served.version, "run_id": model.run_id}
    labels = list(model.finder.labels) if model.finder else []
    title, about = _words(model.inpainter)
    return ModelInfo(
        **{**known, **own},
        scores=scores,
        labels=labels,
        title=title,
        about=about,
        finish=model.inpainter.finish,
        variants=model.inpainter.variants,
    )


def _words(inpainter: Inpainter) -> tuple[str, str]:
    """Return what a model is, and what to expect of it."""
    if inpainter.name not in ENGINES:
        return "Trained model", _TRAINED[inpainter.finish]
    title, about = ENGINES[inpainter.name]
    patched = inpainter.finish == "exemplar" and inpainter.name != "exemplar"
    return title, _PATCHED if patched else about
