from __future__ import annotations

import pickle

import pytest

from rayfill_data.errors import ConfigError, DatasetError, ImageError, RayfillError, redact_uri


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("http://user:SECRET@host:5000/x", "http://host:5000/x"),
        ("https://SECRET@host", "https://host"),
        ("abfs://:SECRET@account/container", "abfs://account/container"),
        ("s3://AKIA:SEC/RET+@bucket/a", "s3://bucket/a"),
        ("s3://AKIA:7SEC@RET@bucket/a", "s3://bucket/a"),
        ("postgresql+psycopg2://u:SECRET@[::1]:5432/db", "postgresql+psycopg2://[::1]:5432/db"),
        (
            "postgresql://h/db?sslmode=on&password=SECRET",
            "postgresql://h/db?sslmode=on&password=***",
        ),
        ("gs://b/x?X-Goog-Signature=SECRET&b=2", "gs://b/x?X-Goog-Signature=***&b=2"),
        ("https://b/x?sv=2&sig=SECRET", "https://b/x?sv=2&sig=***"),
        (
            'MLflow at http://u:SECRET@a and {"uri": "s3://k:SECRET@b/c", "n": "d@e"} failed',
            'MLflow at http://a and {"uri": "s3://b/c", "n": "d@e"} failed',
        ),
    ],
)
def test_credentials_are_taken_out(text: str, left: str) -> None:
    assert redact_uri(text) == left
    assert redact_uri(left) == left


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5000/folder@2/x",
        "http://[::1]:5000/folder@2/x",
        "sqlite:////home/me@work/mlflow.db",
        "s3://bucket/a@b/c?endpoint_override=127.0.0.1:9000&scheme=http",
        "models:/rayfill@champion",
        "write to me@example.org or see https://example.org, a@b",
        "#/experiments/1/runs?viewStateShareKey=sweep",
    ],
)
def test_what_is_no_credential_stays(text: str) -> None:
    assert redact_uri(text) == text


@pytest.mark.parametrize(
    "error",
    [
        RayfillError("s3://k:SECRET@b is no folder."),
        DatasetError("s3://k:SECRET@b is no folder."),
        ImageError("s3://k:SECRET@b is no folder.", code="malformed"),
        ConfigError(["s3://k:SECRET@b is no folder."]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_error_holds_credentials(error: RayfillError) -> None:
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert str(one) == "s3://b is no folder."
    assert "SECRET" not in repr(vars(error))
