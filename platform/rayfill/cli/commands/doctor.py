"""``rayfill doctor``: what this machine can do, and what to do about what it cannot."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from rayfill.cli.console import make_console
from rayfill.config.flags import parse_flags
from rayfill.runs import places
from rayfill.runs.mlflow_store import asking, sqlite_file
from rayfill.runs.provenance import version_of
from rayfill.runs.registry import DEFAULT_MODEL_NAME, NoSuchModelError, find_model
from rayfill.runs.table import Column, Table
from rayfill_data.errors import RayfillError, redact_uri

_LIBRARIES = (
    "rayfill", "ray", "torch", "torchvision", "mlflow", "lpips", "torchmetrics", "opencv-python",
    "pillow", "pyarrow", "scikit-image", "pycocotools",
)  # fmt: skip
_FREE_GIB = 5
#: A longer message of a library fills the table with what nobody reads.
_MESSAGE_CHARS = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoctorArgs:
    """Check this machine; the exit status is 1 when something needed is broken."""

    tracking_uri: str | None = None
    """MLflow store; None as for training."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: Literal["ok", "optional", "broken"]
    """``optional``: missing, and nothing in the default set-up needs it."""
    found: str
    advice: str = ""


def main(args: Sequence[str]) -> int:
    """Run the command."""
    asked = parse_flags(DoctorArgs, args, prog="rayfill doctor")
    findings = list(examine(tracking_uri=places.tracking_uri(asked.tracking_uri)))
    styles = {"ok": "green", "optional": "yellow", "broken": "red"}
    table = Table(
        title="Rayfill on this machine",
        columns=["what", Column("state", styles=styles), "found", "what to do"],
        rows=[[one.what, one.state, one.found, one.advice] for one in findings],
    )
    make_console().print(table)
    return int(any(finding.state == "broken" for finding in findings))


def examine(*, tracking_uri: str) -> Iterator[Finding]:
    """Yield what was found, one thing at a time."""
    yield from _versions()
    yield _home()
    yield _arithmetic()
    yield _gpu()
    yield _guard("Ray", _ray, "Look at the newest folder under /tmp/ray for its logs.")
    yield _guard(
        "MLflow",
        lambda: _mlflow(tracking_uri),
        "Set MLFLOW_TRACKING_URI to a store that answers, or unset it for a local file.",
    )
    yield _champion(tracking_uri)
    yield from _weights()


def _versions() -> Iterator[Finding]:
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding(
        what="Python",
        state="ok" if sys.version_info >= (3, 11) else "broken",
        found=python,
        advice="" if sys.version_info >= (3, 11) else "Install Python 3.11 or newer.",
    )
    versions = {name: version_of(name) for name in _LIBRARIES}
    absent = [name for name, version in versions.items() if version == "absent"]
    yield Finding(
        what="libraries",
        state="broken" if absent else "ok",
        found=", ".join(f"{name} {version}" for name, version in versions.items()),
        advice=f"Run `make install`: {', '.join(absent)} missing." if absent else "",
    )


def _home() -> Finding:
    home = places.home()
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 2**30
    writable = existing.is_dir() and os.access(existing, os.W_OK)
    return Finding(
        what="home folder",
        state="ok" if writable and free > _FREE_GIB else "broken",
        found=f"{home}, {free:.0f} GiB free{'' if writable else ', not writable'}",
        advice="" if writable and free > _FREE_GIB else "Set RAYFILL_HOME to a folder with room.",
    )


def _arithmetic() -> Finding:
    import torch

    from rayfill.training.precision import autocast_dtype

    dtype = autocast_dtype("auto", device=torch.device("cpu"))
    name = "bf16 (AMX)" if dtype else "float32 (no AMX: bf16 would be slower)"
    return Finding(what="CPU", state="ok", found=f"{os.cpu_count()} cores, trains in {name}")


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding(what="GPU", state="ok", found=", ".join(names))
    return Finding(
        what="GPU",
        state="optional",
        found="none",
        advice="Small models train on the CPU; for larger ones see cluster.yaml.",
    )


def _guard(what: str, look: Callable[[], Finding], advice: str) -> Finding:
    try:
        return look()
    except Exception as error:  # noqa: BLE001  (whatever is wrong is the finding)
        said = redact_uri(f"{type(error).__name__}: {error}")
        message = said.removeprefix("RayfillError: ").splitlines()[0][:_MESSAGE_CHARS]
        return Finding(what=what, state="broken", found=message, advice=advice)


def _ray() -> Finding:
    import ray

    from rayfill.training.cluster import ray_cluster

    with ray_cluster() as capacity:
        # A lambda: Ray takes no builtin, such as os.getpid itself.
        task = ray.remote(num_cpus=0.1)(lambda: os.getpid())
        answer = ray.get(task.remote(), timeout=60)
        where = os.environ.get("RAY_ADDRESS", "a local cluster")
        found = f"{where} ran a task (process {answer}): {capacity.cpus:g} CPUs, "
        found += f"{capacity.gpus:g} GPUs"
    token = Path("~/.ray/auth_token").expanduser()
    if token.exists() and token.stat().st_mode & 0o077:
        return Finding(
            what="Ray",
            state="optional",
            found=f"{found}; {token} can be read by others on this machine",
            advice=f"chmod 600 {token}",
        )
    return Finding(what="Ray", state="ok", found=found)


def _mlflow(tracking_uri: str) -> Finding:
    file = sqlite_file(tracking_uri)
    if file and not file.exists():
        return Finding(what="MLflow", state="ok", found=f"{file} will be made by the first run")
    with asking(tracking_uri, "for experiments") as client:
        found = f"{redact_uri(tracking_uri)}: {len(client.search_experiments())} experiments"
    return Finding(what="MLflow", state="ok", found=found)


def _champion(tracking_uri: str) -> Finding:
    try:
        model = find_model(DEFAULT_MODEL_NAME, tracking_uri=tracking_uri)
    except NoSuchModelError:
        return Finding(
            what="champion", state="optional", found="none registered", advice="Run `make sweep`."
        )
    except RayfillError:
        return Finding(
            what="champion", state="optional", found="unknown", advice="Repair MLflow first."
        )
    scores = ", ".join(f"{name} {value:.3f}" for name, value in model.scores.items())
    return Finding(what="champion", state="ok", found=f"version {model.version}: {scores}")


def _weights() -> Iterator[Finding]:
    from rayfill.losses import FEATURES, feature_weights_available
    from rayfill.metrics import fid_available, lpips_available
    from rayfill.metrics.lpips import BACKBONES

    if importlib.util.find_spec("lpips") is None:
        return
    looked = {f"perceptual loss, {n}": feature_weights_available(n) for n in FEATURES}
    looked |= {f"LPIPS, {n}": lpips_available(n) for n in BACKBONES}
    looked["FID"] = fid_available()
    for what, found in looked.items():
        state: Literal["ok", "optional"] = "ok" if found.ok else "optional"
        yield Finding(what=what, state=state, found=found.reason, advice=found.how_to_get)
