"""A command's flags: a dataclass of them, each with its range in ``--help``."""

from __future__ import annotations

import contextvars
import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

from rayfill_data.checks import allowed

ArgsT = TypeVar("ArgsT")

_RULES = ConstructorRegistry()
_asking = contextvars.ContextVar("asking", default=False)


def parse_flags(kind: type[ArgsT], args: Sequence[str], **how: Any) -> ArgsT:
    """Return a command line as a dataclass.

    Args:
        kind: the dataclass.
        args: the command line.
        how: as :func:`tyro.cli`.
    """
    flags: ArgsT = tyro.cli(kind, args=list(args), registry=_RULES, **how)
    return flags


@_RULES.struct_rule
def _with_ranges(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Return what tyro makes of a dataclass, with the ranges of its fields."""
    if not dataclasses.is_dataclass(info.type) or _asking.get():
        return None
    token = _asking.set(True)  # for tyro's own rule, and not this one again
    try:
        spec = ConstructorRegistry.get_struct_spec(info)
    finally:
        _asking.reset(token)
    if not isinstance(spec, StructConstructorSpec):
        return None
    fields = (dataclasses.replace(field, type=_with_range(field.type)) for field in spec.fields)
    return dataclasses.replace(spec, fields=tuple(fields))


def _with_range(kind: Any) -> Any:
    if not (words := allowed(kind)):
        return kind
    hint = tyro.conf.arg(help_behavior_hint=lambda default: f"(default: {default}; {words})")
    return Annotated[kind, hint]
