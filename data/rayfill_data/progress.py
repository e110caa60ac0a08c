"""Progress and the time left: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Called with (done, total) as work goes on.
ProgressCallback = Callable[[int, int], None]

_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def show_progress(title: str) -> Iterator[ProgressCallback]:
    """Yield a callback that shows progress on stderr until the block ends."""
    if not sys.stderr.isatty():
        yield _lines(title)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(title: str) -> ProgressCallback:
    """Return a callback that writes a line at most every ten seconds."""
    started = last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done == 0 or now - last < _SECONDS_BETWEEN_LINES:
            return
        last = now
        left = (now - started) / done * (total - done)
        sys.stderr.write(f"{title}: {done} of {total}, about {left:.0f} s left\n")

    return show
