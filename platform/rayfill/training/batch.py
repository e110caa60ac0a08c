"""A batch on the training device."""

from __future__ import annotations

import dataclasses

from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorBatch:
    """A batch on the training device; the tensor contract of ``rayfill_data.batches.Batch``."""

    image: Tensor  # (B, 3, H, W), [0, 1]
    target: Tensor  # (B, 3, H, W), [0, 1]
    hole_mask: Tensor  # (B, 1, H, W), 0 or 1
    sample_id: tuple[str, ...]
    labels: Tensor | None = None  # (B, H, W) int64, of the image
    target_labels: Tensor | None = None  # (B, H, W) int64, of the target
    signed_distance: Tensor | None = None  # (B, 1, H, W), [-1, 1], of hole_mask
