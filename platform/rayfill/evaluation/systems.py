"""What can be measured: networks, classical baselines and finished pictures, opened by one word."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from rayfill.evaluation.finished_pictures import FinishedPictures
from rayfill.inference.baselines import BASELINES
from rayfill.models import InpaintingModel, JointModel, guided_fill
from rayfill.models.segmentation import Segmenter
from rayfill.runs.bundle import OtherKindError, load_bundle, load_segmenter_bundle
from rayfill.runs.references import MODELS, SYSTEMS, locate, name_problems, parse_reference
from rayfill_data.errors import ConfigError, RayfillError, redact_uri

if TYPE_CHECKING:
    from rayfill.models.batch import TensorBatch
    from rayfill.models.joint import Removal

#: What names of systems with patches of the photograph over their answers end with.
PATCHED = " + exemplar"

SystemKind = Literal["baseline", "model", "pictures"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
    """Something that fills holes, or has filled them."""

    name: str
    """What tables call it."""
    kind: SystemKind
    source: str
    """Where it is from: a baseline's name, a version in the registry, a folder."""
    model: InpaintingModel | None = None
    """On the CPU, in eval mode; None for finished pictures and for what is still in its bundle."""
    bundle: str = ""
    """Where the model is read from when it is measured."""
    finished: FinishedPictures | None = None
    """Its pictures of the split that is measured."""
    with_patches: bool = False
    """Lay patches of the photograph over the model's answer."""
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What else is known of it: network, run id."""

    def fill(self, batch: TensorBatch, hole_mask: Tensor) -> Tensor:
        """Return the prediction for a batch, (B, 3, H, W) in [0, 1]."""
        if self.finished is not None:
            return self.finished.fill(batch, hole_mask)
        assert self.model is not None
        filled: Tensor = self.model(batch.image, hole_mask)
        return self._finished(filled, image=batch.image, hole_mask=hole_mask)

    def remove(self, batch: TensorBatch) -> Removal:
        """Return what a joint model makes of photos, finding the holes by itself."""
        assert isinstance(self.model, JointModel)
        removal = self.model.remove(batch.image, object_mask=batch.object_mask)
        finished = self._finished(removal.composite, image=batch.image, hole_mask=removal.hole_mask)
        return dataclasses.replace(removal, composite=finished)

    def _finished(self, filled: Tensor, *, image: Tensor, hole_mask: Tensor) -> Tensor:
        if self.with_patches and filled.isfinite().all():  # what is not is refused elsewhere
            return guided_fill(image, hole_mask, guide=filled.clamp(0, 1))
        return filled

    def patched(self) -> System:
        """Return the system with patches of the photograph over its answers."""
        return dataclasses.replace(self, name=f"{self.name}{PATCHED}", with_patches=True)

    def opened(self) -> System:
        """Return the system with its model.

        Raises:
            RayfillError: a bundle that is damaged.
        """
        if not self.bundle:
            return self
        return dataclasses.replace(self, model=load_bundle(self.bundle).model, bundle="")

    def only(self, samples: Sequence[str]) -> System:
        """Return the system with no other finished pictures than those of some samples."""
        if self.finished is None:
            return self
        return dataclasses.replace(self, finished=self.finished.only(samples))

    def described(self) -> dict[str, str]:
        """Return what it is and where it is from, fit to be shown."""
        finish = {"finish": "exemplar"} if self.with_patches else {}
        return {"kind": self.kind, "source": redact_uri(self.source), **finish, **self.facts}


def trained(bundles: Mapping[str, str]) -> list[System]:
    """Return models by name, of which one at a time is read from its bundle."""
    return [
        System(name=name, kind="model", source=bundle, bundle=bundle)
        for name, bundle in bundles.items()
    ]


def open_system(value: str, *, tracking_uri: str | None = None) -> System:
    """Return the system that a reference names (:mod:`rayfill.runs.references`).

    Args:
        value: To a fill or to a folder of finished pictures.
        tracking_uri: MLflow store; None as for training.

    Raises:
        ConfigError: none of these, saying what is allowed.
        RayfillError: a bundle that is damaged, a run or version that is not there, a folder with
            nothing that can be measured.
    """
    named = parse_reference(value, allowed=SYSTEMS)
    if named.kind == "baseline":
        return System(
            name=named.label or named.name,
            kind="baseline",
            source=named.name,
            model=BASELINES[named.name],
        )
    if named.kind == "pictures":
        name = named.location.rpartition("/")[2]
        return System(name=named.label or name, kind="pictures", source=named.location)
    located = locate(named, tracking_uri=tracking_uri)
    bundle = load_bundle(located.bundle)
    facts = {"network": bundle.name}
    if run_id := str(bundle.extra.get("run_id", "")):
        facts["run_id"] = run_id
    return System(
        name=named.label or located.name,
        kind="model",
        source=located.source,
        model=bundle.model,
        facts=facts,
    )


def open_systems(
    values: Sequence[str | System], *, tracking_uri: str | None = None
) -> list[System]:
    """Return the systems that values name or are, each under a name of its own.

    Raises:
        ConfigError: with the problem of every value.
    """
    systems: list[System] = []
    problems: list[str] = []
    for value in values:
        if isinstance(value, System):
            systems.append(value)
            continue
        try:
            systems.append(open_system(value, tracking_uri=tracking_uri))
        except ConfigError as error:
            problems += error.problems
        except RayfillError as error:
            problems.append(str(error))
    problems += name_problems([(own.name, own.source) for own in systems], noun="systems")
    if problems:
        raise ConfigError(problems)
    return systems


def open_segmenter(value: str, *, tracking_uri: str | None = None) -> Segmenter:
    """Return the segmenter that a reference names: one by itself, or that of a joint model.

    Args:
        value: To anything with weights.
        tracking_uri: MLflow store; None as for training.

    Raises:
        ConfigError: neither of the two.
        RayfillError: as :func:`open_system`.
    """
    located = locate(parse_reference(value, allowed=MODELS), tracking_uri=tracking_uri)
    try:
        return load_segmenter_bundle(located.bundle).model
    except OtherKindError:
        model = load_bundle(located.bundle).model
    if not isinstance(model, JointModel):
        raise ConfigError(
            [
                f"{value!r} has no segmenter. Allowed: the bundle of a segmenter, or a joint model "
                "(model.name joint)."
            ]
        )
    return model.segmenter
