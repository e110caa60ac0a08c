"""Bad requests are refused with a fixed JSON text, and the server is the same afterwards."""

from __future__ import annotations

import base64
import json
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest


@pytest.fixture
def good(pictures: Any) -> tuple[bytes, bytes]:
    return pictures.encode(pictures.photo()), pictures.encode(pictures.hole())


@pytest.fixture(autouse=True)
def serves_afterwards(server: Any, good: tuple[bytes, bytes]) -> Iterator[None]:
    yield
    assert server.inpaint(*good).status_code == 200


def test_empty_requests_are_refused(server: Any, good: tuple[bytes, bytes]) -> None:
    post, mask = server.client.post, {"mask": good[1]}
    server.check_refusal(post("/api/v1/inpaint"), 422, "missing_field")
    server.check_refusal(post("/api/v1/inpaint", files=mask), 422, "missing_field")
    server.check_refusal(server.inpaint(b"", good[1]), 422, "missing_field")
    server.check_refusal(post("/api/v1/adjust_mask", json={}), 422, "missing_field")
    server.check_refusal(post("/api/v1/inpaint", content=b"x"), 415, "unsupported_content_type")


@pytest.mark.parametrize(
    "data",
    [
        np.random.default_rng(1).bytes(3000),
        b"<!doctype html><html><body>hello</body></html>",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>',
        b"\x00",
    ],
)
def test_what_is_no_picture_is_refused(server: Any, good: tuple[bytes, bytes], data: bytes) -> None:
    server.check_refusal(server.inpaint(data, good[1]), 415, "not_an_image")
    server.check_refusal(server.inpaint(good[0], data), 415, "mask_not_an_image")


@pytest.mark.parametrize("form", ["GIF", "TIFF", "BMP"])
def test_other_formats_are_refused(
    server: Any, pictures: Any, good: tuple[bytes, bytes], form: str
) -> None:
    data = pictures.encode(pictures.photo(), form)
    server.check_refusal(server.inpaint(data, good[1]), 415, "not_an_image")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_truncated_pictures_are_refused(
    server: Any, pictures: Any, good: tuple[bytes, bytes], form: str
) -> None:
    data = pictures.encode(pictures.photo(), form)
    server.check_refusal(server.inpaint(data[: len(data) // 2], good[1]), 400, "malformed")
    server.check_refusal(server.inpaint(good[0], data[: len(data) // 2]), 400, "mask_malformed")


@pytest.mark.parametrize(("chunk", "offset"), [(b"IHDR", 17), (b"IDAT", 60), (b"IEND", -8)])
def test_a_png_with_a_flipped_byte_is_refused(
    server: Any, good: tuple[bytes, bytes], chunk: bytes, offset: int
) -> None:
    data = bytearray(good[0])
    # In IHDR's checksum; in the compressed pixels; in their checksum.
    data[data.index(chunk) + offset] ^= 0x10
    server.check_refusal(server.inpaint(bytes(data), good[1]), 400, "malformed")


def png_header(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in ((b"IHDR", ihdr), *chunks))


def test_pixel_bombs_are_refused_before_decoding(server: Any, good: tuple[bytes, bytes]) -> None:
    process = psutil.Process()
    for side in (10_000, 30_000):
        bomb = png_header(side, side, (b"IDAT", zlib.compress(bytes(1_000_000))))
        before = process.memory_info().rss
        server.check_refusal(server.inpaint(bomb, good[1]), 413, "too_large")
        assert process.memory_info().rss - before < 50 * 2**20


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (0, 0)])
def test_impossible_sizes_are_refused(
    server: Any, good: tuple[bytes, bytes], size: tuple[int, int]
) -> None:
    answer = server.inpaint(png_header(*size, (b"IDAT", b"")), good[1])
    assert answer.status_code in (400, 413)
    assert answer.json()["code"] in ("malformed", "too_large")


def test_a_text_chunk_bomb_costs_no_memory(server: Any, good: tuple[bytes, bytes]) -> None:
    text = b"Comment\x00\x00" + zlib.compress(bytes(200 * 2**20), 1)
    bomb = png_header(64, 48, (b"zTXt", text), (b"IDAT", zlib.compress(bytes(65 * 48))))
    before = psutil.Process().memory_info().rss
    assert server.inpaint(bomb, good[1]).status_code in (200, 400)
    assert psutil.Process().memory_info().rss - before < 50 * 2**20


def test_sizes_must_match_and_both_are_named(server: Any, pictures: Any) -> None:
    answer = server.inpaint(
        pictures.encode(pictures.photo(48, 64)), pictures.encode(pictures.hole(30, 20))
    )
    server.check_refusal(answer, 400, "size_mismatch")
    assert "64x48" in answer.json()["error"]
    assert "20x30" in answer.json()["error"]


def test_a_body_over_the_limit_is_refused_before_it_is_read(server: Any) -> None:
    with server.socket() as raw:
        raw.sendall(
            b"POST /api/v1/inpaint HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n"
        )
        assert b" 413 " in raw.recv(4096)


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=b"])
def test_a_chunked_body_is_refused_after_the_limit(server: Any, kind: str) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
        while sent < 64 * 2**20:
            sent += 2**20
            yield bytes(2**20)

    answer = server.client.post(
        "/api/v1/inpaint", content=endless(), headers={"Content-Type": kind}
    )
    server.check_refusal(answer, 413, "body_too_large")


def test_a_short_body_with_a_long_length_is_cut_off(serving: Any) -> None:
    with serving(upload_timeout_s=0.3) as server, server.socket() as raw:
        raw.sendall(
            b"POST /api/v1/inpaint HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
        )
        assert b" 408 " in raw.recv(4096)


def test_a_slow_client_does_not_hold_up_others(serving: Any, good: tuple[bytes, bytes]) -> None:
    with serving(upload_timeout_s=1.0, threads=1, waiting=0) as server, server.socket() as raw:
        raw.sendall(
            b"POST /api/v1/inpaint HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
        )
        raw.settimeout(0.05)
        statuses, reply = [], b""
        deadline = time.monotonic() + 20
        while not reply and time.monotonic() < deadline:
            raw.sendall(b" ")
            statuses.append(server.inpaint(*good).status_code)
            try:
                reply = raw.recv(4096)
            except TimeoutError:
                continue
        assert b" 408 " in reply
        assert set(statuses) == {200}


def test_too_many_or_too_long_parts_are_refused(server: Any, good: tuple[bytes, bytes]) -> None:
    post = server.client.post
    many = [("image", ("x", b"x")) for _ in range(1001)]
    server.check_refusal(post("/api/v1/inpaint", files=many), 400, "malformed_body")
    long = server.inpaint(*good, model="m" * 2 * 2**20)
    server.check_refusal(long, 400, "malformed_body")
    headers = {"Content-Type": "multipart/form-data"}
    server.check_refusal(
        post("/api/v1/inpaint", content=b"x", headers=headers), 400, "malformed_body"
    )


@pytest.mark.parametrize("name", ["../../evil.png", "/etc/evil.png", "a\x00b.png", "n" * 4096])
def test_file_names_are_ignored(
    server: Any, good: tuple[bytes, bytes], name: str, tmp_path: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = server.client.post(
        "/api/v1/inpaint", files={"image": (name, good[0]), "mask": (name, good[1])}
    )
    assert answer.status_code == 200
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"expand_px": "-1"}, 422, "invalid_field"),
        ({"expand_px": "NaN"}, 422, "invalid_field"),
        ({"feather_px": "9" * 4000}, 422, "invalid_field"),
        ({"format": "gif"}, 422, "invalid_field"),
        ({"colour": "red"}, 422, "unknown_field"),
        ({"model": "other"}, 404, "unknown_model"),
        ({"model": "rayfill/7"}, 404, "unknown_model"),
        ({"model": "../rayfill"}, 404, "unknown_model"),
    ],
)
def test_bad_fields_are_refused(
    server: Any, good: tuple[bytes, bytes], fields: dict[str, str], status: int, code: str
) -> None:
    server.check_refusal(server.inpaint(*good, **fields), status, code)


def test_files_and_fields_do_not_mix(server: Any, good: tuple[bytes, bytes]) -> None:
    post, files = server.client.post, {"image": good[0], "mask": good[1]}
    twice = post("/api/v1/inpaint", files=files, data={"mask": "text"})
    server.check_refusal(twice, 422, "invalid_field")
    text = post("/api/v1/inpaint", files={"image": good[0]}, data={"mask": "text"})
    server.check_refusal(text, 422, "invalid_field")
    server.check_refusal(post("/api/v1/inpaint", files={**files, "x": b"y"}), 422, "unknown_field")
    repeated = [*files.items(), ("mask", good[1])]
    server.check_refusal(post("/api/v1/inpaint", files=repeated), 422, "repeated_field")
    model = post("/api/v1/inpaint", files=files, data={"model": ["rayfill", "rayfill"]})
    server.check_refusal(model, 422, "repeated_field")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"expand_px": NaN}', 400, "malformed_body"),
        (b'{"expand_px": -Infinity}', 400, "malformed_body"),
        (b"[" * 10_000 + b"]" * 10_000, 400, "malformed_body"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 400, "malformed_body"),
        (b"[]", 400, "malformed_body"),
        (b"\xff\xfe", 400, "malformed_body"),
        (b'{"image": 7, "mask": ""}', 422, "invalid_field"),
        (b'{"image": "%%%", "mask": ""}', 422, "invalid_field"),
        (b'{"image": "AA==", "image": "AA=="}', 422, "repeated_field"),
    ],
)
def test_bad_json_is_refused(server: Any, body: bytes, status: int, code: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = server.client.post("/api/v1/inpaint", content=body, headers=headers)
    server.check_refusal(answer, status, code)


@pytest.mark.parametrize("wrong", ["2", 2.5, True, None, [], {}, 1e308])
def test_json_numbers_must_be_numbers(server: Any, good: tuple[bytes, bytes], wrong: Any) -> None:
    image, mask = (base64.b64encode(data).decode() for data in good)
    document = {"image": image, "mask": mask, "expand_px": wrong}
    answer = server.client.post(
        "/api/v1/inpaint",
        content=json.dumps(document),
        headers={"Content-Type": "application/json"},
    )
    server.check_refusal(answer, 422, "invalid_field")


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", ""])
def test_foreign_hosts_are_refused(server: Any, host: str) -> None:
    for path in ("/", "/api/v1/models", "/metrics"):
        server.check_refusal(server.client.get(path, headers={"Host": host}), 403, "bad_host")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1:8000", "[::1]:8000"])
def test_loopback_hosts_are_served(server: Any, host: str) -> None:
    assert server.client.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1"])
def test_foreign_origins_may_not_post(server: Any, good: tuple[bytes, bytes], origin: str) -> None:
    files = {"image": good[0], "mask": good[1]}
    answer = server.client.post("/api/v1/inpaint", files=files, headers={"Origin": origin})
    server.check_refusal(answer, 403, "foreign_origin")


def test_the_page_may_post(server: Any, good: tuple[bytes, bytes]) -> None:
    own = f"http://127.0.0.1:{server.port}"
    files = {"image": good[0], "mask": good[1]}
    answer = server.client.post("/api/v1/inpaint", files=files, headers={"Origin": own})
    assert answer.status_code == 200


def test_no_other_site_may_read(server: Any) -> None:
    foreign = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for answer in (
        server.client.options("/api/v1/inpaint", headers=foreign),
        server.client.get("/api/v1/models", headers=foreign),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_unknown_addresses_and_methods(server: Any) -> None:
    server.check_refusal(server.client.get("/api/v1/nothing"), 404, "not_found")
    server.check_refusal(server.client.get("/static/../app.py"), 404, "not_found")
    server.check_refusal(server.client.get("/static/%2e%2e/app.py"), 404, "not_found")
    server.check_refusal(server.client.get("/api/v1/inpaint"), 405, "method_not_allowed")


def test_a_thousand_mutants(server: Any, pictures: Any) -> None:
    mask = pictures.encode(pictures.hole(16, 24))
    photo = pictures.encode(pictures.photo(16, 24))
    statuses: dict[int, int] = {}
    slowest = 0.0
    for index, mutant in enumerate(pictures.mutants(1000)):
        pair = (mutant, mask) if index % 4 else (photo, mutant)
        started = time.process_time()
        answer = server.inpaint(*pair)
        slowest = max(slowest, time.process_time() - started)
        statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        if answer.status_code != 200:
            assert answer.status_code in (400, 413, 415), mutant
            server.check_refusal(answer, answer.status_code, answer.json()["code"])
    assert statuses.keys() >= {200, 400, 415}
    assert slowest < 2, "CPU seconds of the worst mutant"


def test_an_interrupted_upload_leaves_nothing_behind(server: Any) -> None:
    with server.socket() as raw:
        raw.sendall(
            b"POST /api/v1/inpaint HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
        )
        raw.shutdown(socket.SHUT_WR)
