"""Every command that is shown is understood by the program that it calls.

The programs' own parsers read them, and nothing of the work is begun. A command in running text may
leave out arguments: it is completed with as few as the program needs.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import itertools
import os
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import tyro
from PIL import Image

from rayfill.cli.main import COMMANDS, _dispatch
from rayfill.config.run import RunConfig, check
from rayfill_data.errors import ConfigError, RayfillError
from rayfill_data.sources import SOURCES

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path.stem for path in ROOT.glob("experiments/[!_]*.py"))

#: Program -> the least that it can be called with, where that is not nothing.
LEAST = {
    "ray job submit": "{} -- experiments/attn_unet_sweep.py",
    "rayfill evaluate": "--data mine --model telea",
    "rayfill erase": "photo.jpg --out clean.png",
    "rayfill continue": "mine --epochs 1",
    "rayfill prepare triplets": "--input a --mask b --target c --out mine",
    "rayfill prepare test_set": "--input a --mask b --out mine",
    "rayfill prepare photos": "--out mine",
    "rayfill prepare coco": "--images a --annotations b --out c",
    "rayfill prepare coco_pairs": "--images a --annotations b --out c",
    **{
        f"rayfill prepare {name}": "--root a --out b"
        for name in ("folder", "defacto", "celeba", "aerial", "cifar10", "parquet")
    },
}
#: Flag that is named by itself -> others that it needs beside it.
BESIDE = {
    "--sweep.search": ["--sweep.trials", "2"],
    "--sweep.warm-from": ["--sweep.search", "optuna", "--sweep.trials", "2"],
}
PROGRAMS = (
    *(f"rayfill {name}" for name in COMMANDS if name != "prepare"),
    *(f"rayfill prepare {name}" for name in SOURCES),
    *(f"experiments/{name}.py" for name in SCRIPTS),
    "ray job submit",
)

#: Programs of others that are named beside ours and are no dependency.
NOT_INSTALLED = ("iopaint",)


class WrongError(Exception):
    """A command is not understood, for the reason given."""


class _ParsedError(Exception):
    """Ends a program as soon as its flags are read."""


@contextlib.contextmanager
def only_parsing() -> Iterator[None]:
    """Let every program of ours read its flags, check its configuration, and end."""
    real = tyro.cli

    def parse(form: Any, **options: Any) -> Any:
        value = real(form, **options)
        for config in (value, getattr(value, "config", None)):
            if isinstance(config, RunConfig):
                check(config)
        raise _ParsedError

    before, path = os.environ.get("COLUMNS"), list(sys.path)
    tyro.cli, os.environ["COLUMNS"] = parse, "100"
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield
    except _ParsedError:
        pass
    except SystemExit as ended:
        if ended.code:
            raise WrongError(said.getvalue()) from None
        sys.stdout.write(said.getvalue())
    except ConfigError as error:
        raise WrongError("; ".join(error.problems)) from None
    except RayfillError as error:
        raise WrongError(str(error)) from None
    finally:
        tyro.cli, sys.path[:] = real, path
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


@functools.cache
def script(name: str) -> Callable[[Sequence[str]], Any]:
    """Return the main function of an experiment."""
    path = ROOT / "experiments" / f"{name}.py"
    if not path.exists():
        raise WrongError(f"There is no experiments/{name}.py.")
    spec = importlib.util.spec_from_file_location(f"shown_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = before
    main: Callable[[Sequence[str]], Any] = module.main
    return main


@functools.cache
def flags(program: str) -> frozenset[str]:
    """Return the names of a program's flags, read from its help."""
    said = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(said):
        understand([*shlex.split(program), "--help"])
    lines = re.findall(r"^(?:│| ) +(-.*?)(?:  |$)", said.getvalue(), re.MULTILINE)
    return frozenset(name for line in lines for name in re.findall(r"--[a-z][\w.-]*", line))


def understand(words: Sequence[str]) -> None:
    """Have a command read by its program.

    Raises:
        WrongError: it is not understood.
    """
    first, *rest = words
    if re.fullmatch(r"[A-Z_]+=.*", first, re.DOTALL):
        understand(rest) if rest else None
    elif first == "export":
        assert all(re.fullmatch(r"[A-Z_]+=\S*", word) for word in rest), words
    elif (place := Path(first)).parent.name == "experiments" and place.suffix == ".py":
        main = script(place.stem)
        with only_parsing():
            main(rest)
    elif place.name in UNDERSTAND:
        UNDERSTAND[place.name](rest)
    else:
        raise WrongError(f"No test knows the program {first!r}.")


def _rayfill(args: Sequence[str]) -> None:
    with only_parsing():
        _dispatch(args)


def _make(args: Sequence[str]) -> None:
    """Have make say what it would run, and have that read by the programs it calls."""
    command = ["make", "--dry-run", "--silent", *args]
    if args[0] != "install":  # what makes the environment is no part of the others
        command.insert(1, "--assume-old=install")
    # These tests may themselves be run by make, whose ARGS are not the shown command's.
    of_make = ("ARGS", "MAKEFLAGS", "MAKEOVERRIDES")
    outside = {name: value for name, value in os.environ.items() if name not in of_make}
    done = subprocess.run(
        command, cwd=ROOT, env=outside, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise WrongError(done.stderr)
    recipe = done.stdout.replace("\\\n", " ").splitlines()
    for line in recipe:
        words = shlex.split(line)
        if ".venv/bin/" in line and "pip" not in words:
            understand(words)


def _python(args: Sequence[str]) -> None:
    if args[0] != "-m":
        if not (ROOT / args[0]).is_file():
            raise WrongError(f"There is no {args[0]}.")
        if args[0].startswith("experiments/"):
            understand(args)
    elif args[1] == "pytest":
        _pytest(args[2:])


def _pytest(args: Sequence[str]) -> None:
    """Have pytest read its own flags; it does not notice a mark that no test bears."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *args, "--noconftest", "--version", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise WrongError(done.stderr)
    marks = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for asked in [after for flag, after in itertools.pairwise(args) if flag == "-m"]:
        for mark in set(re.findall(r"\w+", asked)) - {"and", "or", "not"}:
            if f'"{mark}: ' not in marks:
                raise WrongError(f"No mark {mark!r}.")


def _click(program: click.Command, name: str, args: Sequence[str]) -> None:
    """Have a program that is made with click read its flags, and a job its entry point's."""
    command, rest = program, list(args)
    try:
        while isinstance(command, click.Group) and rest and rest != ["--help"]:
            context = command.make_context(name, rest)
            name, found, rest = command.resolve_command(context, rest)
            assert found is not None
            command = found
        context = command.make_context(name, rest)
    except click.exceptions.Exit:  # --help
        return
    except click.ClickException as error:
        raise WrongError(error.format_message()) from None
    if entry := context.params.get("entrypoint"):
        understand(entry)


def _ray(args: Sequence[str]) -> None:
    from ray.scripts.scripts import cli

    _click(cli, "ray", args)


def _mlflow(args: Sequence[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # MLflow's of its own type hints
        from mlflow.cli import cli

    _click(cli, "mlflow", args)


def _curl(args: Sequence[str]) -> None:
    """Compare a request with what the server says that it takes."""
    from rayfill_serving.api import create_app
    from rayfill_serving.options import ServingOptions

    described = create_app(None, ServingOptions().resolved()).openapi()
    fields = [after.partition("=")[0] for flag, after in itertools.pairwise(args) if flag == "-F"]
    (address,) = [word for word in args if word.startswith("http://")]
    path = described["paths"].get(re.sub(r"^http://[^/]+", "", address))
    if path is None:
        raise WrongError(f"The server has no {address}.")
    takes = path["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    if not set(takes["required"]) <= set(fields) <= set(takes["properties"]):
        raise WrongError(f"{address} takes {takes['properties']}, not {fields}.")


def _checker(args: Sequence[str]) -> None:
    """Let ruff and mypy be called as make calls them: without flags of their own."""
    if any(word.startswith("-") and word != "--check" for word in args):
        raise WrongError(f"No test knows {args}.")


UNDERSTAND: dict[str, Callable[[Sequence[str]], None]] = {
    "rayfill": _rayfill,
    "make": _make,
    "python": _python,
    "ray": _ray,
    "mlflow": _mlflow,
    "curl": _curl,
    "ruff": _checker,
    "mypy": _checker,
}


@functools.cache
def problem(text: str, *, whole: bool) -> str:
    """Return why a command is not understood; nothing where it is."""
    words = shlex.split(text)
    try:
        understand(words)
    except WrongError as error:
        first = str(error) or "?"
    else:
        return ""
    if whole:
        return first
    if words[0] in NOT_INSTALLED:
        return ""
    for program in _meant(words, text=text):
        rest = [] if program == text else _behind(words)
        named = [word for word in rest if word.startswith("--")]
        if not set(named) <= flags(program):
            continue
        if rest == named:  # flags by themselves, their values left out
            return ""
        rest = [*BESIDE.get(words[0], []), *rest]
        least = LEAST.get(program, "")
        before, _, after = least.rpartition("{}") if "{}" in least else (least, "", "")
        try:
            understand([*shlex.split(f"{program} {before}"), *rest, *shlex.split(after)])
        except WrongError as error:
            first += f"\n{program}: {error}"
        else:
            return ""
    return first


def _meant(words: Sequence[str], *, text: str) -> list[str]:
    """Return the programs that a part of a command may belong to."""
    if words[0].startswith("-"):
        return list(PROGRAMS)
    if words[0] in SOURCES:
        return [f"rayfill prepare {words[0]}"]
    start = text.partition(" -")[0]
    return [name for name in PROGRAMS if f"{name} ".startswith(f"{start} ")]


def _behind(words: Sequence[str]) -> list[str]:
    """Return the words from the first flag on."""
    return list(itertools.dropwhile(lambda word: not word.startswith("-"), words))


@pytest.fixture(scope="module", autouse=True)
def modules(
    tmp_path_factory: pytest.TempPathFactory, shown_files: Mapping[str, str]
) -> Iterator[Path]:
    """The files that documents show, in a folder where Python finds them."""
    folder = tmp_path_factory.mktemp("shown") / "modules"
    for name, code in shown_files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(code)
    # What the README's first lines of Python fill.
    Image.new("RGB", (48, 32), "green").save(folder.parent / "photo.jpg")
    Image.new("L", (48, 32)).save(folder.parent / "mask.png")
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in {Path(name).parts[0] for name in shown_files}:
        for module in [one for one in sys.modules if one.partition(".")[0] == name]:
            del sys.modules[module]


def test_a_shown_command_is_understood(shown: Any) -> None:
    assert problem(shown.filled(), whole=shown.whole) == "", f"`{shown.text}`"


@pytest.mark.process
def test_shown_code_runs(block: Any, modules: Path) -> None:
    assert block.language == "python", f"No test knows the language {block.language!r}."
    roots = [str(ROOT / name) for name in ("platform", "data", "serving")]
    module = block.name.removesuffix(".py").replace("/", ".")
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}" if module else block.code],
        cwd=modules.parent,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([*roots, str(modules)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


WRONG = {
    "rayfill serv": "Did you mean 'serve'",
    "rayfill serve --port many": "many",
    "rayfill erase photo.jpg --mask mask.png -o out.png --expand 4": "--expand",
    "rayfill erase photo.jpg --mask mask.png": "--out",
    "rayfill prepare foldr --root photos --out mine": "Did you mean 'folder'",
    "rayfill train --model.name unett": "unett",
    "rayfill train --preset p1-unit": "p1-unit",
    "make swep": "swep",
    'make sweep ARGS="--sweep.epoch 20"': "--sweep.epoch",
    'make test ARGS="-m slowly"': "slowly",
    'make test ARGS="--no-such-flag"': "--no-such-flag",
    "experiments/no_such_study.py": "no_such_study",
    "experiments/mask_size_study.py --scale smal": "Did you mean 'small'",
    "ray job submit experiments/mask_size_study.py --scale small": "No such option '--scale'",
    "ray job submit -- experiments/mask_size_study.py --scales small": "--scales",
    "ray job submit --working-dir . -- python experiments/mask_study.py": "mask_study",
    "ray jobs submit -- experiments/mask_size_study.py": "No such command 'jobs'",
    "curl -F image=@a.jpg http://127.0.0.1:8000/api/v1/inpaint": "mask",
    "curl -F image=@a.jpg -F mask=@b.png http://127.0.0.1:8000/api/inpaint": "has no",
    "sudo rayfill doctor": "No test knows the program 'sudo'",
}


@pytest.mark.parametrize("command", WRONG)
def test_a_wrong_command_is_not(command: str) -> None:
    assert WRONG[command] in problem(command, whole=True)


@pytest.mark.parametrize(
    "part", ["rayfill promot", "rayfill erase --no-such", "--no.such", "--placement behind"]
)
def test_a_wrong_part_of_a_command_is_not(part: str) -> None:
    assert problem(part, whole=False)
