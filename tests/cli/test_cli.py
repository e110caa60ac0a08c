"""The command line: exit statuses, errors that name the nearest, and what is not imported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rayfill.cli.main import COMMANDS, guarded
from rayfill_data.errors import ConfigError, DatasetError

ROOT = Path(__file__).resolve().parents[2]
Cli = Callable[..., Any]


def test_the_overview_lists_every_command(cli: Cli) -> None:
    for args in ((), ("--help",), ("-h",)):
        done = cli(*args)
        assert (done.status, done.err) == (0, "")
        for name, (_, summary) in COMMANDS.items():
            assert f"  {name} " in done.out
            assert summary in done.out


def test_version(cli: Cli) -> None:
    done = cli("--version")
    assert done.status == 0
    assert done.out.startswith("rayfill 0.")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["train"], "(default: 0.99; in [0, 1))"),
        (["train"], "(default: None; at least 1)"),
        (["prepare", "coco_pairs"], "(default: 1 1; in [1, 8])"),
        (["serve"], "(default: 60.0; above 0)"),
    ],
)
def test_help_says_what_is_allowed(cli: Cli, args: Sequence[str], said: str) -> None:
    assert said in " ".join(cli(*args, "--help").out.replace("│", " ").split())


def test_no_help_waits_for_torch_ray_or_mlflow(tmp_path: Path) -> None:
    calls = [["--help"], *([name, "--help"] for name in COMMANDS), ["prepare", "photos", "--help"]]
    code = f"""
import contextlib, io, sys
from rayfill.cli.main import main
for call in {calls!r}:
    sys.argv = ["rayfill", *call]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            main()
        except SystemExit as ended:
            assert ended.code == 0, (call, ended.code)
    assert "usage: rayfill" in printed.getvalue(), call
    heavy = [name for name in ("torch", "ray", "mlflow") if name in sys.modules]
    assert not heavy, (call, heavy)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "nearest"),
    [
        (["traim"], "Did you mean 'train'?"),
        (["docter"], "Did you mean 'doctor'?"),
        (["prepare", "foldr"], "Did you mean 'folder'?"),
        (["train", "--train.epoch", "3"], "--train.epochs"),
        (["train", "--modle.name", "unet"], "--model.name"),
        (["train", "--model.name", "unett"], "Did you mean 'unet'?"),
        (["train", "--loss.terms", "mse+perceptul"], "Did you mean 'perceptual'?"),
        (["erase", "p.png", "--mask", "m.png", "-o", "x.png", "--expand", "3"], "--expand-px"),
        (["prepare", "folder", "--root", ".", "--out", "x", "--siz", "64"], "--size"),
        (["doctor", "--tracking-url", "x"], "--tracking-uri"),
        (["serve", "--prot", "80"], "--port"),
    ],
)
def test_what_is_unknown_is_refused_with_the_nearest(
    cli: Cli, no_ray: None, args: Sequence[str], nearest: str
) -> None:
    done = cli(*args)
    assert done.status == 2
    assert nearest in done.err
    assert "Traceback" not in done.err
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--train.epochs", "0"], "train.epochs is 0: it must be at least 1"),
        (["--train.learning-rate", "-1"], "train.learning_rate is -1.0: it must be above 0"),
        (["--name", "a/b"], "name is 'a/b': it must be a plain folder name"),
        (["--data.uri", "nowhere"], "nowhere holds no finished dataset"),
        (["--data.uri", "s3x://nowhere"], "data.uri: "),
        (["--train.learning-rate", "inf"], "it must be a finite number, above 0"),
        (["--scaling.num-workers", "0"], "scaling.num_workers is 0: it must be at least 1"),
        (["--scaling.num-workers", "3"], "does not divide by scaling.num_workers 3"),
    ],
)
def test_values_that_cannot_be_used_are_refused_before_ray(
    cli: Cli, no_ray: None, flags: Sequence[str], expected: str
) -> None:
    done = cli("train", *flags)
    assert done.status == 2
    assert expected in done.err
    assert done.err.startswith("rayfill: ")
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_a_flag_it_does_not_have(
    cli: Cli, no_ray: None, command: str
) -> None:
    done = cli(command, "--no-such-flag", "1")
    assert done.status == 2
    assert "no-such-flag" in done.err or "Missing argument" in done.err
    assert "Traceback" not in done.err
    assert list(Path.cwd().iterdir()) == []


def test_a_value_of_another_type_is_refused(cli: Cli, no_ray: None) -> None:
    done = cli("train", "--train.epochs", "many")
    assert done.status == 2
    assert "many" in done.err
    assert "--train.epochs" in done.err


def test_all_problems_come_at_once(cli: Cli, no_ray: None) -> None:
    done = cli("train", "--train.epochs", "0", "--model.name", "unett", "--data.expand-px", "-1")
    assert done.status == 2
    assert len(done.err.splitlines()) == 3


def test_a_dataset_of_another_version_is_refused_before_ray(
    cli: Cli, no_ray: None, make_dataset: Callable[..., Path]
) -> None:
    folder = make_dataset()
    manifest = folder / "manifest.json"
    text = manifest.read_text()
    assert '"schema_version": 1' in text
    manifest.write_text(text.replace('"schema_version": 1', '"schema_version": 99'))
    done = cli("train", "--data.uri", folder)
    assert done.status == 2
    assert "99" in done.err
    assert "--overwrite" in done.err


@pytest.mark.parametrize(
    ("raised", "status", "printed"),
    [
        (ConfigError(["one.", "two."]), 2, "rayfill: one.\nrayfill: two.\n"),
        (DatasetError("gone."), 2, "rayfill: gone.\n"),
        (KeyboardInterrupt(), 130, "rayfill: interrupted"),
    ],
)
def test_what_ends_a_command_becomes_an_exit_status(
    own_process: None,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException,
    status: int,
    printed: str,
) -> None:
    def run(args: Sequence[str]) -> int:
        raise raised

    assert guarded(run, []) == status
    assert capsys.readouterr().err.startswith(printed)


def test_a_bug_keeps_its_traceback(own_process: None) -> None:
    def run(args: Sequence[str]) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        guarded(run, [])


def test_sigterm_unwinds_the_command_and_gives_143(own_process: None) -> None:
    closed = []

    def run(args: Sequence[str]) -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)  # the signal comes first
        finally:
            closed.append("everything")
        return 0

    assert guarded(run, []) == 143
    assert closed == ["everything"]


def test_a_reader_that_has_gone_is_no_crash() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as stdout:
        done = subprocess.run(
            [sys.executable, "-c", "from rayfill.cli.main import main; main()", "--help"],
            # Buffered, as Python is by default: then the loss shows only when all is flushed.
            env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "")


def test_the_installed_command_says_no_in_a_real_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "rayfill", "sevre"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("rayfill: Unknown command 'sevre'. Did you mean 'serve'?")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--sweep.epoch", "3"], "--sweep.epochs"),
        (["--sweep.inpainters", "unett", "--train.epochs", "0"], "Did you mean 'unet'?"),
        (["--sweep.losses"], "loss.terms of the sweep has no values"),
        (["--data.uri", "nowhere"], "data.uri: "),
        (["--resume"], "no sweep 'attn_unet_sweep'"),
    ],
)
def test_the_sweep_script_refuses_before_anything_starts(
    cli: Cli,
    no_ray: None,
    monkeypatch: pytest.MonkeyPatch,
    flags: Sequence[str],
    expected: str,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    monkeypatch.setitem(COMMANDS, "sweep", ("attn_unet_sweep", "the script, run as a command"))
    monkeypatch.setattr("rayfill.sweeps.sweep.ray_cluster", None)
    done = cli("sweep", *flags)
    assert done.status == 2
    assert expected in done.err
    assert list(Path.cwd().iterdir()) == []


def test_models_lists_the_networks_with_their_size(cli: Cli) -> None:
    done = cli("models", "--width", "4")
    assert done.status == 0
    assert "attention_unet" in done.out
    assert "unet" in done.out
    assert "0.20 G" in done.out  # multiply-adds


def test_promote_moves_nothing_it_does_not_find(cli: Cli) -> None:
    done = cli("promote", "3", "--reason", "a test")
    assert done.status == 2
    assert "no version '3' of 'rayfill'" in done.err
    assert list(Path.cwd().iterdir()) == []


def test_replay_of_nothing(cli: Cli) -> None:
    done = cli("replay")
    assert (done.status, done.out) == (0, "All events of 0 runs are in MLflow.\n")
