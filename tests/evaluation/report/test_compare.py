"""``rayfill compare`` as it is used: what it finds, writes, records and refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from mlflow.tracking import MlflowClient

from rayfill.cli.commands.compare import main
from rayfill.evaluation.report.found import RunFinder
from rayfill.runs.folder import Outcome, RunFolder
from rayfill.runs.journal import Journal
from rayfill.runs.store import Store
from rayfill.runs.sweep_folder import SweepFolder
from rayfill.runs.tracking import Tracker
from rayfill_data.errors import ConfigError, RayfillError

FILES = {
    "report.html", "report.md", "curves.png", "contact_sheet_best.png", "contact_sheet_median.png",
    "contact_sheet_worst.png",
}  # fmt: skip


@pytest.fixture
def find(recorded: Any) -> Callable[..., Any]:
    """Find runs in the recorded home."""

    def call(*tokens: str, **changes: Any) -> Any:
        storage = changes.pop("storage", str(recorded.home / "runs"))
        return RunFinder(storage=storage, store=Store(recorded.uri)).find(tokens, **changes)

    return call


@pytest.fixture
def store(recorded: Any, tmp_path: Path) -> Any:
    """A copy of the MLflow database, to be changed."""
    shutil.copy(recorded.home / "mlflow.db", tmp_path / "mlflow.db")
    return MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")


def names(asked: Any) -> list[str]:
    return [folder.label for folder in asked.runs]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A console that folds no number, wherever the tests run."""
    monkeypatch.setenv("COLUMNS", "160")


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def unsent(folder: Path) -> int:
    journal = Journal(folder)
    journal.close()
    return journal.unsent_count


BOTH = ["01-unet", "02-attention_unet"]


def test_a_whole_sweep_is_found_by_name_folder_and_in_mlflow(find: Any, recorded: Any) -> None:
    for asked in (
        find("nets"),
        find("sweep:nets"),
        find(f"runs:/{recorded.parent_id}"),
        find(sweep="nets"),
        find(str(recorded.sweep)),
        find(recorded.parent_id),
        find(experiment="squares"),
        find("nets", sweep="nets"),
    ):
        assert names(asked) == BOTH
        assert asked.whole == (SweepFolder(str(recorded.sweep)),)
        assert asked.title == "nets: held-out test split"


def test_one_run_is_found_by_id_name_and_folder(find: Any, recorded: Any) -> None:
    for token in (
        recorded.run_ids["01-unet"],
        "01-unet",
        "nets/01-unet",
        str(recorded.sweep / "01-unet"),
        str(recorded.sweep / "01-unet" / "best"),
        f"runs:/{recorded.run_ids['01-unet']}",
    ):
        (folder,) = find(token).runs
        assert folder.folder.uri == str(recorded.sweep / "01-unet")
        assert folder.sweep == SweepFolder(str(recorded.sweep))


def test_a_registered_version_leads_to_the_run_that_trained_it(store: Any, recorded: Any) -> None:
    run_id = recorded.run_ids["02-attention_unet"]
    store.create_registered_model("mine")
    store.create_model_version("mine", f"runs:/{run_id}/model", run_id=run_id)
    store.set_registered_model_alias("mine", "champion", "1")
    finder = RunFinder(storage="/nowhere", store=Store(store.tracking_uri))
    (run,) = finder.find(["mine@champion", "models:/mine/1"]).runs
    assert (run.run_id, run.label) == (run_id, "02-attention_unet")


def test_a_label_is_what_a_run_is_called(find: Any, recorded: Any) -> None:
    folder = recorded.sweep / "02-attention_unet"
    assert names(find("small=01-unet", f"large={folder}")) == ["small", "large"]
    with pytest.raises(ConfigError, match="'all=nets' is 2 runs: give no label"):
        find("all=nets")


def test_of_several_sweeps_of_a_name_the_newest_is_taken(
    find: Any, own_sweep: Path, recorded: Any
) -> None:
    for name in ("nets-2", "nets-10", "nets-other"):
        shutil.copytree(own_sweep, own_sweep.parent / name)
    asked = find("nets", storage=str(own_sweep.parent))
    assert asked.whole == (SweepFolder(str(own_sweep.parent / "nets-10")),)
    assert "nets-10 is the newest sweep called nets." in asked.notes
    both = find("nets", str(own_sweep), storage=str(own_sweep.parent))
    assert names(both) == [f"nets-10/{n}" for n in BOTH] + [f"nets/{n}" for n in BOTH]


def test_a_name_of_several_runs_lists_them(store: Any, recorded: Any) -> None:
    experiment = store.get_experiment_by_name("squares").experiment_id
    second = store.create_run(experiment, run_name="01-unet").info.run_id
    finder = RunFinder(storage="/nowhere", store=Store(store.tracking_uri))
    with pytest.raises(RayfillError, match="2 runs are called '01-unet'") as raised:
        finder.find(["01-unet"])
    assert recorded.run_ids["01-unet"] in str(raised.value)
    assert second in str(raised.value)
    assert "experiment squares" in str(raised.value)


def test_a_deleted_run_is_named_and_how_to_restore_it(store: Any, recorded: Any) -> None:
    run_id = recorded.run_ids["01-unet"]
    store.delete_run(run_id)
    finder = RunFinder(storage="/nowhere", store=Store(store.tracking_uri))
    for token in (run_id, "01-unet"):
        with pytest.raises(RayfillError, match="is deleted") as raised:
            finder.find([token])
        assert f"mlflow runs restore --run-id {run_id}" in str(raised.value)
        assert "mlflow gc" in str(raised.value)
    asked = RunFinder(storage="/nowhere", store=Store(store.tracking_uri)).find(
        [], experiment="squares"
    )
    assert names(asked) == ["02-attention_unet"]
    assert "1 deleted run of experiment squares is left out." in asked.notes
    store.restore_run(run_id)
    assert names(finder.find([run_id])) == ["01-unet"]


def test_a_deleted_experiment_says_how_to_restore_it(store: Any) -> None:
    experiment = store.get_experiment_by_name("squares").experiment_id
    store.delete_experiment(experiment)
    finder = RunFinder(storage="/nowhere", store=Store(store.tracking_uri))
    with pytest.raises(RayfillError, match=f"restore --experiment-id {experiment}"):
        finder.find([], experiment="squares")


@pytest.mark.parametrize(
    ("tokens", "changes", "match"),
    [
        (["nothing"], {}, "^'nothing' names nothing.*Nor is it a sweep.*rayfill ui"),
        (["f" * 32], {}, "There is no run f{32}.*mlflow gc"),
        ([], {"sweep": "net"}, "did you mean 'nets'|nets"),
        ([], {"experiment": "square"}, "squares"),
        ([str(Path(__file__).parent)], {}, "holds no model bundle"),
        (["it's"], {}, "names nothing"),
        (["telea"], {}, "'telea' is a baseline, which is of no use here"),
    ],
)
def test_what_is_not_there_says_what_to_do(
    find: Any, tokens: list[str], changes: dict[str, str], match: str
) -> None:
    with pytest.raises(RayfillError, match=match):
        find(*tokens, **changes)


def test_no_store_is_made_by_asking(tmp_path: Path) -> None:
    finder = RunFinder(storage=str(tmp_path), store=Store(f"sqlite:///{tmp_path}/none.db"))
    with pytest.raises(RayfillError, match=f"'x' names nothing.*{tmp_path}/none.db"):
        finder.find(["x"])
    assert not (tmp_path / "none.db").exists()


def test_nothing_named_and_bad_counts_are_refused_at_once(recorded: Any) -> None:
    with pytest.raises(ConfigError) as raised:
        main(["--samples", "0"])
    assert len(raised.value.problems) == 2
    with pytest.raises(ConfigError, match="metric"):
        main(["nets", "--rank-by", "psnrr"])


def test_a_sweep_is_shown_written_and_kept_with_its_run(
    recorded: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["nets", "--out", str(tmp_path / "out"), "--samples", "2"]) == 0
    shown = said(capsys)
    assert {file.name for file in (tmp_path / "out").iterdir()} == FILES
    for word in (*BOTH, "telea", "harmonic", "What differs", "Lead of", "dataset_hash", "is best"):
        assert word in shown
    client = MlflowClient(recorded.uri)
    kept = {file.path for file in client.list_artifacts(recorded.parent_id)}
    assert {"report.html", "report.md"} <= kept
    for run_id in recorded.run_ids.values():
        assert not client.list_artifacts(run_id)
    local = client.download_artifacts(recorded.parent_id, "report.html", str(tmp_path))
    assert Path(local).read_bytes() == (tmp_path / "out" / "report.html").read_bytes()
    assert not list((recorded.home / "tracking" / ".reports").iterdir())


def test_the_sweeps_own_numbers_are_not_measured_again(
    recorded: Any, own_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = json.loads((own_sweep / "leaderboard.json").read_text())
    entry = next(e for e in values["entries"] if e["name"] == "telea")
    entry["metrics"]["total"]["hole_psnr"]["mean"] = 77.77
    (own_sweep / "leaderboard.json").write_text(json.dumps(values))
    assert main([str(own_sweep), "--no-log"]) == 0
    assert "77.77" in said(capsys)
    assert (own_sweep / "report" / "report.html").exists()


def test_photographs_are_counted_and_it_is_said_where_they_are_not_known(
    recorded: Any, own_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = len(recorded.arrays.sample_id)
    assert main([str(own_sweep), "--no-log"]) == 0
    shown = said(capsys)
    assert f"{count} photographs" in shown
    assert "photographs are not known" not in shown
    samples = pq.read_table(own_sweep / "samples.parquet")
    pq.write_table(samples.drop_columns("source_id"), own_sweep / "samples.parquet")
    assert main([str(own_sweep), "--no-log"]) == 0
    shown = said(capsys)
    assert f"{count} samples" in shown
    assert "Note: Intervals are over samples: photographs are not known." in shown
    for name in ("report.html", "report.md"):
        assert "photographs are not known" in (own_sweep / "report" / name).read_text()


def test_a_sweep_that_was_interrupted_is_measured_now(
    recorded: Any, own_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own_sweep / "samples.parquet").unlink()
    assert main([str(own_sweep), "--no-log"]) == 0
    shown = said(capsys)
    for entry in recorded.board.entries:
        if entry.kind == "trial":
            assert f"{entry.table.total['hole_psnr'].mean:.2f} ±" in shown


def test_damaged_results_say_what_to_do(recorded: Any, own_sweep: Path) -> None:
    (own_sweep / "samples.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(RayfillError, match="Delete its leaderboard.json"):
        main([str(own_sweep), "--no-log"])


def test_runs_without_metrics_are_listed_and_not_ranked(
    recorded: Any, own_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = json.loads((own_sweep / "plan.json").read_text())
    for name in ("03-failed", "04-planned"):
        plan["trials"].append({**plan["trials"][0], "name": name})
    (own_sweep / "plan.json").write_text(json.dumps(plan))
    RunFolder(str(own_sweep / "03-failed")).write_outcome(
        Outcome(status="failed", epoch=1, reason="<b>no memory")
    )
    assert main([str(own_sweep), "--no-log"]) == 0
    shown = said(capsys)
    assert "Not ranked: 03-failed: it failed in epoch 1: <b>no memory" in shown
    assert "Not ranked: 04-planned: it has no metrics" in shown
    page = (own_sweep / "report" / "report.html").read_text()
    assert "03-failed" in page
    assert "&lt;b&gt;no memory" in page
    assert "not ranked: 04-planned" in (own_sweep / "report" / "report.md").read_text()


def test_only_runs_without_metrics_give_every_reason(recorded: Any, tmp_path: Path) -> None:
    RunFolder(str(tmp_path / "lost")).write_outcome(
        Outcome(status="failed", epoch=0, reason="no memory")
    )
    with pytest.raises(RayfillError, match="lost: it failed in epoch 0: no memory"):
        main([str(tmp_path / "lost"), "--no-log"])


def test_a_recorded_run_whose_folder_is_gone_is_listed(
    store: Any, recorded: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    experiment = store.get_experiment_by_name("squares").experiment_id
    gone = store.create_run(
        experiment, run_name="far away", tags={"rayfill.run_dir": "/nowhere/at/all"}
    ).info.run_id
    store.log_metric(gone, "test/hole_psnr", 31.25)
    foreign = store.create_run(experiment, run_name="foreign").info.run_id
    args = ["nets", gone, foreign, "--tracking-uri", store.tracking_uri, "--no-log"]
    assert main([*args, "--out", str(tmp_path / "out")]) == 0
    shown = said(capsys)
    assert "Not ranked: far away: its folder /nowhere/at/all is gone" in shown
    assert "test/hole_psnr 31.250" in shown
    assert "Not ranked: foreign: MLflow does not say where its files are" in shown


def test_a_run_by_itself_keeps_its_own_report(
    recorded: Any, make_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run("alone")
    tracker = Tracker(recorded.home / "tracking" / "alone", tracking_uri=recorded.uri)
    tracker.start("alone", experiment="singles", params={}, tags={"rayfill.run_dir": str(folder)})
    assert tracker.finish(patience_s=120) == 0
    assert main(["alone", "01-unet", "--out", str(tmp_path / "out"), "--samples", "1"]) == 0
    client = MlflowClient(recorded.uri)
    assert "report.html" in {file.path for file in client.list_artifacts(tracker.run_id)}
    shown = said(capsys)
    assert "alone" in shown
    assert "telea" not in shown  # a sweep's baselines come with the sweep
    assert f"In MLflow: report.html of run {', '.join(sorted((tracker.run_id, recorded.parent_id)))}." in shown  # fmt: skip  # noqa: E501


def test_what_mlflow_does_not_take_is_sent_later(
    recorded: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    import rayfill.runs.tracking

    def away(*_args: Any) -> None:
        raise OSError("away")

    monkeypatch.setattr(rayfill.runs.tracking.Sender, "_send_text", away)
    assert main(["nets", "--out", str(tmp_path / "out"), "--samples", "1"]) == 0
    assert "`rayfill replay` sends it" in said(capsys)
    left = recorded.home / "tracking" / ".reports" / recorded.parent_id
    assert unsent(left) == 2
    monkeypatch.undo()
    monkeypatch.setenv("RAYFILL_HOME", str(recorded.home))
    from rayfill.cli.commands.replay import main as replay

    assert replay([]) == 0
    assert unsent(left) == 0
    shutil.rmtree(left)


def test_two_protocols_are_refused_or_told_apart(
    recorded: Any,
    make_run: Any,
    other_dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = str(make_run("elsewhere", dataset=other_dataset))
    with pytest.raises(ConfigError, match="2 protocols") as raised:
        main(["nets", other, "--no-log"])
    message = str(raised.value)
    assert "dataset_hash" in message
    assert "split 'test (16 samples" in message
    assert "--apart" in message
    out = tmp_path / "out"
    assert main(["nets", other, "--no-log", "--apart", "--out", str(out)]) == 0
    parts = sorted(out.iterdir())
    assert [part.name[:10] for part in parts] == ["1-squares-", "2-squares-"]
    first, second = ((part / "report.md").read_text() for part in parts)
    assert "01-unet" in first
    assert "elsewhere" not in first
    assert "elsewhere" in second
    assert "01-unet" not in second


def test_another_selection_metric_is_another_protocol_unless_one_is_named(
    recorded: Any, make_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = str(make_run("whole", **{"eval.select_metric": "psnr"}))
    with pytest.raises(ConfigError, match=r"eval.select_metric 'hole_psnr' and 'psnr'.*--rank-by"):
        main(["nets", other, "--no-log"])
    out = str(tmp_path / "out")
    assert main(["nets", other, "--no-log", "--rank-by", "psnr", "--out", out]) == 0
    assert "ranked by psnr" in (tmp_path / "out" / "report.html").read_text()
    assert "28.00" in said(capsys)  # the best of val/psnr, for every run


def test_lpips_of_one_and_not_of_the_other_is_no_hindrance_but_two_networks_are(
    recorded: Any, own_sweep: Path
) -> None:
    second = shutil.copytree(own_sweep, own_sweep.parent / "again")

    def network(folder: Path, name: str) -> None:
        values = json.loads((recorded.sweep / "leaderboard.json").read_text())
        values["protocol"]["lpips"] = name
        (folder / "leaderboard.json").write_text(json.dumps(values))

    network(second, "alex")
    assert main([str(own_sweep), str(second), "--no-log", "--samples", "1"]) == 0
    network(own_sweep, "vgg")
    with pytest.raises(ConfigError, match="lpips 'vgg' and 'alex'"):
        main([str(own_sweep), str(second), "--no-log"])


def test_pictures_are_left_out_where_the_dataset_is_gone(
    recorded: Any, own_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in BOTH:
        path = own_sweep / name / "best" / "config.json"
        config = json.loads(path.read_text())
        config["extra"]["run"]["data"]["uri"] = "/nowhere"
        path.write_text(json.dumps(config))
    assert main([str(own_sweep), "--no-log"]) == 0
    assert "No pictures: /nowhere holds no finished dataset" in said(capsys)
    assert {file.name for file in (own_sweep / "report").iterdir()} == {
        "report.html", "report.md", "curves.png",
    }  # fmt: skip


@pytest.mark.process
def test_the_same_runs_give_the_same_bytes_in_another_process(
    recorded: Any, tmp_path: Path
) -> None:
    assert main(["nets", "--no-log", "--out", str(tmp_path / "here")]) == 0
    there = ["nets", "--no-log", "--out", str(tmp_path / "there")]
    subprocess.run(
        [sys.executable, "-c", "from rayfill.cli.main import main; main()", "compare", *there],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        check=True,
        capture_output=True,
        timeout=300,
    )
    for name in FILES:
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
