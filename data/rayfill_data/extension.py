"""Models, losses and sources from outside: named ``package.module:Name``, or registered by name.

A registered name stands for the place of its definition, and configurations keep that place: a
worker in another process imports it from there.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Callable, Collection, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from rayfill_data.errors import ConfigError, unknown_name

#: Modules, separated by commas, that what a model bundle names may be imported from.
ALLOW_MODULES = "RAYFILL_ALLOW_MODULES"

_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_NAME = re.compile(r"[a-z]\w*")
#: A name by itself: no part of a place, or of a number.
_WORD = re.compile(r"(?<![\w.:])[a-z]\w*(?![\w.:])")

#: Kind of thing -> name -> the place of its definition.
_registered: dict[str, dict[str, str]] = {}
#: Modules that something was taken from.
_used: set[str] = set()
_distrusted = ContextVar("distrusted", default=False)

T = TypeVar("T")


def register(
    kind: str,
    name: str,
    *,
    built_in: Collection[str],
    outside: Callable[[Any, str], object],
) -> Callable[[T], T]:
    """Return a decorator that gives a class or function of a module a short name.

    Args:
        kind: model, segmenter, loss term or source.
        name: lower-case letters, digits and underscores.
        built_in: the names that are taken.
        outside: refuses what cannot be used; called with the thing and the name.

    Raises:
        ConfigError: a name that cannot be used; when decorating, whatever ``outside`` refuses, or a
            definition that workers cannot import.
    """
    if name in built_in:
        raise ConfigError([f"The {kind} {name!r} is built in: register yours by another name."])
    if not _NAME.fullmatch(name):
        raise ConfigError(
            [f"The name of a {kind} is {name!r}: give it lower-case letters, digits, underscores."]
        )

    def decorator(thing: T) -> T:
        outside(thing, name)
        reference = _place(thing, kind=kind)
        known = _registered.setdefault(kind, {})
        if known.get(name, reference) != reference:
            raise ConfigError(
                [f"The {kind} {name!r} is {known[name]} already: register {reference} otherwise."]
            )
        known[name] = reference
        _used.add(reference.partition(":")[0])
        return thing

    return decorator


def registered(kind: str) -> Mapping[str, str]:
    """Return the names registered in this process, and the place of each definition."""
    return _registered.get(kind, {})


def full_name(kind: str, name: str) -> str:
    """Return what a registered name stands for; any other name as it is."""
    return registered(kind).get(name, name)


def full_names(kind: str, text: str) -> str:
    """Return a text, such as a sum of loss terms, with every registered name in full."""
    return _WORD.sub(lambda word: full_name(kind, word[0]), text)


def look_up(kind: str, name: str, table: Mapping[str, T], *, outside: Callable[[Any, str], T]) -> T:
    """Return what a table, a registration or the form ``package.module:Name`` names.

    Args:
        kind: what errors call it.
        name: any of the three.
        table: what is built in.
        outside: makes an entry of what was found in a module, and of the name that errors call it.

    Raises:
        ConfigError: unknown, naming the nearest; or a module that cannot be imported.
    """
    name = full_name(kind, name)
    if name in table:
        return table[name]
    if ":" not in name:
        raise ConfigError([unknown_name(kind, name, [*table, *registered(kind)])])
    return outside(_find(name, kind=kind), name)


def at_place(thing: Any) -> Any:
    """Return what stands at a place of ours, ``module:Name``; anything but a text as it is."""
    if not isinstance(thing, str):
        return thing
    module, _, name = thing.partition(":")
    return getattr(importlib.import_module(module), name)


@contextlib.contextmanager
def distrusting() -> Iterator[None]:
    """Within, import only modules that the operator allowed: names come from a file.

    What this process has imported already may be named too: its code has run.
    """
    token = _distrusted.set(True)
    try:
        yield
    finally:
        _distrusted.reset(token)


def allow_modules(prefixes: str) -> None:
    """Let model bundles name what lies in these modules, and below them, in this process.

    Args:
        prefixes: separated by commas, such as ``mypkg,other.nets``; none changes nothing.
    """
    if prefixes:
        os.environ[ALLOW_MODULES] = ",".join([*_allowed(), prefixes])


def outside_packages() -> list[Path]:
    """Return the folder or file of every package in use that is not installed.

    A cluster's workers need them; what is installed here, they are to have installed too.
    """
    tops = sorted({module.partition(".")[0] for module in _used})
    installed = [Path(sysconfig.get_path(key)) for key in ("purelib", "platlib", "stdlib")]
    found = []
    for top in tops:
        module = sys.modules[top]
        folders = list(getattr(module, "__path__", []))  # none where it is a single file
        place = Path(folders[0] if folders else str(module.__file__)).absolute()
        if not any(place.is_relative_to(folder) for folder in installed):
            found.append(place)
    return found


def _place(thing: Any, *, kind: str) -> str:
    module, name = str(thing.__module__), str(thing.__qualname__)
    if module == "__main__":
        raise ConfigError(
            [
                f"The {kind} {name} is defined in the script that is run, which workers cannot "
                "import: move it into a module beside the script, and import that."
            ]
        )
    if "." in name:
        raise ConfigError(
            [
                f"The {kind} {name} of {module} is defined inside something else, where workers "
                "cannot import it from: move it to the top of its module."
            ]
        )
    return f"{module}:{name}"


def _find(reference: str, *, kind: str) -> Any:
    """Import what ``package.module:Name`` names."""
    if not _REFERENCE.fullmatch(reference):
        raise ConfigError([f"The {kind} {reference!r} is not of the form package.module:Name."])
    module, _, name = reference.partition(":")
    _check_there(module, reference=reference)
    if _distrusted.get():
        _check_allowed(module, name=name, reference=reference)
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError([_missing(str(error.name), reference=reference)]) from error
    except Exception as error:
        raise ConfigError(
            [f"Importing {module} for {reference} failed: {type(error).__name__}: {error}"]
        ) from error
    if not hasattr(found, name):
        public = [word for word in vars(found) if not word.startswith("_")]
        raise ConfigError([unknown_name(f"name in {module}", name, public)])
    _used.add(module)
    return getattr(found, name)


def _check_there(module: str, *, reference: str) -> None:
    """Refuse a package that cannot be imported here, without running any of its code."""
    top = module.partition(".")[0]
    if top not in sys.modules and importlib.util.find_spec(top) is None:
        raise ConfigError([_missing(top, reference=reference)])


def _missing(module: str, *, reference: str) -> str:
    return (
        f"{reference} needs the module {module!r}, which is not there: install its package, or put "
        "the folder that holds it on PYTHONPATH."
    )


def _check_allowed(module: str, *, name: str, reference: str) -> None:
    imported = module in sys.modules and name in vars(sys.modules[module])
    if imported or any(f"{module}.".startswith(f"{prefix}.") for prefix in _allowed()):
        return
    top = module.partition(".")[0]
    raise ConfigError(
        [
            f"{reference} is code of its own, which a model bundle does not bring and may not "
            f"import unasked. If you trust the module, allow it: --allow-modules {top}, or "
            f"{ALLOW_MODULES}={top}."
        ]
    )


def _allowed() -> list[str]:
    words = os.environ.get(ALLOW_MODULES, "").split(",")
    return [word.strip() for word in words if word.strip()]
