from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rayfill_data.errors import RayfillError
from rayfill_data.storage import (
    DamagedFolderError,
    delete_folder,
    list_folders,
    read_file,
    read_folder,
    write_file,
    write_folder,
)

FILES = {"a.bin": bytes(range(256)) * 8, "b.txt": b"hello"}

REPLACER = """
import sys
from rayfill_data.storage import write_folder
root, = sys.argv[1:]
number = 0
while True:
    number += 1
    write_folder(f"{root}/best", {"data": number.to_bytes(4) * 1000, "more": b"x" * 1000})
    print(number, flush=True)
"""

WRITER = """
import sys
from rayfill_data.storage import write_folder
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

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(RayfillError, match=r"Could not write [\d,]+ bytes to .*one: No space left"):
        write_folder(uri, {"a.bin": b"other"})
    monkeypatch.undo()
    assert read_folder(uri) == FILES
    assert [entry.name for entry in tmp_path.iterdir()] == ["one"]


@pytest.mark.process
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


def test_killed_anywhere_while_replacing_a_folder_the_old_one_or_the_new_one_is_there(
    tmp_path: Path, killed_at_every_step: Any
) -> None:
    replacing = {
        "imports": "from rayfill_data.storage import write_folder",
        "act": 'write_folder(f"{folder}/one", {"a.bin": b"new"})',
    }
    before = tmp_path / "before"
    write_folder(str(before / "one"), FILES)
    left = killed_at_every_step(**replacing, before=before, after=tmp_path / "once")
    hidden = [folder for folder in left if not (folder / "one").exists()]
    assert hidden, "no kill fell between the renames"
    left += killed_at_every_step(**replacing, before=hidden[0], after=tmp_path / "twice")
    for folder in left:
        assert list_folders(str(folder)) == ["one"]
        assert read_folder(str(folder / "one")) in (FILES, {"a.bin": b"new"})
        write_folder(str(folder / "one"), {"a.bin": b"newer"})
        assert read_folder(str(folder / "one")) == {"a.bin": b"newer"}
        assert not [entry for entry in folder.iterdir() if entry.name.endswith(".old")]


@pytest.mark.parametrize("write", ["write_file", "create_file"])
def test_killed_anywhere_while_writing_a_file_there_is_a_whole_one(
    tmp_path: Path, killed_at_every_step: Any, write: str
) -> None:
    before = tmp_path / "before"
    before.mkdir()
    old = b"old" if write == "write_file" else None
    if old:
        (before / "file").write_bytes(old)
    left = killed_at_every_step(
        imports=f"from rayfill_data.storage import {write}",
        act=f'{write}(f"{{folder}}/file", b"new")',
        before=before,
        after=tmp_path / "after",
    )
    found = [read_file(str(folder / "file")) for folder in left]
    assert found[0] == old
    assert found[-1] == b"new"
    assert set(found) == {old, b"new"}
    assert [entry.name for entry in left[-1].iterdir()] == ["file"]


def test_a_file_on_a_full_disk_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_file(str(path), b"old")

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_file(str(path), b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_folders_whose_names_are_not_utf8_are_folders_like_others(tmp_path: Path) -> None:
    write_folder(str(tmp_path / "one"), FILES)
    os.mkdir(os.path.join(os.fsencode(tmp_path), b"\xff"))
    one, other = list_folders(str(tmp_path))
    assert one == "one"
    assert read_file(f"{tmp_path}/{one}/a.bin") == FILES["a.bin"]
    assert read_file(f"{tmp_path}/{other}/a.bin") is None


def test_of_several_folders_set_aside_the_newest_whole_one_is_read(tmp_path: Path) -> None:
    names = [f".one-{digit * 32}.old" for digit in "abc"]
    for age, name in enumerate(names):
        write_folder(str(tmp_path / name), {"age": b"%d" % age})
        os.utime(tmp_path / name / "manifest.json", ns=(10 - age, 10 - age))
    write_folder(str(tmp_path / f".one-two-{'d' * 32}.old"), FILES)  # another folder's
    assert read_folder(str(tmp_path / "one")) == {"age": b"0"}
    (tmp_path / names[0] / "manifest.json").unlink()  # a removal that was interrupted
    assert read_folder(str(tmp_path / "one")) == {"age": b"1"}
    assert list_folders(str(tmp_path)) == ["one", "one-two"]
    delete_folder(str(tmp_path / "one"))
    assert list_folders(str(tmp_path)) == ["one-two"]
    with pytest.raises(DamagedFolderError):
        read_folder(str(tmp_path / "one"))


@pytest.mark.process
def test_killed_while_replacing_leaves_the_last_folder_or_the_next(tmp_path: Path) -> None:
    """kill -9 at 20 random moments of a writer that replaces one folder over and over."""
    chance = random.Random(3)
    for _ in range(20):
        command = [sys.executable, "-c", REPLACER, str(tmp_path)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        acknowledged = int(writer.stdout.readline())
        deadline = time.monotonic() + chance.random() * 0.02
        while time.monotonic() < deadline:
            pass
        writer.kill()
        acknowledged = max([acknowledged, *map(int, writer.stdout.read().split())])
        writer.wait()
        writer.stdout.close()
        found = int.from_bytes(read_folder(f"{tmp_path}/best")["data"][:4])
        assert found in (acknowledged, acknowledged + 1)


@pytest.mark.parametrize(
    "manifest",
    [
        b'{"files": {"a.bin": {"size": 1000000000000, "sha256": ""}}}',
        b'{"files": {"a.bin": {"size": "2048", "sha256": ""}}}',
        b'{"files": {"a.bin": {"size": 2048.0, "sha256": ""}}}',
        b'{"files": {"../one/a.bin": {"size": 2048, "sha256": ""}}}',
        b'{"files": {"pipe": {"size": 0, "sha256": ""}}}',
        b'{"files": {"\\u0000": {"size": 0, "sha256": ""}}}',
        b'{"files": {"\\ud800": {"size": 0, "sha256": ""}}}',
        b'{"files": [1]}',
        b"[" * 100_000,
        b" " * 2**20 + b'{"files": {}}',
    ],
    ids=lambda manifest: manifest[:40].decode(),
)
def test_manifests_that_claim_nonsense_are_damage(tmp_path: Path, manifest: bytes) -> None:
    uri = str(tmp_path / "one")
    write_folder(uri, FILES)
    os.mkfifo(tmp_path / "one" / "pipe")
    (tmp_path / "one" / "manifest.json").write_bytes(manifest)
    with pytest.raises(DamagedFolderError, match="one"):
        read_folder(uri)


def test_object_stores_get_the_manifest_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pyarrow's subtree of a local folder stands in for a bucket: no rename is used."""
    from pyarrow import fs

    order = []

    class Recording(fs.SubTreeFileSystem):
        def open_output_stream(self, path: str, *args: object, **kwargs: object) -> object:
            order.append(path)
            return super().open_output_stream(path, *args, **kwargs)

    bucket = Recording(str(tmp_path), fs.LocalFileSystem())
    monkeypatch.setattr("rayfill_data.storage.resolve", lambda _: (bucket, "one"))
    write_folder("s3://one", FILES)
    monkeypatch.undo()
    assert order[-1].endswith("manifest.json")
    assert read_folder(str(tmp_path / "one")) == FILES
