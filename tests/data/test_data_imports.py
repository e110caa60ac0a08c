"""The data side without Ray: what serving, notebooks and small installs need."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("ray", "mlflow", "torch", "pydantic", "tyro", "rich", "sklearn", "skimage", "matplotlib")


@pytest.mark.parametrize(
    "modules",
    [
        "contract, rayfill_data.codec, rayfill_data.masks.hole, rayfill_data.prepared.reader, "
        "rayfill_data.prepared.batches, rayfill_data.masks.copy_paste",
        "prepared.pipeline, rayfill_data.sources, rayfill_data.prepared.stream, "
        "rayfill_data.progress",
    ],
)
def test_importing_loads_nothing_heavy(modules: str) -> None:
    code = (
        f"import sys, rayfill_data.{modules}\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert run.stdout.strip() == "[]"


def test_planning_the_photographs_imports_none_of_their_libraries() -> None:
    code = (
        "import sys\n"
        "from rayfill_data.sources import SOURCES, PhotosOptions\n"
        "SOURCES['photos'].plan(PhotosOptions(), 0)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert run.stdout.strip() == "[]"
