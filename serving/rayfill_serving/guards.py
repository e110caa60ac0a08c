"""ASGI layers around the API: who may ask, how much they may send, what may leak.

They are plain ASGI, without a queue between client and handler, so that a body is refused while it
arrives rather than after it has been kept.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayfill_serving.problems import ApiError, Problem, problem
from rayfill_serving.telemetry import Telemetry

logger = logging.getLogger(__name__)

_SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
#: After a refusal, keep reading for so long: closing at once would make the network drop the
#: answer together with the rest of the upload (nginx calls this a lingering close).
_LINGER_S = 2.0
_LINGER_BYTES = 64 * 2**20


class Shield:
    """Outermost layer: turns whatever still goes wrong into a plain 500, and counts it all."""

    def __init__(self, app: ASGIApp, *, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def guarded_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _SECURITY_HEADERS.items():
                    headers[name] = value
                # The page's files have an ETag; answers are nobody else's business.
                fixed = scope["path"].startswith("/static/")
                headers.setdefault("Cache-Control", "no-cache" if fixed else "no-store")
            await send(message)

        try:
            with self._telemetry.in_flight.track_inprogress():
                await self._app(scope, receive, guarded_send)
        except Exception:  # the last line of defence: log it, tell nothing
            logger.exception("request failed")
            if status:
                raise  # too late for another answer: the server cuts the connection
            await send_problem(problem("internal"), guarded_send)
        finally:
            self._telemetry.count(
                scope, status=status or 499, seconds=time.perf_counter() - started
            )


class HostGuard:
    """Answers only under known host names, and only pages of its own.

    A web page elsewhere can point its own name at 127.0.0.1 (DNS rebinding) or post a form here;
    the first shows in ``Host``, the second in ``Origin``.
    """

    def __init__(self, app: ASGIApp, *, hosts: Iterable[str]) -> None:
        self._app = app
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(Headers(scope=scope), method=scope["method"])
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await refuse(refusal, receive, send)

    def _refusal(self, headers: Headers, *, method: str) -> Problem | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1:
            return problem("bad_host")
        if "*" not in self._hosts and _without_port(hosts[0]) not in self._hosts:
            return problem("bad_host")
        origin = headers.get("origin")
        if origin is None or method in _SAFE_METHODS:
            return None
        if origin.partition("://")[2].lower() != hosts[0].lower():
            return problem("foreign_origin")
        return None


class BodyLimit:
    """Counts the bytes of a body as they come, and gives the client a deadline to send them."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, deadline_s: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._deadline_s = deadline_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, or refuse its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        too_large = problem(
            "body_too_large",
            text=f"The request is larger than this server accepts ({self._max_bytes} bytes).",
        )
        headers = Headers(scope=scope)
        declared = _declared_length(headers)
        if declared > self._max_bytes:
            await refuse(too_large, receive, send)
            return
        counted = 0
        complete = declared == 0 and "transfer-encoding" not in headers
        deadline = asyncio.get_running_loop().time() + self._deadline_s

        async def counting_receive() -> Message:
            nonlocal counted, complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise ApiError("too_slow_upload") from None
            counted += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if counted > self._max_bytes:
                raise ApiError("body_too_large", text=too_large.text)
            return message

        answered = False

        async def noting_send(message: Message) -> None:
            nonlocal answered
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if last and not complete and not answered:
                # The rest of the body is still on its way: answer, drain, then close.
                answered = True
                await send({**message, "more_body": True})
                await _drain(receive)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        await self._app(scope, counting_receive, noting_send)


async def refuse(reason: Problem, receive: Receive, send: Send) -> None:
    """Answer at once, before the body; then let the client finish within reason."""
    await send_problem(reason, send, more_body=True)
    await _drain(receive)
    await send({"type": "http.response.body", "body": b""})


async def send_problem(reason: Problem, send: Send, *, more_body: bool = False) -> None:
    """Send ``reason`` as a JSON answer."""
    body = problem_body(reason)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *((name.lower().encode(), value.encode()) for name, value in problem_headers(reason)),
    ]
    await send({"type": "http.response.start", "status": reason.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": more_body})


def problem_body(reason: Problem) -> bytes:
    """Return the JSON text of ``reason``."""
    return json.dumps({"error": reason.text, "code": reason.code}).encode()


def problem_headers(reason: Problem) -> list[tuple[str, str]]:
    """Return the headers that go with ``reason``."""
    if reason.retry_after_s is None:
        return []
    return [("Retry-After", str(reason.retry_after_s))]


def _declared_length(headers: Headers) -> int:
    text = headers.get("content-length", "0")
    # Beyond 18 digits no limit is that large, and Python refuses to convert very long ones.
    return int(text[:18]) if text.isdecimal() else 0


async def _drain(receive: Receive) -> None:
    left = _LINGER_BYTES
    try:
        async with asyncio.timeout(_LINGER_S):
            while left > 0:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
                left -= len(message.get("body", b""))
    except TimeoutError:
        return


def _without_port(host: str) -> str:
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdecimal() else host.lower()
