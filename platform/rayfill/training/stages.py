"""What one step computes of a batch, for each part of a system that can be trained.

A stage is a module, so that data-parallel training wraps it whole. It holds the model, leaves
gradients to the part that it trains, and says which discriminators judge what.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from rayfill.config.run import RunConfig
from rayfill.losses import ADVERSARIAL, parse_loss
from rayfill.models import InpaintingModel, JointModel, composite
from rayfill.models.batch import TensorBatch

#: Makes a module data-parallel.
Wrap = Callable[[nn.Module], nn.Module]

#: Name of the discriminator of pictures.
PICTURE = "picture"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """What a discriminator compares."""

    real: Tensor
    """(B, C, H, W), from the truth."""
    fake: Tensor
    """(B, C, H, W), from the networks, with their gradient."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Painted:
    """What the picture losses compare."""

    prediction: Tensor
    """(B, 3, H, W)."""
    hole_mask: Tensor
    """(B, 1, H, W), without gradient."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Term:
    """A loss term of a stage's own."""

    value: Tensor
    """A scalar, not weighted."""
    weight: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageOutput:
    """What a stage makes of a batch."""

    painted: Painted | None = None
    terms: Mapping[str, Term] = dataclasses.field(default_factory=dict)
    judged: Mapping[str, Judged] = dataclasses.field(default_factory=dict)
    """What each discriminator compares, by its name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judge:
    """A discriminator that a stage needs: its input, and the weights of the terms it measures."""

    channels: int
    weights: Mapping[str, float]


class TrainingStage(nn.Module):
    """Base of all stages.

    Attributes:
        network: the model whose weights are kept.
        judges: discriminators by name.
    """

    def __init__(
        self,
        network: InpaintingModel,
        *,
        trained: nn.Module,
        judges: Mapping[str, Judge] | None = None,
    ) -> None:
        """Leave gradients to ``trained``, a part of ``network``, alone."""
        super().__init__()
        self.network = network
        self.judges = dict(judges or {})
        network.requires_grad_(False)
        trained.requires_grad_(True)

    def forward(self, batch: TensorBatch) -> StageOutput:
        """Compute what the losses need."""
        raise NotImplementedError


class InpaintingStage(TrainingStage):
    """One network that fills given holes, whatever it is."""

    def __init__(self, network: InpaintingModel, *, config: RunConfig) -> None:
        """Train a network, or a joint model's inpainter by itself."""
        trained = network.inpainter if isinstance(network, JointModel) else network
        super().__init__(network, trained=trained, judges=picture_judges(config))

    def forward(self, batch: TensorBatch) -> StageOutput:
        """Fill the holes of a batch."""
        prediction = self.network(channels_last(batch.image), batch.hole_mask)
        painted = Painted(prediction=prediction, hole_mask=batch.hole_mask)
        return StageOutput(painted=painted, judged=judged_pictures(self, painted, batch))


class SegmentationStage(TrainingStage):
    """A joint model's segmenter by itself."""

    def __init__(self, network: JointModel) -> None:
        super().__init__(network, trained=network.segmenter)
        self._segmenter = network.segmenter

    def forward(self, batch: TensorBatch) -> StageOutput:
        """Label the photos of a batch."""
        losses = self._segmenter.loss(batch.image, labels_of(batch))
        return StageOutput(terms={name: Term(value=value) for name, value in losses.items()})


def picture_judges(config: RunConfig) -> dict[str, Judge]:
    """Return the discriminator of composites, if the loss has terms that one measures."""
    terms = parse_loss(config.loss.terms)
    weights = {name: weight for name, weight in terms.items() if name in ADVERSARIAL}
    return {PICTURE: Judge(channels=3, weights=weights)} if weights else {}


def judged_pictures(
    stage: TrainingStage, painted: Painted, batch: TensorBatch
) -> dict[str, Judged]:
    """Return what a picture discriminator compares: composites and the truth."""
    if PICTURE not in stage.judges:
        return {}
    fake = composite(painted.prediction, batch.image, painted.hole_mask)
    return {"picture": Judged(real=batch.target, fake=fake)}


def labels_of(batch: TensorBatch) -> Tensor:
    """Return the label maps of a batch; the dataset was checked to have them."""
    assert batch.labels is not None
    return batch.labels


def channels_last(image: Tensor) -> Tensor:
    """Return pictures in the memory layout that convolutions are fastest in."""
    return image.contiguous(memory_format=torch.channels_last)
