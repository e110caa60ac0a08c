"""Benchmarks take turns and compare within a round."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def harness() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "harness.py"
    spec = importlib.util.spec_from_file_location("harness", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["harness"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_way_warms_up_once_and_the_first_of_a_round_changes(harness: ModuleType) -> None:
    calls: list[str] = []
    ways = {name: lambda name=name: calls.append(name) for name in "abc"}
    case = harness.Case(title="t", ways=ways, units=2, unit="call", rounds=9)
    measured = harness.measure(case, rounds=4)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert {name: len(seconds) for name, seconds in measured.seconds.items()} == dict.fromkeys(
        "abc", 4
    )


def test_the_table_gives_medians_of_ratios_within_rounds(
    harness: ModuleType, tmp_path: Path
) -> None:
    theme = harness.Theme(title="Title", about="About.", libraries=("numpy",), cases=lambda _: [])
    seconds = {"base": [1.0, 10.0, 2.0], "ours": [0.5, 2.5, 2.0]}
    result = harness.Measured(title="Case", unit="image", seconds=seconds, notes=("Noted.",))
    about = harness.facts(theme.libraries)
    harness.write_results(theme, [result], about=about, stem=tmp_path / "new" / "theme")
    page = (tmp_path / "new" / "theme.md").read_text()
    assert "| base | 2 [1.5, 6] s | 1 |" in page
    assert "| ours | 2 [1.25, 2.25] s | 0.5 [0.375, 0.75] |" in page
    assert "3 rounds. Noted." in page
    document = json.loads((tmp_path / "new" / "theme.json").read_text())
    assert document["cases"][0]["seconds"] == seconds
    assert document["commit"] in page
    assert str(Path.cwd()) not in page + json.dumps(document)
