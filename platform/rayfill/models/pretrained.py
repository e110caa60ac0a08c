"""Published weights of the networks that losses and metrics look through, and of segmenters.

Never random ones: a network whose weights cannot be had is refused, with how to get them.
"""

from __future__ import annotations

import http.client
import os
import pickle
import threading
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rayfill_data.errors import ConfigError, RayfillError, unknown_name

#: Networks whose convolutional part is looked through.
PRETRAINED = ("alexnet", "squeezenet1_1", "vgg16", "vgg19")

#: Network name -> where torchvision.models lists its weights.
_WEIGHTS = {
    "alexnet": "AlexNet_Weights.IMAGENET1K_V1",
    "squeezenet1_1": "SqueezeNet1_1_Weights.IMAGENET1K_V1",
    "vgg16": "VGG16_Weights.IMAGENET1K_V1",
    "vgg19": "VGG19_Weights.IMAGENET1K_V1",
    "maskrcnn_resnet50_fpn": "detection.MaskRCNN_ResNet50_FPN_Weights.COCO_V1",
}

_REACH_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class Availability:
    """Whether pretrained weights can be had, and what to do if not."""

    ok: bool
    reason: str
    """Where they are, or why they cannot be had."""

    how_to_get: str
    """What to do where they cannot; empty where they can."""


def weights_available(
    network: str,
    *,
    weights_path: str | os.PathLike[str] | None = None,
    allow_download: bool = True,
) -> Availability:
    """Say whether the published weights of ``network`` can be had; answers within seconds.

    Looks at ``weights_path`` if given, else into torch's download cache, else whether the download
    server answers within 3 s. Never raises and downloads nothing.
    """
    if network not in _WEIGHTS:
        problem = unknown_name("pretrained network", network, _WEIGHTS)
        return Availability(ok=False, reason=problem, how_to_get="Use one of these names.")
    how = (
        f"Run once with a connection to download torchvision's {network}, or give a local file "
        "with its state dict as weights_path."
    )
    if weights_path is not None:
        if Path(weights_path).is_file():
            return Availability(ok=True, reason=f"local file {weights_path}", how_to_get="")
        return Availability(ok=False, reason=f"there is no file {weights_path}", how_to_get=how)
    url = _url(network)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if cached.is_file():
        return Availability(ok=True, reason=f"in torch's cache, {cached}", how_to_get="")
    if not allow_download:
        reason = f"{cached.name} is not in torch's cache and downloading is not allowed"
        return Availability(ok=False, reason=reason, how_to_get=how)
    if _reachable(url):
        return Availability(ok=True, reason=f"to be downloaded from {url}", how_to_get="")
    reason = f"{cached.name} is not in torch's cache and {url} cannot be reached"
    return Availability(ok=False, reason=reason, how_to_get=how)


def load_features(
    network: str,
    *,
    weights_path: str | os.PathLike[str] | None = None,
    allow_download: bool = True,
) -> nn.Sequential:
    """Return the convolutional part of ``network`` with ImageNet weights, frozen, in eval mode.

    Args:
        network: one of :data:`PRETRAINED`.
        weights_path: local state dict of the whole network or of its ``features`` alone.
        allow_download: whether torchvision may download what is not in torch's cache.

    Raises:
        ConfigError: unknown network.
        RayfillError: weights that cannot be had, or a file that is not this network's.
    """
    if network not in PRETRAINED:
        raise ConfigError([unknown_name("pretrained network", network, PRETRAINED)])
    state = published_state(network, weights_path=weights_path, allow_download=allow_download)
    import torchvision

    with torch.device("meta"):
        features: nn.Sequential = getattr(torchvision.models, network)(weights=None).features
    state = {
        key.removeprefix("features."): value
        for key, value in state.items()
        if not key.startswith("classifier.")
    }
    load_strictly(features, state, where=str(weights_path or network))
    return features.requires_grad_(requires_grad=False).eval()


def published_state(
    network: str,
    *,
    weights_path: str | os.PathLike[str] | None = None,
    allow_download: bool = True,
) -> Mapping[str, Tensor]:
    """Return the published tensors of ``network`` by name; arguments as :func:`weights_available`.

    Raises:
        RayfillError: weights that cannot be had, or a file that is no state dict.
    """
    found = weights_available(network, weights_path=weights_path, allow_download=allow_download)
    if not found.ok:
        raise RayfillError(f"No weights for {network}: {found.reason}. {found.how_to_get}")
    if weights_path is not None:
        return read_state(weights_path)
    state: Mapping[str, Tensor] = _enumeration(network).get_state_dict(
        progress=False, check_hash=True
    )
    return state


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], *, where: str) -> None:
    """Give ``module`` exactly these tensors, as float32.

    Raises:
        RayfillError: tensors missing, left over or of another shape.
    """
    expected = module.state_dict()
    unlike = sorted(
        key
        for key in expected.keys() | state.keys()
        if key not in expected or key not in state or expected[key].shape != state[key].shape
    )
    if unlike:
        raise RayfillError(
            f"{where}: not the weights of this network: {len(unlike)} tensors differ, the first "
            f"is {unlike[0]!r}. Give the file that belongs to it."
        )
    module.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a file of tensors by name, executing nothing that it contains.

    Raises:
        RayfillError: a missing file, or one that holds anything else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise RayfillError(
            f"{path}: cannot be read as a PyTorch state dict. Give the file as it was published."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise RayfillError(f"{path}: does not hold tensors by name. Give a state dict.")
    return state


def _enumeration(network: str) -> Any:
    # Imported late: it takes seconds, and most losses and metrics do without.
    import torchvision

    return attrgetter(_WEIGHTS[network])(torchvision.models)


def _url(network: str) -> str:
    return str(_enumeration(network).url)


def _reachable(url: str) -> bool:
    """Ask the server for nothing but headers; also bounds name lookup, which has no timeout."""
    answers: list[bool] = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310  (torchvision's https)
        try:
            with urllib.request.urlopen(request, timeout=_REACH_TIMEOUT_S):  # noqa: S310
                answers.append(True)
        except (OSError, ValueError, http.client.HTTPException):
            answers.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_REACH_TIMEOUT_S)
    return answers == [True]
