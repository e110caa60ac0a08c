"""What a server can be told, from Python, the command line or ``serve run … key=value``."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

from rayfill.config.sections import Finish
from rayfill.runs.places import tracking_uri as default_tracking_uri
from rayfill.runs.references import (
    Reference,
    find_sweep,
    locate,
    name_problems,
    parse_reference,
)
from rayfill.runs.registry import CHAMPION, DEFAULT_MODEL_NAME
from rayfill_data.checks import Checked, Count, NotNegative, Positive, Whole, value_problems
from rayfill_data.errors import ConfigError, RayfillError, unknown_name
from rayfill_data.extension import ALLOW_MODULES

_UNTRAINED_AND_CHAMPION = f"exemplar,telea,{DEFAULT_MODEL_NAME}@{CHAMPION}"
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServingOptions(Checked):
    """Everything the server needs to know; plain data, so that it travels to Ray workers."""

    models: str = ""
    """What to serve, separated by commas; the first answers by default. Empty is exemplar and
    telea, which need no training, and the champion as soon as there is one. NAME@ALIAS of the model
    registry, models:/NAME/VERSION, runs:/ID of MLflow, a baseline such as telea, the folder or URI
    of a model bundle, a training run or a sweep, or sweep:NAME; LABEL=VALUE says under which name.
    When an alias moves or a bundle is replaced, the server changes over without a restart."""
    finish: Finish = "auto"
    """What is done to models' answers: patches of the photo on top (exemplar), nothing (none), or
    what the model's bundle says was better, and patches where its answer is scaled up (auto)."""
    tracking_uri: str = ""
    """MLflow store that holds registry and runs; empty means the store that training uses."""
    cache_dir: str = ""
    """Folder for downloaded models; empty means ~/.cache/rayfill."""
    replicas: Count = 1
    """Copies of the model; with two or more, one may die without a request failing."""
    cpus: NotNegative = 1.0
    """Ray CPUs reserved by each copy."""
    gpus: NotNegative = 0.0
    """Ray GPUs reserved by each copy; above 0 the model runs on CUDA."""
    threads: Count = 2
    """Requests one copy works on at the same time."""
    waiting: Whole = 6
    """Requests that may wait for one copy before the server answers 503."""
    timeout_s: Positive = 60.0
    """Seconds a request may wait and run before it is answered 504."""
    upload_timeout_s: Positive = 30.0
    """Seconds a client has to send its request."""
    poll_s: Positive = 2.0
    """Seconds between two looks whether an alias has moved or a bundle was replaced."""
    max_body_mib: Positive = 20.0
    """Largest request body, in MiB."""
    max_megapixels: Positive = 16.0
    """Largest photo, in millions of pixels."""
    segment_side: int = 0
    """Longest side, in pixels, at which a segmenter looks at a photo; larger ones are scaled down
    for it. 0 is the side it was trained on, or 512 where its model does not say."""
    allowed_hosts: str = ",".join(LOOPBACK_HOSTS)
    """Host names that requests may be addressed to, separated by commas; `*` allows any."""

    allow_modules: str = ""
    """Modules, separated by commas, that a model's own network may be imported from; also the
    environment variable RAYFILL_ALLOW_MODULES."""

    def relations(self) -> Iterator[str]:
        """Yield what is empty, and a side that no segmenter can do with."""
        if self.segment_side:
            # Late: it imports torch, which asking for help must not wait for.
            from rayfill.inference.clicks import MaxSide

            yield from value_problems("segment_side", self.segment_side, MaxSide)
        try:
            _ = self.references
        except ConfigError as error:
            yield from error.problems
        if not self.host_names:
            yield "allowed_hosts is empty: name at least one host, such as localhost."

    @functools.cached_property
    def references(self) -> Mapping[str, Reference]:
        """Return what ``models`` means by the name it is served under.

        It is understood once, where the options are made, and travels with them: workers have other
        folders.

        Raises:
            ConfigError: with what is wrong with every reference.
        """
        found: list[tuple[str, Reference]] = []
        problems: list[str] = []
        for value in _split(self.models or _UNTRAINED_AND_CHAMPION):
            try:
                reference = _settled(parse_reference(value))
                found.append((_served_name(reference), reference))
            except RayfillError as error:
                problems.append(str(error))
        problems += name_problems([(name, own.text) for name, own in found], noun="models")
        if not found and not problems:
            problems.append("models is empty: name at least one, such as telea.")
        if problems:
            raise ConfigError(problems)
        return dict(found)

    @property
    def awaited(self) -> frozenset[str]:
        """Return the names that need not be there when the server starts."""
        return frozenset() if self.models else frozenset({DEFAULT_MODEL_NAME})

    @property
    def host_names(self) -> tuple[str, ...]:
        """Return the names in ``allowed_hosts``, in lower case."""
        return _split(self.allowed_hosts.lower())

    @property
    def max_body_bytes(self) -> int:
        """Return the body limit in bytes."""
        return int(self.max_body_mib * 2**20)

    @property
    def max_pixels(self) -> int:
        """Return the photo limit in pixels."""
        return int(self.max_megapixels * 1e6)

    @property
    def capacity(self) -> int:
        """Return how many requests the whole server holds, running and waiting."""
        return self.replicas * (self.threads + self.waiting)

    def resolved(self) -> ServingOptions:
        """Return a copy whose store and cache are absolute: workers have another directory."""
        cache = self.cache_dir or _default_cache()
        return dataclasses.replace(
            self,
            tracking_uri=default_tracking_uri(self.tracking_uri or None),
            cache_dir=str(Path(cache).expanduser().absolute()),
            allow_modules=self.allow_modules or os.environ.get(ALLOW_MODULES, ""),
        )


def parse_options(args: Mapping[str, Any]) -> ServingOptions:
    """Return options from ``key=value`` arguments.

    Args:
        args: Names and values as typed (``serve run`` gives both as strings).

    Raises:
        ConfigError: with every unknown key and every value of the wrong kind.
    """
    kinds = get_type_hints(ServingOptions)
    values: dict[str, Any] = {}
    problems: list[str] = []
    for key, text in args.items():
        if key not in kinds:
            problems.append(unknown_name("serving option", key, kinds))
            continue
        try:
            # A choice is text; which there are is checked with all else.
            values[key] = kinds[key](text) if isinstance(kinds[key], type) else text
        except ValueError:
            noun = "a whole number" if kinds[key] is int else "a number"
            problems.append(f"{key} is {text!r}, but must be {noun}: correct it.")
    if problems:
        raise ConfigError(problems)
    return ServingOptions(**values)


def _settled(reference: Reference) -> Reference:
    """Return a reference that means the same in every process."""
    if reference.kind == "sweep":
        return dataclasses.replace(reference, location=find_sweep(reference).uri)
    return reference


def _served_name(reference: Reference) -> str:
    """Return what a model is called in requests: the same for as long as it is followed."""
    if reference.kind in ("bundle", "run"):
        return reference.label or locate(reference).name
    folder = reference.location.rpartition("/")[2]
    return reference.label or reference.name or reference.run_id[:8] or folder


def _split(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rayfill"
