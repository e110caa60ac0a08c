"""Room for a fixed number of requests; whoever comes after is told so at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rayfill_serving.problems import ApiError


class Gate:
    """Counts requests inside; used from one event loop, so without locks."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = 0

    def check(self) -> None:
        """Raise :class:`ApiError` ``busy`` when there is no room now."""
        if self._inside >= self._limit:
            raise ApiError("busy")

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Take a place for the time of the ``with`` block, or raise ``busy``."""
        self.check()
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
