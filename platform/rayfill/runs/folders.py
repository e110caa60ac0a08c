"""Folders that are either whole or absent, on a local disk or in a bucket.

A folder is written to a temporary sibling, flushed to the disk, given a ``manifest.json`` with the
size and SHA-256 of every file, and renamed. One that it replaces is first set aside under a hidden
name, which readers fall back on: whenever the writer is killed, they find the old folder or the new
one. In an object store, which has no rename, the manifest goes last: a folder without one does not
exist.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from pyarrow import fs

from rayfill_data.errors import RayfillError
from rayfill_data.reader import resolve

MANIFEST = "manifest.json"

#: Far above any list of files, far below what would hurt to parse.
_MAX_MANIFEST_BYTES = 2**20

#: The hidden name under which a folder waits while another takes its place.
_SET_ASIDE = re.compile(r"\.(?P<name>.+)-[0-9a-f]{32}\.old")


class DamagedFolderError(RayfillError):
    """A folder that is missing, incomplete, or not what its manifest says."""


def write_folder(uri: str, files: Mapping[str, bytes]) -> None:
    """Write ``files`` and their manifest as one folder, replacing a folder of that name.

    Raises:
        RayfillError: when the storage refuses, naming the path and the size; what was there before
            is untouched and nothing half-written is left.
    """
    contents = {**files, MANIFEST: _manifest(files)}
    filesystem, path = resolve(uri)
    size = sum(len(content) for content in contents.values())
    try:
        if isinstance(filesystem, fs.LocalFileSystem):
            _write_local(Path(path), contents)
        else:
            _write_remote(filesystem, path, contents)
    except OSError as error:
        raise RayfillError(
            f"Could not write {size:,} bytes to {uri}: {error.strerror or error}. Free space "
            "there, or name another storage; what was there before is unchanged."
        ) from error


def read_folder(uri: str) -> dict[str, bytes]:
    """Return the files of a folder, every one checked against the manifest.

    No more is read than the manifest says, and that only where the files are of just that size.

    Raises:
        DamagedFolderError: naming the first file that is missing, cut short or changed.
    """
    filesystem, path = resolve(uri)
    try:
        return _read_whole(filesystem, path, uri=uri)
    except DamagedFolderError:
        if isinstance(filesystem, fs.LocalFileSystem) and not Path(path).exists():
            for old in sorted(_set_aside(Path(path)), key=_written_ns, reverse=True):
                with contextlib.suppress(DamagedFolderError):
                    return _read_whole(filesystem, str(old), uri=uri)
        raise


def write_file(uri: str, content: bytes) -> None:
    """Write one file; on a local disk it is replaced whole."""
    filesystem, path = resolve(uri)
    if not isinstance(filesystem, fs.LocalFileSystem):
        _write_remote(filesystem, path.rpartition("/")[0], {path.rpartition("/")[2]: content})
        return
    temporary = Path(f"{path}.tmp")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(content)
    temporary.replace(path)


def create_file(uri: str, content: bytes) -> bool:
    """Write one file unless there is one already; return whether it was written.

    On a local disk only one of several writers succeeds, and the file is whole from the start. An
    object store is asked first, which leaves a moment between the question and the answer.
    """
    filesystem, path = resolve(uri)
    if not isinstance(filesystem, fs.LocalFileSystem):
        if filesystem.get_file_info(path).type != fs.FileType.NotFound:
            return False
        write_file(uri, content)
        return True
    temporary = Path(f"{path}-{uuid.uuid4().hex}.tmp")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(content)
    try:
        Path(path).hardlink_to(temporary)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def read_file(uri: str) -> bytes | None:
    """Return the content of one file, or None where there is none."""
    filesystem, path = resolve(uri)
    try:
        return _read(filesystem, path)
    except FileNotFoundError:
        return None


def list_folders(uri: str) -> list[str]:
    """Return the names of the folders in ``uri``, sorted; none where it does not exist."""
    filesystem, path = resolve(uri)
    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    names = {info.base_name for info in found if info.type == fs.FileType.Directory}
    set_aside = {match["name"] for match in map(_SET_ASIDE.fullmatch, names) if match}
    return sorted(name for name in names | set_aside if not name.startswith("."))


def delete_folder(uri: str) -> None:
    """Delete a folder and all it holds; the manifest first, so that no half is taken for whole."""
    filesystem, path = resolve(uri)
    if isinstance(filesystem, fs.LocalFileSystem):
        _remove_set_aside(Path(path))
    if filesystem.get_file_info(f"{path}/{MANIFEST}").type == fs.FileType.File:
        filesystem.delete_file(f"{path}/{MANIFEST}")
    if filesystem.get_file_info(path).type == fs.FileType.Directory:
        filesystem.delete_dir(path)


def sync_directory(folder: Path) -> None:
    """Flush a local directory's entries to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _manifest(files: Mapping[str, bytes]) -> bytes:
    entries = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
    }
    return json.dumps({"files": entries}, indent=2, sort_keys=True).encode()


def _read_whole(filesystem: fs.FileSystem, path: str, *, uri: str) -> dict[str, bytes]:
    return {
        name: _read_checked(filesystem, f"{path}/{name}", size=size, digest=digest, uri=uri)
        for name, (size, digest) in _read_entries(filesystem, path, uri=uri).items()
    }


def _read_entries(filesystem: fs.FileSystem, path: str, *, uri: str) -> dict[str, tuple[int, str]]:
    """Return size and SHA-256 by name, and refuse a manifest that is not one of ours."""
    try:
        with filesystem.open_input_file(f"{path}/{MANIFEST}") as stream:
            text = stream.read(_MAX_MANIFEST_BYTES + 1)
        files = json.loads(text if len(text) <= _MAX_MANIFEST_BYTES else b"")["files"]
        entries = {name: (entry["size"], entry["sha256"]) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DamagedFolderError(f"{uri} has no readable {MANIFEST}.") from None
    for name, (size, _) in entries.items():
        if "/" in name or name in ("", ".", "..") or not isinstance(size, int):
            raise DamagedFolderError(f"The {MANIFEST} of {uri} is not one of a folder: {name!r}.")
    return entries


def _read_checked(
    filesystem: fs.FileSystem, path: str, *, size: int, digest: str, uri: str
) -> bytes:
    name = path.rpartition("/")[2]
    try:
        # Asked before the file is opened: opening a named pipe would wait for ever.
        info = filesystem.get_file_info(path)
        if info.type != fs.FileType.File:
            raise DamagedFolderError(f"{uri} lacks {name}.")
        if info.size != size:
            raise DamagedFolderError(f"{uri}/{name} has {info.size} bytes instead of {size}.")
        with filesystem.open_input_file(path) as stream:
            content: bytes = stream.read(size)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or "input/output error"
        raise DamagedFolderError(f"{uri}/{name!r} cannot be read: {reason}.") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise DamagedFolderError(f"{uri}/{name} differs from its SHA-256.")
    return content


def _read(filesystem: fs.FileSystem, path: str) -> bytes:
    with filesystem.open_input_file(path) as stream:
        content: bytes = stream.read()
    return content


def _write_local(path: Path, contents: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}-{uuid.uuid4().hex}.tmp"
    temporary.mkdir()
    try:
        for name, content in contents.items():
            with (temporary / name).open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        sync_directory(temporary)
        _put_in_place(temporary, path)
        sync_directory(path.parent)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _remove_set_aside(path)


def _put_in_place(temporary: Path, path: Path) -> None:
    """Rename ``temporary`` to ``path``; a folder already there is set aside."""
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "there is a file of that name")
    old = path.parent / f".{path.name}-{uuid.uuid4().hex}.old"
    with contextlib.suppress(FileNotFoundError):
        path.rename(old)
    try:
        temporary.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise


def _set_aside(path: Path) -> Iterator[Path]:
    """Yield what a writer that was killed left of the folders that ``path`` was before."""
    if path.parent.is_dir():
        for sibling in path.parent.iterdir():
            match = _SET_ASIDE.fullmatch(sibling.name)
            if match and match["name"] == path.name:
                yield sibling


def _remove_set_aside(path: Path) -> None:
    for old in list(_set_aside(path)):
        shutil.rmtree(old, ignore_errors=True)


def _written_ns(folder: Path) -> int:
    """Return when a folder was written; 0 for one whose removal has begun."""
    try:
        return (folder / MANIFEST).stat().st_mtime_ns
    except OSError:
        return 0


def _write_remote(filesystem: fs.FileSystem, path: str, contents: Mapping[str, bytes]) -> None:
    filesystem.create_dir(path, recursive=True)
    for name, content in contents.items():  # the manifest comes last
        with filesystem.open_output_stream(f"{path}/{name}") as stream:
            stream.write(content)
