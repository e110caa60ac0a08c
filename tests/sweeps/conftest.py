from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rayfill.config.run import RunConfig, replace


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of the test's own, with nothing of the caller's environment."""
    monkeypatch.setenv("RAYFILL_HOME", str(tmp_path / "home"))
    for name in ("MLFLOW_TRACKING_URI", "RAYFILL_STORAGE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


@pytest.fixture
def small_run(make_dataset: Any, home: Path) -> RunConfig:
    """A run of seconds on a dataset of 30 tiny noise pictures."""
    return replace(
        RunConfig(),
        {
            "data.uri": str(make_dataset()),
            "model.width": 4,
            "model.depth": 2,
            "train.epochs": 3,
            "train.batch_size": 8,
            "tracking.pictures": 2,
            "scaling.use_gpu": False,
        },
    )
