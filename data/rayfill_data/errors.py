"""The one root of every error Rayfill raises on purpose.

A message says what was got, what is allowed, and what to do. The command line prints it on one
line and exits with 2; the HTTP API maps it to a status in one place.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable


class RayfillError(Exception):
    """Something the user can put right; the message says how, and holds no credentials."""

    def __init__(self, message: str) -> None:
        super().__init__(redact_uri(message))


class ConfigError(RayfillError):
    """A configuration key or value that cannot be used; carries every problem found."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(map(redact_uri, problems))
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[str, ...]]]:
        """Let the error cross processes: a copy is made of the problems, not of the message."""
        return type(self), (self.problems,)


class DatasetError(RayfillError):
    """A prepared dataset, or the source of one, that cannot be used as it is."""


class ImageError(RayfillError):
    """Bytes that are not a usable picture; ``code`` is one of :data:`IMAGE_ERROR_CODES`."""

    def __init__(self, message: str, *, code: str) -> None:
        if code not in IMAGE_ERROR_CODES:
            raise ValueError(f"unknown image error code {code!r}")
        self.code = code
        super().__init__(message)

    def __reduce__(self) -> tuple[functools.partial[ImageError], tuple[str]]:
        """Let the error cross processes with its code."""
        return functools.partial(type(self), code=self.code), (str(self),)


#: not_an_image: no decoder among the allowed formats knows the bytes; malformed: one does, but they
#: are damaged; too_large: over the byte or pixel limit; size_mismatch: mask and image differ.
IMAGE_ERROR_CODES = ("not_an_image", "malformed", "too_large", "size_mismatch")


def unknown_name(kind: str, got: str, allowed: Iterable[str]) -> str:
    """Return the sentence for an unknown name: what was got, the nearest match, what is allowed."""
    names = sorted(allowed)
    near = difflib.get_close_matches(got, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Unknown {kind} {got!r}.{hint} Allowed: {', '.join(names)}."


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
