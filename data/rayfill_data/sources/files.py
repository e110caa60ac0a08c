"""Listing and reading the files of a source: a local folder or a s3://, gs:// URI."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path, PurePosixPath

import pyarrow as pa
from pyarrow import fs

from rayfill_data.errors import DatasetError
from rayfill_data.storage import resolve

#: Files with these endings are meant as pictures: what cannot be read of them is reported, not
#: passed over. Other files in the folder are none of our business.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff"),
    *(".gif", ".heic", ".heif", ".avif", ".jp2"),
)

#: A byte of a name that is not UTF-8, as a listing writes it out.
_WRITTEN_OUT = re.compile(r"\\x([89a-f][0-9a-f])")

#: Names shown of a longer list.
_EXAMPLES = 5


@dataclass(frozen=True)
class Listed:
    """What tells whether a file has changed, without reading it."""

    size: int
    mtime_ns: int


def is_folder(uri: str) -> bool:
    """Tell whether a folder is there.

    Raises:
        DatasetError: a location that cannot be reached.
    """
    return bool(_kind(uri) == fs.FileType.Directory)


def is_file(uri: str) -> bool:
    """Tell whether a file is there.

    Raises:
        DatasetError: a location that cannot be reached.
    """
    return bool(_kind(uri) == fs.FileType.File)


def list_pictures(uri: str) -> dict[str, Listed]:
    """Return every picture file below a folder by its relative path with forward slashes.

    Raises:
        DatasetError: no folder, or one that cannot be listed.
    """
    return {
        name: listed
        for name, listed in list_files(uri).items()
        if PurePosixPath(name).suffix.lower() in SUFFIXES
    }


def list_files(uri: str) -> dict[str, Listed]:
    r"""Return every file below a folder by its relative path, hidden ones left out, sorted.

    Bytes of a name that are not UTF-8 are written out, as ``\xff``.

    Raises:
        DatasetError: no folder, or one that cannot be listed.
    """
    if not is_folder(uri):
        raise DatasetError(f"{uri} is not a folder; give the folder that holds your pictures.")
    system, root = resolve(uri)
    local = isinstance(system, fs.LocalFileSystem)
    try:
        found = dict(_walk(root) if local else _walk_store(system, root))
    except OSError as error:
        raise DatasetError(f"{uri} cannot be listed; check your access to it.") from error
    return {
        name: found[name] for name in sorted(found) if not PurePosixPath(name).name.startswith(".")
    }


def list_file(uri: str) -> dict[str, Listed]:
    """Return what :func:`list_files` would say of one file, by its name.

    Raises:
        DatasetError: a location that cannot be reached.
    """
    system, root = resolve(uri)
    try:
        info = system.get_file_info(root)
    except OSError as error:
        raise DatasetError(f"{uri} cannot be reached; check your access to it.") from error
    return {info.base_name: Listed(info.size or 0, info.mtime_ns or 0)}


def open_file(uri: str) -> pa.NativeFile:
    """Open a file for reading at any place in it.

    Raises:
        OSError: a file that vanished or may not be read.
    """
    system, root = resolve(uri)
    return system.open_input_file(root)


def read_file(uri: str, name: str = "") -> bytes:
    """Read one file, or the file `name` below a folder.

    Raises:
        OSError: a file that vanished or may not be read.
    """
    with _opened(uri, name) as stream:
        data: bytes = stream.read()
    return data


def same_bytes(uri: str, files: Mapping[str, Listed]) -> dict[str, str]:
    """Map every file to the first one with the same bytes; only equal sizes are ever read."""
    by_size: dict[int, list[str]] = defaultdict(list)
    for name in sorted(files):
        by_size[files[name].size].append(name)
    same = {}
    for names in by_size.values():
        first: dict[str, str] = {}
        for name in names:
            key = _digest(uri, name) if len(names) > 1 else name
            same[name] = first.setdefault(key, name)
    return same


def inputs_hash(*listings: Mapping[str, Listed], extra: Iterable[str] = ()) -> str:
    """Hash names, sizes and times: hashing every byte would cost as much as preparing them."""
    digest = hashlib.sha256()
    for number, listing in enumerate(listings):
        for name, listed in sorted(listing.items()):
            stamp = f"{number}\0{name}\0{listed.size}\0{listed.mtime_ns}\n"
            digest.update(stamp.encode("utf-8", "surrogateescape"))
    for text in extra:
        digest.update(f"extra\0{text}\n".encode())
    return digest.hexdigest()


def some(names: Iterable[str]) -> str:
    """Return the first few names and how many more there are."""
    listed = sorted(names)
    more = f" and {len(listed) - _EXAMPLES} more" if len(listed) > _EXAMPLES else ""
    return ", ".join(listed[:_EXAMPLES]) + more


def refuse(where: str, problems: Iterable[str]) -> None:
    """Raise one DatasetError with every problem found, or do nothing where there is none."""
    if found := list(problems):
        lines = "\n".join(f"- {problem}" for problem in found)
        raise DatasetError(f"{where} cannot be prepared:\n{lines}")


def _digest(uri: str, name: str) -> str:
    """Hash a file piece by piece; what cannot be read is like no other and is rejected later."""
    try:
        with _opened(uri, name) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return name


def _opened(uri: str, name: str = "") -> BufferedIOBase:
    """Open a file for reading from its start; on a local disk its errors name no path."""
    system, root = resolve(uri)
    path = f"{root}/{name}" if name else root
    if not isinstance(system, fs.LocalFileSystem):
        stream: BufferedIOBase = system.open_input_stream(path)
        return stream
    if name and not os.path.lexists(path):
        name = _WRITTEN_OUT.sub(lambda byte: os.fsdecode(bytes.fromhex(byte[1])), name)
        path = f"{root}/{name}"
    return Path(path).open("rb")


def _walk(root: str) -> Iterator[tuple[str, Listed]]:
    """Yield the files below a local folder, and links that point nowhere, rejected when read.

    Links are followed, but not to a folder that they lie in.
    """
    top = Path(root).stat()
    waiting = [(root, frozenset({(top.st_dev, top.st_ino)}))]
    while waiting:
        folder, within = waiting.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    status = entry.stat()
                except OSError:
                    status = entry.stat(follow_symlinks=False)
                inode, kind = (status.st_dev, status.st_ino), stat.S_IFMT(status.st_mode)
                if kind == stat.S_IFDIR and inode not in within:
                    waiting.append((entry.path, within | {inode}))
                elif kind in (stat.S_IFREG, stat.S_IFLNK):
                    name = os.fsencode(entry.path[len(root) :].lstrip("/"))
                    size = status.st_size if kind == stat.S_IFREG else 0
                    yield name.decode(errors="backslashreplace"), Listed(size, status.st_mtime_ns)


def _walk_store(system: fs.FileSystem, root: str) -> Iterator[tuple[str, Listed]]:
    for info in system.get_file_info(fs.FileSelector(root, recursive=True)):
        if info.type == fs.FileType.File:
            yield info.path[len(root) :].lstrip("/"), Listed(info.size, info.mtime_ns or 0)


def _kind(uri: str) -> fs.FileType:
    system, root = resolve(uri)
    try:
        return system.get_file_info(root).type
    except OSError as error:
        raise DatasetError(
            f"{uri} cannot be reached; check the location and your access to it."
        ) from error
