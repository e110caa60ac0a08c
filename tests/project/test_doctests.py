"""The examples in docstrings are run: an example that lies is worse than none."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Modules with an example: importing only those keeps this short.
WITH_EXAMPLES = [
    ".".join(file.relative_to(ROOT / root).with_suffix("").parts).removesuffix(".__init__")
    for root in ("platform", "data", "serving")
    for file in sorted((ROOT / root).rglob("*.py"))
    if ">>> " in file.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_say_what_happens(name: str) -> None:
    tried = doctest.testmod(importlib.import_module(name))
    assert (tried.failed, tried.attempted > 0) == (0, True)
