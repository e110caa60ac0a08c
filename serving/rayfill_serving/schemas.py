"""The shapes of requests and answers; the documentation is made from them."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from rayfill_serving.pictures import PictureFormat

MAX_EXPAND_PX = 128
MAX_FEATHER_PX = 64
_MAX_NAME = 256


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class InpaintOptions(_Strict):
    """How a hole is to be filled."""

    model: Annotated[
        str | None,
        Field(
            max_length=_MAX_NAME,
            description="A served model, as `name` or `name/version`; the first by default.",
        ),
    ] = None
    expand_px: Annotated[
        int,
        Field(ge=0, le=MAX_EXPAND_PX, description="Pixels by which the hole grows before filling."),
    ] = 0
    feather_px: Annotated[
        int,
        Field(ge=0, le=MAX_FEATHER_PX, description="Width of the soft edge inside the hole."),
    ] = 0
    format: Annotated[
        PictureFormat, Field(description="File format of the answer; only png keeps every bit.")
    ] = "png"


class AdjustOptions(_Strict):
    """What is done to a mask, in this order: invert, shrink, expand."""

    invert: Annotated[bool, Field(description="Swap hole and photo.")] = False
    shrink: Annotated[
        int, Field(ge=0, le=MAX_EXPAND_PX, description="Pixels taken off the hole's edge.")
    ] = 0
    expand: Annotated[
        int, Field(ge=0, le=MAX_EXPAND_PX, description="Pixels added to the hole's edge.")
    ] = 0


#: What is said when a field does not hold; fixed, so that nothing a client sent comes back.
FIELD_RULES: dict[str, str] = {
    "image": "image must be a JPEG, PNG or WebP file (in JSON: base64).",
    "mask": "mask must be a JPEG, PNG or WebP file, white where to fill (in JSON: base64).",
    "model": "model must be a name from /api/v1/models, or name/version.",
    "expand_px": f"expand_px must be a whole number from 0 to {MAX_EXPAND_PX}.",
    "feather_px": f"feather_px must be a whole number from 0 to {MAX_FEATHER_PX}.",
    "format": "format must be png, jpeg or webp.",
    "invert": "invert must be true or false.",
    "shrink": f"shrink must be a whole number from 0 to {MAX_EXPAND_PX}.",
    "expand": f"expand must be a whole number from 0 to {MAX_EXPAND_PX}.",
}


class ModelInfo(BaseModel):
    """A model that is being served."""

    name: str
    version: str
    run_id: str
    alias: str
    scores: dict[str, float] = Field(description="Means on the held-out split.")
    protocol: dict[str, str] = Field(description="What the scores were measured under.")
    created_ms: int


class Limits(BaseModel):
    """What this server accepts."""

    max_body_bytes: int
    max_pixels: int
    max_expand_px: int = MAX_EXPAND_PX
    max_feather_px: int = MAX_FEATHER_PX


class ModelList(BaseModel):
    """The models being served; the first one answers by default."""

    models: list[ModelInfo]
    limits: Limits


class Status(BaseModel):
    """A word about the server's health."""

    status: str


class Version(BaseModel):
    """Which software answers."""

    rayfill: str
    api: str


class ErrorBody(BaseModel):
    """Every answer that is not a result."""

    error: str = Field(description="What is wrong and what to do, in words.")
    code: str = Field(description="The same as one word, for programs.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InpaintJob:
    """One inpainting request on its way to a model; plain data, so that it travels."""

    image: bytes
    mask: bytes
    options: InpaintOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class InpaintReply:
    """A filled photo as a file, and who filled it."""

    body: bytes
    media_type: str
    model: str
    run_id: str
    notes: tuple[str, ...]


def form_schema(options: type[BaseModel], *, files: tuple[str, ...]) -> dict[str, Any]:
    """Return the OpenAPI request body of ``options`` plus files, as a form and as JSON."""
    content: dict[str, Any] = {}
    for media_type, encoding in (
        ("multipart/form-data", {"type": "string", "format": "binary"}),
        ("application/json", {"type": "string", "contentEncoding": "base64"}),
    ):
        schema = options.model_json_schema()
        schema.pop("description", None)
        parts = {name: {**encoding, "description": FIELD_RULES[name]} for name in files}
        schema["properties"] = {**parts, **schema["properties"]}
        schema["required"] = list(files)
        content[media_type] = {"schema": schema}
    return {"requestBody": {"required": True, "content": content}}
