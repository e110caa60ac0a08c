"""Every loss term by name, and weighted sums of them."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rayfill.losses.adversarial import HoleMeanL1Loss, P2Weights, hole_normalised_l1_loss
from rayfill.losses.outside import outside_term
from rayfill.losses.perceptual import (
    FEATURES,
    FeatureExtractor,
    FeatureTerm,
    FeatureViews,
    LiuPerceptualLoss,
    PerceptualLoss,
    StyleLoss,
    feature_weights_available,
    load_extractor,
)
from rayfill.losses.pixel import (
    HoleL1Loss,
    HoleValidL1Loss,
    L1Loss,
    LogMSELoss,
    MSELoss,
    ValidL1Loss,
    hole_l1_loss,
    hole_valid_l1_loss,
    l1_loss,
    log_mse_loss,
    mse_loss,
    valid_l1_loss,
)
from rayfill.losses.structure import SSIMLoss, TVLoss, ssim_loss, tv_loss
from rayfill.models.pretrained import Availability
from rayfill_data.errors import ConfigError
from rayfill_data.extension import full_name, look_up, register

__all__ = [
    "ADVERSARIAL",
    "FEATURES",
    "LOSSES",
    "SUMS",
    "Availability",
    "CompositeLoss",
    "LossOptions",
    "LossResult",
    "LossSpec",
    "build_loss",
    "feature_weights_available",
    "hole_l1_loss",
    "hole_normalised_l1_loss",
    "hole_valid_l1_loss",
    "l1_loss",
    "log_mse_loss",
    "loss_spec",
    "mse_loss",
    "parse_loss",
    "register_loss",
    "ssim_loss",
    "tv_loss",
    "valid_l1_loss",
]


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """What terms that look through a pretrained network need to know."""

    features: str = "vgg19"
    """A key of :data:`FEATURES`."""

    weights_path: str | os.PathLike[str] | None = None
    """Local file with that network's ImageNet weights; otherwise torchvision's own."""

    allow_download: bool = True
    """Whether torchvision may download weights that are not in torch's cache."""

    @functools.cached_property
    def extractor(self) -> FeatureExtractor:
        """The one network of all terms that look through it, loaded when the first asks."""
        return load_extractor(
            self.features, weights_path=self.weights_path, allow_download=self.allow_download
        )


@dataclass(frozen=True, kw_only=True)
class LossSpec:
    """A term that can be named in a loss."""

    build: Callable[[LossOptions], nn.Module]
    """Makes the module ``(prediction, image, target, hole_mask) -> scalar``."""

    summary: str
    """One line for a list of terms."""

    needs_features: bool = False
    """Whether it looks through a pretrained network."""


LOSSES: dict[str, LossSpec] = {
    "mse": LossSpec(build=lambda _: MSELoss(), summary="mean squared error, all pixels"),
    "l1": LossSpec(build=lambda _: L1Loss(), summary="mean absolute error, all pixels"),
    "hole_valid_l1": LossSpec(
        build=lambda _: HoleValidL1Loss(),
        summary="absolute error, hole pixels 6 times as heavy as known ones",
    ),
    "valid_l1": LossSpec(
        build=lambda _: ValidL1Loss(), summary="absolute error of known pixels, over all pixels"
    ),
    "hole_l1": LossSpec(
        build=lambda _: HoleL1Loss(), summary="absolute error in the hole, over all pixels"
    ),
    "log_mse": LossSpec(
        build=lambda _: LogMSELoss(),
        summary="logarithm of each sample's squared error in its hole",
    ),
    "perceptual": LossSpec(
        build=lambda options: PerceptualLoss(options.extractor),
        summary="distance between ImageNet features of prediction and target",
        needs_features=True,
    ),
    "liu_perceptual": LossSpec(
        build=lambda options: LiuPerceptualLoss(options.extractor),
        summary="the same of prediction and of composite, summed over layers",
        needs_features=True,
    ),
    "style": LossSpec(
        build=lambda options: StyleLoss(options.extractor),
        summary="distance between Gram matrices of those features, prediction and composite",
        needs_features=True,
    ),
    "tv": LossSpec(
        build=lambda _: TVLoss(), summary="total variation of the composite in and at the hole"
    ),
    "ssim": LossSpec(build=lambda _: SSIMLoss(), summary="1 - structural similarity"),
    "hole_mean_l1": LossSpec(
        build=lambda _: HoleMeanL1Loss(), summary="absolute error in the hole, over hole pixels"
    ),
}

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
    make = outside_term(thing, name)
    about = (getattr(thing, "__doc__", None) or "").strip().partition("\n")[0]
    return LossSpec(build=lambda _: make(), summary=about)


@dataclass(frozen=True, kw_only=True)
class LossResult:
    """The value to minimise and what it is made of."""

    total: Tensor
    """Weighted sum of the terms, a scalar."""

    terms: dict[str, Tensor]
    """Every term by name, not weighted."""


class CompositeLoss(nn.Module):
    """``total = sum of weight * term``; the terms come back beside it, not weighted."""

    def __init__(self, terms: Mapping[str, nn.Module], *, weights: Mapping[str, float]) -> None:
        """Join terms.

        Args:
            terms: modules ``(prediction, image, target, hole_mask) -> scalar`` by name.
            weights: their weights under the same names.
        """
        super().__init__()
        # The names of modules may hold no dot.
        self.terms = nn.ModuleDict({_dotless(name): term for name, term in terms.items()})
        self.weights = {name: float(weights[name]) for name in terms}

    def forward(
        self, prediction: Tensor, image: Tensor, target: Tensor, hole_mask: Tensor
    ) -> LossResult:
        """Return total and terms.

        Args:
            prediction: (B, 3, H, W), as the model gave it.
            image: (B, 3, H, W) in [0, 1], what the model saw.
            target: (B, 3, H, W) in [0, 1], the true picture.
            hole_mask: (B, 1, H, W), exactly 0 or 1, 1 = hole.
        """
        views: dict[FeatureExtractor, FeatureViews] = {}
        terms = {}
        for name in self.weights:
            term = self.terms[_dotless(name)]
            if isinstance(term, FeatureTerm):
                if term.extractor not in views:
                    views[term.extractor] = FeatureViews(
                        term.extractor,
                        prediction=prediction,
                        image=image,
                        target=target,
                        hole_mask=hole_mask,
                    )
                terms[name] = term.measure(views[term.extractor])
            else:
                terms[name] = term(prediction, image, target, hole_mask)
        weighted = [self.weights[name] * value for name, value in terms.items()]
        return LossResult(total=torch.stack(weighted).sum(), terms=terms)


def _dotless(name: str) -> str:
    return name.replace(".", "/")


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


def build_loss(
    terms: Mapping[str, float],
    *,
    features: str = "vgg19",
    weights_path: str | os.PathLike[str] | None = None,
    allow_download: bool = True,
) -> CompositeLoss:
    """Return the weighted sum of ``terms``.

    Args:
        terms: weights by name, as for :func:`loss_spec`, as :func:`parse_loss` gives them.
        features: what perceptual and style terms look through, a key of :data:`FEATURES`.
        weights_path: local file with its weights; otherwise torchvision's own.
        allow_download: whether torchvision may download what is not in torch's cache.

    Raises:
        ConfigError: no terms, or unknown ones.
        RayfillError: pretrained weights that cannot be had.
    """
    if not terms:
        raise ConfigError([f"No loss terms; allowed: {', '.join(LOSSES)}. Name one."])
    options = LossOptions(
        features=features, weights_path=weights_path, allow_download=allow_download
    )
    return CompositeLoss({name: loss_spec(name).build(options) for name in terms}, weights=terms)
