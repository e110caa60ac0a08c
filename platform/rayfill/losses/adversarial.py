"""Losses of networks that another network judges, and the weights that report P2 gives them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rayfill.losses.perceptual import feature_distances, style_distances


def hinge_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return ``mean(max(0, 1 - real)) + mean(max(0, 1 + fake))``.

    Args:
        real_logits: what the discriminator says of true samples, any shape.
        fake_logits: and of generated ones, which must be detached from their generator.

    Source: Lim and Ye 2017 (arXiv:1705.02894); report P2, equation 2. Nazeri et al. halve it.
    """
    return torch.relu(1 - real_logits).mean() + torch.relu(1 + fake_logits).mean()


def hinge_generator_loss(fake_logits: Tensor) -> Tensor:
    """Return ``-mean(fake)``, for logits that the gradient flows through to the generator.

    Source: as :func:`hinge_discriminator_loss`.
    """
    return -fake_logits.mean()


def feature_matching_loss(
    real_features: Sequence[Tensor], fake_features: Sequence[Tensor]
) -> Tensor:
    """Return ``sum over layers of mean(|fake - real|)``, without gradient into the real ones.

    Args:
        real_features: a discriminator's maps of true samples, one per layer.
        fake_features: its maps of generated ones, of the same shapes.

    Source: report P2, equation 3; Nazeri et al. 2019 (arXiv:1901.00212).
    """
    return feature_distances(fake_features, _detached(real_features)).sum()


def gram_style_loss(real_features: Sequence[Tensor], fake_features: Sequence[Tensor]) -> Tensor:
    """Return ``sum over layers of mean(|G(fake) - G(real)|)``, ``G = x x^T / (C H W)`` per sample.

    The mean over the C^2 entries and the scale of G are those of Nazeri et al., for whom the weight
    250 was found; the report prints neither.

    Args:
        real_features: maps (B, C, H, W) of true pictures, one per layer: a discriminator's, as the
            report says, or a :class:`rayfill.losses.perceptual.FeatureExtractor`'s, as Nazeri et
            al. do it. No gradient flows into them.
        fake_features: those of generated ones, of the same shapes.

    Source: report P2, equation 6; Nazeri et al. 2019 (arXiv:1901.00212).
    """
    return style_distances(fake_features, _detached(real_features)).sum()


def hole_normalised_l1_loss(prediction: Tensor, target: Tensor, hole_mask: Tensor) -> Tensor:
    """Return ``sum(H * |prediction - target|) / N``, ``N`` the number of values in the hole.

    The mean over the hole's values in the whole batch, 0 where there is no hole. The report divides
    by pixels; over values, as all our losses count, it is a third of that.

    Args:
        prediction: (B, 3, H, W).
        target: (B, 3, H, W) in [0, 1], the picture without the object.
        hole_mask: (B, 1, H, W), 1 = hole.

    Source: report P2, equation 7.
    """
    hole = hole_mask > 0.5
    error = torch.where(hole, (prediction - target).abs(), 0.0).sum()
    return error / (prediction.shape[1] * hole.sum()).clamp_min(1)


def _detached(features: Sequence[Tensor]) -> list[Tensor]:
    return [feature.detach() for feature in features]
