"""Every loss term by name, and sums of them as text; it imports no term, and no torch."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from rayfill_data.errors import ConfigError
from rayfill_data.extension import at_place, full_name, look_up, register

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class LossSpec:
    """A term that can be named in a loss."""

    term: str | Callable[..., nn.Module]
    """Makes the module ``(prediction, image, target, hole_mask) -> scalar``, where it looks through
    a pretrained network from that; of ours the place of that, imported when it is wanted, or of a
    function of some of the four and of ``composite``."""

    summary: str
    """One line for a list of terms."""

    needs_features: bool = False
    """Whether it looks through a pretrained network."""

    @property
    def build(self) -> Callable[..., nn.Module]:
        """Return what makes the module."""
        made: Callable[..., Any] = at_place(self.term)
        if isinstance(self.term, str) and not isinstance(made, type):
            from rayfill.losses.function import FunctionLoss

            return functools.partial(FunctionLoss, made)
        return made


LOSSES: dict[str, LossSpec] = {
    "mse": LossSpec(term="rayfill.losses.pixel:mse_loss", summary="mean squared error, all pixels"),
    "l1": LossSpec(term="rayfill.losses.pixel:l1_loss", summary="mean absolute error, all pixels"),
    "hole_valid_l1": LossSpec(
        term="rayfill.losses.pixel:hole_valid_l1_loss",
        summary="absolute error, hole pixels 6 times as heavy as known ones",
    ),
    "valid_l1": LossSpec(
        term="rayfill.losses.pixel:valid_l1_loss",
        summary="absolute error of known pixels, over all pixels",
    ),
    "hole_l1": LossSpec(
        term="rayfill.losses.pixel:hole_l1_loss",
        summary="absolute error in the hole, over all pixels",
    ),
    "log_mse": LossSpec(
        term="rayfill.losses.pixel:log_mse_loss",
        summary="logarithm of each sample's squared error in its hole",
    ),
    "perceptual": LossSpec(
        term="rayfill.losses.perceptual:PerceptualLoss",
        summary="distance between ImageNet features of prediction and target",
        needs_features=True,
    ),
    "liu_perceptual": LossSpec(
        term="rayfill.losses.perceptual:LiuPerceptualLoss",
        summary="the same of prediction and of composite, summed over layers",
        needs_features=True,
    ),
    "style": LossSpec(
        term="rayfill.losses.perceptual:StyleLoss",
        summary="distance between Gram matrices of those features, prediction and composite",
        needs_features=True,
    ),
    "tv": LossSpec(
        term="rayfill.losses.structure:tv_loss",
        summary="total variation of the composite in and at the hole",
    ),
    "ssim": LossSpec(
        term="rayfill.losses.structure:ssim_loss", summary="1 - structural similarity"
    ),
    "hole_mean_l1": LossSpec(
        term="rayfill.losses.adversarial:hole_normalised_l1_loss",
        summary="absolute error in the hole, over hole pixels",
    ),
}


@dataclass(frozen=True, kw_only=True)
class P2Weights:
    """Weights of the terms of report P2 (Shimosato and Ukita, TTI), by its equations.

    What goes through ImageNet features instead of a discriminator's has the weights that Nazeri et
    al. 2019 (arXiv:1901.00212) give it: 0.1 perceptual, 250 style, as here.
    """

    edge_gan: float = 1.0
    """Equation 1: hinge term of the edge inpainter."""

    edge_features: float = 10.0
    """Equation 1: feature matching of the edge inpainter."""

    label_gan: float = 0.1
    """Equation 4: hinge term of the segmentation inpainter."""

    label_cross_entropy: float = 1.0
    """Equation 4: cross entropy of the segmentation inpainter."""

    image_gan: float = 0.1
    """Equation 5: hinge term of the image inpainter."""

    image_features: float = 0.1
    """Equation 5: feature matching of the image inpainter."""

    image_style: float = 250.0
    """Equation 5: style of the image inpainter."""

    image_reconstruction: float = 1.0
    """Equation 5: absolute error of the image inpainter in the hole."""

    mask_expansion: float = 1000.0
    """Equation 10: mask expansion of the segmenter, in joint training."""


#: Terms that a discriminator measures, trained against the network: 70x70 PatchGAN on composites.
ADVERSARIAL: dict[str, str] = {
    "gan": "hinge loss of what the discriminator says of the composite",
    "feature_matching": "distance between its activations of composite and target",
    "gan_style": "distance between Gram matrices of those activations",
}

_P2 = P2Weights()

#: Sums that have a name of their own: weights by the names of :data:`LOSSES` and
#: :data:`ADVERSARIAL`. liu: Liu et al. 2018 (arXiv:1804.07723), equation 7, who look through vgg16.
#: p2: report P2, equation 5.
SUMS: dict[str, dict[str, float]] = {
    "liu": {"valid_l1": 1.0, "hole_l1": 6.0, "liu_perceptual": 0.05, "style": 120.0, "tv": 0.1},
    "p2": {
        "hole_mean_l1": _P2.image_reconstruction,
        "gan": _P2.image_gan,
        "feature_matching": _P2.image_features,
        "gan_style": _P2.image_style,
    },
}


LossT = TypeVar("LossT", bound=Callable[..., Any])


def register_loss(name: str, /) -> Callable[[LossT], LossT]:
    """Return a decorator that registers a loss term of one's own under a short name.

    It is a callable (prediction, target, hole_mask) -> scalar, or a class of ``nn.Module`` whose
    ``forward`` is one; see docs/extending.md.

    Raises:
        ConfigError: a name or a callable that cannot be used.
    """
    built_in = [*LOSSES, *ADVERSARIAL, *SUMS]
    return register("loss term", name, built_in=built_in, outside=_outside_loss)


def loss_spec(name: str, /) -> LossSpec:
    """Return a term that is not adversarial.

    Args:
        name: a key of :data:`LOSSES`, a registered name, or ``package.module:Name``.

    Raises:
        ConfigError: unknown term, or one that cannot be imported.
    """
    return look_up("loss term", name, LOSSES, outside=_outside_loss)


def _outside_loss(thing: Any, name: str) -> LossSpec:
    from rayfill.losses.outside import outside_term

    about = (getattr(thing, "__doc__", None) or "").strip().partition("\n")[0]
    return LossSpec(term=outside_term(thing, name), summary=about)


def parse_loss(text: str) -> dict[str, float]:
    """Turn ``"l1+0.05*perceptual"`` into weights by term; a term without a weight counts 1.

    A name of :data:`SUMS` stands for all its terms, multiplied by its weight. A term of
    one's own is ``package.module:Name`` or a registered name.

    Raises:
        ConfigError: unknown or repeated terms, or weights that are not finite and above 0; all of
            them at once.

    >>> parse_loss("l1 + 0.05*perceptual")
    {'l1': 1.0, 'perceptual': 0.05}
    """
    weights: dict[str, float] = {}
    problems: list[str] = []
    for part in text.split("+"):
        before, star, after = part.partition("*")
        name = (after if star else before).strip()
        try:
            weight = float(before) if star else 1.0
        except ValueError:
            weight = math.nan
        name = full_name("loss term", name)
        try:
            look_up("loss term", name, {**LOSSES, **ADVERSARIAL, **SUMS}, outside=_outside_loss)
        except ConfigError as error:
            problems += error.problems
            continue
        if not (math.isfinite(weight) and weight > 0):
            problems.append(
                f"Weight {before.strip()!r} of loss term {name!r}; allowed: a number above 0, "
                "as in 'l1+0.05*perceptual'."
            )
            continue
        for term, factor in SUMS.get(name, {name: 1.0}).items():
            if term in weights:
                problems.append(
                    f"Loss term {term!r} appears twice in {text!r}. Name each term once."
                )
            weights[term] = weight * factor
    if problems:
        raise ConfigError(problems)
    return weights
