"""From the name of a model to what fills holes with it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rayfill.runs.references import Located, Reference, locate, parse_reference

if TYPE_CHECKING:
    from rayfill.config.sections import Finish
    from rayfill.inference.inpainter import Inpainter


def load(
    reference: str | os.PathLike[str],
    *,
    device: str = "cpu",
    tracking_uri: str | None = None,
    storage: str | None = None,
    finish: Finish = "auto",
) -> Inpainter:
    """Return what fills holes in photos of any size, by whatever a model is named by.

    Args:
        reference: A baseline such as ``telea``, ``NAME@ALIAS`` or ``models:/NAME/VERSION`` of the
            model registry, ``runs:/ID``, ``sweep:NAME``, or the folder or URI of a bundle, a run or
            a sweep (:mod:`rayfill.runs.references`).
        device: Where to run it, such as ``cuda``.
        tracking_uri: MLflow store; None as for training.
        storage: Where sweeps are looked for; None as for training.
        finish: What is done to the model's answer (:class:`rayfill.inference.inpainter.Inpainter`).

    Raises:
        ConfigError: it names nothing, saying what is allowed.
        RayfillError: a model that is not there, or is damaged.
    """
    named = parse_reference(os.fspath(reference))
    located = None
    if named.kind != "baseline":
        located = locate(named, tracking_uri=tracking_uri, storage=storage)
    return make_inpainter(named, located, device=device, finish=finish)


def make_inpainter(
    named: Reference, located: Located | None, *, device: str = "cpu", finish: Finish = "auto"
) -> Inpainter:
    """Return the inpainter of a baseline, or of a bundle that was located."""
    # Late: what names nothing is refused before torch is imported.
    from rayfill.inference.baselines import BASELINES
    from rayfill.inference.inpainter import Inpainter

    if located is None:
        return Inpainter(BASELINES[named.name], device=device, name=named.name, finish=finish)
    return Inpainter.from_bundle(located.bundle, device=device, finish=finish)
