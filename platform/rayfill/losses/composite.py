"""Weighted sums of loss terms."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rayfill.losses.perceptual import FeatureExtractor, FeatureTerm, FeatureViews, load_extractor
from rayfill.losses.table import LOSSES, LossSpec, loss_spec
from rayfill_data.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """What terms that look through a pretrained network need to know."""

    features: str = "vgg19"
    """A key of :data:`rayfill.losses.FEATURES`."""

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
        features: what perceptual and style terms look through, a key of :data:`.FEATURES`.
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
    made = {name: _build(loss_spec(name), options) for name in terms}
    return CompositeLoss(made, weights=terms)


def _build(spec: LossSpec, options: LossOptions) -> nn.Module:
    return spec.build(options.extractor) if spec.needs_features else spec.build()
