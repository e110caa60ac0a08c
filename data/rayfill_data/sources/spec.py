"""What a source of samples is: it lists tasks on the driver and renders them on workers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

from rayfill_data.codec import UInt8Array
from rayfill_data.errors import ConfigError

#: irregular: drawn by the generator that the option `masks` names, afresh every epoch in training;
#: object: a pasted cut-out or a drawn mark, frozen; given: the mask that came with the photo,
#: frozen.
HoleKind = Literal["irregular", "object", "given"]


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
    """Photos or objects of the same split to cut from, to be tried in this order."""
    mask_path: str = ""
    """Where the source finds the hole mask, if it is one of a folder."""
    target_path: str = ""
    """Where the source finds the true picture, if it is a file of its own."""
    annotation: str = ""
    """What the source knows of the photo, as it writes it down."""


@dataclass(frozen=True)
class Sample:
    """A rendered sample."""

    image: UInt8Array
    """(H, W, 3) uint8."""
    target: UInt8Array | None
    """(H, W, 3) uint8, None where it equals the image."""
    hole_mask: UInt8Array | None
    """(H, W) uint8 in {0, 255}, None where training draws one afresh."""
    labels: UInt8Array | None = None
    """(H, W) uint8, what the image shows: an index into the plan's labels, or 255."""
    target_labels: UInt8Array | None = None
    """(H, W) uint8, what the target shows; None where it equals `labels`."""


@dataclass(frozen=True, kw_only=True)
class SourcePlan:
    """Everything a source will make."""

    tasks: tuple[Task, ...]
    inputs_hash: str
    """Changes when what the source reads changes."""
    size: int | None
    """Side of every sample in pixels; None where samples keep their own sizes."""
    max_rejected: float
    """Share of the tasks that may fail, in [0, 1]."""
    notes: tuple[str, ...] = ()
    """What the user should know about the inputs, one sentence each."""
    rejected: tuple[tuple[str, str], ...] = ()
    """(what, why) of inputs left out already; the source itself holds them against its limit."""
    labels: tuple[str, ...] = ()
    """Names of the values of label maps, the first for everything without a name of its own."""


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """A source: its options, and what it does with them."""

    options_type: type[Any]
    plan: Callable[[Any, int], SourcePlan]
    """(options, seed) -> plan; cheap, on the driver."""
    render: Callable[[Task, Any, int], Sample]
    """(task, options, seed) -> sample; on a worker. Raises RayfillError or OSError to reject."""
    summary: str
    needs: str = ""
    """Where the data come from and what they must look like; shown by --help."""
    locations: tuple[str, ...] = ("root", "mask_folder")
    """Options that hold a path or URI, so that workers in another folder can find it."""


def is_object(index: int, share: float) -> bool:
    """Tell whether sample `index` gets an object, so that any run of samples holds that share."""
    return int((index + 1) * share) > int(index * share)


def outside_source(thing: Any, name: str) -> SourceSpec:
    """Return the entry of a source from outside; errors call it ``name``.

    Args:
        thing: a :class:`SourceSpec`; or a frozen dataclass of options whose methods
            ``plan(seed)`` and ``render(task, seed)`` do what those of a spec do, and whose class
            attribute ``locations``, if there is one, is that of a spec.
        name: what it is called.

    Raises:
        ConfigError: something else.
    """
    if isinstance(thing, SourceSpec):
        return thing
    lacks = [method for method in ("plan", "render") if not hasattr(thing, method)]
    if not (isinstance(thing, type) and is_dataclass(thing)) or lacks:
        raise ConfigError(
            [
                f"{name} is no source: make it a SourceSpec, or a frozen dataclass of options with "
                "the methods plan(seed) and render(task, seed)."
            ]
        )
    summary, _, needs = inspect.cleandoc(thing.__doc__ or "").partition("\n")
    locations = getattr(thing, "locations", ("root", "mask_folder"))
    known = {field.name for field in fields(thing)}
    return SourceSpec(
        options_type=thing,
        plan=thing.plan,  # type: ignore[attr-defined]
        render=_render,
        summary=summary,
        needs=needs.strip(),
        locations=tuple(key for key in locations if key in known),
    )


def _render(task: Task, options: Any, seed: int) -> Sample:
    sample: Sample = options.render(task, seed)
    return sample
