"""Where requests to the models come in, whatever they ask for: room, deadline, counters."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import Request

from rayfill_serving.gate import Gate
from rayfill_serving.problems import ApiError, Problem
from rayfill_serving.telemetry import Telemetry
from rayfill_serving.uploads import Upload, read_upload

T = TypeVar("T")
JobT = TypeVar("JobT")

#: Uploads being read for each request the models can hold: a client that sends slowly takes a
#: place here, not one in front of the models.
_UPLOADS_PER_PLACE = 8


class Admission:
    """The one way to the models of a server."""

    def __init__(self, *, capacity: int, timeout_s: float, telemetry: Telemetry) -> None:
        self._models_gate = Gate(capacity)
        self._uploads_gate = Gate(capacity * _UPLOADS_PER_PLACE)
        self._timeout_s = timeout_s
        self._telemetry = telemetry

    async def read(
        self,
        request: Request,
        *,
        files: tuple[str, ...],
        optional: tuple[str, ...] = (),
        json_texts: tuple[str, ...] = (),
    ) -> Upload:
        """Return the request; see :func:`rayfill_serving.uploads.read_upload`.

        Raises:
            ApiError: ``busy``, or what is wrong with the request.
        """
        self._models_gate.check()  # when there is no room, say so before the upload, not after
        with self._uploads_gate.enter():
            return await read_upload(request, files=files, optional=optional, json_texts=json_texts)

    async def ask(self, model: Callable[[JobT], Awaitable[T | Problem]], job: JobT) -> T | Problem:
        """Return what ``model`` makes of ``job``; problems are counted.

        Raises:
            ApiError: ``busy``, or ``too_slow``.
        """
        with self._models_gate.enter():
            reply = await within(model(job), self._timeout_s)
        if isinstance(reply, Problem):
            self._telemetry.problems.labels(reply.code).inc()
        return reply


async def within(answer: Awaitable[T], seconds: float) -> T:
    """Return ``answer``, or raise ``too_slow`` when it takes more than ``seconds``."""
    try:
        async with asyncio.timeout(seconds):
            return await answer
    except TimeoutError:
        raise ApiError("too_slow") from None
