"""Weights to start from, named in one word: found, fetched and checked before anything starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from rayfill.config.run import RunConfig
from rayfill.runs.folder import RunFolder
from rayfill.runs.references import MODELS, locate, parse_reference
from rayfill_data.errors import ConfigError, RayfillError
from rayfill_data.storage import read_folder, write_folder

#: Where bundles from the registry are kept for all nodes to read.
_FETCHED = ".starts"


def find_starts(
    runs: Sequence[RunConfig], *, known: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return where the bundles lie that runs start from, by what names them, each checked.

    Args:
        runs: With absolute storage and tracking locations.
        known: Where names were found when a resumed sweep was planned: an alias may have moved on.

    Raises:
        ConfigError: every name that is nothing, and every network that its bundle does not fit.
    """
    found = dict(known or {})
    problems: dict[str, None] = {}
    for run in runs:
        name, parent = run.train.init_from, run.train.continue_from
        try:
            if name and name not in found:
                found[name] = find_bundle(name, config=run)
            if name:
                check_fit(run, found[name])
            if parent and not RunFolder(_absolute(parent)).checkpoint_meta():
                raise RayfillError(
                    f"train.continue_from is {parent!r}, which has no checkpoint. Name the folder "
                    "of a run that trained."
                )
        except RayfillError as error:
            problems[str(error)] = None
    if problems:
        raise ConfigError(problems)
    return found


def with_start(run: RunConfig, found: Mapping[str, str]) -> RunConfig:
    """Return a run with the locations that :func:`find_starts` found instead of their names."""
    train = run.train
    name = train.init_from
    changed = dataclasses.replace(
        train,
        init_from=found.get(name, name) if name else None,
        continue_from=_absolute(train.continue_from) if train.continue_from else None,
    )
    return dataclasses.replace(run, train=changed)


def find_bundle(name: str, *, config: RunConfig) -> str:
    """Return where the bundle lies that ``train.init_from`` names, where every node reaches it.

    Args:
        name: A reference to anything with weights (:mod:`rayfill.runs.references`).
        config: Of the run, for its storage and tracking store.

    Raises:
        RayfillError: none of these.
    """
    storage = str(config.storage)
    named = parse_reference(name, allowed=MODELS)
    located = locate(named, tracking_uri=str(config.tracking.uri), storage=storage)
    if named.kind not in ("registered", "recorded"):
        return located.bundle
    target = f"{storage}/{_FETCHED}/{located.name}"
    write_folder(target, read_folder(located.bundle))
    return target


def check_fit(config: RunConfig, bundle: str) -> None:
    """Refuse a bundle whose tensors are not those of the run's network, naming them.

    Raises:
        RayfillError: it does not fit, or is damaged.
    """
    # Late: what names nothing is refused before torch is imported.
    import torch

    from rayfill.models import build_model
    from rayfill.runs.bundle import load_bundle
    from rayfill.training.lineage import unlike_tensors

    loaded = load_bundle(bundle)
    with torch.device("meta"):
        wanted = build_model(config.model.name, **config.model.options()).state_dict()
    if unlike := unlike_tensors(loaded.model.state_dict(), wanted):
        raise RayfillError(
            f"train.init_from: {bundle} is a {loaded.name}, and its tensors do not fit this "
            f"{config.model.name}: {unlike}. Give the model.* settings it was trained with."
        )


def _absolute(location: str) -> str:
    return location if "://" in location else str(Path(location).expanduser().absolute())
