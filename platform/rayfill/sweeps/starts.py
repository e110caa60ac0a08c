"""Weights to start from, named in one word: found, fetched and checked before anything starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from rayfill.config.run import RunConfig
from rayfill.models import build_model
from rayfill.runs import places
from rayfill.runs.bundle import load_bundle
from rayfill.runs.folder import CONFIG_FILE, RunFolder
from rayfill.runs.folders import read_file, read_folder, write_folder
from rayfill.runs.sweep_folder import newest_sweep
from rayfill.sweeps.plan import read_plan
from rayfill.training.lineage import unlike_tensors
from rayfill_data.errors import ConfigError, RayfillError

_SWEEP, _MODELS, _RUNS = "sweep:", "models:/", "runs:/"

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
    """Return where the bundle lies that ``train.init_from`` names.

    Args:
        name: A bundle, a run's folder, ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``,
            ``runs:/ID/model``, or ``sweep:NAME``, its best by validation.
        config: Of the run, for its storage and tracking store.

    Raises:
        RayfillError: none of these.
    """
    storage = str(config.storage)
    if name.startswith(_SWEEP):
        return _best_of_sweep(name.removeprefix(_SWEEP), storage=storage)
    if name.startswith((_MODELS, _RUNS)):
        return _fetched(name, storage=storage, tracking_uri=str(config.tracking.uri))
    location = _absolute(name)
    for folder in (location, RunFolder(location).bundle):
        if read_file(f"{folder}/{CONFIG_FILE}") is not None:
            return folder
    raise RayfillError(
        f"train.init_from is {name!r}, which holds no model bundle and no run with one. Allowed: a "
        "bundle's or a run's folder, models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/model, "
        "sweep:NAME."
    )


def check_fit(config: RunConfig, bundle: str) -> None:
    """Refuse a bundle whose tensors are not those of the run's network, naming them.

    Raises:
        RayfillError: it does not fit, or is damaged.
    """
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


def _best_of_sweep(name: str, *, storage: str) -> str:
    folder = newest_sweep(name, storage=storage)
    if folder is None:
        raise RayfillError(
            f"train.init_from is 'sweep:{name}': there is no such sweep in {storage}."
        )
    plan = read_plan(folder)
    sample = plan.trials[0] if plan.trials else RunConfig()
    scores = {}
    for run in folder.runs():
        own = run.scores(sample.eval.select_metric).values()
        if own and run.bundle_config() is not None:
            scores[run.bundle] = max(own)
    if not scores:
        raise RayfillError(
            f"train.init_from is 'sweep:{name}': no run of {folder.name} was validated by "
            f"{sample.eval.select_metric}."
        )
    return max(scores, key=scores.__getitem__)


def _fetched(name: str, *, storage: str, tracking_uri: str) -> str:
    """Copy a bundle from the registry to the storage, which every node reaches."""
    from rayfill.runs.registry import fetch_bundle, fetch_run_bundle, find_model, get_version

    cache = places.home() / "cache" / "models"
    if name.startswith(_RUNS):
        run_id, _, artifact = name.removeprefix(_RUNS).strip("/").partition("/")
        local = fetch_run_bundle(
            run_id, artifact=artifact or "model", tracking_uri=tracking_uri, cache_dir=cache
        )
        label = run_id
    else:
        model, at, alias = name.removeprefix(_MODELS).partition("@")
        if at:
            found = find_model(model, alias=alias, tracking_uri=tracking_uri)
        else:
            model, _, version = model.rpartition("/")
            found = get_version(model, version=version, tracking_uri=tracking_uri)
        local = str(fetch_bundle(found, tracking_uri=tracking_uri, cache_dir=cache))
        label = f"{found.name}-{found.version}"
    target = f"{storage}/{_FETCHED}/{label}"
    write_folder(target, read_folder(local))
    return target
