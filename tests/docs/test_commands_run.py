"""Every command that is shown has one rule: how it is run here, scaled down, or why it is not.

Commands of a document run in its order, in a copy of the repository with a home of its own, as in
a newcomer's shell. Later documents go on where the README ends. Messages of programs are not
run: what they name is known only when they are shown.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import httpx
import psutil
import pytest

from rayfill_data.prepared.reader import PreparedDataset

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """How a command is run: ``{0.name}`` in what is put in stands for a property of the world."""

    swaps: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What of it is replaced, as a rule by something smaller."""
    more: str = ""
    """Flags behind it, which override."""
    ready: str = ""
    """It answers until it is stopped: this address does, as soon as it is ready."""
    needs: str = ""
    """A command that goes on in the background meanwhile."""
    or_says: str = ""
    """It may also fail, if that is what it says: small networks find and learn nothing."""


#: Joint training at its smallest, of the model that is served.
TINY = (
    "--scale smoke --tracking.model-name rayfill --winner.epochs 0 --sweep.segmentation-epochs 1 "
    "--data.train-samples 64"
)
PORTS = (
    "--port {0.free} --dashboard-port {0.job} --num-cpus 2 -- --object-store-memory=536870912 "
    "--dashboard-agent-listen-port={0.free} --dashboard-agent-grpc-port={0.free} "
    "--metrics-export-port={0.free} --ray-client-server-port={0.free} "
    "--node-manager-port={0.free} --object-manager-port={0.free} "
    "--runtime-env-agent-port={0.free} --min-worker-port=0 --max-worker-port=0"
)
SERVED = {"127.0.0.1:8000": "127.0.0.1:{0.served}"}
JOB = {"127.0.0.1:8265": "127.0.0.1:{0.job}"}
HEAD = "make head"
#: The scale for the bundled photographs, with the labels of pairs.
PAIRS = "scale smoke --model.label-names nothing person"
#: Not run, since there is nothing to run.
PART = "a part of a command, or its name: that it is understood is all there is to test"
PROMOTE = "promote {0.version}"

#: Pattern of whole commands -> how they are run, or why they are not.
RULES: dict[str, Run | str] = {
    r"make sweep": Run(more=f'ARGS="{TINY}"'),
    r'make sweep ARGS="--resume"': Run(swaps={"--resume": f"--resume {TINY}"}),
    r'make sweep ARGS="--data\.uri .*"': Run(
        swaps={
            "--data.uri": "--scale smoke --tracking.model-name rayfill --data.uri",
            "--sweep.epochs 20 40": "--sweep.epochs 1 2",
            "--winner.epochs 40": "--winner.epochs 1",
        },
        or_says="removal_psnr is not a number at any validation",
    ),
    r'make sweep ARGS=".*--sweep\.inpainters .*"': Run(
        swaps={
            'ARGS="': f'ARGS="{TINY} ',
            "--sweep.epochs 25 50": "--sweep.epochs 1 2",
            "--model.width 64 --model.depth 4": "--model.width 4 --model.depth 2",
        }
    ),
    r'make sweep ARGS="--sweep\.search .*"': Run(
        swaps={'ARGS="': f'ARGS="{TINY} ', "--sweep.trials 12": "--sweep.trials 2"}
    ),
    r"make serve": Run(more='ARGS="--port {0.served}"', ready="http://127.0.0.1:{0.served}/readyz"),
    r"rayfill serve --models convmixer_cifar10@champion": Run(
        more="--port {0.served}", ready="http://127.0.0.1:{0.served}/readyz"
    ),
    r"make ui": Run(more='ARGS="--port {0.page}"', ready="http://127.0.0.1:{0.page}/health"),
    r"rayfill ui": Run(more="--port {0.page}", ready="http://127.0.0.1:{0.page}/health"),
    r"make head": Run(more=f'ARGS="{PORTS}"', ready="http://127.0.0.1:{0.job}/api/version"),
    r"make test": Run(more='ARGS="tests/data/test_codec.py"'),
    r"make check": Run(more='ARGS="tests/data/test_codec.py"'),
    r'make test ARGS="tests/runs"': Run(swaps={"tests/runs": "tests/runs/test_table.py"}),
    r'make test ARGS="-m slow"': Run(swaps={"slow": "slow --collect-only tests/experiments"}),
    r"python benchmarks/run\.py --only selection": "needs photos that are not the project's",
    r"make bench": Run(more='ARGS="--only metrics_ssim --rounds 1 --out var/bench"'),
    r"make help": Run(),
    r"rayfill erase photo\.jpg --box .*": Run(),
    r"rayfill erase photo\.jpg --mask mask\.png -o \w+\.png( --variant .*| --model rayfill@.*)?": (
        Run()
    ),
    r"curl .*-F .*http://127\.0\.0\.1:8000/api/v1/\w+ .*": Run(
        swaps={"curl": "curl --fail-with-body"} | SERVED, needs="make serve"
    ),
    r"rayfill prepare folder --root ~/photos .*": Run(),
    r"rayfill prepare coco_pairs --images val2017 .*": Run(more="--size 64 --repeats 2"),
    r"rayfill prepare test_set --input photos/ .*": Run(),
    r"rayfill prepare SOURCE --help": Run(),
    r"rayfill evaluate --(data|model) .*=~/lama/out.*": Run(),
    r"rayfill compare attn_unet_sweep": Run(),
    r"rayfill compare 01-unet .*": Run(
        swaps={
            "01-unet": "{0.wide[0].name}",
            "0123456789abcdef": "{0.run_id}",
            "runs/sweep/07-unet": "{0.wide[2]}",
        }
    ),
    r"rayfill compare --experiment .*": Run(swaps={"s3://bucket/": ""}, more="--apart"),
    r"rayfill promote \d .*": Run(
        swaps={"promote 3": PROMOTE, "promote 7": PROMOTE}, more="--force"
    ),
    r"rayfill promote --list": Run(),
    r"rayfill continue attn_unet_sweep .*": Run(
        swaps={"epochs 20": "epochs 1", "best 3": "best 1", "02-mse-epochs4": "{0.swept[0].name}"}
    ),
    r"rayfill train": Run(more="--model.width 4 --model.depth 2 --data.train-samples 64"),
    r"rayfill (models|replay)": Run(),
    r"rayfill doctor": Run(or_says="broken"),
    r"experiments/attn_unet_sweep\.py --help": Run(),
    r"experiments/(mask_size_study|convmixer_cifar10)\.py": Run(more="--data.train-samples 64"),
    r"experiments/\w+\.py --scale (small|paper) --data\.uri .*": Run(
        swaps={"scale small": "scale smoke", "scale paper": PAIRS, "/cifar10": "/mine"}
    ),
    r"export RAY_AUTH_MODE=token .*": Run(swaps=JOB),
    r"(RAY_AUTH_MODE=token )?ray job submit .*experiments/attn_unet_sweep\.py.*": Run(
        swaps={"--sweep.epochs 50": "", "--scaling.use-gpu True": ""} | JOB,
        more=f"{TINY} --sweep.epochs 1",
        needs=HEAD,
    ),
    r"ray job submit .*experiments/mask_expansion_sweep\.py .*": Run(
        swaps={
            "scale paper": PAIRS,
            "s3://bucket/pairs": "{0.root}/data/cache/coco_pairs256",
            "--scaling.use-gpu True": "",
        },
        needs=HEAD,
    ),
    r"ray get-auth-token --generate": Run(),
    # Not run, and why.
    r"make install": "CI does, on a clean clone; it downloads everything",
    r"ray (up|dashboard) cluster\.yaml": "it needs a cloud; test_cluster_yaml.py reads the file",
    r"iopaint run": "another project's program, not installed",
    r"mlflow gc": "it deletes for good, and is MLflow's own",
    r"(rayfill (models|prepare|train)|export) .*mypkg.*|rayfill erase .* mypkg": (
        "tests/models/extension runs the page's example as a user would"
    ),
    r"(-|\w+ --[a-z]+ [A-Z]).*": PART,
    r"rayfill (prepare|evaluate|continue|compare|serve|erase|erase (--model|--feather-px 2))": PART,
    r"rayfill evaluate --with-patches": PART,
    r"rayfill prepare (SOURCE --out URI|--size|… .*)": PART,
}


def rule_of(text: str) -> Run | str:
    """Return the one rule of a document's command."""
    found = [pattern for pattern in RULES if re.fullmatch(pattern, text)]
    assert len(found) == 1, f"`{text}`: {len(found)} rules, {found}"
    return RULES[found[0]]


def test_every_command_has_one_rule(all_documented: Any) -> None:
    problems = []
    for shown in all_documented:
        try:
            rule_of(shown.text)
        except AssertionError as error:
            problems.append(f"{shown.place}: {error}")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("pattern", RULES)
def test_every_rule_has_a_command(pattern: str, all_documented: Any) -> None:
    assert any(re.fullmatch(pattern, shown.text) for shown in all_documented)


RUN = [name for name, rule in RULES.items() if isinstance(rule, Run)]


@pytest.mark.parametrize("pattern", RUN)
def test_what_is_replaced_is_there(pattern: str, all_documented: Any) -> None:
    texts = [shown.filled() for shown in all_documented if re.fullmatch(pattern, shown.text)]
    rule = RULES[pattern]
    assert isinstance(rule, Run)
    for old in rule.swaps:
        assert any(old in text for text in texts), old


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class World:
    """A newcomer's machine: a copy of the repository, a home with photos, ports of its own."""

    def __init__(self, folder: Path, *, make_pictures: Callable[[Path, Path], None]) -> None:
        self.root, self.home = folder / "repository", folder / "user"
        self.served, self.page, self.job = free_port(), free_port(), free_port()
        self.going: dict[str, subprocess.Popen[bytes]] = {}
        ignored = shutil.ignore_patterns(
            ".git", ".venv*", "var", "__pycache__", ".*_cache", "cache"
        )
        shutil.copytree(ROOT, self.root, ignore=ignored)
        for name in ("bin", "lib", "pyvenv.cfg"):  # what `make install` would make
            (self.root / ".venv").mkdir(exist_ok=True)
            (self.root / ".venv" / name).symlink_to(Path(sys.prefix) / name)
        (self.root / ".venv/.installed").touch()
        make_pictures(self.root, self.home)
        ours = ("RAY_", "RAYFILL_", "MLFLOW_")
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)} | {
            "HOME": str(self.home),
            "PATH": f"{self.root}/.venv/bin{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(
                str(self.root / name) for name in ("platform", "data", "serving")
            ),
            "RAY_TMPDIR": str(folder / "ray"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "160",
        }

    @property
    def free(self) -> int:
        return free_port()

    @property
    def wide(self) -> list[Path]:
        """Trials of the README's own sweep."""
        return sorted(path.parent for path in self.root.glob("var/runs/wide/*/outcome.json"))

    @property
    def swept(self) -> list[Path]:
        """Trials of the newest sweep of the default name."""
        found = self.root.glob("var/runs/attn_unet_sweep*/leaderboard.json")
        (*_, newest) = sorted(
            (path.parent for path in found if "continued" not in path.parent.name),
            key=lambda path: path.stat().st_ctime,
        )
        return sorted(path.parent for path in newest.glob("[0-9]*/outcome.json"))

    def _ask(self, question: str, *values: str) -> str:
        with contextlib.closing(sqlite3.connect(self.root / "var/mlflow.db")) as database:
            return str(database.execute(question, values).fetchone()[0])

    @property
    def run_id(self) -> str:
        return self._ask("SELECT run_uuid FROM runs WHERE name = ?", self.wide[1].name)

    @property
    def version(self) -> str:
        """A version of the model that is not the champion."""
        return self._ask(
            "SELECT version FROM model_versions WHERE name = 'rayfill' AND version NOT IN "
            "(SELECT version FROM registered_model_aliases WHERE name = 'rayfill')"
        )

    def _finish_pictures(self) -> None:
        """Put what another system would have finished where the documents say."""
        split = PreparedDataset.open(str(self.root / "data/cache/mine")).load("test")
        for folder in ("out", "output"):
            place = self.home / "lama" / folder
            place.mkdir(parents=True, exist_ok=True)
            for name, picture in zip(split.sample_id, split.target, strict=True):
                cv2.imwrite(str(place / f"{name}.png"), picture[..., ::-1])

    def run(self, text: str, rule: Run) -> None:
        """Run a command as its rule says; one without an end goes on until `stop`."""
        if rule.needs and rule.needs not in self.going:
            needed = rule_of(rule.needs)
            assert isinstance(needed, Run)
            self.run(rule.needs, needed)
        if "lama=~" in text:
            self._finish_pictures()
        command = text
        for old, new in rule.swaps.items():
            command = command.replace(old, new.format(self))
        command = f"{command} {rule.more.format(self)}".strip()
        if command.startswith("export "):
            self.environment |= dict(word.split("=", 1) for word in command.split()[1:])
            return
        log = self.home / f"log-{len(list(self.home.glob('log-*')))}"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", command],
                cwd=self.root,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.going[text] = process
        if rule.ready:
            right = self._answers(process, rule.ready.format(self))
        else:
            right = process.wait(timeout=1200) == 0
            del self.going[text]
        said = log.read_text(encoding="utf-8")
        right = right or bool(rule.or_says and rule.or_says in said)
        assert right, f"`{text}` as `{command}`: {process.returncode}\n{said[-6000:]}"

    def _answers(self, process: subprocess.Popen[bytes], address: str) -> bool:
        """Wait until a server answers; False where it ends or does not within five minutes."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(address, timeout=5).status_code in (200, 401):
                    return True
            time.sleep(0.2)
        return False

    def stop(self) -> None:
        """End what goes on, with all that it has started."""
        for process in self.going.values():
            family = [process.pid]
            with contextlib.suppress(psutil.NoSuchProcess):
                family += [child.pid for child in psutil.Process(process.pid).children(True)]
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=60)
            for pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait(timeout=30)
        self.going.clear()


@pytest.fixture(scope="module")
def world(make_pictures: Any) -> Iterator[World]:
    folder = Path("/tmp", f"rf-docs-{os.getpid()}")  # Ray's sockets need a short path
    folder.mkdir()
    made = World(folder, make_pictures=make_pictures)
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_documents_commands_run_in_its_order(
    document: str, world: World, all_documented: Any
) -> None:
    own = {one.filled(): rule_of(one.text) for one in all_documented if one.file == document}
    try:
        for text, rule in own.items():
            if isinstance(rule, Run):
                world.run(text, rule)
    finally:
        world.stop()
