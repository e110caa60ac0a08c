"""CIFAR-10, as its authors' archive or as Parquet, with a validation split of its own (P5)."""

from __future__ import annotations

import functools
import hashlib
import io
import pickle  # noqa: S403 - only below, for arrays of numbers
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from rayfill_data.checks import Bounds, Count
from rayfill_data.codec import UInt8Array
from rayfill_data.errors import ImageError
from rayfill_data.sources.files import (
    inputs_hash,
    is_file,
    is_folder,
    list_file,
    list_files,
    open_file,
    read_file,
    refuse,
)
from rayfill_data.sources.holes import MaskOptions, with_mask_files
from rayfill_data.sources.parquet import column_problems, parquet_files, read_rows, row_bytes
from rayfill_data.sources.pictures import centre, decode_at_least, with_drawn_hole
from rayfill_data.sources.spec import Sample, SourcePlan, SourceSpec, Task
from rayfill_data.sources.splits import SizeOptions, unit_hash

_FOLDER = "cifar-10-batches-py"
_BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
_SIDE = 32
_IMAGE_COLUMNS = ("image", "img")

#: (path, split in the source, hash of the picture) of every row.
_Rows = list[tuple[str, str, str]]


@dataclass(frozen=True, kw_only=True)
class Cifar10Options(MaskOptions, SizeOptions):
    """The 60000 pictures of 32x32 pixels: 45000 for training, 5000 held out of them, 10000."""

    root: str
    """cifar-10-python.tar.gz, the folder it unpacks to, or a Parquet file or folder."""

    size: Annotated[int, Bounds(ge=16, le=_SIDE)] = 32
    """Side of a sample in pixels."""

    masks: str = "square"
    """As for any source; report P5 hides one randomly sized square."""

    val: Count = 5000
    """Training pictures held out for validation, the same ones always."""

    named: ClassVar[bool] = False


def plan(options: Cifar10Options, seed: int) -> SourcePlan:
    """List the rows, drop training pictures that are test pictures too, and hold out validation.

    Raises:
        DatasetError: files missing, damaged or of another layout, or too few rows; all at once.
    """
    rows, stamp = (
        _parquet_rows(options.root) if _is_parquet(options.root) else _batches(options.root)
    )
    test = {digest for _, split, digest in rows if split == "test"}
    train = {digest for _, split, digest in rows if split == "train"} - test
    problems = []
    if not test:
        problems.append("It has no test pictures.")
    if len(train) <= options.val:
        problems.append(
            f"It has {len(train)} different training pictures, and --val takes {options.val}."
        )
    refuse(options.root, problems)
    held_out = set(sorted(train, key=lambda digest: (unit_hash(digest), digest))[: options.val])
    copies = sum(split == "train" and digest in test for _, split, digest in rows)
    notes = (f"{copies} training pictures are test pictures too; they were left out.",) * bool(
        copies
    )
    tasks = tuple(
        Task(
            sample_id=path.lstrip("#"),
            split="val" if split == "train" and digest in held_out else split,
            source_id=digest,
            path=path,
            hole_kind="irregular",
        )
        for path, split, digest in rows
        if split == "test" or digest not in test
    )
    found = SourcePlan(
        tasks=tasks,
        inputs_hash=stamp,
        size=options.size,
        max_rejected=options.max_rejected,
        notes=notes,
    )
    return with_mask_files(found, options, seed)


def render(task: Task, options: Cifar10Options, seed: int) -> Sample:
    """Take one picture and give it its hole.

    Raises:
        ImageError: bytes that are no usable picture.
        OSError: a file that vanished or may not be read.
    """
    if _is_parquet(options.root):
        column = _image_column(options.root)
        photo = decode_at_least(row_bytes(options.root, task.path, column), options.size)
    else:
        name, _, number = task.path.partition("#")
        photo = _pixels(_batch(options.root, name)[int(number)])
    return with_drawn_hole(centre(photo, options.size), task, options, seed=seed)


CIFAR10 = SourceSpec(
    options_type=Cifar10Options,
    plan=plan,
    render=render,
    summary="CIFAR-10 with 5000 training pictures held out for validation (report P5)",
    needs=(
        "Get 'CIFAR-10 python version' (cifar-10-python.tar.gz) from "
        "https://www.cs.toronto.edu/~kriz/cifar.html; --root is that file or the folder "
        "cifar-10-batches-py it holds. Or a Parquet file with the columns image (binary, or a "
        "struct with `bytes`) and split (train, test), or a folder with train-*.parquet and "
        "test-*.parquet."
    ),
)


def _is_parquet(root: str) -> bool:
    if root.endswith((".tar.gz", ".tgz")):
        return False
    return root.endswith(".parquet") or not _batch_folder(root)


def _batch_folder(root: str) -> str:
    """Return where the unpacked archive lies, or an empty string."""
    nested = f"{root.rstrip('/')}/{_FOLDER}"
    if is_folder(nested):
        return nested
    names = list_files(root) if is_folder(root) else {}
    return root if any(name in names for name in _BATCHES) else ""


@functools.lru_cache(maxsize=4)
def _image_column(root: str) -> str:
    """Return the name that the picture column has in a Parquet file; the first if it has none."""
    files = parquet_files(root)
    for column in _IMAGE_COLUMNS:
        if not column_problems(root, files, column, []):
            return column
    return _IMAGE_COLUMNS[0]


def _parquet_rows(root: str) -> tuple[_Rows, str]:
    """List the rows of Parquet files; their split is in a column or in the file's name."""
    files = parquet_files(root)
    column = _image_column(root)
    problems = column_problems(root, files, column, [])
    refuse(root, problems)
    by_column = not column_problems(root, files, column, ["split"])
    rows: _Rows = []
    wrong = set()
    for row in read_rows(root, files, column, ["split"] if by_column else []):
        name = row.path.rpartition("#")[0]
        said = str(row.values["split"]) if by_column else name.rpartition("/")[2].split("-")[0]
        if said not in ("train", "test"):
            wrong.add(f"{said!r} in {name or root}")
        rows.append((row.path, said, row.digest))
    if wrong:
        problems.append(
            f"Splits {', '.join(sorted(wrong))}: a column 'split', or else the file's name up to "
            "the first '-', must be train or test."
        )
    refuse(root, problems)
    return rows, inputs_hash(files)


def _batches(root: str) -> tuple[_Rows, str]:
    """List the rows of the official archive."""
    files = list_file(root) if is_file(root) else list_files(_batch_folder(root))
    rows: _Rows = []
    problems = []
    for name in _BATCHES:
        try:
            data = _batch(root, name)
        except (ImageError, OSError) as error:
            problems.append(
                f"{name}: {error}" if isinstance(error, ImageError) else f"{name} is missing."
            )
            continue
        split = "test" if name == "test_batch" else "train"
        rows += [
            (
                f"{name}#{number:05d}",
                split,
                hashlib.blake2b(row.tobytes(), digest_size=10).hexdigest(),
            )
            for number, row in enumerate(data)
        ]
    refuse(root, problems)
    return rows, inputs_hash(files)


@functools.lru_cache(maxsize=2)
def _batch(root: str, name: str) -> UInt8Array:
    """Return the (N, 3072) uint8 rows of one batch.

    Raises:
        ImageError: a file that is no such batch.
        OSError: a file that is missing or may not be read.
    """
    try:
        raw = _load(_packed(root, name) if is_file(root) else read_file(_batch_folder(root), name))
        data = raw[b"data"]
    except (
        pickle.UnpicklingError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
        tarfile.TarError,
    ) as error:
        raise ImageError(
            "It is damaged, incomplete or no CIFAR-10 batch.", code="malformed"
        ) from error
    if (
        not isinstance(data, np.ndarray)
        or data.dtype != np.uint8
        or data.shape[1:] != (3 * _SIDE**2,)
    ):
        raise ImageError("It holds no 32x32 RGB pictures.", code="malformed")
    return data


def _packed(root: str, name: str) -> bytes:
    """Read one member of the archive."""
    with open_file(root) as stream, tarfile.open(fileobj=stream, mode="r:gz") as archive:
        try:
            member = archive.extractfile(f"{_FOLDER}/{name}")
        except KeyError as error:
            raise FileNotFoundError(name) from error
        if member is None:
            raise FileNotFoundError(name)
        return member.read()


def _latin1(text: str, _encoding: str) -> bytes:
    """Stand in for the codec call by which Python 3 writes bytes into an old pickle."""
    return text.encode("latin1")


class _ArrayUnpickler(pickle.Unpickler):
    """Reads arrays of numbers and nothing else: a pickle may otherwise run any code."""

    _ALLOWED: dict[str, Callable[..., Any] | type] = {
        "_reconstruct": np.empty(0).__reduce__()[0],  # type: ignore[dict-item]
        "ndarray": np.ndarray,
        "dtype": np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return one of numpy's three building blocks, or what makes bytes."""
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        if module.partition(".")[0] != "numpy" or name not in self._ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in CIFAR-10")
        return self._ALLOWED[name]


def _load(data: bytes) -> dict[bytes, Any]:
    loaded = _ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()
    if not isinstance(loaded, dict):
        raise pickle.UnpicklingError("not a table")
    return loaded


def _pixels(row: UInt8Array) -> UInt8Array:
    """Turn 3072 samples, plane by plane, into (32, 32, 3)."""
    return np.ascontiguousarray(row.reshape(3, _SIDE, _SIDE).transpose(1, 2, 0))
