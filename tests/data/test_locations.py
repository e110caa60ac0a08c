"""From s3:// to s3://: a real server on a loopback socket, spoken to by pyarrow's own client."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image
from pyarrow import fs

from rayfill_data.errors import DatasetError
from rayfill_data.prepared.pipeline import prepare
from rayfill_data.prepared.reader import PreparedDataset
from rayfill_data.sources import CocoPairsOptions, FolderOptions
from rayfill_data.sources.files import list_files, list_pictures


@dataclass(frozen=True)
class Store:
    """A bucket of an S3 server of our own."""

    address: str

    def uri(self, path: str) -> str:
        # Workers of the shared cluster have no credentials in their environment.
        options = f"endpoint_override={self.address}&scheme=http&region=us-east-1"
        return f"s3://key:secret@bucket/{path}?{options}&allow_bucket_creation=true"

    def upload(self, folder: Path, path: str) -> None:
        system, root = fs.FileSystem.from_uri(self.uri(path))
        system.create_dir(root, recursive=True)
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                name = file.relative_to(folder).as_posix()
                self.write(f"{path}/{name}", file.read_bytes())

    def read(self, path: str) -> bytes:
        system, root = fs.FileSystem.from_uri(self.uri(path))
        with system.open_input_stream(root) as stream:
            return bytes(stream.read())

    def write(self, path: str, content: bytes) -> None:
        system, root = fs.FileSystem.from_uri(self.uri(path))
        with system.open_output_stream(root) as stream:
            stream.write(content)

    def delete(self, path: str) -> None:
        system, root = fs.FileSystem.from_uri(self.uri(path))
        system.delete_file(root)


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield Store(f"{host}:{port}")
    finally:
        server.stop()


@pytest.fixture
def pictures(tmp_path: Path, make_picture: Any) -> Path:
    root = tmp_path / "pictures"
    (root / "deep").mkdir(parents=True)
    for index in range(9):
        place = root if index % 2 else root / "deep"
        Image.fromarray(make_picture(40, 50, seed=index)).save(place / f"{index}.png")
    return root


def quiet(done: int, total: int) -> None:
    pass


def test_a_bucket_is_listed_like_a_folder(store: Store, pictures: Path) -> None:
    (pictures / "notes.txt").write_text("no picture")
    store.upload(pictures, "listed")
    assert list(list_files(store.uri("listed"))) == list(list_files(str(pictures)))
    assert len(list_pictures(store.uri("listed"))) == 9
    with pytest.raises(DatasetError, match="is not a folder"):
        list_files(store.uri("nowhere"))


def test_a_folder_is_prepared_from_bucket_to_bucket(
    store: Store, pictures: Path, tmp_path: Path, ray_local: None
) -> None:
    store.upload(pictures, "photos")
    there, here = store.uri("prepared"), str(tmp_path / "prepared")
    remote = FolderOptions(root=store.uri("photos"), size=32, masks="objects")
    local = FolderOptions(root=str(pictures), size=32, masks="objects")
    manifest = prepare("folder", out=there, options=remote, progress=quiet)
    expected = prepare("folder", out=here, options=local, progress=quiet)
    assert manifest.content_hash == expected.content_hash
    assert PreparedDataset.open(there).manifest == manifest
    for split in ("train", "val", "test"):
        found = PreparedDataset.open(there).load(split)
        wanted = PreparedDataset.open(here).load(split)
        np.testing.assert_array_equal(found.image, wanted.image)
        np.testing.assert_array_equal(found.hole_mask, wanted.hole_mask)
    assert prepare("folder", out=there, options=remote, progress=quiet) == manifest
    written = store.read("prepared/manifest.json")
    assert b"s3://bucket/photos?" in written
    assert b"secret" not in written
    # One of before keys were left out of manifests is the same dataset.
    store.write("prepared/manifest.json", written.replace(b"s3://", b"s3://key:secret@"))
    again = prepare("folder", out=there, options=remote, progress=quiet)
    assert again.content_hash == manifest.content_hash
    with pytest.raises(DatasetError, match="--overwrite"):
        prepare("folder", out=there, options=remote, seed=1, progress=quiet)
    other = prepare("folder", out=there, options=remote, seed=1, overwrite=True, progress=quiet)
    assert PreparedDataset.open(there).manifest == other != manifest
    store.delete("prepared/manifest.json")
    with pytest.raises(DatasetError, match="no finished dataset"):
        PreparedDataset.open(there)


def test_coco_is_prepared_from_a_bucket(store: Store, make_coco: Any, ray_local: None) -> None:
    made = make_coco(30)
    store.upload(made.annotations.parent, "coco")
    options = CocoPairsOptions(
        images=store.uri("coco/photos"),
        annotations=store.uri("coco/instances.json"),
        size=24,
        min_object_px=16,
        window=0.3,
        val_share=0.3,
        test_share=0.3,
    )
    manifest = prepare("coco_pairs", out=store.uri("pairs"), options=options, progress=quiet)
    assert manifest.rejected == 0
    arrays = PreparedDataset.open(store.uri("pairs")).load("test")
    assert len(arrays) == manifest.counts["test"] > 0
    assert arrays.labels is not None
