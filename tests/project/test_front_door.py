"""What Python users write: `import rayfill`, and the names it promises."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rayfill
from rayfill_data.errors import ConfigError, ImageError

#: Public names, one a line; a renamed one is a change that users must hear of (CHANGELOG).
LIST = Path(__file__).with_name("public_names.txt")
FACES = ("rayfill", "rayfill.losses", "rayfill.metrics", "rayfill.models")


def public_names() -> list[str]:
    lines = []
    for face in FACES:
        module = importlib.import_module(face)
        for name in sorted(module.__all__):
            found = getattr(module, name)
            shown = face == "rayfill" and inspect.isfunction(found)
            parameters = ", ".join(inspect.signature(found).parameters) if shown else ""
            lines.append(f"{face}.{name}({parameters})" if shown else f"{face}.{name}")
    return lines


def test_the_public_names_are_those_of_the_list() -> None:
    assert public_names() == LIST.read_text(encoding="utf-8").split("\n")[:-1]


def test_importing_it_imports_nothing_heavy() -> None:
    code = (
        "import sys, rayfill\n"
        "heavy = ('torch', 'numpy', 'ray', 'mlflow', 'cv2', 'PIL', 'pydantic')\n"
        "print([name for name in heavy if name in sys.modules], dir(rayfill))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] ['RunConfig', 'evaluate', 'load', 'prepare', 'sweep']"


@pytest.fixture
def photo() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)


@pytest.fixture
def hole() -> np.ndarray:
    hole = np.zeros((40, 56), bool)
    hole[10:20, 15:30] = True
    return hole


def test_an_array_gives_an_array_and_known_pixels_stay(photo: np.ndarray, hole: np.ndarray) -> None:
    clean = rayfill.load("telea")(photo, hole)
    assert isinstance(clean, np.ndarray)
    assert (clean.dtype, clean.shape) == (np.uint8, photo.shape)
    np.testing.assert_array_equal(clean[~hole], photo[~hole])
    assert (clean[hole] != photo[hole]).any()
    as_bytes = rayfill.load("telea")(photo, hole.astype(np.uint8) * 255)
    np.testing.assert_array_equal(clean, as_bytes)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_an_image_gives_an_image_of_its_mode(
    mode: str, photo: np.ndarray, hole: np.ndarray
) -> None:
    image = Image.fromarray(photo).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(photo[..., 0]))
    image.info["icc_profile"] = b"profile"
    clean = rayfill.load("telea")(image, Image.fromarray(hole.astype(np.uint8) * 255))
    assert isinstance(clean, Image.Image)
    assert (clean.mode, clean.size) == (mode, image.size)
    assert clean.info["icc_profile"] == b"profile"
    before, after = np.asarray(image), np.asarray(clean)
    np.testing.assert_array_equal(after[~hole], before[~hole])
    if mode == "RGBA":
        np.testing.assert_array_equal(after[..., 3], before[..., 3])


def test_files_and_arrays_give_the_same(
    photo: np.ndarray, hole: np.ndarray, tmp_path: Path
) -> None:
    Image.fromarray(photo).save(tmp_path / "photo.png")
    Image.fromarray(hole.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    fill = rayfill.load("harmonic")
    from_files = fill(tmp_path / "photo.png", str(tmp_path / "mask.png"))
    assert isinstance(from_files, Image.Image)
    np.testing.assert_array_equal(np.asarray(from_files), fill(photo, hole))


def test_what_cannot_be_filled_is_said(photo: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'lama' names nothing"):
        rayfill.load("lama")
    with pytest.raises(ImageError, match=r"no\.png cannot be read"):
        rayfill.load("telea")(tmp_path / "no.png", np.zeros((4, 4), bool))
    with pytest.raises(ImageError, match="mask"):
        rayfill.load("telea")(photo, np.zeros((4, 4), bool))


@pytest.mark.ray
def test_prepare_and_evaluate(ray_local: None, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(6):
        rng = np.random.default_rng(number)
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(
            photos / f"{number}.png"
        )
    dataset = rayfill.prepare(
        "folder",
        out=str(tmp_path / "data"),
        root=str(photos),
        size=32,
        val_share=0.2,
        test_share=0.4,
    )
    result = rayfill.evaluate(["telea", "fast=mean"], data=dataset, num_workers=1)
    assert set(result.measured) == {"telea", "fast"}
    with pytest.raises(ConfigError, match="sise"):
        rayfill.prepare("folder", out=str(tmp_path / "other"), root=str(photos), sise=32)
