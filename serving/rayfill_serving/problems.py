"""Every answer that is not a result: its word, its HTTP status and its fixed text.

The one place where Rayfill's errors become HTTP. A text never holds anything that came from an
exception: decoders put memory addresses and paths into theirs.
"""

from __future__ import annotations

import dataclasses

from rayfill_data.errors import ImageError, RayfillError


@dataclasses.dataclass(frozen=True)
class Problem:
    """What a client is told: ``{"error": text, "code": code}`` with ``status``."""

    status: int
    code: str
    text: str
    retry_after_s: int | None = None


_TABLE: dict[str, tuple[int, str]] = {
    "malformed_body": (400, "The request body cannot be read: send multipart/form-data or JSON."),
    "malformed": (400, "The picture is damaged or incomplete: save it again and retry."),
    "mask_malformed": (400, "The mask is damaged or incomplete: save it again and retry."),
    "size_mismatch": (400, "The mask and the photo differ in size: they must be the same."),
    "bad_host": (403, "This server does not answer under that host name."),
    "foreign_origin": (403, "Requests from other web sites are not accepted."),
    "not_found": (404, "There is nothing at this address: see /docs."),
    "unknown_model": (404, "No such model is being served: see /api/v1/models."),
    "method_not_allowed": (405, "This address does not take that method: see /docs."),
    "too_slow_upload": (408, "The request took too long to arrive."),
    "too_large": (413, "The picture has too many pixels: make it smaller and retry."),
    "body_too_large": (413, "The request is larger than this server accepts."),
    "not_an_image": (415, "The picture is not a JPEG, PNG or WebP file."),
    "mask_not_an_image": (415, "The mask is not a JPEG, PNG or WebP file."),
    "unsupported_content_type": (415, "Send multipart/form-data or application/json."),
    "missing_field": (422, "A required field is missing."),
    "unknown_field": (422, "The request has a field that is not known here."),
    "repeated_field": (422, "A field was sent more than once: send each one once."),
    "invalid_field": (422, "A field has a value that is not allowed."),
    "click_outside": (422, "A click lies outside the photo."),
    "box_outside": (422, "The box is empty or not within the photo."),
    "scribbles_malformed": (400, "The scribbles are damaged or incomplete: save them again."),
    "scribbles_not_an_image": (415, "The scribbles are not a JPEG, PNG or WebP file."),
    "nothing_marked": (422, "Say what is meant: a box, a click with a 1, or white scribbles."),
    "clicks_alone": (422, "A trained model selects by clicks alone: leave model out for a box."),
    "no_segmenter": (422, "This model has no segmenter: see /api/v1/models for one with labels."),
    "internal": (500, "The server made a mistake. It has been noted in its log."),
    "model_failed": (500, "The model failed on this photo. It has been noted in the log."),
    "worker_lost": (502, "The worker on this request stopped. Please retry."),
    "busy": (503, "The server is busy. Please retry shortly."),
    "no_model": (503, "No model is ready yet: train one and promote it, then retry."),
    "too_slow": (504, "The answer took too long. Please retry, or use a smaller photo."),
}

#: Codes that a client should simply try again, and after how many seconds.
_RETRY_AFTER_S = {"busy": 1, "no_model": 5, "worker_lost": 1}

CODES = tuple(_TABLE)


def problem(code: str, *, text: str | None = None) -> Problem:
    """Return the problem with this code; ``text`` replaces the fixed text with a closer one.

    ``text`` may name fields, limits and sizes, and nothing else.
    """
    status, fixed = _TABLE[code]
    return Problem(status, code, text or fixed, _RETRY_AFTER_S.get(code))


class ApiError(RayfillError):
    """A problem on its way to the client."""

    def __init__(self, code: str, *, text: str | None = None) -> None:
        self.problem = problem(code, text=text)
        super().__init__(self.problem.text)


def image_problem(error: ImageError, *, part: str) -> Problem:
    """Return the problem for a picture that cannot be used.

    ``part`` is ``image``, ``mask`` or ``scribbles``.
    """
    code = error.code
    if part != "image" and code in ("malformed", "not_an_image"):
        code = f"{part}_{code}"
    return problem(code)
