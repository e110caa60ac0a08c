"""``rayfill promote``: move the champion alias, with a reason."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import tyro

from rayfill.cli.console import make_console
from rayfill.config.flags import parse_flags
from rayfill.runs import places
from rayfill.runs.model_page import score_tags
from rayfill.runs.references import (
    MODELS,
    Reference,
    find_registered,
    find_run,
    parse_reference,
)
from rayfill.runs.registry import (
    CHAMPION,
    DEFAULT_MODEL_NAME,
    NoSuchModelError,
    RegisteredModel,
    find_model,
    get_version,
    list_versions,
    promote,
)
from rayfill.runs.store import Store
from rayfill.runs.table import Cell, Column, Table
from rayfill_data.errors import ConfigError, RayfillError

if TYPE_CHECKING:
    from rich.console import Console

#: Conditions under which scores can only be compared with scores of the same.
_SAME = ("dataset_hash", "split", "size", "measured_on")

#: Scores that a list of versions has room for; each version's page in MLflow has all.
_LISTED = (
    "test_hole_psnr", "test_hole_ssim", "test_lpips", "test_coherence", "test_removal_psnr",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromoteArgs:
    """Make a registered version the champion, or list what there is."""

    version: tyro.conf.Positional[str | None] = None
    """Number of a version of --model, or what leads to a version: models:/NAME/VERSION,
    NAME@ALIAS, runs:/ID, or the folder of a run, of its model bundle or of a sweep."""
    reason: str | None = None
    """Why; noted on the version, and in the model's history."""
    list_versions: Annotated[bool, tyro.conf.arg(name="list")] = False
    """Show every version with its scores, and which is champion."""
    force: bool = False
    """Promote a version whose scores cannot be compared with the present one's."""
    model: str = DEFAULT_MODEL_NAME
    """Registered model, where VERSION does not name one."""
    alias: str = CHAMPION
    """Alias to move."""
    tracking_uri: str | None = None
    """MLflow store; None as for training."""


def main(args: Sequence[str]) -> int:
    """Run the command."""
    asked = parse_flags(PromoteArgs, args, prog="rayfill promote")
    uri = places.tracking_uri(asked.tracking_uri)
    console = make_console()
    if asked.list_versions:
        _show_all(asked.model, tracking_uri=uri, console=console)
        return 0
    problems = []
    if asked.version is None:
        problems.append("No version is given: `rayfill promote --list` has them.")
    if not (asked.reason or "").strip():
        problems.append("--reason is empty: say why, in a sentence; it is noted on the version.")
    if problems:
        raise ConfigError(problems)
    _promote(_meant(asked, tracking_uri=uri), asked=asked, tracking_uri=uri, console=console)
    return 0


def _meant(asked: PromoteArgs, *, tracking_uri: str) -> RegisteredModel:
    """Return the version that was named, in the one way or the other."""
    given = str(asked.version)
    if given.isdecimal():
        return get_version(asked.model, version=given, tracking_uri=tracking_uri)
    besides = "A bare number is a version of --model; `rayfill promote --list` has them."
    reference = parse_reference(given, allowed=MODELS, besides=besides)
    if reference.kind == "registered":
        return find_registered(reference, tracking_uri=tracking_uri)
    return _trained(reference, name=asked.model, tracking_uri=tracking_uri)


def _trained(reference: Reference, *, name: str, tracking_uri: str) -> RegisteredModel:
    """Return the version that came from a run."""
    if reference.kind == "recorded":
        run_ids = {reference.run_id}
    else:
        runs = Store(tracking_uri).in_folder(find_run(reference).uri)
        run_ids = {run.run_id for run in runs}
    versions = list_versions(name, tracking_uri=tracking_uri)
    found = [version for version in versions if version.run_id in run_ids]
    if len(found) != 1:
        numbers = ", ".join(version.version for version in found)
        raise RayfillError(
            f"{f'Versions {numbers}' if found else 'No version'} of {name!r} came from "
            f"{reference.text}: name one by its number; `rayfill promote --list` has them."
        )
    return found[0]


def _promote(
    new: RegisteredModel, *, asked: PromoteArgs, tracking_uri: str, console: Console
) -> None:
    try:
        old = find_model(new.name, alias=asked.alias, tracking_uri=tracking_uri)
    except NoSuchModelError:
        old = None
    if old and old.version == new.version:
        raise RayfillError(f"Version {new.version} of {new.name!r} is {asked.alias} already.")
    if old and not asked.force and (unlike := _unlike(new, old)):
        raise RayfillError(
            f"Version {new.version} cannot be compared with version {old.version}, which is "
            f"{asked.alias}: {'; '.join(unlike)}. Promote it all the same with --force."
        )
    promote(new, alias=asked.alias, reason=str(asked.reason), tracking_uri=tracking_uri)
    _show_change(old, new, console=console)
    console.print(
        f"{new.name}@{asked.alias} is now version {new.version}"
        f"{f' (before: {old.version})' if old else ''}. Servers follow within seconds.",
        highlight=False,
        markup=False,
    )


def _unlike(new: RegisteredModel, old: RegisteredModel) -> list[str]:
    """Return in which conditions two versions were measured differently."""
    here, there = ([one.protocol.get(key, "not noted") for key in _SAME] for one in (new, old))
    return [
        f"{key} is {mine}, there {other}"
        for key, mine, other in zip(_SAME, here, there, strict=True)
        if mine != other
    ]


def _show_change(old: RegisteredModel | None, new: RegisteredModel, *, console: Console) -> None:
    """Print the scores of what was promoted beside those of what it replaces."""
    rows: list[list[Cell]] = []
    for metric, value in new.scores.items():
        before = old.scores.get(metric, math.nan) if old else math.nan
        rows.append([metric, before, value, value - before] if old else [metric, value])
    titles = [f"version {version.version}" for version in (old, new) if version]
    change = [Column("change", right=True, format="+.4f")] if old else []
    scores = [Column(title, right=True, format=".4f") for title in titles]
    console.print(Table(columns=["score", *scores, *change], rows=rows))


def _show_all(name: str, *, tracking_uri: str, console: Console) -> None:
    """Print every version, its main scores and its alias, newest first."""
    versions = list_versions(name, tracking_uri=tracking_uri)
    scores = [score_tags(version.scores) for version in versions]
    known = dict.fromkeys(metric for one in scores for metric in one)
    metrics = [metric for metric in known if metric in _LISTED or metric.startswith("val_")]
    rows = []
    for version, one in zip(versions, scores, strict=True):
        made = datetime.datetime.fromtimestamp(version.created_ms / 1000, tz=datetime.UTC)
        data = version.protocol.get("dataset", ""), version.protocol.get("dataset_hash", "")[:8]
        values = [one.get(metric, "") for metric in metrics]
        facts = [" ".join(data).strip(), f"{made:%Y-%m-%d %H:%M}", version.promoted_because]
        rows.append([version.version, version.alias, *values, *facts])
    of_scores = [Column(metric.replace("_", " "), right=True) for metric in metrics]
    table = Table(
        title=name,
        columns=["version", "alias", *of_scores, "dataset", "registered (UTC)", "promoted because"],
        rows=rows,
        row_styles=["bold" if version.alias == CHAMPION else "" for version in versions],
    )
    console.print(table)
