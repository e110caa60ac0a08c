"""What keeps three source roots, one of them named like a standard module, harmless."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).resolve().parents[2]
ROOTS = {"platform": "rayfill", "data": "rayfill_data", "serving": "rayfill_serving"}

#: Names on a package's top level, files in a room, lines of a file and of a function.
MOST_NAMES, MOST_FILES, MOST_LINES, MOST_FUNCTION_LINES = 12, 20, 400, 50

#: Modules that a machine with torch alone runs, as notebooks and small installs do.
WITHOUT_RAY = (
    "rayfill_data.contract", "rayfill_data.codec", "rayfill_data.masks.hole",
    "rayfill_data.masks.copy_paste",
    "rayfill_data.prepared.reader", "rayfill_data.prepared.batches", "rayfill.config.run",
    "rayfill_data.storage",
    "rayfill.models", "rayfill.losses", "rayfill.metrics", "rayfill.inference.baselines",
    "rayfill.runs.bundle",
    "rayfill.inference.inpainter", "rayfill.evaluation.evaluate", "rayfill.training.loop",
    "rayfill.training.recipes",
    "rayfill.training.feed", "rayfill.runs.checkpoint", "rayfill.training.precision",
)  # fmt: skip
ABSENT = ("ray", "mlflow", "pydantic", "tyro", "rich", "lpips", "pycocotools")

BLOCK_IMPORTS = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def run_python(code: str, *, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def modules() -> Iterator[tuple[str, Path]]:
    """Yield the dotted name and the file of every module of the three packages."""
    for root, package in ROOTS.items():
        for file in sorted((ROOT / root / package).rglob("*.py")):
            parts = file.relative_to(ROOT / root).with_suffix("").parts
            yield ".".join(parts).removesuffix(".__init__"), file


def imported(file: Path, *, whole: bool = False) -> set[str]:
    """Return the top-level packages that a file imports, anywhere in it; or its whole modules."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            names.add(node.module or "")
    return names if whole else {name.partition(".")[0] for name in names}


@pytest.mark.parametrize(("root", "package"), ROOTS.items())
def test_a_source_root_holds_one_package_and_no_module(root: str, package: str) -> None:
    assert not list((ROOT / root).glob("*.py"))
    holding = {file.parent.name for file in (ROOT / root).glob("*/__init__.py")}
    assert holding == {package}


def test_no_test_lies_where_pytest_would_replace_a_standard_module() -> None:
    assert not list(ROOT.glob("tests/**/__init__.py"))
    for root in ROOTS:
        assert not [*(ROOT / root).rglob("test_*.py"), *(ROOT / root).rglob("conftest.py")]


@pytest.mark.process
def test_from_the_root_everything_imports_and_platform_is_pythons() -> None:
    roots = [str(ROOT / root) for root in ROOTS]
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, *{roots!r}]\n"
        "import platform, torch, ray, rayfill, rayfill_data, rayfill_serving\n"
        "assert platform.python_version() and ray.__version__ and torch.__version__\n"
        "print(platform.__file__)"
    )
    assert Path(run_python(code, cwd=ROOT)).parent == Path(os.__file__).parent


def test_rooms_know_only_those_below_them() -> None:
    """The contracts of ``[tool.importlinter]``: late and type-only imports count too."""
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml")) == 0


def test_the_packages_name_nothing_that_uses_them() -> None:
    for name, file in modules():
        assert not imported(file) & {"experiments", "tests", "benchmarks"}, name
    naming = [
        name
        for name, file in modules()
        if not name.startswith("rayfill_serving")
        and re.search(r"[\"']rayfill_serving", file.read_text(encoding="utf-8"))
    ]
    # The command line's table of commands is the one exception, and it is one of strings.
    assert naming == ["rayfill.cli.main"]


#: Who else may import something of MLflow's, and why.
OF_MLFLOW = {
    # The directory that a registered model is; writing it asks no store.
    ("rayfill.runs.registry", "mlflow.models"),
    ("rayfill.runs.registry", "mlflow.pyfunc"),
    ("rayfill.runs.registry", "mlflow.types"),
    # Plain values that a client takes.
    ("rayfill.runs.store", "mlflow.entities"),
    ("rayfill.runs.tracking", "mlflow.entities"),
}


def test_one_module_asks_mlflow() -> None:
    found = {
        (name, module)
        for name, file in modules()
        for module in imported(file, whole=True)
        if module.partition(".")[0] == "mlflow"
    }
    client = {module for name, module in found if name == "rayfill.runs.mlflow_store"}
    assert {"mlflow.tracking", "mlflow.exceptions", "mlflow.artifacts"} <= client
    assert {each for each in found if each[0] != "rayfill.runs.mlflow_store"} == OF_MLFLOW
    for name, file in modules():
        text = file.read_text(encoding="utf-8")
        assert name == "rayfill.runs.mlflow_store" or "MLFLOW_HTTP" not in text, name
        assert name in ("rayfill.runs.mlflow_store", "rayfill.runs.places") or (
            "sqlite:///" not in text
        ), name


def test_no_two_modules_need_each_other() -> None:
    graph = grimp.build_graph(*ROOTS.values(), cache_dir=None)
    needs = {
        module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules
    }
    TopologicalSorter(needs).prepare()


@pytest.mark.parametrize(("root", "package"), ROOTS.items())
def test_a_newcomer_can_take_in_every_floor_and_room(root: str, package: str) -> None:
    top = ROOT / root / package
    for room in [top, *(path for path in top.rglob("*") if path.is_dir())]:
        # A package's face and its stub are one name.
        held = {path.stem for path in room.iterdir() if path.name != "__pycache__"}
        # The server is one room, and a page's assets are no modules.
        most = MOST_NAMES if room == top and package != "rayfill_serving" else MOST_FILES
        if room.name != "static":
            assert len(held) <= most, f"{room}: {len(held)} names, at most {most}"


@pytest.mark.process
def test_files_and_functions_are_short() -> None:
    for name, file in modules():
        text = file.read_text(encoding="utf-8")
        assert text.count("\n") <= MOST_LINES, f"{name} has {text.count(chr(10))} lines"
        long = [
            f"{node.name} ({node.end_lineno - node.lineno + 1} lines)"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and node.end_lineno is not None
            and node.end_lineno - node.lineno >= MOST_FUNCTION_LINES
        ]
        assert not long, f"{name}: {', '.join(long)}"


def test_importing_any_module_has_no_effect(tmp_path: Path) -> None:
    home, cwd, scratch = (tmp_path / name for name in ("home", "cwd", "scratch"))
    for folder in (home, cwd, scratch):
        folder.mkdir()
    # Third-party packages first: what they do on import is their own affair.
    outside = (
        "torch", "torchvision", "torchmetrics", "cv2", "skimage", "sklearn", "lpips", "fastapi",
        "pydantic", "rich", "tyro", "mlflow", "ray.data", "ray.serve", "ray.tune",
    )  # fmt: skip
    code = f"""
import importlib, logging, os, signal, sys
for name in {outside!r}:
    importlib.import_module(name)

read = set()
ours = tuple({[str(ROOT / root) for root in ROOTS]!r})
real = os._Environ.__getitem__

def noting(self, key):
    frame = sys._getframe(1)
    for _ in range(3):  # getenv and get lie between
        if frame and frame.f_code.co_filename.startswith(ours):
            read.add(key)
        frame = frame and frame.f_back
    return real(self, key)

os._Environ.__getitem__ = noting
before = dict(os.environ), list(logging.root.handlers), logging.root.level
signals = {{number: signal.getsignal(number) for number in signal.valid_signals()}}
for name in {[name for name, _ in modules()]!r}:
    importlib.import_module(name)
assert before == (dict(os.environ), list(logging.root.handlers), logging.root.level)
assert signals == {{number: signal.getsignal(number) for number in signal.valid_signals()}}
assert not read, read
import ray
assert not ray.is_initialized()
"""
    printed = run_python(code, cwd=cwd, HOME=str(home), TMPDIR=str(scratch), RAYFILL_HOME="")
    assert printed == ""
    assert list(cwd.iterdir()) == []
    # matplotlib, which others import, makes itself a cache.
    made = {path.relative_to(home).parts[0] for path in home.rglob("*")}
    assert made <= {".cache", ".config"}


@pytest.mark.process
def test_training_and_evaluation_need_neither_ray_nor_mlflow(
    make_dataset: Callable[..., Path],
) -> None:
    folder = make_dataset()
    code = f"""{BLOCK_IMPORTS}
import dataclasses, importlib, torch
for name in {WITHOUT_RAY!r}:
    importlib.import_module(name)
from rayfill.config.run import ModelConfig, RunConfig, TrackingConfig, TrainConfig, check
from rayfill.evaluation.evaluate import evaluate
from rayfill.inference.inpainter import Inpainter
from rayfill.training.loop import Runtime, run_training
from rayfill_data.prepared.reader import PreparedDataset

config = check(RunConfig(
    model=ModelConfig(width=2, depth=2),
    train=TrainConfig(epochs=1, batch_size=8),
    tracking=TrackingConfig(pictures=0),
))
dataset = PreparedDataset.open({str(folder)!r})
runtime = Runtime(run_dir={str(folder.parent / "run")!r}, device=torch.device("cpu"))
summary = run_training(config, dataset=dataset, runtime=runtime)
Inpainter.from_bundle(summary.bundle)
(found,) = evaluate([summary.bundle], data=dataset).measured.values()
print(summary.epochs, found.table.total["hole_psnr"].n)
print([name for name in {ABSENT!r} if name in sys.modules])
"""
    assert run_python(code, cwd=folder.parent).splitlines() == ["1 5", "[]"]


def test_the_wheel_holds_three_packages_and_the_page(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(ROOTS.values())
    static = ROOT / "serving" / "rayfill_serving" / "static"
    expected = {f"rayfill_serving/static/{file.name}" for file in static.iterdir()}
    assert "rayfill_serving/static/index.html" in expected <= set(names)
    assert {"rayfill/evaluation/report/page.html.j2", "rayfill/runs/mlflow_schema.sql"} <= {*names}
    assert {name for name, _ in modules()} == {
        name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for name in names
        if name.endswith(".py")
    }
    assert not [name for name in names if "__pycache__" in name]


def test_nothing_ignored_by_git_hides_a_source() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    files = [str(file.relative_to(ROOT)) for _, file in modules()]
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""
