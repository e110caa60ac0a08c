"""FID: how far apart two sets of pictures lie; needs the published Inception network.

torchvision's Inception v3 is another network than the one all published values are made with: other
weights (trained anew, not the TensorFlow graph of 2015-12-05), other poolings and another input
scale. Its distances would be no FID, so none is offered under that name.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3

from rayfill.models.pretrained import Availability, read_state
from rayfill_data.errors import RayfillError

#: Length of the features: with fewer pictures their covariance is singular, the bias too large.
FID_MIN_SAMPLES = 2048

_FEATURES = 2048
_FILE = "weights-inception-2015-12-05-6726825d.pth"
_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{_FILE}"


def fid_available(*, weights_path: str | os.PathLike[str] | None = None) -> Availability:
    """Say whether :class:`FidMetric` can be built; never raises and downloads nothing.

    Looks at ``weights_path`` if given, else into torch's download cache.
    """
    if find_spec("torch_fidelity") is None:
        reason = "the package torch-fidelity, which has the published network, is not installed"
        how = (
            "Install torch-fidelity; torchvision's Inception v3 is another network and gives other "
            "values."
        )
        return Availability(ok=False, reason=reason, how_to_get=how)
    path = _weights_file(weights_path)
    if not path.is_file():
        how = f"Download {_URL} and give it as weights_path."
        return Availability(ok=False, reason=f"there is no file {path}", how_to_get=how)
    return Availability(ok=True, reason=f"local file {path}", how_to_get="")


class FidMetric(FrechetInceptionDistance):
    """Fréchet distance between Inception features of composites and targets; less is better.

    ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`` of the means and covariances of all pictures.
    ``update(composite, target)`` adds samples; ``compute()`` gives the distance. State is sums in
    float64, added up over ranks. Pictures are rounded to 8 bits and resized as the published
    values are, without antialiasing.

    Source: Heusel et al. 2017 (arXiv:1706.08500).
    """

    def __init__(
        self,
        *,
        weights_path: str | os.PathLike[str] | None = None,
        min_samples: int = FID_MIN_SAMPLES,
    ) -> None:
        """Load the network.

        Args:
            weights_path: local file with the weights published with torch-fidelity; otherwise that
                file in torch's download cache.
            min_samples: fewest pictures of which a distance is given.

        Raises:
            RayfillError: the package or the weights are missing, or the file holds others; never
                other features instead.
        """
        found = fid_available(weights_path=weights_path)
        if not found.ok:
            raise RayfillError(f"No FID: {found.reason}. {found.how_to_get}")
        super().__init__(feature=_load_inception(_weights_file(weights_path)))
        self.min_samples = min_samples

    def update(self, composite: Tensor, target: Tensor) -> None:  # type: ignore[override]
        """Add samples.

        Args:
            composite: (B, 3, H, W) in [0, 1].
            target: (B, 3, H, W) in [0, 1].
        """
        super().update(_to_8_bits(target), real=True)
        super().update(_to_8_bits(composite), real=False)

    def compute(self) -> Tensor:
        """Return the distance of all samples added so far, on all ranks, a scalar.

        Raises:
            RayfillError: fewer than ``min_samples`` pictures.
        """
        samples = int(self.real_features_num_samples)
        if samples < self.min_samples:
            raise RayfillError(
                f"FID of {samples} pictures; at least {self.min_samples} are needed for a value "
                "that means something. Measure a larger split, or leave FID out."
            )
        distance: Tensor = super().compute()
        return distance


def _weights_file(weights_path: str | os.PathLike[str] | None) -> Path:
    if weights_path is not None:
        return Path(weights_path)
    return Path(torch.hub.get_dir()) / "checkpoints" / _FILE


def _load_inception(path: Path) -> nn.Module:
    read_state(path)  # torch-fidelity would run what a pickle asks for; this refuses such a file
    try:
        network = NoTrainInceptionV3(
            name="inception-v3-compat",
            features_list=[str(_FEATURES)],
            feature_extractor_weights_path=str(path),
            antialias=False,
        )
    except RuntimeError as error:
        raise RayfillError(
            f"{path}: not the weights of FID's Inception network. Give {_FILE} as it was published."
        ) from error
    network.num_features = _FEATURES
    network.requires_grad_(requires_grad=False)
    return network


def _to_8_bits(image: Tensor) -> Tensor:
    return image.clamp(0, 1).mul(255).round().to(torch.uint8)
