"""``rayfill head``: a local Ray head that takes jobs, on loopback and with a token."""

from __future__ import annotations

import dataclasses
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rayfill.config.flags import parse_flags
from rayfill.runs import places
from rayfill_data.checks import Checked, Count, Port


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadArgs(Checked):
    """Start a local Ray head in the foreground; Ctrl-C ends it and all its processes.

    Flags behind `--` go to `ray start`, such as other ports for a second head on one machine.
    """

    port: Port = 6379
    """Port of the cluster."""
    dashboard_port: Port = 8265
    """Port of the dashboard and the job API on 127.0.0.1."""
    num_cpus: Count | None = None
    """CPU cores to offer; None is all of them."""


def main(args: Sequence[str]) -> int:
    """Become `ray start --head --block`."""
    own, passed_on = _split(args)
    asked = parse_flags(HeadArgs, own, prog="rayfill head")
    binaries = Path(sys.executable).parent
    # Jobs run their entry point through a shell: it must find this environment's python.
    path = f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = os.environ | {"RAY_AUTH_MODE": "token", "PATH": path}
    # Jobs inherit this: whatever folder they run in, they find the same runs.
    environment["RAYFILL_HOME"] = str(places.home())
    _make_token(binaries, environment)
    sys.stdout.write(
        f"Submit from another shell in this folder:\n"
        f"  RAY_AUTH_MODE=token RAY_API_SERVER_ADDRESS=http://127.0.0.1:{asked.dashboard_port} \\\n"
        f"    {binaries}/ray job submit -- experiments/attn_unet_sweep.py\n"
    )
    sys.stdout.flush()
    command = [str(binaries / "ray"), "start", "--head", "--block"]
    command += [f"--port={asked.port}", "--dashboard-host=127.0.0.1"]
    command += [f"--dashboard-port={asked.dashboard_port}", "--disable-usage-stats"]
    command += [f"--num-cpus={asked.num_cpus}"] if asked.num_cpus else []
    os.execve(command[0], [*command, *passed_on], environment)  # noqa: S606


def _split(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the flags before ``--`` and those behind it."""
    own = list(itertools.takewhile(lambda flag: flag != "--", args))
    return own, list(args[len(own) + 1 :])


def _make_token(binaries: Path, environment: dict[str, str]) -> None:
    """Make the token that client and cluster share, readable by its owner alone."""
    import subprocess

    token = Path(environment.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    if "RAY_AUTH_TOKEN" in environment:
        return
    if not token.exists():
        subprocess.run(  # noqa: S603
            [str(binaries / "ray"), "get-auth-token", "--generate"],
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
    token.chmod(0o600)
