"""Which arithmetic the machine at hand is fast at; asked at run time, never by the config."""

from __future__ import annotations

import contextlib

import torch

from rayfill.config.run import Precision


def autocast_dtype(precision: Precision, *, device: torch.device) -> torch.dtype | None:
    """Return the autocast type, or None for float32.

    bf16 on a CPU pays only with AMX tiles (0.25x the time); without them it is 1.2 to 5 times
    slower than float32, so ``auto`` asks for them.
    """
    if precision == "fp32":
        return None
    if precision == "bf16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    return torch.bfloat16 if torch.cpu._is_amx_tile_supported() else None


def autocast(
    dtype: torch.dtype | None, *, device: torch.device
) -> contextlib.AbstractContextManager[None]:
    """Return the context that forward passes run in."""
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)
