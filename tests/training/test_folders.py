from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rayfill import folders
from rayfill.folders import (
    DamagedFolderError,
    delete_folder,
    list_folders,
    read_folder,
    write_folder,
)
from rayfill_data.errors import RayfillError

FILES = {"a.bin": bytes(range(256)) * 8, "b.txt": b"hello"}

WRITER = """
import sys
from rayfill.folders import write_folder
root, = sys.argv[1:]
number = 0
while True:
    number += 1
    write_folder(f"{root}/step-{number:08d}", {"data": bytes([number % 256]) * 300_000})
    print(number, flush=True)
"""


def test_what_is_written_is_read(tmp_path: Path) -> None:
    uri = str(tmp_path / "one")
    write_folder(uri, FILES)
    assert read_folder(uri) == FILES
    write_folder(uri, {"a.bin": b"new"})
    assert read_folder(uri) == {"a.bin": b"new"}
    assert list_folders(str(tmp_path)) == ["one"]
    delete_folder(uri)
    assert list_folders(str(tmp_path)) == []


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest", "empty manifest"])
def test_damage_is_found(tmp_path: Path, damage: str) -> None:
    uri = str(tmp_path / "one")
    write_folder(uri, FILES)
    victim = tmp_path / "one" / "a.bin"
    manifest = tmp_path / "one" / "manifest.json"
    if damage == "truncate":
        victim.write_bytes(FILES["a.bin"][:-1])
    elif damage == "flip":
        victim.write_bytes(b"\xff" + FILES["a.bin"][1:])
    elif damage == "remove":
        victim.unlink()
    elif damage == "manifest":
        manifest.unlink()
    else:
        manifest.write_bytes(b"")
    with pytest.raises(DamagedFolderError, match="one"):
        read_folder(uri)


def test_full_disk_leaves_the_old_folder_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "one")
    write_folder(uri, FILES)

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(folders.os, "fsync", refuse)
    with pytest.raises(RayfillError, match=r"Could not write [\d,]+ bytes to .*one: No space left"):
        write_folder(uri, {"a.bin": b"other"})
    monkeypatch.undo()
    assert read_folder(uri) == FILES
    assert [entry.name for entry in tmp_path.iterdir()] == ["one"]


def test_killed_writers_leave_only_whole_folders(tmp_path: Path) -> None:
    """kill -9 at 20 random moments: every folder that is listed verifies, none is lost."""
    chance = random.Random(7)
    acknowledged = 0
    for _ in range(20):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        acknowledged = max(acknowledged, int(writer.stdout.readline()))
        deadline = time.monotonic() + chance.random() * 0.05
        while time.monotonic() < deadline:
            pass
        writer.kill()
        rest = writer.stdout.read().split()
        acknowledged = max([acknowledged, *map(int, rest)])
        writer.wait()
        writer.stdout.close()
        names = list_folders(str(tmp_path))
        assert f"step-{acknowledged:08d}" in names
        for name in names[-3:]:
            assert len(read_folder(f"{tmp_path}/{name}")["data"]) == 300_000


def test_object_stores_get_the_manifest_last(tmp_path: Path) -> None:
    """pyarrow's subtree of a local folder stands in for a bucket: no rename is used."""
    from pyarrow import fs

    order = []

    class Recording(fs.SubTreeFileSystem):
        def open_output_stream(self, path: str, *args: object, **kwargs: object) -> object:
            order.append(path)
            return super().open_output_stream(path, *args, **kwargs)

    bucket = Recording(str(tmp_path), fs.LocalFileSystem())
    folders._write_remote(bucket, "one", {**FILES, "manifest.json": folders._manifest(FILES)})
    assert order[-1].endswith("manifest.json")
    assert read_folder(str(tmp_path / "one")) == FILES
