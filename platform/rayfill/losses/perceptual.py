"""Distances between what an ImageNet network sees in what was filled in and in the target."""

from __future__ import annotations

import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rayfill.models.base import composite
from rayfill.models.pretrained import Availability, load_features, weights_available
from rayfill_data.errors import ConfigError, unknown_name

#: Network -> indices of the ``features`` layers whose outputs are compared. vgg16: pool1, 2, 3, as
#: Liu et al. 2018; vgg19: relu1_1, 2_1, 3_1, 4_1; squeezenet1_1: the first ReLU and the Fire
#: modules before each pooling and at the end.
FEATURES: dict[str, tuple[int, ...]] = {
    "vgg16": (4, 9, 16),
    "vgg19": (1, 6, 11, 20),
    "squeezenet1_1": (1, 4, 7, 12),
}

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


def feature_weights_available(
    features: str,
    *,
    weights_path: str | os.PathLike[str] | None = None,
    allow_download: bool = True,
) -> Availability:
    """Say whether losses on ``features`` can be built; never raises, answers in seconds.

    Args:
        features: a key of :data:`FEATURES`.
        weights_path: local file with the network's weights.
        allow_download: whether a download would do.
    """
    if features not in FEATURES:
        problem = unknown_name("features", features, FEATURES)
        return Availability(ok=False, reason=problem, how_to_get="Use one of these names.")
    return weights_available(features, weights_path=weights_path, allow_download=allow_download)


class FeatureExtractor(nn.Module):
    """A frozen ImageNet network up to its last tap: (B, 3, H, W) in [0, 1] -> a map per tap."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: nn.Sequential, *, taps: tuple[int, ...]) -> None:
        """Keep the layers that the taps need.

        Args:
            features: the network's convolutional part.
            taps: ascending indices of the layers whose outputs are returned.
        """
        super().__init__()
        starts = (0, *(tap + 1 for tap in taps[:-1]))
        # A tap's output must outlive the next layer, which no in-place layer directly follows.
        self.stages = nn.ModuleList(
            features[start : tap + 1] for start, tap in zip(starts, taps, strict=True)
        )
        # Weights in this order make every map so, whatever the picture: a quarter less time.
        self.to(memory_format=torch.channels_last).requires_grad_(requires_grad=False)
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(_IMAGENET_STD).view(1, 3, 1, 1))

    def train(self, mode: bool = True) -> FeatureExtractor:
        """Stay in eval mode, whatever the loss around it is told."""
        return super().train(mode=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the outputs of the taps, finest first."""
        x = (image - self.mean) / self.std
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def load_extractor(
    features: str,
    *,
    weights_path: str | os.PathLike[str] | None = None,
    allow_download: bool = True,
) -> FeatureExtractor:
    """Return the extractor called ``features``, with ImageNet weights.

    Args:
        features: a key of :data:`FEATURES`.
        weights_path: local file with the network's weights; otherwise torchvision's own.
        allow_download: whether torchvision may download what is not in torch's cache.

    Raises:
        ConfigError: unknown features.
        RayfillError: weights that cannot be had; never random ones instead.
    """
    if features not in FEATURES:
        raise ConfigError([unknown_name("features", features, FEATURES)])
    network = load_features(features, weights_path=weights_path, allow_download=allow_download)
    return FeatureExtractor(network, taps=FEATURES[features])


class FeatureViews:
    """What an extractor sees in a batch: each picture looked at once, however many terms ask."""

    def __init__(
        self,
        extractor: FeatureExtractor,
        *,
        prediction: Tensor,
        image: Tensor,
        target: Tensor,
        hole_mask: Tensor,
    ) -> None:
        """Keep the batch; the arguments are those of a loss term."""
        self._extractor = extractor
        self._prediction = prediction
        self._image = image
        self._target = target
        self._hole_mask = hole_mask

    @functools.cached_property
    def target(self) -> list[Tensor]:
        """Maps of the target, through which no gradient flows."""
        with torch.no_grad():
            maps: list[Tensor] = self._extractor(self._target)
        return maps

    @functools.cached_property
    def prediction(self) -> list[Tensor]:
        """Maps of the prediction."""
        maps: list[Tensor] = self._extractor(self._prediction)
        return maps

    @functools.cached_property
    def composite(self) -> list[Tensor]:
        """Maps of the composite."""
        filled = composite(self._prediction, self._image, self._hole_mask)
        maps: list[Tensor] = self._extractor(filled)
        return maps


def feature_distances(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Return ``mean(|a - b|)`` per tap, (taps,).

    Args:
        got: a map (B, C, H, W) per tap.
        wanted: as many of the same shapes.
    """
    return torch.stack([(a - b).abs().mean() for a, b in zip(got, wanted, strict=True)])


def gram_matrices(maps: Tensor) -> Tensor:
    """Return ``G[c, d] = sum over pixels of x[c] x[d] / (C H W)`` per sample, (B, C, C).

    Args:
        maps: (B, C, H, W).
    """
    # Channels last, as the extractor gives them: no copy, neither here nor of the gradient.
    flat = maps.permute(0, 2, 3, 1).flatten(1, 2)
    return flat.transpose(1, 2) @ flat / (flat.shape[1] * flat.shape[2])


def style_distances(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Return ``sum(|G(a) - G(b)|) / C^2`` per tap, the mean over samples, (taps,).

    Arguments as :func:`feature_distances`; ``G`` is :func:`gram_matrices`.
    """
    pairs = zip(got, wanted, strict=True)
    return torch.stack([(gram_matrices(a) - gram_matrices(b)).abs().mean() for a, b in pairs])


class FeatureTerm(nn.Module, ABC):
    """A term of a composite loss that looks through an ImageNet network."""

    def __init__(self, extractor: FeatureExtractor) -> None:
        """Keep the extractor, which several terms may share."""
        super().__init__()
        self.extractor = extractor

    @abstractmethod
    def measure(self, views: FeatureViews) -> Tensor:
        """Return the loss of a batch that other terms may look at too, a scalar."""

    def forward(
        self, prediction: Tensor, image: Tensor, target: Tensor, hole_mask: Tensor
    ) -> Tensor:
        """Return the loss, a scalar."""
        views = FeatureViews(
            self.extractor, prediction=prediction, image=image, target=target, hole_mask=hole_mask
        )
        return self.measure(views)


class PerceptualLoss(FeatureTerm):
    """Mean over taps of :func:`feature_distances` between prediction and target.

    Source: Johnson et al. 2016 (arXiv:1603.08155); L1 per tap as in Liu et al. 2018
    (arXiv:1804.07723). The reports leave distance and layers open.
    """

    def measure(self, views: FeatureViews) -> Tensor:
        """Return the loss, a scalar."""
        return feature_distances(views.prediction, views.target).mean()


class LiuPerceptualLoss(FeatureTerm):
    """Sum over taps of :func:`feature_distances` of prediction and of composite to the target.

    Source: Liu et al. 2018 (arXiv:1804.07723), L_perceptual.
    """

    def measure(self, views: FeatureViews) -> Tensor:
        """Return the loss, a scalar."""
        of_prediction = feature_distances(views.prediction, views.target)
        return (of_prediction + feature_distances(views.composite, views.target)).sum()


class StyleLoss(FeatureTerm):
    """Sum over taps of :func:`style_distances` of prediction and of composite to the target.

    Source: Liu et al. 2018 (arXiv:1804.07723), L_style_out + L_style_comp.
    """

    def measure(self, views: FeatureViews) -> Tensor:
        """Return the loss, a scalar."""
        of_prediction = style_distances(views.prediction, views.target)
        return (of_prediction + style_distances(views.composite, views.target)).sum()
