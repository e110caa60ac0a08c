"""Systems measured beside a sweep's own: in the split's order, and before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rayfill.config.run import EvalConfig
from rayfill.evaluation.measure import evaluate
from rayfill.inference.baselines import BASELINES
from rayfill.sweeps.results import measure_others
from rayfill_data.errors import ConfigError, DatasetError
from rayfill_data.prepared.reader import PreparedDataset


@pytest.fixture
def dataset(make_dataset: Any) -> PreparedDataset:
    return PreparedDataset.open(str(make_dataset(test=7)))


def finished(folder: Path, dataset: PreparedDataset, *, leave_out: int = 0) -> Path:
    """Write the true pictures as if a system had made them."""
    folder.mkdir()
    arrays = dataset.load("test")
    pictures = list(zip(arrays.sample_id, arrays.target, strict=True))
    for name, picture in pictures[leave_out:]:
        Image.fromarray(picture).save(folder / f"{name}.png")
    return folder


def test_baselines_and_finished_pictures_are_measured_in_the_order_of_the_split(
    tmp_path: Path, dataset: PreparedDataset
) -> None:
    perfect = finished(tmp_path / "perfect", dataset)
    others = measure_others(
        ["telea", f"theirs={perfect}"], dataset=dataset, config=EvalConfig(lpips_network="squeeze")
    )
    assert others.kinds == {"telea": "baseline", "theirs": "pictures"}
    expected = evaluate(BASELINES["telea"], arrays=dataset.load("test"))
    for metric, values in expected.values.items():
        np.testing.assert_array_equal(others.measured["telea"].values[metric], values)
    assert np.isinf(others.measured["theirs"].values["hole_psnr"]).all()
    assert others.lpips is None
    assert "LPIPS is not measured" in others.why_no_lpips


def test_a_missing_picture_or_system_is_found_before_training(
    tmp_path: Path, dataset: PreparedDataset
) -> None:
    lacking = finished(tmp_path / "lacking", dataset, leave_out=1)
    with pytest.raises(DatasetError, match="1"):
        measure_others([str(lacking)], dataset=dataset, config=EvalConfig())
    with pytest.raises(ConfigError, match="Did you mean 'telea'"):
        measure_others(["telae"], dataset=dataset, config=EvalConfig())


def test_without_others_there_is_still_a_split_to_measure_on(dataset: PreparedDataset) -> None:
    others = measure_others([], dataset=dataset, config=EvalConfig())
    assert others.kinds == {}
    assert len(others.test) == 7
