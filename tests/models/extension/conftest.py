from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rayfill_data import extension

ROOT = Path(__file__).resolve().parents[3]

#: Leaves a file for every process that imports it.
MARK = """
import os, pathlib
pathlib.Path(os.environ["MARKS"], f"{__name__}-{os.getpid()}").touch()
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with the package of docs/extending.md, which marks every process importing it."""
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n# (mypkg/\w+\.py)\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 4
    folder = tmp_path / "src"
    (folder / "mypkg").mkdir(parents=True)
    (folder / "mypkg" / "__init__.py").write_text(MARK)
    for name, text in blocks:
        (folder / name).write_text(text)
    (folder / "evilmod.py").write_text(f"{MARK}\nfrom mypkg.nets import TwoScales as Net\n")
    (tmp_path / "marks").mkdir()
    return folder


@pytest.fixture
def marks(tmp_path: Path) -> Callable[[], set[str]]:
    """The modules and processes that were imported so far."""
    return lambda: {path.name for path in (tmp_path / "marks").iterdir()}


@pytest.fixture
def python(tmp_path: Path, package: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``rayfill ARGS``, or a script, in a process of its own that finds the package."""
    roots = [str(ROOT / name) for name in ("platform", "data", "serving")]

    def run(
        *args: str, script: str = "", found: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY", "MLFLOW_"))}
        path = [*roots, *([str(package)] if found else [])]
        begin = [script] if script else ["-c", "from rayfill.cli.main import main; main()"]
        return subprocess.run(
            [sys.executable, *begin, *args],
            cwd=tmp_path,
            env=kept
            | {
                "PYTHONPATH": os.pathsep.join(path),
                "RAYFILL_HOME": str(tmp_path / "home"),
                "MARKS": str(tmp_path / "marks"),
                "RAY_USAGE_STATS_ENABLED": "0",
                "OMP_NUM_THREADS": "1",
                "COLUMNS": "200",
            }
            | environment,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )

    return run


@pytest.fixture
def mypkg(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], object]]:
    """Import modules of the package here; they and what they register are forgotten afterwards."""
    monkeypatch.setenv("MARKS", str(tmp_path / "marks"))
    monkeypatch.delenv(extension.ALLOW_MODULES, raising=False)
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.setattr(extension, "_registered", {})
    monkeypatch.setattr(extension, "_used", set())
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("mypkg", "evilmod", "mine"):
            del sys.modules[name]
