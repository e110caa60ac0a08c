"""What a prepared dataset is: its splits, its columns, its manifest.

A dataset is a folder or bucket holding Parquet shards ``<split>-00000.parquet``, ``manifest.json``
and ``rejected.jsonl``. One row is one sample. Pictures are 8-bit RGB PNG, hole masks 8-bit gray PNG
with **255 = hole**; a ``target`` that equals the image and a ``hole_mask`` that is drawn afresh
every epoch are null. Splits never share a ``source_id``. Label maps are 8-bit gray PNG: a value is
an index into the manifest's ``labels``, 0 is everything without a name, 255 is to be ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import pyarrow as pa

from rayfill_data.errors import DatasetError
from rayfill_data.storage import MANIFEST

SCHEMA_VERSION = 1
SPLITS = ("train", "val", "test")
REJECTED_NAME = "rejected.jsonl"

#: On disk and over HTTP a mask pixel of at least this is hole.
MASK_THRESHOLD = 128

#: Rows per Parquet row group: small enough to stream, large enough to read fast.
ROW_GROUP_ROWS = 250

#: Pictures are binary columns: Parquet stores tensor columns as lists, ten times slower to read.
ROW_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("target", pa.binary()),
        pa.field("hole_mask", pa.binary()),
        pa.field("hole_ratio", pa.float32()),
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("labels", pa.binary()),
        pa.field("target_labels", pa.binary()),
    ]
)

#: Columns that datasets made before label maps lack; they are read as datasets without labels.
OPTIONAL_COLUMNS = ("labels", "target_labels")

#: The value of a label map where nobody knows, such as a crowd; losses and scores leave it out.
IGNORE_LABEL = 255


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything about a prepared dataset that is not a row; written last, so it marks the end."""

    schema_version: int
    source: str
    options: Mapping[str, Any]
    seed: int
    inputs_hash: str
    """Hash of what the source read: with source, options and seed it tells "already done"."""
    height: int
    """Rows of pixels of every sample; 0 where samples have several sizes."""
    width: int
    """Columns of pixels of every sample; 0 where samples have several sizes."""
    counts: Mapping[str, int]
    photo_counts: Mapping[str, int]
    rejected: int
    shards: Mapping[str, tuple[str, ...]]
    content_hash: str
    """Hash over every row of every split, whatever the sharding and the Parquet settings."""
    versions: Mapping[str, str]
    labels: tuple[str, ...] = ()
    """Names of the values of label maps; empty where the rows have none."""

    def to_json(self) -> str:
        """Return the manifest as indented JSON with sorted keys and a final newline."""
        return json.dumps(asdict(self), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str) -> Manifest:
        """Read a manifest; ``where`` names the dataset in messages.

        Raises:
            DatasetError: no JSON, another schema version, or a key missing, unknown or mistyped.
        """
        try:
            raw = json.loads(text)
        except ValueError as error:
            raise DatasetError(
                f"{where}: {MANIFEST} is not valid JSON. Prepare the dataset again with "
                "--overwrite."
            ) from error
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if version != SCHEMA_VERSION:
            raise DatasetError(
                f"{where} has schema version {version!r}; this Rayfill reads version "
                f"{SCHEMA_VERSION}. Prepare it again with --overwrite, or use the Rayfill that "
                "wrote it."
            )
        if problem := _problem(raw):
            raise DatasetError(
                f"{where}: {MANIFEST} {problem}. Prepare the dataset again with --overwrite."
            )
        raw["labels"] = tuple(raw.get("labels", ()))
        raw["shards"] = {split: tuple(names) for split, names in raw["shards"].items()}
        return cls(**raw)


def _problem(raw: dict[str, Any]) -> str:
    """Return what is wrong with a manifest of the right schema version, or an empty string."""
    wanted = {field.name for field in fields(Manifest)}
    if missing := sorted(wanted - raw.keys() - {"labels"}):
        return f"lacks {', '.join(missing)}"
    if unknown := sorted(raw.keys() - wanted):
        return f"has unknown keys {', '.join(unknown)}"
    per_split = ("counts", "photo_counts", "shards")
    for key in (*per_split, "options", "versions"):
        if not isinstance(raw[key], dict):
            return f"has {key} = {raw[key]!r} where a table is needed"
    for key in per_split:
        if set(raw[key]) != set(SPLITS):
            return f"has {key} for {sorted(raw[key])} instead of {', '.join(SPLITS)}"
    numbers = [raw[key] for key in ("seed", "height", "width", "rejected")]
    numbers += [*raw["counts"].values(), *raw["photo_counts"].values()]
    if not all(isinstance(number, int) for number in numbers):
        return "has something else than a whole number as seed, size or count"
    if not all(isinstance(names, list) for names in raw["shards"].values()):
        return "has shards that are not lists of names"
    labels = raw.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(name, str) for name in labels):
        return "has labels that are not a list of names"
    return ""
