"""Turning what a config says about its data into a dataset that is there."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Console

from rayfill.config.run import BUNDLED_DATA, RunConfig, from_dict
from rayfill.runs import places
from rayfill_data.errors import ConfigError, DatasetError, unknown_name
from rayfill_data.prepared.reader import PreparedDataset


def check_data(config: RunConfig) -> None:
    """Find out that a dataset is not there before anything is started.

    Raises:
        ConfigError: no finished dataset of this version where ``data.uri`` points, or one without
            training or validation samples.
    """
    if config.data.uri == BUNDLED_DATA:
        return
    try:
        counts = PreparedDataset.open(config.data.uri).counts
    except DatasetError as error:
        raise ConfigError([f"data.uri: {error}"]) from error
    if empty := [split for split in ("train", "val") if not counts[split]]:
        raise ConfigError(
            [
                f"data.uri: {config.data.uri} has no samples in {' and '.join(empty)}: it was made "
                "to measure on. Train on a dataset of another source of `rayfill prepare`."
            ]
        )


def data_labels(config: RunConfig) -> tuple[str, ...]:
    """Return what the label maps of a run's dataset hold; nothing where it has none, or is missing.

    For choosing what to train; that a dataset is missing is for :func:`check_data` to say.
    """
    if config.data.uri == BUNDLED_DATA:
        from rayfill_data.sources.pictures import PASTED_LABELS

        return PASTED_LABELS
    try:
        return tuple(PreparedDataset.open(config.data.uri).manifest.labels)
    except DatasetError:
        return ()


def ensure_data(config: RunConfig, *, console: Console) -> str:
    """Return the dataset's location, preparing the bundled photographs the first time."""
    if config.data.uri != BUNDLED_DATA:
        return config.data.uri
    from rayfill_data.prepared.pipeline import prepare
    from rayfill_data.prepared.reader import read_manifest
    from rayfill_data.sources import PhotosOptions

    uri = str(places.home() / "data" / "photos")
    if read_manifest(uri) is None:
        console.print(f"Preparing the bundled photographs in {uri}", highlight=False)
    prepare("photos", out=uri, options=PhotosOptions())
    return uri


def prepare(
    source: str, *, out: str, seed: int = 0, overwrite: bool = False, **options: Any
) -> PreparedDataset:
    """Turn photos into a prepared dataset and return it; one that is already there stays.

    Args:
        source: A name of ``rayfill prepare``, or one of your own, ``package.module:Name``.
        out: Folder or URI of the dataset.
        seed: Of everything drawn at random.
        overwrite: Replace another dataset at ``out``.
        **options: Of the source, as ``rayfill prepare SOURCE --help`` lists them.

    Raises:
        ConfigError: an unknown source, and every option that cannot be used.
        DatasetError: ``out`` cannot be used, or too many files are unusable.
    """
    from rayfill_data.prepared.pipeline import prepare as prepare_dataset
    from rayfill_data.sources import find_source

    kind = find_source(source).options_type
    known = [field.name for field in dataclasses.fields(kind)]
    if unknown := [key for key in options if key not in known]:
        raise ConfigError([unknown_name(f"option of {source}", key, known) for key in unknown])
    prepare_dataset(
        source, out=out, options=from_dict(kind, options), seed=seed, overwrite=overwrite
    )
    return PreparedDataset.open(out)
