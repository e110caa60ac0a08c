"""What the fields of options may be: declared once, on the field, and checked all at once."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from rayfill_data.errors import ConfigError, unknown_name

OptionsT = TypeVar("OptionsT")


# Not annotated-types, which pydantic obeys by itself: in its own words, and one trial at a time.
@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a number may be: ``Annotated[float, Bounds(gt=0)]``; of a pair, least and greatest."""

    gt: float = -math.inf
    ge: float = -math.inf
    le: float = math.inf
    lt: float = math.inf

    def __str__(self) -> str:
        closed = self.ge > self.gt
        if min(self.le, self.lt) == math.inf:
            return f"at least {self.ge}" if closed else f"above {self.gt}"
        least = f"[{self.ge}" if closed else f"({self.gt}"
        return f"in {least}, " + (f"{self.le}]" if self.le < self.lt else f"{self.lt})")

    def __contains__(self, value: float) -> bool:
        return self.gt < value < self.lt and self.ge <= value <= self.le

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Let pydantic take no true or "7" for a number."""
        return handler(source) | {"strict": get_origin(source) is None}


Count = Annotated[int, Bounds(ge=1)]
Whole = Annotated[int, Bounds(ge=0)]
Positive = Annotated[float, Bounds(gt=0)]
NotNegative = Annotated[float, Bounds(ge=0)]
Share = Annotated[float, Bounds(ge=0, le=1)]
Port = Annotated[int, Bounds(ge=1, le=65535)]


class Related:
    """Options of which some values must fit each other, or the names of a table."""

    def relations(self) -> Iterator[str]:
        """Yield one sentence for every value that does not fit; ranges are no part of it."""
        yield from ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checked(Related):
    """Options that are checked when they are made.

    Raises:
        ConfigError: with every value that is not allowed.
    """

    def __post_init__(self) -> None:
        check(self)


def check(options: OptionsT) -> OptionsT:
    """Return a dataclass unchanged, or raise :class:`ConfigError` with every problem at once."""
    return check_all([options])[0]


def check_all(every: Sequence[OptionsT]) -> Sequence[OptionsT]:
    """Return dataclasses unchanged, or raise :class:`ConfigError` with every problem, each once."""
    if found := dict.fromkeys(problem for options in every for problem in problems(options)):
        raise ConfigError(found)
    return every


def problems(options: Any, *, name: str = "") -> Iterator[str]:
    """Yield one sentence for every value of a dataclass, of its parts too, that is not allowed.

    Args:
        options: the dataclass.
        name: what goes before the names of its fields, with a dot.
    """
    for field, hint in field_types(options.__class__).items():
        key = f"{name}.{field}" if name else field
        value = getattr(options, field)
        if dataclasses.is_dataclass(hint):
            yield from problems(value, name=key)
        else:
            yield from value_problems(key, value, hint)
    if isinstance(options, Related):
        yield from options.relations()


def check_value(name: str, value: object, hint: Any) -> None:
    """Raise :class:`ConfigError` for a value that its annotation ``hint`` does not allow."""
    if found := tuple(value_problems(name, value, hint)):
        raise ConfigError(found)


def value_problems(name: str, value: object, hint: Any) -> Iterator[str]:
    """Yield what is wrong with a value, by its annotation ``hint``, or nothing.

    Checked are numbers, flags and :data:`typing.Literal`, each also where it may be None, and pairs
    with bounds.
    """
    kind, bounds = _parts(hint)
    if value is None and NoneType in get_args(hint):
        return
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            yield unknown_name(name, str(value), get_args(kind))
    elif wanted := _wanted(value, kind, bounds):
        yield f"{name} is {value!r}: it must be {wanted}."


def allowed(hint: Any) -> str:
    """Return in words what the bounds in an annotation allow, or '' where it has none."""
    return str(_parts(hint)[1] or "")


@functools.cache
def field_types(kind: Any) -> dict[str, Any]:
    """Return the annotations of a dataclass's fields, with what is declared of their values."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _parts(hint: Any) -> tuple[Any, Bounds | None]:
    """Return what a value may be beside None, and its bounds."""
    if get_origin(hint) in (Union, UnionType):
        members = [member for member in get_args(hint) if member is not NoneType]
        return _parts(members[0]) if len(members) == 1 else (hint, None)
    if get_origin(hint) is not Annotated:
        return hint, None
    bounds = (note for note in hint.__metadata__ if isinstance(note, Bounds))
    return hint.__origin__, next(bounds, None)


def _wanted(value: Any, kind: Any, bounds: Bounds | None) -> str:
    """Return what a value must be, or '' where it is that, or of a kind that is not checked."""
    if kind is bool:
        return "" if isinstance(value, bool) else "true or false"
    if kind in (int, float):
        if bounds and _is_number(value, kind):
            return "" if value in bounds else str(bounds)
        noun = "a whole number" if kind is int else "a finite number"
        return "" if _is_number(value, kind) else noun + (f", {bounds}" if bounds else "")
    if not bounds:
        return ""
    number = get_args(kind)[0]  # of a pair
    right = len(value) == 2 and all(_is_number(v, number) and v in bounds for v in value)
    return "" if right and value[0] <= value[1] else f"the least and the greatest, both {bounds}"


def _is_number(value: Any, kind: type) -> bool:
    if isinstance(value, float):
        return kind is float and math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)
