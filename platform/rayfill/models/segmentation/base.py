"""What every segmenter is: a stateless network from photo to label logits, with its own loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rayfill.models.options import Width
from rayfill.models.outside import OutsideOptions, first_line, options_type
from rayfill.models.spec import NetworkSpec
from rayfill_data.checks import Checked
from rayfill_data.errors import ConfigError, RayfillError, unknown_name

#: Label value that no loss and no metric counts.
IGNORED = 255
#: Name of label 0.
NOTHING = "nothing"


@dataclass(frozen=True, kw_only=True)
class SegmenterOptions(Checked):
    """Options of every segmenter; each segmenter's own type adds its own."""

    width: Width
    """Channels of the first level."""


@dataclass(frozen=True, kw_only=True)
class Segments:
    """The objects seen in one photo, most certain first; masks may overlap."""

    masks: Tensor
    """(N, H, W) float32 in [0, 1], a soft mask of each object, differentiable."""

    labels: Tensor
    """(N,) int64, indices into the segmenter's ``labels``, never 0."""

    scores: Tensor
    """(N,) float32 in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class SegmenterOutput:
    """What one pass gives."""

    logits: Tensor
    """(B, K, H, W) float32; their softmax over K is how likely each label is."""

    losses: dict[str, Tensor] = field(default_factory=dict)
    """Scalars by name, whose sum is to be minimised; empty without labels."""

    segments: tuple[Segments, ...] | None = None
    """Per photo, from segmenters that tell objects of one label apart; None from others."""


class Segmenter(nn.Module):
    """A network that labels every pixel, at any image size, keeping no state between calls.

    ``forward(image, labels)`` gives logits and losses in one pass, so that data-parallel training
    sees both; :meth:`segment` and :meth:`loss` are its two halves.

    Attributes:
        labels: names by index; 0 is "nothing": what belongs to no label.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        """Keep the label names.

        Args:
            labels: the first is "nothing", each of the others a category; no name twice.

        Raises:
            ConfigError: other labels.
        """
        super().__init__()
        names = tuple(labels) if isinstance(labels, Sequence) else ()
        strings = all(isinstance(name, str) for name in names)
        distinct = strings and len(set(names)) == len(names)
        if not (distinct and len(names) in range(2, IGNORED) and names[0] == NOTHING):
            raise ConfigError(
                [
                    f"labels are {labels!r}; allowed: a list of {NOTHING!r}, then 1 to "
                    f"{IGNORED - 2} categories, each once. Name what the label maps hold."
                ]
            )
        self.labels = names

    def forward(self, image: Tensor, labels: Tensor | None = None) -> SegmenterOutput:
        """Label every pixel, and compare with the truth where that is given.

        Args:
            image: (B, 3, H, W) float32 RGB in [0, 1].
            labels: (B, H, W) int64, indices into ``labels``; 255 is not counted.

        Raises:
            RayfillError: other shapes.
        """
        raise NotImplementedError

    def load_pretrained(self) -> None:
        """Take over published weights where the options name some; the default has none."""

    def segment(self, image: Tensor) -> Tensor:
        """Return label logits (B, K, H, W) of ``image`` (B, 3, H, W) in [0, 1]."""
        output: SegmenterOutput = self(image)
        return output.logits

    def loss(self, image: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the loss terms, whose sum is minimised; arguments as :meth:`forward`."""
        output: SegmenterOutput = self(image, labels)
        return output.losses

    def index(self, label: str) -> int:
        """Return the index of a label by its name.

        Raises:
            ConfigError: unknown label, or "nothing".
        """
        categories = self.labels[1:]
        if label not in categories:
            raise ConfigError([unknown_name("label", label, categories)])
        return self.labels.index(label)


def outside_segmenter(network: Any, name: str) -> NetworkSpec[Segmenter]:
    """Return the entry of a segmenter from outside: it takes ``labels`` and its options by keyword.

    Raises:
        ConfigError: no :class:`Segmenter`.
    """
    if not (isinstance(network, type) and issubclass(network, Segmenter)):
        raise ConfigError(
            [f"{name} is no segmenter: make it a subclass of rayfill.segmentation.Segmenter."]
        )

    def build(config: OutsideOptions, *, labels: Sequence[str]) -> Segmenter:
        return network(labels=labels, **config.values())

    config_type = options_type(network, without=("labels",))
    return NetworkSpec(network=build, options=config_type, summary=first_line(network))


def soft_mask(logits: Tensor, *, label: int) -> Tensor:
    """Return how likely every pixel is to bear ``label``: ``softmax(logits)[label]``.

    Args:
        logits: (B, K, H, W).
        label: 0 to K - 1.

    Returns:
        (B, 1, H, W) in [0, 1], differentiable.
    """
    return torch.softmax(logits, dim=1)[:, label : label + 1]


def check_segmenter_inputs(image: Tensor, labels: Tensor | None) -> None:
    """Refuse an image and label map whose shapes do not fit each other.

    Label values are not read: on a GPU that would wait for the device at every step.

    Raises:
        RayfillError: image is not (B, 3, H, W), or labels not (B, H, W) int64 of the same size.
    """
    if image.ndim != 4 or image.shape[1] != 3 or image.numel() == 0:
        raise RayfillError(
            f"image has shape {tuple(image.shape)}; a segmenter takes (B, 3, H, W), none of them "
            "0. Stack RGB images along a first axis."
        )
    expected = (image.shape[0], *image.shape[2:])
    if labels is not None and (labels.shape != expected or labels.dtype != torch.int64):
        raise RayfillError(
            f"labels are {tuple(labels.shape)} {labels.dtype}; this image needs {expected} int64. "
            "Give one label index for every pixel."
        )
