"""The shapes of requests and answers; the documentation is made from them."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from rayfill.config.sections import LAST_VARIANT, Finish
from rayfill.inference.clicks import LEAST_IOU, Click
from rayfill.inference.cutout import Box
from rayfill_serving.pictures import PictureFormat

MAX_EXPAND_PX = 128
MAX_FEATHER_PX = 64
MAX_CLICKS = 64
_MAX_NAME = 256
#: Who selects where no trained segmenter does, as ``model`` and in ``X-Selector``.
GRABCUT = "grabcut"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _of_numbers(click: object) -> object:
    # In a form, pydantic would take "7" and true for numbers.
    if not isinstance(click, list) or any(type(part) not in (int, float) for part in click):
        raise ValueError("no list of numbers")
    return click


def _with_a_sign(click: list[float]) -> list[float]:
    if click[2] not in (0, 1):
        raise ValueError("neither 1 nor 0")
    return click


_Click = Annotated[
    list[float],
    Field(min_length=3, max_length=3),
    BeforeValidator(_of_numbers),
    AfterValidator(_with_a_sign),
]


_Box = Annotated[list[float], Field(min_length=4, max_length=4), BeforeValidator(_of_numbers)]


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
    variant: Annotated[
        int,
        Field(
            ge=0,
            le=LAST_VARIANT,
            description="Another try, of models that have several; the best guess is 0.",
        ),
    ] = 0
    format: Annotated[
        PictureFormat, Field(description="File format of the answer; only png keeps every bit.")
    ] = "png"


class SegmentOptions(_Strict):
    """What is to be found in a photo."""

    box: Annotated[
        _Box | None,
        Field(
            description="`[left, top, right, bottom]` in pixels from the upper left corner of the "
            "photo as displayed: all around what is meant. In a form: as JSON text."
        ),
    ] = None
    clicks: Annotated[
        list[_Click],
        Field(
            max_length=MAX_CLICKS,
            description="`[[x, y, 1 or 0], ...]` in pixels from the upper left corner of the photo "
            "as displayed: 1 marks what is meant, 0 what is not. Without a box or white scribbles, "
            "one with a 1 is needed. In a form: as JSON text.",
        ),
    ] = []
    model: Annotated[
        str | None,
        Field(
            max_length=_MAX_NAME,
            description="Who selects: a served model with labels, as `name` or `name/version`, by "
            "clicks alone; or `grabcut`, which needs no training. By default the first such model "
            "where there are clicks alone, and otherwise grabcut.",
        ),
    ] = None

    @property
    def has_a_positive_click(self) -> bool:
        """Return whether a click marks what is meant."""
        return any(sign for *_, sign in self.clicks)

    @property
    def as_clicks(self) -> list[Click]:
        """Return the clicks as selectors take them."""
        return [(x, y, int(sign)) for x, y, sign in self.clicks]

    @property
    def as_box(self) -> Box | None:
        """Return the box as selectors take it."""
        if self.box is None:
            return None
        left, top, right, bottom = self.box
        return left, top, right, bottom


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
    "scribbles": "scribbles must be a JPEG, PNG or WebP file of the photo's size, white on what is "
    "meant, black on what is not, gray elsewhere (in JSON: base64).",
    "box": "box must be a list [left, top, right, bottom] of finite numbers (in forms: as JSON "
    "text).",
    "clicks": f"clicks must be a list of up to {MAX_CLICKS} of [x, y, 1 or 0], finite numbers (in "
    "forms: as JSON text).",
    "model": "model must be a name from /api/v1/models, or name/version.",
    "expand_px": f"expand_px must be a whole number from 0 to {MAX_EXPAND_PX}.",
    "feather_px": f"feather_px must be a whole number from 0 to {MAX_FEATHER_PX}.",
    "variant": f"variant must be a whole number from 0 to {LAST_VARIANT}.",
    "format": "format must be png, jpeg or webp.",
    "invert": "invert must be true or false.",
    "shrink": f"shrink must be a whole number from 0 to {MAX_EXPAND_PX}.",
    "expand": f"expand must be a whole number from 0 to {MAX_EXPAND_PX}.",
}


class ModelInfo(BaseModel):
    """A model that is being served."""

    name: str
    version: str = Field(
        description="Of the registry; of a bundle by itself, the beginning of its hash; of a "
        "baseline, Rayfill's own."
    )
    run_id: str
    alias: str = Field(default="", description="That was followed; of the registry.")
    scores: dict[str, float] = Field(
        description="Means on the held-out split; none where the registry knows of none."
    )
    protocol: dict[str, str] = Field(default={}, description="What the scores were measured under.")
    created_ms: int | None = Field(default=None, description="When it was registered, if it was.")
    title: str = Field(default="", description="What it is, in a word or two.")
    about: str = Field(default="", description="What to expect of it, in a sentence.")
    finish: Finish = Field(
        default="auto",
        description="What is done to its answers: exemplar puts patches of the photo on top, none "
        "nothing, auto patches where a hole and its surroundings are larger than it can be shown.",
    )
    variants: int = Field(default=1, description="How many different fills it has to offer.")
    labels: list[str] = Field(
        description="What its segmenter finds, for /api/v1/segment; empty: it has none, or none "
        f"whose masks were measured at an IoU of {LEAST_IOU} or more."
    )


class Limits(BaseModel):
    """What this server accepts."""

    max_body_bytes: int
    max_pixels: int
    max_expand_px: int = MAX_EXPAND_PX
    max_feather_px: int = MAX_FEATHER_PX
    max_clicks: int = MAX_CLICKS


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
    """A filled photo as a file, who filled it, and how well that goes with its surroundings."""

    body: bytes
    media_type: str
    model: str
    run_id: str
    notes: tuple[str, ...]
    coherence: float | None
    """:func:`rayfill.metrics.removal_coherence`; None where there is nothing to compare."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentJob:
    """One request to find an object on its way to a model; plain data, so that it travels."""

    image: bytes
    scribbles: bytes | None
    options: SegmentOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentReply:
    """A mask as a PNG file, what it shows where that is known, and who found it."""

    body: bytes
    found: bool
    labels: tuple[str, ...]
    model: str
    run_id: str


def form_schema(
    options: type[BaseModel],
    *,
    files: tuple[str, ...],
    optional: tuple[str, ...] = (),
    json_texts: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return the OpenAPI request body of ``options`` plus files, as a form and as JSON.

    ``optional`` are files that may be absent, ``json_texts`` fields that hold JSON text in a form.
    """
    content: dict[str, Any] = {}
    for media_type, encoding in (
        ("multipart/form-data", {"type": "string", "format": "binary"}),
        ("application/json", {"type": "string", "contentEncoding": "base64"}),
    ):
        schema = options.model_json_schema()
        schema.pop("description", None)
        parts = {
            name: {**encoding, "description": FIELD_RULES[name]} for name in (*files, *optional)
        }
        schema["properties"] = {**parts, **schema["properties"]}
        if media_type == "multipart/form-data":
            for name in json_texts:
                schema["properties"][name] = {
                    "type": "string",
                    "contentMediaType": "application/json",
                    "description": schema["properties"][name]["description"],
                }
        schema["required"] = [*files, *schema.get("required", [])]
        content[media_type] = {"schema": schema}
    return {"requestBody": {"required": True, "content": content}}
