"""Made-up annotations in COCO's format."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

CATEGORIES = ({"id": 1, "name": "person"}, {"id": 18, "name": "dog"}, {"id": 44, "name": "cup"})


#: Does a thing again and again, each time in a fresh copy of a folder, and is killed just before
#: the first, second, ... change to names on the disk, until it gets to its end.
_KILLED_AT_EVERY_STEP = """
import os, shutil, signal, sys
{imports}
before, after = sys.argv[1:]

def die_before(left):
    def watch(event, _):
        nonlocal left
        if event in ("os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir"):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(watch)

step, status = 0, None
while status != 0:
    folder = f"{{after}}/{{step:03d}}"
    shutil.copytree(before, folder)
    child = os.fork()
    if child == 0:
        die_before(step)
        {act}
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    step += 1
"""


def kill_at_every_step(*, imports: str, act: str, before: Path, after: Path) -> list[Path]:
    """Return what a process that is killed while it acts on `folder` leaves, one for each step."""
    after.mkdir()
    code = _KILLED_AT_EVERY_STEP.format(imports=imports, act=act)
    subprocess.run([sys.executable, "-c", code, str(before), str(after)], check=True, timeout=300)
    return sorted(after.iterdir())


@pytest.fixture
def killed_at_every_step() -> Callable[..., list[Path]]:
    return kill_at_every_step


def blob(rng: np.random.Generator, *, centre: tuple[float, float], radius: float) -> list[float]:
    """A star-shaped polygon with two decimals, as COCO writes them."""
    angle = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(8, 30))))
    reach = radius * rng.uniform(0.7, 1.0, len(angle))
    points = np.stack([centre[0] + reach * np.cos(angle), centre[1] + reach * np.sin(angle)], 1)
    return np.round(points, 2).ravel().tolist()


@dataclass
class MadeCoco:
    """A folder of photos and the annotations of them, which tests may spoil."""

    images: Path
    annotations: Path
    raw: dict[str, Any]

    def save(self) -> MadeCoco:
        self.annotations.write_text(json.dumps(self.raw))
        return self

    def options(self) -> dict[str, Any]:
        return {"images": str(self.images), "annotations": str(self.annotations)}


@dataclass
class MadePanoptic(MadeCoco):
    """The same in COCO's panoptic format."""

    masks: Path

    def options(self) -> dict[str, Any]:
        return super().options() | {"panoptic_masks": str(self.masks)}

    def picture(self, name: str) -> np.ndarray:
        return np.array(Image.open(self.masks / name))


@pytest.fixture
def make_coco(tmp_path: Path, make_picture: Any) -> Callable[..., MadeCoco]:
    """Write photos of 120x90 pixels, each with a person on the left and a dog on the right."""

    def make(photos: int = 14, name: str = "coco") -> MadeCoco:
        images = tmp_path / name / "photos"
        images.mkdir(parents=True)
        raw: dict[str, Any] = {"images": [], "annotations": [], "categories": list(CATEGORIES)}
        for index in range(photos):
            rng = np.random.default_rng(index)
            picture = make_picture(90, 120, seed=index)
            noise = rng.integers(0, 30, picture.shape, dtype=np.uint8)
            file = f"{index:05d}.png"
            Image.fromarray(picture // 2 + noise).save(images / file)
            raw["images"].append({"id": 100 + index, "file_name": file, "height": 90, "width": 120})
            for place, category in enumerate((1, 18)):
                outline = blob(rng, centre=(28.0 + 60 * place, 45.0), radius=20.0)
                raw["annotations"].append(
                    {
                        "id": 2 * index + place,
                        "image_id": 100 + index,
                        "category_id": category,
                        "iscrowd": 0,
                        "segmentation": [outline],
                    }
                )
        return MadeCoco(images, tmp_path / name / "instances.json", raw).save()

    return make


@pytest.fixture
def make_panoptic(make_coco: Any) -> Callable[..., MadePanoptic]:
    """Rewrite what `make_coco` made: segments coloured by large numbers, the corner void."""

    def make(photos: int = 14, name: str = "coco") -> MadePanoptic:
        made = make_coco(photos, name)
        masks = made.images.parent / "masks"
        masks.mkdir()
        annotations = []
        for index, image in enumerate(made.raw["images"]):
            segments = [
                {"id": 7 + 300 * index, "category_id": 44, "bbox": [0, 0, 120, 90], "area": 9000}
            ]
            ids = np.full((90, 120), 7 + 300 * index, np.uint32)
            ids[:4, :4] = 0
            for place, thing in enumerate(made.raw["annotations"][2 * index : 2 * index + 2]):
                number = 70_000 * (place + 1) + index
                outline = np.array(thing["segmentation"][0]).reshape(-1, 1, 2)
                inside = np.zeros((90, 120), np.uint8)
                cv2.fillPoly(inside, [np.rint(outline).astype(np.int32)], 1)
                ids[inside > 0] = number
                rows, columns = np.nonzero(inside)
                left, top = int(columns.min()), int(rows.min())
                box = [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top]
                segments.append(
                    {
                        "id": number,
                        "category_id": thing["category_id"],
                        "iscrowd": 0,
                        "bbox": box,
                        "area": int(inside.sum()),
                    }
                )
            colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], 2).astype(np.uint8)
            Image.fromarray(colours).save(masks / image["file_name"])
            annotations.append(
                {
                    "image_id": image["id"],
                    "file_name": image["file_name"],
                    "segments_info": segments,
                }
            )
        raw = made.raw | {"annotations": annotations}
        path = made.annotations.with_name("panoptic.json")
        return MadePanoptic(made.images, path, raw, masks).save()  # type: ignore[return-value]

    return make
