"""Counters of one server process, in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.types import Scope

_METHODS = ("GET", "HEAD", "POST", "OPTIONS")
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Telemetry:
    """What is counted; every app has its own, so that two in one process do not mix."""

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._known: frozenset[str] = frozenset()
        self._requests = Counter(
            "rayfill_http_requests",
            "Answers by address, method and status.",
            ("path", "method", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "rayfill_http_request_seconds",
            "Time from the first byte of a request to the last of its answer.",
            ("path",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.in_flight = Gauge(
            "rayfill_http_requests_in_flight",
            "Requests being worked on.",
            registry=self._registry,
        )
        self.problems = Counter(
            "rayfill_problems",
            "Requests to a model that ended in a problem, by its code.",
            ("code",),
            registry=self._registry,
        )

    def know(self, paths: frozenset[str]) -> None:
        """Name the addresses that get a label of their own; strangers cannot make new ones."""
        self._known = paths

    def count(self, scope: Scope, *, status: int, seconds: float) -> None:
        """Count one answer."""
        path = scope["path"] if scope["path"] in self._known else "other"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._requests.labels(path, method, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """Return all counters as Prometheus text."""
        return generate_latest(self._registry)
