"""Requests read strictly: known fields only, each once, within limits, in memory."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from rayfill_serving.problems import ApiError
from rayfill_serving.schemas import FIELD_RULES

OptionsT = TypeVar("OptionsT", bound=BaseModel)
_MAX_FIELDS = 16
_MAX_FIELD_BYTES = 4096


@dataclasses.dataclass(frozen=True)
class Upload:
    """The files of a request by name, and its other fields as they were sent."""

    files: dict[str, bytes]
    fields: dict[str, Any]
    strict: bool


class _InMemoryParser(MultiPartParser):
    # The body limit bounds memory; a spool file would put strangers' photos on the disk.
    spool_max_size = 2**40


async def read_upload(
    request: Request,
    *,
    files: tuple[str, ...],
    optional: tuple[str, ...] = (),
    json_texts: tuple[str, ...] = (),
) -> Upload:
    """Read a multipart or JSON request.

    Args:
        request: The request; its body has not been read.
        files: Names of the fields that hold files, all of them required.
        optional: Names of fields that hold files and may be absent.
        json_texts: Names of the fields that hold JSON text in a form, and that JSON in JSON.

    Raises:
        ApiError: for anything that is not exactly that.
    """
    known = (*files, *optional)
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "multipart/form-data":
        upload = await _from_form(await _parse_form(request), files=known)
        for name in json_texts:
            if name in upload.fields:
                upload.fields[name] = _from_text(name, upload.fields[name])
    elif kind == "application/json":
        upload = _from_json(await request.body(), files=known)
    elif not kind and not await request.body():
        upload = Upload({}, {}, strict=False)
    else:
        raise ApiError("unsupported_content_type")
    missing = [name for name in files if not upload.files.get(name)]
    if missing:
        _refuse_missing(missing)
    return upload


def read_options(upload: Upload, kind: type[OptionsT]) -> OptionsT:
    """Return the fields of ``upload`` as ``kind``; unknown ones are refused."""
    allowed = set(kind.model_fields)
    if not set(upload.fields) <= allowed:
        names = ", ".join([*upload.files, *kind.model_fields])
        raise ApiError("unknown_field", text=f"The request has an unknown field. Known: {names}.")
    try:
        return kind.model_validate(upload.fields, strict=upload.strict)
    except ValidationError as error:
        found = error.errors(include_input=False, include_context=False)
        missing = [str(item["loc"][0]) for item in found if item["type"] == "missing"]
        if missing:
            _refuse_missing(missing)
        rules = {FIELD_RULES[str(item["loc"][0])] for item in found}
        raise ApiError("invalid_field", text=" ".join(sorted(rules))) from None


async def _parse_form(request: Request) -> FormData:
    parser = _InMemoryParser(
        request.headers,
        request.stream(),
        max_files=_MAX_FIELDS,
        max_fields=_MAX_FIELDS,
        max_part_size=_MAX_FIELD_BYTES,
    )
    try:
        return await parser.parse()
    except (MultiPartException, ValueError):
        raise ApiError("malformed_body") from None


async def _from_form(form: FormData, *, files: tuple[str, ...]) -> Upload:
    found: dict[str, bytes] = {}
    fields: dict[str, Any] = {}
    try:
        for name, value in form.multi_items():
            if name in found or name in fields:
                raise ApiError("repeated_field")
            if (name in files) != isinstance(value, UploadFile):
                _refuse_kind(name)
            if isinstance(value, UploadFile):
                found[name] = await value.read()
            else:
                fields[name] = value
    finally:
        await form.close()
    return Upload(found, fields, strict=False)


def _from_json(body: bytes, *, files: tuple[str, ...]) -> Upload:
    try:
        document = _parse_json(body)
    except (ValueError, RecursionError):
        raise ApiError("malformed_body") from None
    if not isinstance(document, dict):
        raise ApiError("malformed_body")
    found = {name: _decode(name, document.pop(name)) for name in files if name in document}
    return Upload(found, document, strict=True)


def _from_text(name: str, text: str) -> object:
    try:
        return _parse_json(text)
    except (ValueError, RecursionError):
        _refuse_kind(name)


def _parse_json(text: str | bytes) -> Any:
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_without_repeats)


def _decode(name: str, value: object) -> bytes:
    if not isinstance(value, str):
        _refuse_kind(name)
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        _refuse_kind(name)


def _refuse_kind(name: str) -> NoReturn:
    if name in FIELD_RULES:
        raise ApiError("invalid_field", text=FIELD_RULES[name])
    raise ApiError("unknown_field")


def _refuse_missing(names: Sequence[str]) -> NoReturn:
    raise ApiError("missing_field", text=f"Required and missing: {', '.join(names)}.")


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


def _without_repeats(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ApiError("repeated_field")
    return document
