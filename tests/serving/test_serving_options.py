"""What can be said to the server, and what it says back when that makes no sense."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from rayfill_data.errors import ConfigError, RayfillError
from rayfill_serving.command import main
from rayfill_serving.options import ServingOptions, parse_options
from rayfill_serving.run import check_room, serve_forever


def test_modules_that_replicas_may_import_come_with_the_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAYFILL_ALLOW_MODULES", "mypkg")
    assert ServingOptions().resolved().allow_modules == "mypkg"
    assert ServingOptions(allow_modules="nets,more").resolved().allow_modules == "nets,more"


def test_arguments_become_options() -> None:
    arguments = {"models": "a@x, telea,a@x", "replicas": "2", "timeout_s": "1.5", "finish": "none"}
    options = parse_options(arguments)
    assert list(options.references) == ["a", "telea"]
    assert options.replicas == 2
    assert options.timeout_s == 1.5
    assert options.finish == "none"
    assert options.capacity == 2 * (options.threads + options.waiting)


def test_every_bad_argument_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_options({"replica": "2", "threads": "many"})
    assert len(caught.value.problems) == 2
    assert "replicas" in caught.value.problems[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"segment_side": 31},
        {"finish": "patches"},
        {"models": " , "},
        {"allowed_hosts": ""},
    ],
)
def test_impossible_options_are_refused(changes: dict[str, float | str]) -> None:
    with pytest.raises(ConfigError):
        ServingOptions(**changes)


def test_without_a_word_what_needs_no_training_is_served_and_a_champion_awaited() -> None:
    options = ServingOptions()
    assert list(options.references) == ["exemplar", "telea", "rayfill"]
    assert options.awaited == {"rayfill"}
    assert not ServingOptions(models="rayfill@champion").awaited


def test_resolved_options_hold_absolute_places() -> None:
    options = ServingOptions(tracking_uri="sqlite:////x/y.db", cache_dir="cache").resolved()
    assert options.tracking_uri == "sqlite:////x/y.db"
    assert Path(options.cache_dir).is_absolute()


def test_a_port_in_use_is_said_before_ray_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RayfillError, match=f"{port}.*choose another port"):
            serve_forever(ServingOptions(), port=port)


def test_a_port_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"port is 70000: it must be in \[1, 65535\]"):
        main(["--port", "70000"])


def test_listening_beyond_this_machine_needs_host_names() -> None:
    with pytest.raises(RayfillError, match="allowed_hosts"):
        serve_forever(ServingOptions(), host="0.0.0.0", port=0)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
def test_a_missing_model_is_said_before_ray_starts(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db"
    options = ServingOptions(models="rayfill@champion", tracking_uri=store)
    with pytest.raises(RayfillError, match="promote"):
        serve_forever(options, port=0)


def test_replicas_that_cannot_be_placed_are_refused() -> None:
    check_room(ServingOptions(replicas=2), {"CPU": 2.0})
    with pytest.raises(RayfillError, match="3 replicas of 1 CPUs do not fit in the 2"):
        check_room(ServingOptions(replicas=3), {"CPU": 2.0})
    with pytest.raises(RayfillError, match="GPU"):
        check_room(ServingOptions(gpus=1), {"CPU": 2.0})
