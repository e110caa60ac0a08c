"""Where a worker's batches come from: a split held in memory, or a Ray Data stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from rayfill.config.run import RunConfig
from rayfill.models.batch import TensorBatch, to_device
from rayfill_data.errors import ConfigError
from rayfill_data.prepared.batches import (
    AugmentOptions,
    Batch,
    batches_per_epoch,
    evaluation_batches,
    prepared_masks,
    training_batches,
)
from rayfill_data.prepared.reader import PreparedDataset, SplitArrays

#: Gives one epoch of one rank's augmented batches: (epoch) -> batches.
EpochStream = Callable[[int], Iterator[Batch]]


class Feed:
    """The training and validation batches of one rank, on its device."""

    def __init__(
        self,
        config: RunConfig,
        *,
        dataset: PreparedDataset,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        stream: EpochStream | None = None,
    ) -> None:
        """Load what is kept in memory.

        Args:
            config: The run.
            dataset: An opened prepared dataset.
            device: Where batches go.
            rank: Of this worker.
            world_size: Number of workers.
            stream: Training batches from elsewhere; None holds the training split in memory.
        """
        self._config = config
        self._augment = augment_options(config, dataset=dataset)
        self._device = device
        self._rank = rank
        self._world_size = world_size
        self._stream = stream
        _check_labels(config, dataset=dataset)
        count = training_count(config, dataset=dataset)
        self._train = None if stream else _spread(dataset.load("train"), count=count)
        self._val = dataset.load("val")
        self._worker_batch = config.train.batch_size // world_size
        self.steps_per_epoch = batches_per_epoch(count, self._worker_batch, world_size)

    def train(self, epoch: int) -> Iterator[TensorBatch]:
        """Yield one epoch of training batches."""
        for batch in self._training_batches(epoch):
            yield to_device(batch, device=self._device)

    def val(self) -> Iterator[TensorBatch]:
        """Yield this rank's part of the validation split."""
        batches = evaluation_batches(
            self._val, batch_size=self._worker_batch, rank=self._rank, world_size=self._world_size
        )
        for batch in batches:
            yield to_device(batch, device=self._device)

    def pictures(self, count: int) -> TensorBatch | None:
        """Return the same ``count`` validation samples every time, spread over the split."""
        count = min(count, len(self._val))
        if not count:
            return None
        wanted = {index * len(self._val) // count for index in range(count)}
        chosen = [
            batch
            for index, batch in enumerate(evaluation_batches(self._val, batch_size=1))
            if index in wanted
        ]
        parts = [to_device(batch, device=self._device) for batch in chosen]
        return TensorBatch(
            image=torch.cat([part.image for part in parts]),
            target=torch.cat([part.target for part in parts]),
            hole_mask=torch.cat([part.hole_mask for part in parts]),
            sample_id=tuple(part.sample_id[0] for part in parts),
        )

    def _training_batches(self, epoch: int) -> Iterator[Batch]:
        if self._stream is not None:
            return self._stream(epoch)
        assert self._train is not None
        return training_batches(
            self._train,
            batch_size=self._worker_batch,
            seed=self._config.train.seed,
            epoch=epoch,
            rank=self._rank,
            world_size=self._world_size,
            augment=self._augment,
        )


def _check_labels(config: RunConfig, *, dataset: PreparedDataset) -> None:
    """Refuse a dataset without the label maps that the stage needs, or with others.

    Raises:
        ConfigError: the dataset's labels are not ``model.label_names``.
    """
    needs = config.train.stage in ("segmentation", "labels", "joint") or config.model.label_maps
    names = tuple(dataset.manifest.labels)
    if needs and names != config.model.label_names:
        raise ConfigError(
            [
                f"model.label_names are {', '.join(config.model.label_names)}, and the dataset has "
                f"{', '.join(names) or 'no label maps'}. Name its labels, or prepare one with "
                "label maps, such as `rayfill prepare coco_pairs`."
            ]
        )


def training_count(config: RunConfig, *, dataset: PreparedDataset) -> int:
    """Return how many samples an epoch of training has.

    Raises:
        ConfigError: ``data.train_samples`` that the dataset has not.
    """
    count, wanted = dataset.counts["train"], config.data.train_samples
    if wanted is not None and wanted > count:
        raise ConfigError(
            [f"data.train_samples is {wanted}, and the dataset has {count}: take as many or fewer."]
        )
    return wanted or count


def _spread(arrays: SplitArrays, *, count: int) -> SplitArrays:
    """Return so many samples, evenly over the split, in which those of a photo lie together."""
    if count == len(arrays):
        return arrays
    return arrays.take([index * len(arrays) // count for index in range(count)])


def augment_options(config: RunConfig, *, dataset: PreparedDataset) -> AugmentOptions:
    """Return how training samples are varied; holes are drawn as the dataset's own were."""
    data = config.data
    masks, ratio_range = prepared_masks(dataset.manifest.options)
    if data.masks is not None:
        masks, ratio_range = data.masks, None
    joint = config.train.stage == "joint" and config.loss.mask_expansion > 0
    return AugmentOptions(
        flip=data.flip,
        rotate_degrees=data.rotate_degrees,
        color_jitter=data.color_jitter,
        expand_px=data.expand_px,
        masks=masks,
        ratio_range=ratio_range,
        redraw=data.masks is not None,
        signed_distance=joint,
    )


def streams(config: RunConfig, *, dataset: PreparedDataset) -> bool:
    """Return whether the training split is streamed rather than held in memory."""
    if config.data.train_samples is not None:
        return False
    if config.data.feed != "auto":
        return config.data.feed == "stream"
    return dataset.estimate_bytes("train") > config.data.memory_gib * 2**30
