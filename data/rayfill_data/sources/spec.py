"""What a source of samples is: it lists tasks on the driver and renders them on workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from rayfill_data.codec import UInt8Array
from rayfill_data.errors import ConfigError
from rayfill_data.masks import check_ratio_range

#: irregular: brush strokes, drawn afresh every epoch in training; object: a pasted cut-out, frozen.
HoleKind = Literal["irregular", "object"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One sample to make."""

    sample_id: str
    split: str
    source_id: str
    """The photo it comes from, whatever its views and copies; splits never share one."""
    path: str
    """Where the source finds the photo."""
    hole_kind: HoleKind
    donors: tuple[str, ...] = ()
    """Photos of the same split to cut an object from, to be tried in this order."""


@dataclass(frozen=True)
class Sample:
    """A rendered sample."""

    image: UInt8Array
    """(H, W, 3) uint8."""
    target: UInt8Array | None
    """(H, W, 3) uint8, None where it equals the image."""
    hole_mask: UInt8Array | None
    """(H, W) uint8 in {0, 255}, None where training draws one afresh."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything a source will make."""

    tasks: tuple[Task, ...]
    inputs_hash: str
    """Changes when what the source reads changes."""
    size: int
    """Side of every sample in pixels."""
    max_rejected: float
    """Share of the tasks that may fail, in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """A source: its options, and what it does with them."""

    options_type: type[Any]
    plan: Callable[[Any, int], Plan]
    """(options, seed) -> plan; cheap, on the driver."""
    render: Callable[[Task, Any, int], Sample]
    """(task, options, seed) -> sample; on a worker. Raises RayfillError or OSError to reject."""
    summary: str


def is_object(index: int, share: float) -> bool:
    """Tell whether sample `index` gets an object, so that any run of samples holds that share."""
    return int((index + 1) * share) > int(index * share)


def check_options(problems: Iterable[str], *, mask_ratio: tuple[float, float]) -> None:
    """Raise one ConfigError with all problems, those of the mask ratio range included."""
    found = list(problems)
    try:
        check_ratio_range(mask_ratio)
    except ConfigError as error:
        found += error.problems
    if found:
        raise ConfigError(found)
