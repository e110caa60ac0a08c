"""Saying what to do where memory ran out."""

from __future__ import annotations

from rayfill.config.run import RunConfig
from rayfill_data.errors import RayfillError

#: What torch's allocator for the CPU says, in a plain RuntimeError.
_CPU_ALLOCATOR = "can't allocate memory"


def out_of_memory(error: BaseException, *, config: RunConfig) -> RayfillError | None:
    """Return what to tell a user if an error says that memory ran out, else None.

    Args:
        error: Of torch, Python, or Ray's memory monitor, which ends the worker that takes most.
        config: The run that it ended.
    """
    # By name: importing torch takes seconds, and Ray need not be installed.
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if not (known or isinstance(error, RuntimeError) and _CPU_ALLOCATOR in str(error)):
        return None
    where = "of the GPU" if type(error).__module__ == "torch" else "of the machine"
    batch = config.train.batch_size
    return RayfillError(
        f"Run {config.name!r} ran out of the memory {where} with train.batch_size {batch}: try "
        f"{max(1, batch // 2)}, or fewer runs at a time (sweep.max_concurrent)."
    )
