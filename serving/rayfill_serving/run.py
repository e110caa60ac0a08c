"""Serving from Python or the command line, until interrupted."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType

from rayfill.runs.registry import NoSuchModelError
from rayfill_data.errors import RayfillError
from rayfill_serving.options import LOOPBACK_HOSTS, ServingOptions
from rayfill_serving.sources import ReferenceSource

APP_NAME = "rayfill"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve_forever(
    options: ServingOptions,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    on_ready: Callable[[str], None] = print,
) -> None:
    """Serve models over HTTP until SIGINT or SIGTERM, then take everything down.

    Args:
        options: What to serve and how.
        host: Address to listen on; anything but loopback is reachable by others, and then
            ``allowed_hosts`` must say under which names.
        port: TCP port.
        on_ready: Called with the page's address once requests are answered.

    Raises:
        RayfillError: when there is no model, the port is taken, or the host is not named.
    """
    options = _checked(options, host=host, port=port)
    import ray
    from ray import serve

    from rayfill_serving.deployments import deploy

    owns_cluster = not ray.is_initialized()
    if owns_cluster:
        ray.init("local", include_dashboard=False)
        check_room(options, ray.cluster_resources())
    # After ray.init, which sets handlers of its own.
    with _terminate_is_interrupt(), suppress(KeyboardInterrupt):
        try:
            serve.start(http_options={"host": host, "port": port})
            serve.run(deploy(options), name=APP_NAME, route_prefix="/")
            on_ready(f"http://{_in_url(host)}:{port}/")
            threading.Event().wait()
        finally:
            serve.shutdown()
            if owns_cluster:
                ray.shutdown()


def _checked(options: ServingOptions, *, host: str, port: int) -> ServingOptions:
    if host not in _LOOPBACK and options.host_names == LOOPBACK_HOSTS:
        raise RayfillError(
            f"Listening on {host} reaches beyond this machine: name the hosts that clients will "
            "use in allowed_hosts (or * for any), and put authentication in front."
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise RayfillError(
                f"Cannot listen on {host}:{port} ({error.strerror}): choose another port."
            ) from error
    options = options.resolved()
    source = ReferenceSource(
        references=options.references,
        tracking_uri=options.tracking_uri,
        cache_dir=options.cache_dir,
    )
    for name in options.references:
        try:
            source.find(name)
        except NoSuchModelError:
            if name not in options.awaited:
                raise
    return options


def check_room(options: ServingOptions, room: Mapping[str, float]) -> None:
    """Say now what Serve would wait for in vain: this cluster does not grow."""
    for kind, each in (("CPU", options.cpus), ("GPU", options.gpus)):
        if options.replicas * each > room.get(kind, 0):
            raise RayfillError(
                f"{options.replicas} replicas of {each:g} {kind}s do not fit in the "
                f"{room.get(kind, 0):g} of this machine: lower replicas or {kind.lower()}s."
            )


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@contextmanager
def _terminate_is_interrupt() -> Iterator[None]:
    """Let SIGTERM stop the server as Ctrl-C does; the former handler comes back afterwards."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
