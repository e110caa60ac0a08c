"""``rayfill ui``: MLflow's own page over the recorded runs, on loopback."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from rayfill.config.flags import parse_flags
from rayfill.runs import places
from rayfill.runs.mlflow_store import make_store
from rayfill_data.checks import Checked, Port
from rayfill_data.errors import redact_uri

#: MLflow's own start page is about language models.
_PAGE = "/#/experiments?workflowType=machine_learning"


@dataclasses.dataclass(frozen=True, kw_only=True)
class UiArgs(Checked):
    """Browse the recorded runs in MLflow."""

    port: Port = 5000
    """Port on 127.0.0.1."""
    tracking_uri: str | None = None
    """MLflow store; None as for training."""


def main(args: Sequence[str]) -> int:
    """Run the command."""
    asked = parse_flags(UiArgs, args, prog="rayfill ui")
    uri = places.tracking_uri(asked.tracking_uri)
    if not uri.startswith(("http://", "https://")):
        make_store(uri)
        _become_server(uri, port=asked.port)
    sys.stdout.write(f"The runs are recorded by a server: open {redact_uri(uri)}\n")
    return 0


def _become_server(uri: str, *, port: int) -> NoReturn:
    """Replace this process, so that a signal reaches the server and not a wrapper."""
    sys.stdout.write(
        f"Runs of {redact_uri(uri)} on http://127.0.0.1:{port}{_PAGE} (Ctrl-C ends it)\n"
    )
    sys.stdout.flush()
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true"} | os.environ
    # Job execution is a second server process that browsing runs has no use for.
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    environment["MLFLOW_BACKEND_STORE_URI"] = uri  # a command line is for all to see
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    os.execve(sys.executable, command, environment)  # noqa: S606
