"""Overload, failing models, moving aliases: the server says so and carries on."""

from __future__ import annotations

import concurrent.futures
import logging
import threading
import urllib.parse
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from rayfill.inference.inpainter import Inpainter
from rayfill_data.errors import RayfillError
from rayfill_serving.models import ModelShelf
from rayfill_serving.problems import ApiError


class Blocked:
    """A model that fills nothing until it is let go."""

    model = None
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.go = threading.Event()
        self.calls = 0

    def inpaint(self, image: Any, mask: Any, **options: Any) -> Any:
        self.calls += 1
        if image.shape[0] == 32 and image.shape[1] == 32:  # the shelf trying it out
            return image
        assert self.go.wait(30)
        return image


@pytest.fixture
def good(pictures: Any) -> tuple[bytes, bytes]:
    return pictures.encode(pictures.photo()), pictures.encode(pictures.hole())


def test_overload_is_answered_at_once_and_passes(serving: Any, good: tuple[bytes, bytes]) -> None:
    model = Blocked()
    with (
        serving(model, threads=1, waiting=1) as server,
        concurrent.futures.ThreadPoolExecutor(16) as pool,
    ):
        try:
            asked = [pool.submit(server.inpaint, *good) for _ in range(16)]
            # The model answers nobody yet, so what comes back now was refused without waiting.
            done = concurrent.futures.as_completed(asked, timeout=25)
            refused = [next(done).result() for _ in range(14)]
            assert server.client.get("/healthz").status_code == 200
        finally:
            model.go.set()
        assert {answer.status_code for answer in refused} == {503}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert {answer.json()["code"] for answer in refused} == {"busy"}
        assert sorted(future.result().status_code for future in asked) == [200] * 2 + [503] * 14
        assert server.inpaint(*good).status_code == 200


def test_too_slow_is_504_and_gives_the_place_back(serving: Any, good: tuple[bytes, bytes]) -> None:
    model = Blocked()
    with serving(model, threads=1, waiting=1, timeout_s=0.2) as server:
        for _ in range(4):  # twice the capacity: those that gave up must not count
            answer = server.inpaint(*good)
            assert (answer.status_code, answer.json()["code"]) == (504, "too_slow")
        calls = model.calls
        model.go.set()
        answer = server.inpaint(*good)
        while answer.status_code == 504:  # the first thread is still finishing
            answer = server.inpaint(*good)
        assert answer.status_code == 200
        assert model.calls <= calls + 2, "work whose client has gone was started"


class Faulty:
    """A model that fails on bright photos."""

    model = None
    device = torch.device("cpu")
    name = "faulty"
    finish = "auto"
    variants = 1

    def __init__(self, error: BaseException | None) -> None:
        self.error = error

    def inpaint(self, image: Any, mask: Any, **options: Any) -> Any:
        if self.error is not None and image.mean() > 140:
            raise self.error
        return image


@pytest.mark.parametrize("error", [RuntimeError("secret /root/x 0xdead"), RayfillError("NaN")])
def test_a_failing_model_is_a_plain_500(
    serving: Any, pictures: Any, good: tuple[bytes, bytes], error: Exception
) -> None:
    bright = pictures.encode(np.full((48, 64, 3), 250, np.uint8))
    with serving(Faulty(error)) as server:
        for _ in range(2):
            answer = server.inpaint(bright, good[1])
            assert answer.status_code == 500
            assert answer.json()["code"] == "model_failed"
            assert "secret" not in answer.text
            assert answer.headers["cache-control"] == "no-store"
        assert server.inpaint(*good).status_code == 200
        assert (
            'rayfill_problems_total{code="model_failed"} 2.0' in server.client.get("/metrics").text
        )


def test_a_model_that_answers_nan_is_refused_by_the_shelf(
    static_source: Any, inpainter: Inpainter, caplog: Any
) -> None:
    class NaN(torch.nn.Module):
        def forward(self, image: torch.Tensor, hole_mask: torch.Tensor) -> torch.Tensor:
            return image * float("nan")

    source = static_source(inpainter)
    shelf = ModelShelf(["rayfill"], source=source, poll_s=60)
    shelf.refresh()
    source.version, source.inpainter = "2", Inpainter(NaN(), name="nan")
    with caplog.at_level(logging.WARNING):
        shelf.refresh()
        shelf.refresh()
    assert shelf.get(None).label == "rayfill/1"
    assert len([record for record in caplog.records if "finite" in record.message]) == 1


def test_a_mistake_in_the_server_is_a_plain_500(serving: Any, monkeypatch: Any) -> None:
    with serving() as server:
        monkeypatch.setattr(server.shelf, "describe", lambda: 1 / 0)
        answer = server.client.get("/api/v1/models")
        assert (answer.status_code, answer.json()["code"]) == (500, "internal")
        assert "division" not in answer.text


def test_the_alias_is_followed_in_the_background(serving: Any, good: tuple[bytes, bytes]) -> None:
    with serving(poll_s=0.01) as server:
        assert server.inpaint(*good).headers["x-model"] == "rayfill/1"
        server.shelf.follow()
        server.source.version = "2"
        statuses = set()
        for _ in range(2000):
            answer = server.inpaint(*good)
            statuses.add(answer.status_code)
            if answer.headers["x-model"] == "rayfill/2":
                break
        assert statuses == {200}
        assert answer.headers["x-run-id"] == "run-2"
        assert server.client.get("/api/v1/models").json()["models"][0]["version"] == "2"
        assert server.source.loads == 2


@pytest.mark.parametrize("error", [RayfillError("hash differs"), OSError("disk"), MemoryError()])
def test_a_bundle_that_cannot_be_used_leaves_the_old_model(
    static_source: Any, error: Exception, caplog: Any
) -> None:
    source = static_source(Faulty(None))
    shelf = ModelShelf(["rayfill"], source=source, poll_s=60)
    shelf.refresh()
    source.version, source.inpainter = "2", error
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            shelf.refresh()
    assert shelf.get(None).label == "rayfill/1"
    assert source.loads == 2, "a refused version was loaded again and again"
    assert len(caplog.records) == 1
    source.version, source.inpainter = "3", Faulty(None)
    shelf.refresh()
    assert shelf.get(None).label == "rayfill/3"


def test_a_registry_that_is_away_leaves_the_old_model(static_source: Any) -> None:
    source = static_source(Faulty(None))
    shelf = ModelShelf(["rayfill"], source=source, poll_s=60)
    shelf.refresh()
    source.broken = ConnectionError("away")
    shelf.refresh()
    assert shelf.get(None).label == "rayfill/1"


def test_before_the_first_model_the_server_says_so(serving: Any, good: tuple[bytes, bytes]) -> None:
    with serving(RuntimeError("not a model")) as server:
        for answer in (server.client.get("/readyz"), server.inpaint(*good)):
            assert (answer.status_code, answer.json()["code"]) == (503, "no_model")
            assert answer.headers["retry-after"]
        assert server.client.get("/healthz").status_code == 200
        assert server.client.get("/api/v1/models").json()["models"] == []


def test_a_name_in_any_script_travels_in_the_header(
    serving: Any, good: tuple[bytes, bytes]
) -> None:
    with serving(models="夏 モデル@champion") as server:
        server.source.version = "2"
        server.shelf.refresh()
        answer = server.inpaint(*good, model="夏 モデル/2")
        assert answer.status_code == 200
        assert urllib.parse.unquote(answer.headers["x-model"]) == "夏 モデル/2"


def test_several_models_by_name(static_source: Any) -> None:
    shelf = ModelShelf(["one", "two"], source=static_source(Faulty(None), version="4"), poll_s=60)
    shelf.refresh()
    assert shelf.get(None).label == "one/4"
    assert shelf.get("two").label == "two/4"
    assert [info.name for info in shelf.describe()] == ["one", "two"]
    with pytest.raises(ApiError, match="No such model"):
        shelf.get("three")


def test_many_clients_get_their_own_photo_back(serving: Any, pictures: Any) -> None:
    mask = pictures.encode(pictures.hole())
    photos = [pictures.photo(seed=seed) for seed in range(24)]
    with serving(threads=2, waiting=30) as server, concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda p: server.inpaint(pictures.encode(p), mask), photos))
    known = pictures.hole() == 0
    for photo, answer in zip(photos, answers, strict=True):
        assert isinstance(answer, httpx.Response)
        np.testing.assert_array_equal(pictures.decode(answer.content)[known], photo[known])
