"""Files and folders that are either whole or absent, on a local disk or in a bucket.

A local file is written beside its place, flushed to the disk and renamed. So is a folder; one that
it replaces is first set aside under a hidden name, which readers fall back on, and is deleted when
the new one is in place: whenever the writer is killed, they find the old folder or the new one. In
an object store, which has no rename, a folder's manifest goes first and comes last: a folder
without one does not exist.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from rayfill_data.errors import DatasetError, RayfillError

MANIFEST = "manifest.json"

#: Far above any list of files, far below what would hurt to parse.
_MAX_MANIFEST_BYTES = 2**20

#: The hidden name under which a folder waits while another takes its place.
_SET_ASIDE = re.compile(r"\.(?P<name>.+)-[0-9a-f]{32}\.old", re.DOTALL)

#: Opened once per process: a client of an object store takes long to make.
_open_store = functools.lru_cache(maxsize=16)(fs.FileSystem.from_uri)


class DamagedFolderError(RayfillError):
    """A folder that is missing, incomplete, or not what its manifest says."""


def resolve(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the pyarrow file system and the path in it of a local path or a URI.

    Raises:
        DatasetError: a scheme nobody knows, or a URI that is none.
    """
    if "://" not in uri:
        return fs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
    try:
        filesystem, path = _open_store(uri)
    except (pa.ArrowInvalid, OSError) as error:
        raise DatasetError(
            f"{uri!r} cannot be opened as a location; give a local path or a URI such as "
            "s3://bucket/folder or gs://bucket/folder."
        ) from error
    return filesystem, path.rstrip("/")


def locate(uri: str) -> tuple[fs.FileSystem, str]:
    """Return file system and path of a folder: its own, or where a killed writer set it aside.

    Raises:
        DatasetError: as :func:`resolve`.
        OSError: the place may not be looked at.
    """
    filesystem, path = resolve(uri)
    if isinstance(filesystem, fs.LocalFileSystem) and not Path(path).exists():
        path = str(max(_set_aside(Path(path)), key=_written_ns, default=path))
    return filesystem, path


def list_entries(filesystem: fs.FileSystem, path: str) -> dict[str, bool]:
    """Return what lies in a folder by name, and whether it is a folder; nothing without one."""
    if not isinstance(filesystem, fs.LocalFileSystem):
        found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return {info.base_name: info.type == fs.FileType.Directory for info in found}
    try:  # pyarrow fails on names that are not UTF-8
        return {entry.name: entry.is_dir() for entry in Path(path).iterdir()}
    except FileNotFoundError:
        return {}


def list_folders(uri: str) -> list[str]:
    """Return the names of the folders in ``uri``, sorted; none where it does not exist."""
    names = {name for name, is_folder in list_entries(*resolve(uri)).items() if is_folder}
    set_aside = {match["name"] for match in map(_SET_ASIDE.fullmatch, names) if match}
    return sorted(name for name in names | set_aside if not name.startswith("."))


def read_file(uri: str) -> bytes | None:
    """Return the content of one file, or None where there is none."""
    filesystem, path = resolve(uri)
    local = isinstance(filesystem, fs.LocalFileSystem)
    try:
        with Path(path).open("rb") if local else filesystem.open_input_file(path) as stream:
            content: bytes = stream.read()
    except FileNotFoundError:
        return None
    return content


def write_file(uri: str, content: bytes, *, durable: bool = True) -> None:
    """Write one file whole or not at all, replacing a file of that name.

    Args:
        uri: The file.
        content: Of the file.
        durable: Flush it, so that it outlives a power cut; a killed process needs no such thing.

    Raises:
        OSError: the storage refuses; what was there before is untouched.
    """
    filesystem, path = resolve(uri)
    if not isinstance(filesystem, fs.LocalFileSystem):
        filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        write_into(filesystem, path, content)
        return
    with _written_beside(Path(path), content, durable=durable) as temporary:
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
    with _written_beside(Path(path), content, durable=True) as temporary:
        try:
            Path(path).hardlink_to(temporary)
        except FileExistsError:
            return False
    return True


def read_folder(uri: str) -> dict[str, bytes]:
    """Return the files of a folder, every one checked against the manifest.

    No more is read than the manifest says, and that only where the files are of just that size.

    Raises:
        DamagedFolderError: naming the first file that is missing, cut short or changed.
    """
    filesystem, path = resolve(uri)
    try:
        return _read_whole(filesystem, path, uri=uri)
    except DamagedFolderError:  # perhaps because another is being put into its place
        filesystem, elsewhere = locate(uri)
        if elsewhere == path:
            raise
        return _read_whole(filesystem, elsewhere, uri=uri)


def write_folder(uri: str, files: Mapping[str, bytes]) -> None:
    """Write ``files`` and their manifest as one folder, replacing a folder of that name.

    Raises:
        RayfillError: when the storage refuses, naming the path and the size; what was there before
            is untouched and nothing half-written is left.
    """
    contents = {**files, MANIFEST: _manifest(files)}
    try:
        with replacing(uri) as (filesystem, path):
            for name, content in contents.items():
                write_into(filesystem, f"{path}/{name}", content)
    except OSError as error:
        size = sum(map(len, contents.values()))
        raise RayfillError(
            f"Could not write {size:,} bytes to {uri}: {error.strerror or error}. Free space "
            "there, or name another storage; what was there before is unchanged."
        ) from error


@contextlib.contextmanager
def replacing(uri: str, *, alone: bool = False) -> Iterator[tuple[fs.FileSystem, str]]:
    """Yield where to write a folder, which is there when the block ends without an error.

    The block writes :data:`MANIFEST` last. On a local disk nothing of a folder of that name is
    touched before; in an object store only its manifest is deleted, the rest is the block's matter.

    Args:
        uri: The folder.
        alone: Refuse to be the second writer, and clear up after one that was killed.

    Raises:
        BlockingIOError: another process writes it.
        OSError: the storage refuses.
    """
    filesystem, path = resolve(uri)
    if not isinstance(filesystem, fs.LocalFileSystem):
        filesystem.create_dir(path, recursive=True)
        _withdraw(filesystem, path)
        yield filesystem, path
        return
    goal = Path(path)
    if goal.exists() and not goal.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "there is a file of that name")
    unique = f".{goal.name}-{uuid.uuid4().hex}"
    temporary = goal.with_name(f".{goal.name}.partial" if alone else f"{unique}.tmp")
    with _held(temporary) if alone else contextlib.nullcontext():
        temporary.mkdir(parents=True, exist_ok=True)
        earlier = list(_set_aside(goal))
        old = goal.with_name(f"{unique}.old")
        try:
            yield filesystem, str(temporary)
            for written in (*temporary.iterdir(), temporary):
                _sync(written)
            _put_in_place(temporary, goal, old=old)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync(goal.parent)
        for replaced in (*earlier, old):
            with contextlib.suppress(OSError):
                _remove(replaced)


def write_into(filesystem: fs.FileSystem, path: str, content: bytes) -> None:
    """Write one file of a folder that is not there yet, see :func:`replacing`."""
    local = isinstance(filesystem, fs.LocalFileSystem)
    with Path(path).open("wb") if local else filesystem.open_output_stream(path) as stream:
        stream.write(content)


def delete_folder(uri: str) -> None:
    """Delete a folder and all it holds; the manifest first, so that no half is taken for whole."""
    filesystem, path = resolve(uri)
    if isinstance(filesystem, fs.LocalFileSystem):
        for folder in (*_set_aside(Path(path)), Path(path)):
            _remove(folder)
        return
    _withdraw(filesystem, path)
    if filesystem.get_file_info(path).type == fs.FileType.Directory:
        filesystem.delete_dir(path)


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


@contextlib.contextmanager
def _written_beside(path: Path, content: bytes, *, durable: bool) -> Iterator[Path]:
    """Yield a hidden file of that content; flush it, and what the block makes of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(content)
        if durable:
            _sync(temporary)
        yield temporary
        if durable:
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Make an empty folder and hold it against other processes; the hold dies with this one."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between opening and locking, its former holder may have renamed it to its goal.
        if not folder.exists() or not os.path.samestat(os.fstat(handle), folder.stat()):
            raise BlockingIOError(errno.EWOULDBLOCK, "another process writes it")
        for left_by_a_killed_run in folder.iterdir():
            left_by_a_killed_run.unlink()
        yield
    finally:
        os.close(handle)


def _put_in_place(temporary: Path, path: Path, *, old: Path) -> None:
    """Rename ``temporary`` to ``path``, and a folder already there to ``old``."""
    try:
        with contextlib.suppress(FileNotFoundError):
            path.rename(old)
        temporary.rename(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        raise


def _set_aside(path: Path) -> Iterator[Path]:
    """Yield what a writer that was killed left of the folders that ``path`` was before."""
    if path.parent.is_dir():
        for sibling in path.parent.iterdir():
            match = _SET_ASIDE.fullmatch(sibling.name)
            if match and match["name"] == path.name:
                yield sibling


def _withdraw(filesystem: fs.FileSystem, path: str) -> None:
    """Delete a folder's manifest: half a folder must not look like a whole one."""
    if filesystem.get_file_info(f"{path}/{MANIFEST}").type == fs.FileType.File:
        filesystem.delete_file(f"{path}/{MANIFEST}")


def _remove(folder: Path) -> None:
    """Delete a local folder if it is there, and of a link only the link."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder)


def _written_ns(folder: Path) -> int:
    """Return when a folder was written; -1 for one whose removal has begun."""
    try:
        return (folder / MANIFEST).stat().st_mtime_ns
    except OSError:
        return -1


def _sync(path: Path) -> None:
    """Flush a local file, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
