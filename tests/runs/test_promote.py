"""``rayfill promote`` against a real store, and what the registry's pages say afterwards."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from rayfill.cli.main import _dispatch, guarded
from rayfill.models import build_model
from rayfill.runs.bundle import save_bundle
from rayfill.runs.model_page import add_promotion, describe_model, read_history
from rayfill.runs.registry import RegisteredModel, find_model, list_versions, register_bundle
from rayfill.runs.tracking import ensure_experiment

NETWORK = {"width": 2, "depth": 2}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "best"
    save_bundle(folder, model=build_model("unet", **NETWORK), name="unet", config=NETWORK)
    return folder


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("COLUMNS", "200")
    before = dict(os.environ)
    yield uri
    for name in set(os.environ) - set(before):
        del os.environ[name]


@pytest.fixture
def register(store: str, bundle: Path) -> Callable[..., RegisteredModel]:
    def register(score: float, **protocol: str) -> RegisteredModel:
        experiment = ensure_experiment("x", tracking_uri=store)
        tags = {
            "rayfill.model": "unet",
            "rayfill.loss": "l1",
            "rayfill.sweep": "night",
            "rayfill.dataset": "/data/photos",
        }
        folder = {"rayfill.run_dir": str(bundle.parent)}
        run = MlflowClient(store).create_run(experiment, tags=tags | folder, run_name="01-unet")
        return register_bundle(
            bundle,
            name="rayfill",
            run_id=run.info.run_id,
            scores={"hole_psnr": score, "l1": 0.01, "val_hole_psnr": score - 1},
            protocol={"dataset": "photos", "dataset_hash": "abc", "split": "test"} | protocol,
            tracking_uri=store,
        )

    return register


def command(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = guarded(_dispatch, ["promote", *args])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_a_version_says_what_it_scored_and_where_it_comes_from(
    register: Callable[..., RegisteredModel], store: str
) -> None:
    made = register(23.456789)
    version = MlflowClient(store).get_model_version("rayfill", made.version)
    assert version.tags["test_hole_psnr"] == "23.46"
    assert version.tags["val_hole_psnr"] == "22.46"
    assert "test_l1" not in version.tags  # a main score has a column; the others are in the table
    for said in (
        f"/runs/{made.run_id})",
        "unet, loss l1, from run [",
        "sweep **night**",
        "| l1 | 0.01 |",
        "- dataset_hash: abc",
        "- folder: /data/photos",
        "rayfill serve --models rayfill@champion",
    ):
        assert said in version.description


def test_promotion_notes_why_when_and_in_whose_place(
    register: Callable[..., RegisteredModel],
    store: str,
    capsys: pytest.CaptureFixture[str],
    markdown_tables: Callable[[str], list[list[list[str]]]],
) -> None:
    register(20.0)
    register(21.5)
    status, out, err = command(capsys, "1", "--reason", "the | first")
    assert (status, err) == (0, "")
    assert "rayfill@champion is now version 1. Servers follow" in out
    status, out, _ = command(capsys, "2", "--reason", "sharper edges")
    assert status == 0
    assert "is now version 2 (before: 1)" in out
    row = next(line for line in out.splitlines() if " hole_psnr" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "hole_psnr", "20.0000", "21.5000", "+1.5000",
    ]  # fmt: skip
    client = MlflowClient(store)
    tags = client.get_model_version("rayfill", "2").tags
    assert tags["promoted_because"] == "sharper edges"
    assert tags["promoted_from"] == "1"
    assert tags["promoted_at"].endswith(" UTC")
    model = client.get_registered_model("rayfill")
    history = json.loads(model.tags["promotions"])
    assert [(one["version"], one["from"]) for one in history] == [("2", "1"), ("1", "")]
    (table,) = markdown_tables(model.description)
    assert [row[1:] for row in table[1:]] == [
        ["champion", "2", "1", "sharper edges"],
        ["champion", "1", "none", "the | first"],
    ]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("--reason", "x"), ["No version is given: `rayfill promote --list`"]),
        (("2",), ["--reason is empty"]),
        ((), ["No version is given", "--reason is empty"]),
        (("1", "--reason", "again"), ["Version 1 of 'rayfill' is champion already"]),
        (("2", "--reason", "x"), ["dataset_hash is def, there abc", "--force"]),
        (("7", "--reason", "x"), ["no version '7'"]),
        (("--list", "--model", "nobody"), ["No model 'nobody'", "make sweep"]),
    ],
)
def test_what_cannot_be_promoted_is_refused_and_nothing_moves(
    args: tuple[str, ...],
    expected: list[str],
    register: Callable[..., RegisteredModel],
    store: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    register(20.0)
    register(30.0, dataset_hash="def")
    command(capsys, "1", "--reason", "the first")
    status, _, err = command(capsys, *args)
    assert status == 2
    for said in expected:
        assert said in err
    assert find_model("rayfill", tracking_uri=store).version == "1"


def test_another_protocol_is_promoted_by_force(
    register: Callable[..., RegisteredModel], store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    register(20.0)
    register(30.0, dataset_hash="def")
    command(capsys, "1", "--reason", "the first")
    status, out, _ = command(capsys, "2", "--reason", "new data", "--force")
    assert (status, "version 2 (before: 1)" in out) == (0, True)
    assert find_model("rayfill", tracking_uri=store).version == "2"


def test_a_version_is_named_as_everywhere_else(
    register: Callable[..., RegisteredModel],
    store: str,
    bundle: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = register(20.0)
    for reference in (
        "models:/rayfill/1",
        "rayfill@candidate",
        f"runs:/{made.run_id}",
        str(bundle),
        str(bundle.parent),
    ):
        client = MlflowClient(store)
        client.set_registered_model_alias("rayfill", "candidate", "1")
        status, out, err = command(capsys, reference, "--alias", "tried", "--reason", "x")
        assert (status, err) == (0, "")
        assert "rayfill@tried is now version 1." in out
        client.delete_registered_model_alias("rayfill", "tried")


def test_a_model_that_a_reference_names_is_the_one_whose_alias_moves(
    register: Callable[..., RegisteredModel], store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = register(20.0)
    client = MlflowClient(store)
    client.create_registered_model("other")
    client.create_model_version("other", f"runs:/{made.run_id}/model", run_id=made.run_id)
    status, out, _ = command(capsys, "models:/other/1", "--reason", "x")
    assert (status, "other@champion is now version 1." in out) == (0, True)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("lama", "'lama' names nothing. If it is a registered model, name it with its alias: lama"),
        ("lama", "A bare number is a version of --model"),
        ("telea", "'telea' is a baseline, which is of no use here. Allowed: a registered model"),
        ("models:/rayfill", "must be models:/NAME@ALIAS or models:/NAME/VERSION"),
        ("runs:/0123", "No version of 'rayfill' came from runs:/0123: name one by its number"),
        ("{both}", "Versions 2, 1 of 'rayfill' came from "),
        ("{copy}", "No version of 'rayfill' came from "),
    ],
)
def test_a_reference_to_no_version_is_refused(
    reference: str,
    expected: str,
    register: Callable[..., RegisteredModel],
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    register(20.0)
    register(30.0)
    copy = shutil.copytree(bundle, tmp_path / "copy" / "best")
    reference = reference.format(both=bundle.parent, copy=copy)
    status, _, err = command(capsys, reference, "--reason", "x")
    assert (status, expected in err) == (2, True), err


def test_the_list_shows_scores_and_who_is_champion(
    register: Callable[..., RegisteredModel], store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    register(20.0)
    register(21.5)
    command(capsys, "1", "--reason", "steady [bold]|[/bold]")
    status, out, _ = command(capsys, "--list")
    assert status == 0
    lines = [line.strip("│").split("│") for line in out.splitlines() if "│" in line]
    rows = [[cell.strip() for cell in line] for line in lines]
    assert [row[:4] for row in rows] == [["2", "", "21.5", "20.5"], ["1", "champion", "20", "19"]]
    assert rows[1][-1] == "steady [bold]|[/bold]"
    assert [v.version for v in list_versions("rayfill", tracking_uri=store)] == ["2", "1"]


def test_a_description_that_somebody_wrote_is_left_alone() -> None:
    history: list[dict[str, Any]] = []
    assert describe_model("m", history, present="Ours.") == "Ours."
    assert describe_model("m", history, present="Models trained by Rayfill.") != "Ours."


def test_a_long_history_fits_a_tag() -> None:
    text = ""
    for number in range(40):
        one = {"at": "2026-01-01 00:00 UTC", "alias": "champion", "version": str(number)}
        text = add_promotion(text, {**one, "from": "1", "because": "w" * 1000})
    assert len(text) < 5000
    assert read_history(text)[0]["version"] == "39"
