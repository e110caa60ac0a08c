"""Every range that a field of any options declares is kept, from just inside to just outside."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from rayfill_data.checks import Bounds, field_types, problems
from rayfill_data.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"rayfill": "platform", "rayfill_data": "data", "rayfill_serving": "serving"}

#: Also classes that only inherit ranges: the tables import them no sooner than they are asked for.
_MAY_DECLARE = re.compile(r"rayfill_data\.checks import|class \w+(Options|Config|Args)\b")


def declared() -> Iterator[tuple[Any, str, Any, Bounds]]:
    """Yield every field with a range, of every dataclass: class, name, what is bounded, bounds."""
    for package, root in PACKAGES.items():
        for file in (ROOT / root / package).rglob("*.py"):
            if _MAY_DECLARE.search(file.read_text()):
                module = file.relative_to(ROOT / root).with_suffix("")
                importlib.import_module(".".join(module.parts))
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] in PACKAGES]
    named = (value for module in modules for value in vars(module).values())
    for kind in {value for value in named if isinstance(value, type)}:
        with contextlib.suppress(NameError, TypeError):  # no dataclass, or types for mypy only
            for field, hint in field_types(kind).items():
                if found := bounds_of(hint):
                    yield kind, field, *found


def bounds_of(hint: Any) -> tuple[Any, Bounds] | None:
    for note in getattr(hint, "__metadata__", ()):
        if isinstance(note, Bounds):
            return hint.__origin__, note
    return next(filter(None, map(bounds_of, get_args(hint))), None)


def examples(kind: Any, bounds: Bounds) -> tuple[list[Any], list[Any]]:
    """Return values that are just allowed, and values that just are not."""
    if get_args(kind):  # a least and a greatest
        inside, outside = examples(get_args(kind)[0], bounds)
        low, high = min(inside), max(inside)
        wrong = [pair for value in outside for pair in ((low, value), (value, high))]
        return [(low, high), (low, low)], [*wrong, (high, low), (low,), (low, high, high)]
    inside, outside = [], [True, math.nan, math.inf, -math.inf]
    for name, inwards in (("ge", 1), ("gt", 1), ("le", -1), ("lt", -1)):
        limit = getattr(bounds, name)
        if math.isfinite(limit):
            out = -inwards if name in ("ge", "le") else inwards
            near = limit + out if kind is int else math.nextafter(limit, out * math.inf)
            inside.append(limit if name in ("ge", "le") else near)
            outside.append(near if name in ("ge", "le") else limit)
    return inside, outside + [inside[0] + 0.5] * (kind is int)


def refused(kind: Any, field: str, value: Any) -> bool:
    """Return whether a value is named; fields without a default are given anything."""
    needed = {
        other.name: "x"
        for other in dataclasses.fields(kind)
        if other.default is other.default_factory is dataclasses.MISSING
    }
    try:
        said = list(problems(kind(**{**needed, field: value})))
    except ConfigError as error:
        said = list(error.problems)
    return any(problem.startswith(f"{field} is {value!r}: it must be ") for problem in said)


def test_every_declared_range_is_kept() -> None:
    fields = list(declared())
    assert len({kind for kind, *_ in fields}) > 40
    wrong = []
    for kind, field, number, bounds in fields:
        inside, outside = examples(number, bounds)
        place = f"{kind.__name__}.{field}"
        wrong += [f"{place} refuses {value!r}" for value in inside if refused(kind, field, value)]
        wrong += [f"{place} takes {v!r}" for v in outside if not refused(kind, field, v)]
    assert not wrong
