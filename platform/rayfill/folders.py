"""Folders that are either whole or absent, on a local disk or in a bucket.

A folder is written to a temporary sibling, flushed to the disk, given a ``manifest.json`` with the
size and SHA-256 of every file, and renamed. In an object store, which has no rename, the manifest
goes last: a folder without one does not exist.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from pyarrow import fs

from rayfill_data.errors import RayfillError
from rayfill_data.reader import resolve

MANIFEST = "manifest.json"


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

    Raises:
        DamagedFolderError: naming the first file that is missing, cut short or changed.
    """
    filesystem, path = resolve(uri)
    try:
        manifest = json.loads(_read(filesystem, f"{path}/{MANIFEST}"))["files"]
        entries = {name: (entry["size"], entry["sha256"]) for name, entry in manifest.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DamagedFolderError(f"{uri} has no readable {MANIFEST}.") from None
    files = {}
    for name, (size, digest) in entries.items():
        try:
            content = _read(filesystem, f"{path}/{name}")
        except OSError:
            raise DamagedFolderError(f"{uri} lacks {name}.") from None
        if len(content) != size:
            raise DamagedFolderError(f"{uri}/{name} has {len(content)} bytes instead of {size}.")
        if hashlib.sha256(content).hexdigest() != digest:
            raise DamagedFolderError(f"{uri}/{name} differs from its SHA-256.")
        files[name] = content
    return files


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
    return sorted(
        info.base_name
        for info in found
        if info.type == fs.FileType.Directory and not info.base_name.startswith(".")
    )


def delete_folder(uri: str) -> None:
    """Delete a folder and all it holds; the manifest first, so that no half is taken for whole."""
    filesystem, path = resolve(uri)
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
        if path.exists():
            old = path.parent / f".{path.name}-{uuid.uuid4().hex}.old"
            path.rename(old)
            temporary.rename(path)
            shutil.rmtree(old)
        else:
            temporary.rename(path)
        sync_directory(path.parent)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_remote(filesystem: fs.FileSystem, path: str, contents: Mapping[str, bytes]) -> None:
    filesystem.create_dir(path, recursive=True)
    for name, content in contents.items():  # the manifest comes last
        with filesystem.open_output_stream(f"{path}/{name}") as stream:
            stream.write(content)
