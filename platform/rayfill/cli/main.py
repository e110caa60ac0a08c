"""The command line: one table of commands, each imported only when it is called.

Importing torch, Ray and MLflow takes seconds; ``rayfill --help`` must not.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

from rayfill_data.errors import ConfigError, RayfillError, unknown_name

#: The one place that knows the serving package by name: the command line covers all three packages.
#: Name -> (module with ``main(args) -> exit status``, what it does).
COMMANDS: dict[str, tuple[str, str]] = {
    "prepare": ("rayfill.cli.commands.prepare", "turn photos into a prepared dataset"),
    "train": ("rayfill.cli.commands.train", "train one model"),
    "compare": ("rayfill.cli.commands.compare", "put runs side by side, as tables and as a page"),
    "continue": (
        "rayfill.cli.commands.continue_sweep",
        "train finished trials of a sweep for more epochs",
    ),
    "models": ("rayfill.cli.commands.models", "list the networks that can be trained"),
    "evaluate": ("rayfill.cli.commands.evaluate", "measure systems side by side on one dataset"),
    "erase": ("rayfill.cli.commands.erase", "remove what a mask covers from one photo"),
    "serve": ("rayfill_serving.command", "serve the champion over HTTP and as a brush page"),
    "promote": ("rayfill.cli.commands.promote", "make a registered version the champion"),
    "ui": ("rayfill.cli.commands.ui", "browse the recorded runs in MLflow"),
    "head": ("rayfill.cli.commands.head", "start a local Ray head that takes jobs"),
    "replay": ("rayfill.cli.commands.replay", "send what MLflow could not take"),
    "doctor": ("rayfill.cli.commands.doctor", "check this machine and say what to do"),
}

Main = Callable[[Sequence[str]], int]


def main() -> NoReturn:
    """Run ``rayfill COMMAND ...`` and exit."""
    run_command(_dispatch)


def run_command(run: Main) -> NoReturn:
    """Run a command with this process's arguments and exit, as :func:`guarded` says."""
    sys.exit(guarded(run, sys.argv[1:]))


def guarded(run: Main, args: Sequence[str]) -> int:
    """Run a command and turn what ends it into an exit status.

    Errors a user can put right are printed without a traceback and give 2; an interrupt gives 130
    and a SIGTERM 143, after everything started has been ended.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # read when MLflow is imported
    interrupted = 130

    def terminate(signum: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
        # Like Ctrl-C, so that Ray and MLflow are closed properly: Ray aborts on a SystemExit that
        # reaches it while it waits.
        nonlocal interrupted
        interrupted = 143
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminate)
    try:
        status = run(args)
        sys.stdout.flush()  # so that a reader who has gone is noticed here
        return status
    except ConfigError as error:
        for problem in error.problems:
            _complain(problem)
        return 2
    except RayfillError as error:
        _complain(str(error))
        return 2
    except KeyboardInterrupt:
        _complain("interrupted; a sweep or run goes on from its last checkpoint with --resume")
        return interrupted
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _dispatch(args: Sequence[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        sys.stdout.write(_overview())
        return 0
    if args[0] == "--version":
        sys.stdout.write(f"rayfill {importlib.metadata.version('rayfill')}\n")
        return 0
    name, *rest = args
    if name not in COMMANDS:
        raise ConfigError([unknown_name("command", name, COMMANDS)])
    run: Main = importlib.import_module(COMMANDS[name][0]).main
    return run(rest)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = "".join(f"  {name:<{width}}  {text}\n" for name, (_, text) in COMMANDS.items())
    return (
        "usage: rayfill COMMAND [--help] ...\n\n"
        "Train, compare and serve models that remove objects from photos.\n\n"
        f"{lines}\nSweeps are scripts: `experiments/attn_unet_sweep.py --help`\n"
    )


def _complain(message: str) -> None:
    sys.stderr.write(f"rayfill: {message}\n")
