"""Deciding by measurement whether patches of the photograph are laid over a model's answer."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from rayfill.evaluation.evaluate import evaluate
from rayfill.evaluation.systems import System
from rayfill.runs.bundle import load_bundle, save_bundle
from rayfill_data.prepared.reader import PreparedDataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinishChoice:
    """Which finish goes better with the surroundings of validation holes."""

    name: str
    """Of the model."""
    alone: float
    """Mean coherence of the model's own answers; lower is better."""
    patched: float
    """The same with patches over them."""

    @property
    def finish(self) -> Literal["none", "exemplar"]:
        """The better one; none where there is no difference, or nothing to measure."""
        return "exemplar" if self.patched < self.alone else "none"

    def __str__(self) -> str:
        """Return what was decided and why, a sentence."""
        if math.isnan(self.alone + self.patched):
            return f"{self.name}: no coherence on the validation split, so its answers stay as is."
        verb = "are" if self.finish == "exemplar" else "are not"
        return (
            f"{self.name}: patches of the photo {verb} laid over its answers where it is used; "
            f"coherence on the validation split is {self.alone:.3f}, with patches "
            f"{self.patched:.3f}."
        )


def choose_finish(name: str, *, bundle: str, dataset: PreparedDataset) -> FinishChoice:
    """Measure a model on the validation split with and without patches.

    Args:
        name: what to call it.
        bundle: where it lies.
        dataset: whose validation split.
    """
    own = System(name=name, kind="model", source=bundle, bundle=bundle)
    found = evaluate([own], data=dataset, split="val", with_patches=True)
    alone, patched = (
        found.measured[system].table.total["coherence"].mean
        for system in (name, own.patched().name)
    )
    return FinishChoice(name=name, alone=alone, patched=patched)


def note_finish(choice: FinishChoice, *, bundle: str) -> None:
    """Write into a bundle what was decided: whoever loads it with ``finish="auto"`` gets it."""
    loaded = load_bundle(bundle)
    save_bundle(
        bundle,
        model=loaded.model,
        name=loaded.name,
        config=loaded.config,
        extra=loaded.extra | {"finish": choice.finish},
    )
