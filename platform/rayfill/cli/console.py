"""The console that tables are printed on."""

from __future__ import annotations

import os
import sys

from rich.console import Console

#: Width of tables in a log file, where there is no terminal to ask.
_LOG_WIDTH = 130


def make_console() -> Console:
    """Return a console as wide as the terminal, or wide enough for our tables in a log."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if known else _LOG_WIDTH)
