"""Credentials are neither shown nor written down."""

from __future__ import annotations

import re

_AFTER_SCHEME = re.compile(r"(?<=://)[^\s'\"<>]+")
#: ``user:password@``. A key may hold a raw slash; ``host:port/folder@2`` must not be taken for one.
_USER = re.compile(r"^(?:[^/?#]*@|[^/@:\[]+:(?!\d+(?:/|$)).*@)")
_QUERY = re.compile(
    r"([?&;](?:sig|odbc_connect|[^=&;]*(?:pass|pwd|secret|token|key|signature|credential)[^=&;]*)=)"
    r"[^&;]*",
    re.IGNORECASE,
)


def redact_uri(text: str) -> str:
    """Return a URI, or a text with URIs in it, without user, password and secret parameters.

    What is left of a URI opens the same place for who has the credentials in the environment.
    """
    return _AFTER_SCHEME.sub(lambda rest: _QUERY.sub(r"\1***", _USER.sub("", rest[0])), text)
