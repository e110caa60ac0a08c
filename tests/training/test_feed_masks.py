from __future__ import annotations

from typing import Any

import pytest

from rayfill.config import DataConfig, RunConfig
from rayfill.training.feed import augment_options
from rayfill_data.reader import PreparedDataset


@pytest.mark.parametrize(
    ("masks", "expected", "redraw"), [(None, "irregular", False), ("boxes", "boxes", True)]
)
def test_masks_that_are_asked_for_replace_every_stored_hole(
    make_dataset: Any, masks: str | None, expected: str, redraw: bool
) -> None:
    out = str(make_dataset())
    config = RunConfig(data=DataConfig(uri=out, masks=masks))
    options = augment_options(config, dataset=PreparedDataset.open(out))
    assert (options.masks, options.redraw) == (expected, redraw)
