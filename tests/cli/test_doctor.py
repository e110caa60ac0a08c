"""`rayfill doctor`: what it finds on machines in various states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from rayfill.cli.commands import doctor
from rayfill.cli.commands.doctor import Finding, examine
from rayfill.models import build_model
from rayfill.models.pretrained import Availability
from rayfill.runs.bundle import save_bundle
from rayfill.runs.registry import promote, register_bundle
from rayfill.runs.tracking import ensure_experiment

Cli = Callable[..., Any]


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not start Ray, which has a test of its own."""
    monkeypatch.setattr(doctor, "_ray", lambda: Finding(what="Ray", state="ok", found="not asked"))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are looked for on this machine alone: none are there."""

    def absent(name: str) -> Availability:
        return Availability(ok=False, reason=f"{name} is absent", how_to_get=f"Get {name}.")

    monkeypatch.setattr("rayfill.losses.feature_weights_available", absent)
    monkeypatch.setattr("rayfill.metrics.lpips_available", absent)
    without = Availability(ok=False, reason="not installed", how_to_get="Install torch-fidelity.")
    monkeypatch.setattr("rayfill.metrics.fid_available", lambda: without)


def findings(uri: str) -> dict[str, Finding]:
    return {finding.what: finding for finding in examine(tracking_uri=uri)}


def test_a_fresh_machine_is_well(
    cli: Cli, without_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")  # a long path folds no sentence
    done = cli("doctor")
    assert done.status == 0
    assert done.err == ""
    for expected in ("Python", "libraries", "home folder", "CPU", "GPU", "MLflow", "champion"):
        assert expected in done.out
    assert "will be made by the first run" in done.out
    assert "make sweep" in done.out
    assert list(Path.cwd().iterdir()) == []  # looking makes nothing


def test_ray_really_runs_a_task(cli: Cli, ray_local: None) -> None:
    found = doctor._guard("Ray", doctor._ray, "advice")
    assert found.state in ("ok", "optional"), found.found
    assert "ran a task (process " in found.found
    assert "2 CPUs, 0 GPUs" in found.found


def test_ray_that_does_not_start_is_broken_with_where_to_look(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: Any) -> None:
        raise RuntimeError("no room in /dev/shm\nand a long trace")

    monkeypatch.setattr("rayfill.training.cluster.ray_cluster", fail)
    done = cli("doctor")
    assert done.status == 1
    assert "RuntimeError: no room in /dev/shm" in done.out
    assert "and a long trace" not in done.out
    assert "logs" in done.out


@pytest.mark.parametrize("uri", ["foo://somewhere", "sqlite:///text.db"])
def test_a_tracking_store_that_cannot_be_used_is_broken(
    cli: Cli, without_ray: None, uri: str
) -> None:
    Path("text.db").write_text("a text file, long enough to be taken for a database header")
    done = cli("doctor", "--tracking-uri", uri)
    assert done.status == 1
    found = findings(uri)
    assert found["MLflow"].state == "broken"
    assert "MLFLOW_TRACKING_URI" in found["MLflow"].advice
    # Whether there is a champion cannot be said; that there is none would be wrong.
    assert found["champion"].found == "unknown"


def test_the_environments_store_is_looked_at(
    cli: Cli, without_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "foo://elsewhere")
    assert cli("doctor").status == 1


def test_a_home_that_is_no_folder_is_broken(
    cli: Cli, without_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").write_text("")
    for home in ("file", "file/inside"):
        monkeypatch.setenv("RAYFILL_HOME", home)
        done = cli("doctor")
        assert done.status == 1
        assert "Set RAYFILL_HOME" in done.out


def test_too_little_room_is_broken(
    cli: Cli, without_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_FREE_GIB", 1e9)
    assert cli("doctor").status == 1


def test_a_missing_library_is_broken_by_name(
    cli: Cli, without_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_LIBRARIES", ("torch", "not-installed-here"))
    done = cli("doctor")
    assert done.status == 1
    assert "not-installed-here missing" in done.out


def test_missing_weights_are_optional_and_say_how_to_get_them(cli: Cli, without_ray: None) -> None:
    found = findings("sqlite:///none.db")
    weights = {what: f for what, f in found.items() if "LPIPS" in what or "perceptual" in what}
    assert set(weights) == {
        "perceptual loss, vgg16", "perceptual loss, vgg19", "perceptual loss, squeezenet1_1",
        "LPIPS, squeeze", "LPIPS, alex", "LPIPS, vgg",
    }  # fmt: skip
    assert found["FID"].state == "optional"
    assert "torch-fidelity" in found["FID"].advice
    for what, finding in weights.items():
        name = what.rpartition(", ")[2]
        assert finding == Finding(
            what=what, state="optional", found=f"{name} is absent", advice=f"Get {name}."
        )


def test_a_champion_is_shown_with_its_scores(cli: Cli, without_ray: None, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    options = {"width": 2, "depth": 2}
    save_bundle(tmp_path / "b", model=build_model("unet", **options), name="unet", config=options)
    run = MlflowClient(uri).create_run(ensure_experiment("x", tracking_uri=uri))
    model = register_bundle(
        tmp_path / "b",
        name="rayfill",
        run_id=run.info.run_id,
        scores={"hole_psnr": 23.4567},
        protocol={},
        tracking_uri=uri,
    )
    promote(model, reason="a test", tracking_uri=uri)
    found = findings(uri)
    assert found["champion"] == Finding(
        what="champion", state="ok", found="version 1: hole_psnr 23.457"
    )
    assert found["MLflow"].state == "ok"


def test_what_a_library_says_is_printed_as_it_is(
    cli: Cli, without_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strange(_: str) -> Finding:
        raise RuntimeError("[/bold] is no markup")

    monkeypatch.setattr(doctor, "_mlflow", strange)
    done = cli("doctor")
    assert done.status == 1
    assert "[/bold] is no markup" in done.out
