"""What can be measured: networks, classical baselines and finished pictures, opened by one word."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from rayfill.inference.baselines import BASELINES
from rayfill.models import InpaintingModel, JointModel
from rayfill.models.segmentation import Segmenter
from rayfill.runs import places
from rayfill.runs.bundle import (
    LoadedBundle,
    OtherKindError,
    load_bundle,
    load_segmenter_bundle,
)
from rayfill.runs.folder import CONFIG_FILE, WEIGHTS_FILE
from rayfill.runs.folders import MANIFEST
from rayfill_data.errors import ConfigError, RayfillError
from rayfill_data.sources.files import is_file, is_folder, list_pictures

SystemKind = Literal["baseline", "model", "pictures"]

_BEST = "best"
_MODELS = "models:/"
_RUNS = "runs:/"
#: What the model of a registered run is logged as.
_ARTIFACT = "model"

#: A name before "=": no path, URI or alias has such a beginning.
_NAMED = re.compile(r"(?P<name>[^=/\\:@]+)=(?P<value>.+)", re.DOTALL)

_ALLOWED = (
    "a baseline ({baselines}); a registered model (NAME@ALIAS, models:/NAME@ALIAS or "
    "models:/NAME/VERSION); an MLflow run (runs:/ID or runs:/ID/model); a folder or URI that holds "
    "a model bundle, a training run (whose best/ is taken) or finished pictures; each also as "
    "LABEL=VALUE, which says what the table calls it"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
    """Something that fills holes, or has filled them."""

    name: str
    """What tables call it."""
    kind: SystemKind
    source: str
    """Where it is from: a baseline's name, a version in the registry, a folder."""
    model: InpaintingModel | None = None
    """On the CPU, in eval mode; None for finished pictures."""
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What else is known of it: network, run id."""


def open_system(value: str, *, tracking_uri: str | None = None) -> System:
    """Return the system that a value names.

    The value is understood in this order: ``LABEL=VALUE`` (a label has no slash, colon or ``@``); a
    baseline; ``models:/...`` and ``runs:/...``; a folder or URI, which holds a model bundle, else a
    training run, else finished pictures; ``NAME@ALIAS``. A folder called like a baseline is
    ``./telea``.

    Args:
        value: As above.
        tracking_uri: MLflow store; None as for training.

    Raises:
        ConfigError: none of these, saying what is allowed.
        RayfillError: a bundle that is damaged, a run or version that is not there, a folder with
            nothing that can be measured.
    """
    named = _NAMED.fullmatch(value)
    if named:
        inner = open_system(named["value"], tracking_uri=tracking_uri)
        return dataclasses.replace(inner, name=named["name"].strip())
    if value in BASELINES:
        return System(name=value, kind="baseline", source=value, model=BASELINES[value])
    if value.startswith((_MODELS, _RUNS)):
        return _from_mlflow(value, tracking_uri=places.tracking_uri(tracking_uri))
    location = value if "://" in value else str(Path(value).expanduser())
    if is_folder(location):
        return _from_folder(location)
    if "@" in value and "/" not in value:
        return _from_mlflow(f"{_MODELS}{value}", tracking_uri=places.tracking_uri(tracking_uri))
    near = difflib.get_close_matches(value, BASELINES, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    allowed = _ALLOWED.format(baselines=", ".join(sorted(BASELINES)))
    raise ConfigError(
        [f"--model {value!r} is no folder and no other system.{hint} Allowed: {allowed}."]
    )


def open_systems(values: Sequence[str], *, tracking_uri: str | None = None) -> list[System]:
    """Return the systems that values name, each under a name of its own.

    Raises:
        ConfigError: with the problem of every value.
    """
    systems: list[System] = []
    problems: list[str] = []
    for value in values:
        try:
            systems.append(open_system(value, tracking_uri=tracking_uri))
        except ConfigError as error:
            problems += error.problems
        except RayfillError as error:
            problems.append(str(error))
    names = [system.name for system in systems]
    for name in sorted({name for name in names if names.count(name) > 1}):
        sources = ", ".join(system.source for system in systems if system.name == name)
        problems.append(
            f"{names.count(name)} systems are called {name!r} ({sources}): give each a name of its "
            "own, LABEL=VALUE."
        )
    if problems:
        raise ConfigError(problems)
    return systems


def open_segmenter(value: str, *, tracking_uri: str | None = None) -> Segmenter:
    """Return the segmenter that a value names: one by itself, or that of a joint model.

    Args:
        value: A folder or URI of a segmenter's bundle, or whatever :func:`open_system` takes for a
            joint model.
        tracking_uri: MLflow store; None as for training.

    Raises:
        ConfigError: neither of the two.
        RayfillError: as :func:`open_system`.
    """
    location = value if "://" in value else str(Path(value).expanduser())
    if is_folder(location) and _is_bundle(location):
        try:
            return load_segmenter_bundle(location).model
        except OtherKindError:
            pass  # a joint model has one
    model = open_system(value, tracking_uri=tracking_uri).model
    if not isinstance(model, JointModel):
        raise ConfigError(
            [
                f"{value!r} has no segmenter. Allowed: the bundle of a segmenter, or a joint model "
                "(model.name joint): its bundle, its run, or NAME@ALIAS."
            ]
        )
    return model.segmenter


def _from_mlflow(uri: str, *, tracking_uri: str) -> System:
    from rayfill.runs.registry import fetch_bundle, fetch_run_bundle, find_model, get_version

    cache = places.home() / "cache" / "models"
    if uri.startswith(_RUNS):
        run_id, _, artifact = uri.removeprefix(_RUNS).strip("/").partition("/")
        where = fetch_run_bundle(
            run_id, artifact=artifact or _ARTIFACT, tracking_uri=tracking_uri, cache_dir=cache
        )
        return _loaded(load_bundle(where), name=run_id[:8], source=uri)
    name, at, alias = uri.removeprefix(_MODELS).partition("@")
    if at:
        found = find_model(name, alias=alias, tracking_uri=tracking_uri)
    else:
        name, _, version = name.rpartition("/")
        if not name or not version:
            raise ConfigError(
                [f"--model {uri!r} must be models:/NAME@ALIAS or models:/NAME/VERSION."]
            )
        found = get_version(name, version=version, tracking_uri=tracking_uri)
    bundle = load_bundle(fetch_bundle(found, tracking_uri=tracking_uri, cache_dir=cache))
    source = f"{_MODELS}{found.name}/{found.version}"
    return _loaded(bundle, name=f"{found.name}-v{found.version}", source=source)


def _from_folder(location: str) -> System:
    if "://" not in location:
        location = str(Path(location).absolute())
    location = location.rstrip("/")
    name = PurePosixPath(location).name
    best = f"{location}/{_BEST}"
    if _is_bundle(location):
        # A run's own bundle is called after the run.
        name = PurePosixPath(location).parent.name if name == _BEST else name
        return _loaded(load_bundle(location), name=name, source=location)
    if is_folder(best) and _is_bundle(best):
        return _loaded(load_bundle(best), name=name, source=best)
    if list_pictures(location):
        return System(name=name, kind="pictures", source=location)
    raise RayfillError(
        f"--model {location} holds no model bundle ({CONFIG_FILE}, {WEIGHTS_FILE}), no training "
        f"run ({_BEST}/) and no pictures. Name a folder that holds one of them; a checkpoint is "
        "measured by naming the folder of its run."
    )


def _is_bundle(location: str) -> bool:
    """Tell whether a folder is meant as a bundle, though a file may be lost: that is an error."""
    files = (CONFIG_FILE, WEIGHTS_FILE, MANIFEST)
    return sum(is_file(f"{location}/{name}") for name in files) >= len(files) - 1


def _loaded(bundle: LoadedBundle[InpaintingModel], *, name: str, source: str) -> System:
    facts = {"network": bundle.name}
    if run_id := str(bundle.extra.get("run_id", "")):
        facts["run_id"] = run_id
    return System(name=name, kind="model", source=source, model=bundle.model, facts=facts)
