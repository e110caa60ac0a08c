"""``rayfill serve``: the champion over HTTP and as a brush page, until Ctrl-C."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

import tyro

from rayfill.config.flags import parse_flags
from rayfill_data.checks import Checked, Port
from rayfill_serving.options import ServingOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeArgs(Checked):
    """Serve the champion over HTTP and as a brush page."""

    host: str = "127.0.0.1"
    """Address to listen on; anything but loopback also needs --allowed-hosts."""
    port: Port = 8000
    """Port to listen on."""
    options: tyro.conf.OmitArgPrefixes[ServingOptions] = dataclasses.field(
        default_factory=ServingOptions
    )
    """What to serve and how."""


def main(args: Sequence[str]) -> int:
    """Run the command; being stopped is its ordinary end."""
    asked = parse_flags(ServeArgs, args, prog="rayfill serve")
    from rayfill_serving.run import serve_forever

    serve_forever(asked.options, host=asked.host, port=asked.port, on_ready=_announce)
    return 0


def _announce(address: str) -> None:
    sys.stdout.write(f"Rayfill answers at {address} (Ctrl-C ends it)\n")
    sys.stdout.flush()
