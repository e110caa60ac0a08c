"""Whatever a user names a model by: one grammar for every command, understood without torch.

A reference is read in this order: ``LABEL=VALUE`` (a label has no slash, colon or ``@``); a
baseline; ``models:/...``, ``runs:/...`` and ``sweep:NAME``; a folder or URI, which holds a model
bundle, else a run, else a sweep, else finished pictures; ``NAME@ALIAS``. A folder that is called
like a baseline is ``./telea``.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rayfill.config.ranking import best_of, worth
from rayfill.runs import places
from rayfill.runs.folder import CONFIG_FILE, WEIGHTS_FILE, RunFolder
from rayfill.runs.sweep_folder import SweepFolder, newest_sweep
from rayfill_data.errors import ConfigError, RayfillError
from rayfill_data.sources.files import is_file, is_folder, list_pictures
from rayfill_data.storage import MANIFEST

if TYPE_CHECKING:
    from rayfill.runs.registry import RegisteredModel

Kind = Literal["baseline", "registered", "recorded", "bundle", "run", "sweep", "pictures"]

#: Fills without learning, by the names that :data:`rayfill.inference.baselines.BASELINES` has too:
#: they are told from other names before anything heavy is imported.
BASELINE_NAMES = (
    "biharmonic",
    "exemplar",
    "harmonic",
    "mean",
    "navier_stokes",
    "push_pull",
    "telea",
)
#: Those that stand in every table: the biharmonic one takes seconds for a large hole.
TABLE_BASELINES = ("telea", "navier_stokes", "push_pull", "harmonic", "exemplar")

#: What holds the weights of a network.
MODELS: tuple[Kind, ...] = ("registered", "recorded", "bundle", "run", "sweep")
#: What fills a hole.
FILLS: tuple[Kind, ...] = ("baseline", *MODELS)
#: What can be measured: it fills holes, or has filled them.
SYSTEMS: tuple[Kind, ...] = (*FILLS, "pictures")

_MODELS, _RUNS, _SWEEP = "models:/", "runs:/", "sweep:"
#: What the model of a registered run is logged as.
_ARTIFACT = "model"
#: A name before "=": no path, URI or alias has such a beginning.
_LABELLED = re.compile(r"(?P<label>[^=/\\:@]+)=(?P<value>.+)", re.DOTALL)
_BY_ALIAS = re.compile(r"(?P<name>[^@/:]+)@(?P<alias>[^@/:]+)")
_BY_VERSION = re.compile(r"(?P<name>[^@/:]+)/(?P<version>[^@/:]+)")

_SAID: Mapping[Kind, str] = {
    "baseline": f"a baseline ({', '.join(BASELINE_NAMES)})",
    "registered": "a registered model (NAME@ALIAS, models:/NAME@ALIAS or models:/NAME/VERSION)",
    "recorded": "an MLflow run (runs:/ID or runs:/ID/model)",
    "bundle": "the folder or URI of a model bundle",
    "run": "the folder or URI of a training run (whose best/ is taken)",
    "sweep": "a sweep (sweep:NAME or its folder; as one model, its best run by validation)",
    "pictures": "a folder of finished pictures",
}


class NamesNothingError(ConfigError):
    """A value that names no model at all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """What a user named, understood and not yet loaded."""

    text: str
    """As it was given, without its label."""
    kind: Kind
    label: str = ""
    """What tables shall call it, if that was said."""
    location: str = ""
    """Absolute folder or URI of a bundle, run, sweep or pictures."""
    name: str = ""
    """Of a baseline, a registered model, or the sweep of that name."""
    alias: str = ""
    version: str = ""
    run_id: str = ""
    artifact: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Located:
    """Where the bundle lies that a reference leads to."""

    bundle: str
    """A local path or a URI."""
    name: str
    """What it is called where nobody gave a label."""
    source: str
    """Where it is from, in full."""
    registered: RegisteredModel | None = None


def parse_reference(
    value: str, *, allowed: Collection[Kind] = FILLS, besides: str = ""
) -> Reference:
    """Return what a value names.

    Args:
        value: See the module's docstring.
        allowed: What the caller can use.
        besides: A sentence for who names nothing: what else the caller would have taken.

    Raises:
        NamesNothingError: it names nothing.
        ConfigError: it names something else than is allowed.
        RayfillError: a folder that holds nothing of ours.
    """
    label, inner = split_label(value)
    if label:
        named = parse_reference(inner, allowed=allowed, besides=besides)
        return dataclasses.replace(named, label=label)
    found = _from_name(value) or _from_folder(value)
    if found is None:
        said = f"{value!r} names nothing.{_hint(value, allowed)} {_allowed(allowed)} {besides}"
        raise NamesNothingError([said.strip()])
    if found.kind not in allowed:
        what = _SAID[found.kind].partition(" (")[0]
        raise ConfigError([f"{value!r} is {what}, which is of no use here. {_allowed(allowed)}"])
    return found


def split_label(value: str) -> tuple[str, str]:
    """Return the label of ``LABEL=VALUE``, empty where there is none, and the rest."""
    labelled = _LABELLED.fullmatch(value)
    label = labelled["label"].strip() if labelled else ""
    return (label, labelled["value"]) if labelled and label else ("", value)


def reference_problems(values: Iterable[str], *, allowed: Collection[Kind]) -> Iterator[str]:
    """Yield what is wrong with each of several references, as :func:`parse_reference` says it."""
    for value in values:
        try:
            parse_reference(value, allowed=allowed)
        except RayfillError as error:
            yield str(error)


def name_problems(named: Sequence[tuple[str, str]], *, noun: str) -> Iterator[str]:
    """Yield one sentence for every name that several of them have.

    Args:
        named: Name and source of each.
        noun: What they are.
    """
    names = [name for name, _ in named]
    for name in sorted({name for name in names if names.count(name) > 1}):
        sources = ", ".join(source for own, source in named if own == name)
        yield (
            f"{names.count(name)} {noun} are called {name!r} ({sources}): give each a name of its "
            "own, LABEL=VALUE."
        )


def locate(
    reference: Reference,
    *,
    tracking_uri: str | None = None,
    storage: str | None = None,
    cache_dir: Path | None = None,
) -> Located:
    """Return where the bundle of a reference lies, fetched once where it is far away.

    Args:
        reference: To anything with weights: one of :data:`MODELS`.
        tracking_uri: MLflow store; None as for training.
        storage: Where ``sweep:NAME`` is looked for; None as for training.
        cache_dir: Where what is fetched is kept; None is a folder of our home.

    Raises:
        RayfillError: a run, version or sweep that is not there, or a store that does not answer.
    """
    if reference.kind in ("registered", "recorded"):
        cache = cache_dir or places.home() / "cache" / "models"
        return _fetched(reference, tracking_uri=places.tracking_uri(tracking_uri), cache=cache)
    if reference.kind == "sweep":
        best = best_run(find_sweep(reference, storage=storage))
        return Located(bundle=best.bundle, name=best.name, source=best.bundle)
    if reference.kind == "run":
        run = RunFolder(reference.location)
        return Located(bundle=run.bundle, name=run.name, source=run.bundle)
    assert reference.kind == "bundle", reference
    own = RunFolder(reference.location)
    # A run's own bundle is called after the run.
    of_run = RunFolder(own.parent).bundle == own.uri
    name = RunFolder(own.parent).name if of_run else own.name
    return Located(bundle=own.uri, name=name, source=own.uri)


def find_registered(reference: Reference, *, tracking_uri: str) -> RegisteredModel:
    """Return the version in the registry that a reference means, as it stands now.

    Args:
        reference: To a registered model.
        tracking_uri: MLflow store.

    Raises:
        NoSuchModelError: no such model, version or alias.
        RayfillError: the registry does not answer.
    """
    from rayfill.runs.registry import find_model, get_version

    if reference.alias:
        return find_model(reference.name, alias=reference.alias, tracking_uri=tracking_uri)
    return get_version(reference.name, version=reference.version, tracking_uri=tracking_uri)


def find_sweep(reference: Reference, *, storage: str | None = None) -> SweepFolder:
    """Return the folder of a sweep: of several of a name, the newest.

    Args:
        reference: To a sweep.
        storage: Where ``sweep:NAME`` is looked for; None as for training.

    Raises:
        RayfillError: no such sweep.
    """
    if reference.location:
        return SweepFolder(reference.location)
    storage = places.storage(storage)
    newest = newest_sweep(reference.name, storage=storage)
    if newest is None:
        raise RayfillError(
            f"There is no sweep {reference.name!r} in {storage}. Name one by its folder, or give "
            "the storage it was run with."
        )
    return newest


def find_run(reference: Reference, *, storage: str | None = None) -> RunFolder:
    """Return the folder of the run whose model a reference means.

    Args:
        reference: To a bundle, a run or a sweep.
        storage: Where ``sweep:NAME`` is looked for; None as for training.

    Raises:
        RayfillError: a bundle outside the folder of a run, or a sweep that is not there.
    """
    bundle = locate(reference, storage=storage).bundle
    run = RunFolder(RunFolder(bundle).parent)
    if run.bundle != bundle:
        raise RayfillError(
            f"{reference.text} is a model bundle by itself, outside the folder of the run that "
            "trained it. Name the run."
        )
    return run


def best_run(sweep: SweepFolder) -> RunFolder:
    """Return the run of a sweep that is best on the validation split, of those with a model.

    Raises:
        RayfillError: none was validated by the metric of the sweep's trials.
    """
    trials = (sweep.plan() or {}).get("trials") or [{}]
    metric = str(trials[0].get("eval", {}).get("select_metric", ""))
    scores = {
        run: worth(best_of(own, metric=metric), metric=metric)
        for run in sweep.runs()
        if (own := run.scores(metric).values()) and run.bundle_config() is not None
    }
    if not scores:
        raise RayfillError(
            f"No run of sweep {sweep.name!r} has a model that was validated by {metric}. Go on "
            "with the sweep with --resume, or name one of its runs."
        )
    return max(scores, key=scores.__getitem__)


def absolute(location: str) -> str:
    """Return a folder or URI as it is called from anywhere, without a slash at its end."""
    whole = location if "://" in location else str(Path(location).expanduser().absolute())
    return whole.rstrip("/")


def is_bundle(location: str) -> bool:
    """Tell whether a folder is meant as a bundle, though a file may be lost: that is an error."""
    files = (CONFIG_FILE, WEIGHTS_FILE, MANIFEST)
    return sum(is_file(f"{location}/{name}") for name in files) >= len(files) - 1


def _from_name(value: str) -> Reference | None:
    """Return what is named by a word or a scheme of ours."""
    if value in BASELINE_NAMES:
        return Reference(text=value, kind="baseline", name=value)
    if value.startswith(_SWEEP) and value != _SWEEP:
        return Reference(text=value, kind="sweep", name=value.removeprefix(_SWEEP))
    run_id, _, artifact = value.removeprefix(_RUNS).strip("/").partition("/")
    if value.startswith(_RUNS) and run_id:
        artifact = artifact or _ARTIFACT
        return Reference(text=value, kind="recorded", run_id=run_id, artifact=artifact)
    given = value.startswith(_MODELS)
    named = value.removeprefix(_MODELS)
    by_alias = _BY_ALIAS.fullmatch(named)
    if by_alias and (given or not is_folder(absolute(value))):
        return Reference(text=value, kind="registered", **by_alias.groupdict())
    by_version = _BY_VERSION.fullmatch(named) if given else None
    if by_version:
        return Reference(text=value, kind="registered", **by_version.groupdict())
    if given:
        raise ConfigError([f"{value!r} must be models:/NAME@ALIAS or models:/NAME/VERSION."])
    return None


def _from_folder(value: str) -> Reference | None:
    """Return what lies in a folder; None where there is no folder."""
    location = absolute(value)
    if not value or not is_folder(location):
        return None
    kind: Kind | None = None
    if is_bundle(location):
        kind = "bundle"
    elif is_bundle(RunFolder(location).bundle):
        kind = "run"
    elif SweepFolder(location).exists():
        kind = "sweep"
    elif list_pictures(location):
        kind = "pictures"
    if kind is None:
        raise RayfillError(
            f"{value} holds no model bundle ({CONFIG_FILE}, {WEIGHTS_FILE}), no training run with "
            "a best model, no sweep and no pictures. Name a folder that holds one of them; a "
            "checkpoint is used by naming the folder of its run."
        )
    return Reference(text=value, kind=kind, location=location)


def _fetched(reference: Reference, *, tracking_uri: str, cache: Path) -> Located:
    from rayfill.runs.registry import fetch_bundle, fetch_run_bundle

    if reference.kind == "recorded":
        bundle = fetch_run_bundle(
            reference.run_id,
            artifact=reference.artifact,
            tracking_uri=tracking_uri,
            cache_dir=cache,
        )
        return Located(bundle=bundle, name=reference.run_id[:8], source=reference.text)
    found = find_registered(reference, tracking_uri=tracking_uri)
    return Located(
        bundle=str(fetch_bundle(found, tracking_uri=tracking_uri, cache_dir=cache)),
        name=f"{found.name}-v{found.version}",
        source=f"{_MODELS}{found.name}/{found.version}",
        registered=found,
    )


def _allowed(kinds: Collection[Kind]) -> str:
    said = "; ".join(words for kind, words in _SAID.items() if kind in kinds)
    return f"Allowed: {said}; each also as LABEL=VALUE, which says what it is called."


def _hint(value: str, allowed: Collection[Kind]) -> str:
    known = BASELINE_NAMES if "baseline" in allowed else ()
    near = difflib.get_close_matches(value, known, n=1)
    if near:
        return f" Did you mean {near[0]!r}?"
    if re.fullmatch(r"[\w.-]+", value):
        return f" If it is a registered model, name it with its alias: {value}@champion."
    return ""
