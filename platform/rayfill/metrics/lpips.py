"""LPIPS: how different two pictures look to a trained network; needs its weights."""

from __future__ import annotations

import os
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rayfill.models.pretrained import (
    Availability,
    load_features,
    load_strictly,
    read_state,
    weights_available,
)
from rayfill_data.errors import ConfigError, RayfillError, unknown_name

#: LPIPS network -> the ImageNet network below it.
BACKBONES = {"squeeze": "squeezenet1_1", "alex": "alexnet", "vgg": "vgg16"}

_INSTALL = "Install the package lpips."


def lpips_available(
    network: str,
    *,
    weights_path: str | os.PathLike[str] | None = None,
    allow_download: bool = True,
) -> Availability:
    """Say whether :class:`LpipsMetric` can be built; never raises, answers within seconds."""
    if network not in BACKBONES:
        problem = unknown_name("LPIPS network", network, BACKBONES)
        return Availability(ok=False, reason=problem, how_to_get="Use one of these names.")
    if find_spec("lpips") is None:
        return Availability(
            ok=False, reason="the package lpips is not installed", how_to_get=_INSTALL
        )
    return weights_available(
        BACKBONES[network], weights_path=weights_path, allow_download=allow_download
    )


class LpipsMetric(nn.Module):
    """Learned perceptual distance, version 0.1: 0 for equal pictures, more is worse.

    Source: Zhang et al. 2018 (arXiv:1801.03924); the authors' package ``lpips`` computes it.
    """

    def __init__(
        self,
        network: str = "squeeze",
        *,
        weights_path: str | os.PathLike[str] | None = None,
        allow_download: bool = True,
    ) -> None:
        """Load the network.

        Args:
            network: ``squeeze``, ``alex`` or ``vgg``; their values are not comparable.
            weights_path: local file with the complete state of ``lpips.LPIPS(net=network)``;
                otherwise torchvision's ImageNet weights and the linear layers of the package.
            allow_download: whether torchvision may download what is not in torch's cache.

        Raises:
            ConfigError: unknown network.
            RayfillError: the package or weights cannot be had; never random ones instead.
        """
        super().__init__()
        if network not in BACKBONES:
            raise ConfigError([unknown_name("LPIPS network", network, BACKBONES)])
        found = lpips_available(network, weights_path=weights_path, allow_download=allow_download)
        if not found.ok:
            raise RayfillError(f"No LPIPS with {network}: {found.reason}. {found.how_to_get}")
        self.network = network
        self.distance = _empty_network(network)
        if weights_path is not None:
            state = read_state(weights_path)
        else:
            state = _assembled_state(self.distance, network, allow_download=allow_download)
        load_strictly(self.distance, state, where=str(weights_path or f"LPIPS {network}"))
        self.requires_grad_(requires_grad=False).eval()

    def train(self, mode: bool = True) -> LpipsMetric:
        """Stay in eval mode, whatever the module around it is told: dropout would be noise."""
        return super().train(mode=False)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the distance per sample, (B,).

        Args:
            prediction: (B, 3, H, W) in [0, 1].
            target: (B, 3, H, W) in [0, 1].
        """
        distance: Tensor = self.distance(prediction, target, normalize=True)
        return distance.flatten()


def _empty_network(network: str) -> nn.Module:
    """Build lpips.LPIPS without memory for weights, so that no random ones can slip through."""
    import lpips

    with warnings.catch_warnings(), torch.device("meta"):
        # lpips calls torchvision by the arguments of old.
        warnings.filterwarnings("ignore", message=".*'pretrained'.*", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*weight enum.*", category=UserWarning)
        built: nn.Module = lpips.LPIPS(net=network, pretrained=False, pnet_rand=True, verbose=False)
    return built


def _assembled_state(
    distance: nn.Module, network: str, *, allow_download: bool
) -> dict[str, Tensor]:
    """Join torchvision's ImageNet weights with the linear layers that come with the package."""
    import lpips

    features = load_features(BACKBONES[network], allow_download=allow_download).state_dict()
    linear = read_state(Path(lpips.__file__).parent / "weights" / "v0.1" / f"{network}.pth")
    scaling: dict[str, Any] = lpips.ScalingLayer().state_dict()
    state = {}
    for key in distance.state_dict():
        if key.startswith("net."):
            # "net.slice2.3.weight" is layer 3 of the network below.
            state[key] = features[key.split(".", 2)[2]]
        elif key.startswith("scaling_layer."):
            state[key] = scaling[key.removeprefix("scaling_layer.")]
        else:
            # The same layers appear as "lin0" and as "lins.0".
            state[key] = linear[key.replace("lins.", "lin")]
    return state
