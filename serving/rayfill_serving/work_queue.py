"""A bounded first-come queue in front of a few threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rayfill_serving.gate import Gate

T = TypeVar("T")


class WorkQueue:
    """Runs blocking work in threads, in order; work whose client has gone is never started."""

    def __init__(self, *, threads: int, waiting: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="inpaint")
        self._free = asyncio.Semaphore(threads)
        self._gate = Gate(threads + waiting)

    async def run(self, work: Callable[[], T]) -> T:
        """Return ``work()`` from a thread.

        Raises:
            ApiError: ``busy`` when as many requests as allowed are waiting already.
        """
        with self._gate.enter():
            await self._free.acquire()
            loop = asyncio.get_running_loop()
            running = self._pool.submit(work)
            # Freed when the thread is done, not when the client stops waiting for it.
            running.add_done_callback(lambda _: _release(loop, self._free))
            return await asyncio.wrap_future(running)

    def close(self) -> None:
        """Let running work finish and take no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _release(loop: asyncio.AbstractEventLoop, free: asyncio.Semaphore) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(free.release)
