"""What MLflow calls to load a registered Rayfill model as a ``pyfunc``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class CompositeModel:
    """``predict({"image", "hole_mask"}) -> composite``, arrays as in the tensor contract."""

    def __init__(self, bundle: Path) -> None:
        from rayfill.runs.bundle import load_bundle

        self._model = load_bundle(bundle).model.eval()

    def predict(
        self,
        model_input: dict[str, NDArray[np.float32]],
        params: dict[str, Any] | None = None,  # noqa: ARG002  (MLflow's signature)
    ) -> NDArray[np.float32]:
        """Return the composite, ``(B, 3, H, W)`` float32 in [0, 1]."""
        import torch

        image = torch.from_numpy(np.ascontiguousarray(model_input["image"], np.float32))
        hole_mask = torch.from_numpy(np.ascontiguousarray(model_input["hole_mask"], np.float32))
        with torch.inference_mode():
            prediction = self._model(image, hole_mask).clamp(0, 1)
        composite: NDArray[np.float32] = torch.where(hole_mask > 0, prediction, image).numpy()
        return composite


def _load_pyfunc(path: str) -> CompositeModel:
    return CompositeModel(Path(path))
