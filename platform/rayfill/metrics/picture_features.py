"""What pixels look like, to compare parts of a picture: by simple filters, or by a network."""

from __future__ import annotations

import os

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rayfill.models.pretrained import load_features

Floats = NDArray[np.float32]

#: Gaussians between which the bands of grey lie; energies are averaged over the same.
_SIGMAS_PX = (1.0, 2.0, 4.0)
_COLOUR_SIGMA_PX = 2.0
#: What brings logarithms of energy and CIELAB to like weight, tuned by agreement with LPIPS.
_ENERGY_WEIGHT, _COLOUR_WEIGHT = 0.7, 0.1
#: Energy of less than a level of 255, which nobody sees, in all bands.
_ENERGY_FLOOR = 1e-5

#: Layers of SqueezeNet whose answers are compared: of 1/2 and 1/4 of the resolution.
_SQUEEZENET_LAYERS = (1, 4)
#: Fewer pixels would leave the network's answers coarser than what is compared.
_SQUEEZENET_MIN_PX = 256
#: What networks of ImageNet expect of pictures in [0, 1].
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


def texture_and_colour(picture: Floats) -> Floats:
    """Return what a pixel and its neighbourhood look like, (H, W, 3) in [0, 1] -> (H, W, 6).

    0.7 times the logarithm of the local energy in three band-passes of grey (between Gaussians of
    0, 1, 2 and 4 px, averaged over 1, 2 and 4 px), and CIELAB blurred by 2 px, over 10.
    """
    channels = []
    finer = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    grey = finer
    for sigma in _SIGMAS_PX:
        coarser = _blurred(grey, sigma)
        energy = _blurred((finer - coarser) ** 2, sigma)
        channels.append(_ENERGY_WEIGHT * np.log(energy + _ENERGY_FLOOR))
        finer = coarser
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)
    colour = _COLOUR_WEIGHT * _blurred(lab, _COLOUR_SIGMA_PX)
    return np.concatenate([np.stack(channels, axis=-1), colour], axis=-1).astype(np.float32)


class SqueezeNetFeatures:
    """What SqueezeNet 1.1, trained on ImageNet, sees at every point: (H, W, 3) -> (h, w, 192).

    Its answers after the first convolution and after the second fire module, each of length 1,
    where the finer is averaged to the coarser's resolution of a quarter.
    """

    def __init__(
        self,
        *,
        weights_path: str | os.PathLike[str] | None = None,
        allow_download: bool = True,
    ) -> None:
        """Load the network.

        Args:
            weights_path: local state dict of torchvision's squeezenet1_1, or of its features.
            allow_download: whether torchvision may download what is not in torch's cache.

        Raises:
            RayfillError: weights that cannot be had; never random ones instead.
        """
        network = load_features(
            "squeezenet1_1", weights_path=weights_path, allow_download=allow_download
        )
        self.layers = network[: max(_SQUEEZENET_LAYERS) + 1]

    def __call__(self, picture: Floats) -> Floats:
        """Return the features of a picture, (H, W, 3) in [0, 1]."""
        if (side := max(picture.shape[:2])) < _SQUEEZENET_MIN_PX:
            scale = _SQUEEZENET_MIN_PX / side
            picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        scaled = np.ascontiguousarray(((picture - IMAGENET_MEAN) / IMAGENET_STD).transpose(2, 0, 1))
        answer, found = torch.from_numpy(scaled)[None], list[Tensor]()
        with torch.no_grad():
            for index, layer in enumerate(self.layers):
                answer = layer(answer)
                if index in _SQUEEZENET_LAYERS:
                    found.append(nn.functional.normalize(answer, dim=1))
            size = (found[-1].shape[-2], found[-1].shape[-1])
            maps = [nn.functional.adaptive_avg_pool2d(one, size) for one in found]
        joined: Floats = torch.cat(maps, dim=1)[0].permute(1, 2, 0).contiguous().numpy()
        return joined


def _blurred(planes: Floats, sigma: float) -> Floats:
    blurred: Floats = cv2.GaussianBlur(planes, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return blurred
