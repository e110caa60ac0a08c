from __future__ import annotations

from typing import Any

import pytest
import torch

from rayfill.config.run import DataConfig, RunConfig, TrainConfig, check
from rayfill.training.feed import Feed, augment_options, streams
from rayfill_data.errors import ConfigError
from rayfill_data.prepared.reader import PreparedDataset


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


@pytest.mark.parametrize("count", [1, 10, 30])
def test_training_takes_so_many_samples_spread_over_the_split(
    make_dataset: Any, count: int
) -> None:
    out = str(make_dataset(train=30))  # three samples of every photo
    config = RunConfig(
        data=DataConfig(uri=out, train_samples=count), train=TrainConfig(batch_size=1)
    )
    dataset = PreparedDataset.open(out)
    assert not streams(config, dataset=dataset)
    feed = Feed(config, dataset=dataset, device=torch.device("cpu"))
    seen = [batch.sample_id[0] for batch in feed.train(1)]
    assert feed.steps_per_epoch == len(seen) == len(set(seen)) == count
    numbers = sorted(int(name.removeprefix("train-")) for name in seen)
    assert numbers == [index * 30 // count for index in range(count)]
    assert {name for batch in feed.train(2) for name in batch.sample_id} == set(seen)


def test_more_samples_than_there_are_or_from_a_stream_are_refused(make_dataset: Any) -> None:
    out = str(make_dataset(train=30))
    config = RunConfig(data=DataConfig(uri=out, train_samples=31))
    with pytest.raises(ConfigError, match="is 31, and the dataset has 30"):
        Feed(config, dataset=PreparedDataset.open(out), device=torch.device("cpu"))
    with pytest.raises(ConfigError, match="leave data.feed at auto"):
        check(RunConfig(data=DataConfig(train_samples=3, feed="stream")))
