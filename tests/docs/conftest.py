"""Every command that documents, help texts and messages show, with where it stands.

What counts as shown: a line of a fenced block; inline code that begins with a program, a script of
``experiments/``, a source's name and a flag, or a flag; in comments and messages also an indented
line or a usage line of its own. What stands in capitals or, in a message, in braces is a
placeholder; each is listed here with what takes its place.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from rayfill.cli.main import COMMANDS
from rayfill_data.sources import SOURCES

ROOT = Path(__file__).resolve().parents[2]

#: Placeholder -> what stands for it where a command is parsed or run.
PLACEHOLDERS = {
    "SOURCE": "folder",
    "URI": "data/cache/placeholder",
    "DIR": "photos",
    "FILE": "photos.parquet",
    "FILE_OR_DIR": "photos.parquet",
    "NAME": "placeholder",
    "--masks NAME": "irregular",
    "--preset NAME": "p1-unet",
    "COMMAND": "train",
    "LOW": "0.1",
    "HIGH": "0.3",
    "PHOTO": "photo.jpg",
    "MASK": "mask.png",
    "OUT": "clean.png",
    "SYSTEM": "telea",
    "SEGMENTER": "segmenter",
    "RUN_FOLDER": "runs/one",
    "BUNDLE": "runs/one/best",
    "RUN_ID": "0123456789abcdef",
    "VERSION": "7",
    "X": "320",
    "Y": "200",
    "{name}": "placeholder",
    "{model.name}": "placeholder",
    "{run_dir}": "runs/one",
    "{root}": "runs/one",
    "{size}": "64",
    "{repeats}": "18",
    "{run_id}": "0123456789abcdef",
    "{run.info.run_id}": "0123456789abcdef",
    "{experiment.experiment_id}": "1",
    "{self.uri}": "sqlite:///placeholder.db",
    "{binaries}": ".venv/bin",
    "{asked.dashboard_port}": "8265",
    "${location.origin}": "http://127.0.0.1:8000",
}

_PROGRAMS = "rayfill|make|ray|mlflow|iopaint|curl|python"
_COMMAND = re.compile(
    rf"(?:[A-Z_]+=\S+ )*(?:(?:\S*/)?(?:{_PROGRAMS}) \S|experiments/\w+\.py|--[a-z]|-[a-z] [A-Z<])"
    rf"|(?:{'|'.join(SOURCES)}) --"
)
#: Outside what was read as a command, these words are a command that no test would see.
_UNSEEN = re.compile(
    rf"(?<![\w./-])(?:rayfill (?:{'|'.join(COMMANDS)})|ray job submit|experiments/\w+\.py)(?![\w-])"
)
_FENCE = re.compile(r"^[ \t]*```(\w*)\n(.*?)^[ \t]*```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)(`+)(?!`)((?:[^`\n]|\n(?!\s*\n))+?)\1(?!`)")
_LINE = re.compile(r"^(?: {2,}|usage: )(\S(?:\\\n\s*|\S| (?! ))*)", re.MULTILINE)
_COMMENT = re.compile(r"""("[^"]*"|'[^']*')|(?:^|(?<=\s))#.*""")
_PLACEHOLDER = re.compile(
    r"(?P<flag>--\S+ )?(?P<name>\$?\{[^}]*\}|(?<![-\w$./])[A-Z][A-Z_]*(?![\w=-]))"
)


@dataclasses.dataclass(frozen=True)
class Shown:
    """A command as it stands somewhere."""

    text: str
    """On one line, without comments."""
    place: str
    """``file:line``."""
    whole: bool
    """To be typed as it is; otherwise it may name a command or a flag and leave out the rest."""

    @property
    def file(self) -> str:
        return self.place.partition(":")[0]

    def filled(self) -> str:
        """Return it with every placeholder replaced, and without what marks left-out words."""
        text = re.sub(r"(?<= )(--\S+) (?:\.\.\.|…)", r"\1 NAME", self.text)  # a flag's value
        text = re.sub(r" (?:\.\.\.|…)(?= |$)", "", text)
        text = re.sub(r"\[(--[^\]]*)\]", r"\1", text)  # [--target DIR]: may be left out

        def fill(found: re.Match[str]) -> str:
            flag, name = found["flag"] or "", found["name"]
            assert name in PLACEHOLDERS, f"`{self.text}`: {name} is no known placeholder"
            return flag + PLACEHOLDERS.get(flag + name, PLACEHOLDERS[name])

        return _PLACEHOLDER.sub(fill, text).strip()


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of another language than the shell's."""

    language: str
    code: str
    place: str

    @property
    def name(self) -> str:
        """The file that its first line says it is; empty where it is none."""
        found = re.match(r"# (\S+\.py)\n", self.code)
        return found[1] if found else ""


def _joined(text: str) -> Iterator[tuple[int, str]]:
    """Yield the commands of a shell block, each with the number of its first line from 0."""
    number = 0
    for entry in re.split(r"(?<!\\)\n", text):
        line = _COMMENT.sub(lambda found: found[1] or "", entry.replace("\\\n", " "))
        if line.strip():
            yield number, " ".join(line.split())
        number += entry.count("\n") + 1


def _blank(found: re.Match[str]) -> str:
    return "\n" * found[0].count("\n")


def read(text: str, *, file: str, first: int = 1, lines: bool = False) -> Iterator[Shown | Block]:
    """Yield what a text in Markdown shows.

    Args:
        text: The text.
        file: Where it is from.
        first: Line number of its first line.
        lines: Indented lines and usage lines show commands too.
    """

    def place(position: int, *, more: int = 0) -> str:
        return f"{file}:{first + text.count(chr(10), 0, position) + more}"

    for fence in _FENCE.finditer(text):
        if fence[1] in ("", "sh"):
            for number, line in _joined(fence[2]):
                yield Shown(line, place(fence.start(2), more=number), whole=True)
        else:
            yield Block(fence[1], fence[2], place(fence.start(2)))
    text = _FENCE.sub(_blank, text)
    for span in _SPAN.finditer(text):
        line = " ".join(span[2].replace("\\\\\n", " ").split())
        if _COMMAND.match(line):
            yield Shown(line, place(span.start(2)), whole=False)
    text = _SPAN.sub(_blank, text)
    for found in _LINE.finditer(text) if lines else ():
        for _, line in _joined(found[1]):
            if _COMMAND.match(line):
                usage = found[0].startswith("usage")
                yield Shown(line, place(found.start(1)), whole=not usage)
    text = _LINE.sub(_blank, text) if lines else text
    for unseen in _UNSEEN.finditer(text):
        raise ValueError(f"{place(unseen.start())}: put `{unseen[0]} ...` in backticks")


def _strings(source: str) -> Iterator[tuple[int, str]]:
    """Yield every string of a Python file with its line; what an f-string fills in, in braces."""
    seen: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg == "prog":
            seen |= {id(below) for below in ast.walk(node)}  # a program's name in its own help
        elif id(node) in seen:
            continue
        elif isinstance(node, ast.JoinedStr):
            seen |= {id(part) for part in node.values}
            yield (
                node.lineno,
                "".join(
                    str(part.value)
                    if isinstance(part, ast.Constant)
                    else f"{{{ast.unparse(part.value)}}}"
                    for part in node.values
                ),
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


@functools.cache
def everything() -> tuple[Shown | Block, ...]:
    """Return what all documents and programs show, in their order."""
    found: list[Shown | Block] = []
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]:
        file = str(path.relative_to(ROOT))
        shown = read(path.read_text(encoding="utf-8"), file=file)
        found += sorted(shown, key=lambda one: int(one.place.rpartition(":")[2]))
    for name in ("cluster.yaml", "Makefile"):
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        # A target's line of help is behind two signs; other lines are recipes.
        comments = [re.sub(r"^[^#]*(?:##? ?|$)", "", line) for line in lines]
        found += read("\n".join(comments), file=name, lines=True)
    for path in sorted((ROOT / "serving/rayfill_serving/static").glob("*.*s")):
        file = str(path.relative_to(ROOT))
        found += read(path.read_text(encoding="utf-8"), file=file)
    for root in ("platform", "data", "serving", "experiments"):
        for path in sorted((ROOT / root).rglob("*.py")):
            file = str(path.relative_to(ROOT))
            for first, text in _strings(path.read_text(encoding="utf-8")):
                found += read(text, file=file, first=first, lines=True)
    return tuple(found)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give ``shown`` every command, ``block`` every other block, ``document`` what has commands."""
    for name, kind in (("shown", Shown), ("block", Block)):
        if name in metafunc.fixturenames:
            found = [one for one in everything() if isinstance(one, kind)]
            metafunc.parametrize(name, found, ids=[one.place for one in found])
    if "document" in metafunc.fixturenames:
        metafunc.parametrize("document", list(dict.fromkeys(one.file for one in documented())))


def documented() -> list[Shown]:
    """Return the commands of documents and of cluster.yaml, without those of programs."""
    shown = [one for one in everything() if isinstance(one, Shown)]
    return [one for one in shown if one.file.endswith((".md", ".yaml"))]


@pytest.fixture(scope="session")
def all_documented() -> list[Shown]:
    return documented()


@pytest.fixture(scope="session")
def shown_files() -> dict[str, str]:
    """Code blocks whose first line is the name of a file, by that name."""
    blocks = [one for one in everything() if isinstance(one, Block)]
    return {block.name: block.code for block in blocks if block.name}


@pytest.fixture(scope="session")
def make_pictures() -> Callable[[Path, Path], None]:
    """Write the pictures that documents name: beside the repository's files, and in a home."""

    def make(root: Path, home: Path) -> None:
        people: dict[str, Any] = {
            "images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]
        }  # fmt: skip
        for folder in (home / "photos", root / "photos", root / "masks", root / "val2017"):
            folder.mkdir(parents=True)
        rng = np.random.default_rng(0)
        mask = np.zeros((480, 640), np.uint8)
        mask[200:280, 260:380] = 255
        for number in range(40):
            coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            photo = cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(home / f"photos/{number:02d}.jpg"), photo[::2, ::2])
            cv2.imwrite(str(root / f"photos/{number:02d}.png"), photo[::2, ::2])
            cv2.imwrite(str(root / f"masks/{number:02d}.png"), mask[::2, ::2])
            cv2.imwrite(str(root / f"val2017/{number:02d}.jpg"), photo[::2, ::2])
            people["images"].append(
                {"id": number, "file_name": f"{number:02d}.jpg", "height": 240, "width": 320}
            )
            outline = [20.0, 60.0, 90.0, 50.0, 110.0, 140.0, 80.0, 210.0, 30.0, 190.0]
            people["annotations"].append(
                {
                    "id": number + 1, "image_id": number, "category_id": 1, "iscrowd": 0,
                    "segmentation": [outline],
                }
            )  # fmt: skip
        cv2.imwrite(str(root / "photo.jpg"), photo)
        cv2.imwrite(str(root / "mask.png"), mask)
        (root / "instances_val2017.json").write_text(json.dumps(people))

    return make
