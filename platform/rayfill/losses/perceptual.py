"""The distance between what an ImageNet network sees in the prediction and in the target."""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from rayfill.pretrained import Availability, load_features, weights_available
from rayfill_data.errors import ConfigError, unknown_name

#: Network -> indices of the ``features`` layers whose outputs are compared. vgg19: relu1_1, 2_1,
#: 3_1, 4_1; squeezenet1_1: the first ReLU and the Fire modules before each pooling and at the end.
FEATURES: dict[str, tuple[int, ...]] = {
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
    """Say whether a perceptual loss on ``features`` can be built; never raises, answers in seconds.

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
        self.requires_grad_(requires_grad=False)
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


def perceptual_loss(prediction: Tensor, target: Tensor, *, extractor: FeatureExtractor) -> Tensor:
    """Return ``mean over taps of mean(|phi(prediction) - phi(target)|)``.

    Args:
        prediction: (B, 3, H, W); the gradient flows through it only.
        target: (B, 3, H, W) in [0, 1].
        extractor: phi.

    Source: Johnson et al. 2016 (arXiv:1603.08155); L1 per tap as in Liu et al. 2018
    (arXiv:1804.07723). The reports leave distance and layers open.
    """
    with torch.no_grad():
        wanted = extractor(target)
    got = extractor(prediction)
    distances = [(a - b).abs().mean() for a, b in zip(got, wanted, strict=True)]
    return torch.stack(distances).mean()


class PerceptualLoss(nn.Module):
    """:func:`perceptual_loss` on ImageNet features as a term of a composite loss."""

    def __init__(
        self,
        *,
        features: str = "vgg19",
        weights_path: str | os.PathLike[str] | None = None,
        allow_download: bool = True,
    ) -> None:
        """Load the features.

        Args:
            features: a key of :data:`FEATURES`.
            weights_path: local file with the network's weights; otherwise torchvision's own.
            allow_download: whether torchvision may download what is not in torch's cache.

        Raises:
            ConfigError: unknown features.
            RayfillError: weights that cannot be had; never random ones instead.
        """
        super().__init__()
        if features not in FEATURES:
            raise ConfigError([unknown_name("features", features, FEATURES)])
        network = load_features(features, weights_path=weights_path, allow_download=allow_download)
        self.extractor = FeatureExtractor(network, taps=FEATURES[features])

    def forward(
        self, prediction: Tensor, image: Tensor, target: Tensor, hole_mask: Tensor
    ) -> Tensor:
        """Return the loss, a scalar."""
        return perceptual_loss(prediction, target, extractor=self.extractor)
