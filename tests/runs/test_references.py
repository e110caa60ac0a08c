"""One grammar for what a model is named by, in every command and before torch is imported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rayfill.inference.baselines import BASELINES
from rayfill.runs.references import (
    BASELINE_NAMES,
    MODELS,
    Kind,
    best_run,
    locate,
    parse_reference,
)
from rayfill.runs.sweep_folder import SweepFolder
from rayfill_data.errors import ConfigError, RayfillError


def test_the_names_known_without_torch_are_those_of_the_table() -> None:
    assert tuple(sorted(BASELINES)) == BASELINE_NAMES


@pytest.mark.parametrize(
    ("value", "kind", "parts"),
    [
        ("telea", "baseline", {"name": "telea"}),
        ("fast=telea", "baseline", {"name": "telea", "label": "fast"}),
        ("rayfill@champion", "registered", {"name": "rayfill", "alias": "champion"}),
        ("models:/a b@champion", "registered", {"name": "a b", "alias": "champion"}),
        ("models:/rayfill/3", "registered", {"name": "rayfill", "version": "3"}),
        ("runs:/0a1b", "recorded", {"run_id": "0a1b", "artifact": "model"}),
        ("runs:/0a1b/best/model", "recorded", {"run_id": "0a1b", "artifact": "best/model"}),
        ("sweep:night", "sweep", {"name": "night"}),
    ],
)
def test_what_a_word_names(value: str, kind: Kind, parts: dict[str, str]) -> None:
    named = parse_reference(value)
    assert named.kind == kind
    assert {key: getattr(named, key) for key in parts} == parts


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("teleaa", "'teleaa' names nothing. Did you mean 'telea'? Allowed: a baseline (biharmonic"),
        ("rayfill", "name it with its alias: rayfill@champion."),
        ("models:/rayfill", "must be models:/NAME@ALIAS or models:/NAME/VERSION"),
        ("no/such/folder", "'no/such/folder' names nothing. Allowed: "),
        ("", "'' names nothing. Allowed: "),
    ],
)
def test_what_names_nothing(value: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_reference(value)
    assert said in caught.value.problems[0]


def test_what_a_caller_cannot_use_is_said_to_be_what_it_is() -> None:
    with pytest.raises(ConfigError, match="'telea' is a baseline, which is of no use here"):
        parse_reference("telea", allowed=MODELS)


def sweep(folder: Path, scores: dict[str, float]) -> SweepFolder:
    """Write a sweep whose runs have a model and one epoch each."""
    trials = [{"name": name, "eval": {"select_metric": "hole_psnr"}} for name in scores]
    for name, score in scores.items():
        (folder / name / "best").mkdir(parents=True)
        (folder / name / "best" / "config.json").write_text("{}")
        history = [{"epoch": 1, "val/hole_psnr": score}]
        (folder / name / "history.json").write_text(json.dumps(history))
    folder.mkdir(exist_ok=True)
    (folder / "plan.json").write_text(json.dumps({"trials": trials}))
    return SweepFolder(str(folder))


def test_a_sweep_stands_for_its_best_run(tmp_path: Path) -> None:
    made = sweep(tmp_path / "night", {"01": 20.0, "02": 23.5, "03": float("nan")})
    assert best_run(made).name == "02"
    for value in ("sweep:night", str(tmp_path / "night")):
        located = locate(parse_reference(value), storage=str(tmp_path))
        assert located.bundle == str(tmp_path / "night" / "02" / "best")
    with pytest.raises(RayfillError, match="There is no sweep 'day'"):
        locate(parse_reference("sweep:day"), storage=str(tmp_path))
    with pytest.raises(RayfillError, match="No run of sweep 'bare' has a model"):
        best_run(sweep(tmp_path / "bare", {}))
