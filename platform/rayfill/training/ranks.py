"""What data-parallel ranks have to agree on; in one process alone, nothing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, distributed, nn


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def everywhere(flag: Tensor) -> bool:
    """Return whether a scalar flag holds on every rank.

    Gradients are the same on all ranks after their reduction; losses are each rank's own. A rank
    that skipped a step alone would leave the others waiting in the next reduction.
    """
    if not _several():
        return bool(flag)
    least = flag.to(torch.int32)
    distributed.all_reduce(least, op=distributed.ReduceOp.MIN)
    return bool(least)


def share_buffers(module: nn.Module) -> None:
    """Give every rank the buffers of the first, which are those that are kept.

    Parameters are the same on all ranks; BatchNorm's statistics are of each rank's own batches.
    """
    if _several():
        for buffer in module.buffers():
            distributed.broadcast(buffer, src=0)


def mean_over_ranks(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the means over all ranks of scalars, which have the same names on each."""
    if _several() and values:
        total = torch.stack([value.double() for value in values.values()])
        distributed.all_reduce(total)
        values = dict(zip(values, total / distributed.get_world_size(), strict=True))
    return {name: float(value) for name, value in values.items()}
