"""The HTTP API over a backend: an ordinary ASGI app, with or without Ray around it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any
from urllib.parse import quote

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.staticfiles import StaticFiles

from rayfill.runs.provenance import version_of
from rayfill_data.codec import decode_mask, encode_png
from rayfill_data.errors import ImageError
from rayfill_data.masks.hole import dilate, erode
from rayfill_serving.admission import Admission, within
from rayfill_serving.gate import Gate
from rayfill_serving.guards import BodyLimit, HostGuard, Shield, problem_body, problem_headers
from rayfill_serving.options import ServingOptions
from rayfill_serving.problems import ApiError, Problem, image_problem, problem
from rayfill_serving.schemas import (
    AdjustOptions,
    ErrorBody,
    InpaintJob,
    InpaintOptions,
    InpaintReply,
    Limits,
    ModelList,
    SegmentJob,
    SegmentOptions,
    SegmentReply,
    Status,
    Version,
    form_schema,
)
from rayfill_serving.service import Backend
from rayfill_serving.telemetry import Telemetry
from rayfill_serving.uploads import read_options, read_upload

_PICTURES: dict[str, Any] = {
    "image/png": {"schema": {"type": "string", "format": "binary"}},
    "image/jpeg": {"schema": {"type": "string", "format": "binary"}},
    "image/webp": {"schema": {"type": "string", "format": "binary"}},
}
_READY_TIMEOUT_S = 5.0
#: Fields of /api/v1/segment that are JSON text in a form.
_JSON_TEXTS = ("box", "clicks")
_ABOUT_THE_ANSWER = {
    "X-Model": "Who answered, as name/version, percent-encoded.",
    "X-Run-Id": "The MLflow run that trained it.",
    "X-Latency-Ms": "Milliseconds from upload to answer.",
}


def create_app(backend: Backend, options: ServingOptions) -> FastAPI:
    """Return the ASGI app that answers for ``backend``."""
    telemetry = Telemetry()
    app = FastAPI(
        title="Rayfill",
        version=version_of("rayfill"),
        description="Removes what a mask covers from a photo; makes masks of what is clicked on.",
        docs_url=None,
        redoc_url=None,
        middleware=[
            Middleware(Shield, telemetry=telemetry),
            Middleware(HostGuard, hosts=options.host_names),
            Middleware(
                BodyLimit,
                max_bytes=options.max_body_bytes,
                deadline_s=options.upload_timeout_s,
            ),
        ],
    )
    app.add_exception_handler(ApiError, _answer_api_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    admission = Admission(
        capacity=options.capacity, timeout_s=options.timeout_s, telemetry=telemetry
    )
    _add_inpaint(app, backend, admission=admission)
    _add_segment(app, backend, admission=admission)
    _add_adjust_mask(app, options=options)
    _add_information(app, backend, options=options, telemetry=telemetry)
    _add_pages(app)
    telemetry.know(frozenset(route.path for route in app.routes if hasattr(route, "path")))
    return app


def _add_inpaint(app: FastAPI, backend: Backend, *, admission: Admission) -> None:
    @app.post(
        "/api/v1/inpaint",
        summary="Fill the hole in a photo",
        response_class=Response,
        responses={
            200: {
                "description": "The filled photo, in its own size.",
                "content": _PICTURES,
                "headers": _described(
                    {
                        **_ABOUT_THE_ANSWER,
                        "X-Coherence": "How unlike its surroundings the filled hole looks: 0 not "
                        "at all, 1.4 at most; true photos have about 0.4, blurs 0.7 and more. "
                        "Absent where there is no hole, or too little around it to compare.",
                        "X-Notes": "What was odd about the mask, if anything.",
                    }
                ),
            },
            **_errors(400, 403, 408, 413, 415, 422, 500, 502, 503, 504, 404),
        },
        openapi_extra=form_schema(InpaintOptions, files=("image", "mask")),
    )
    async def inpaint(request: Request) -> Response:
        upload = await admission.read(request, files=("image", "mask"))
        job = InpaintJob(
            image=upload.files["image"],
            mask=upload.files["mask"],
            options=read_options(upload, InpaintOptions),
        )
        started = time.perf_counter()
        reply = await admission.ask(backend.inpaint, job)
        if isinstance(reply, Problem):
            return _answer(reply)
        headers = {**_about(reply, started=started), **_notes(reply.notes)}
        if reply.coherence is not None:
            headers["X-Coherence"] = f"{reply.coherence:.3f}"
        return Response(reply.body, media_type=reply.media_type, headers=headers)


def _add_segment(app: FastAPI, backend: Backend, *, admission: Admission) -> None:
    @app.post(
        "/api/v1/segment",
        summary="Make the mask of what a box, clicks or scribbles mean",
        response_class=Response,
        responses={
            200: {
                "description": "The mask as a black and white PNG of the photo's own size, as "
                "displayed; white = object. All black, with X-Found 0, where nothing was found.",
                "content": {"image/png": _PICTURES["image/png"]},
                "headers": _described(
                    {
                        **_ABOUT_THE_ANSWER,
                        "X-Selector": "grabcut, or the trained model as in X-Model.",
                        "X-Found": "1, or 0 where nothing was found.",
                        "X-Label": "What it is, the largest first, separated by commas, each "
                        "percent-encoded; absent where nothing was found, and from grabcut.",
                    }
                ),
            },
            **_errors(400, 403, 404, 408, 413, 415, 422, 500, 502, 503, 504),
        },
        openapi_extra=form_schema(
            SegmentOptions, files=("image",), optional=("scribbles",), json_texts=_JSON_TEXTS
        ),
    )
    async def segment(request: Request) -> Response:
        upload = await admission.read(
            request, files=("image",), optional=("scribbles",), json_texts=_JSON_TEXTS
        )
        job = SegmentJob(
            image=upload.files["image"],
            scribbles=upload.files.get("scribbles"),
            options=read_options(upload, SegmentOptions),
        )
        started = time.perf_counter()
        reply = await admission.ask(backend.segment, job)
        if isinstance(reply, Problem):
            return _answer(reply)
        headers = {
            **_about(reply, started=started),
            "X-Selector": quote(reply.model),
            "X-Found": str(int(reply.found)),
        }
        if reply.labels:
            headers["X-Label"] = ",".join(quote(label, safe="") for label in reply.labels)
        return Response(reply.body, media_type="image/png", headers=headers)


def _add_adjust_mask(app: FastAPI, *, options: ServingOptions) -> None:
    gate = Gate(options.capacity)

    @app.post(
        "/api/v1/adjust_mask",
        summary="Invert, shrink or expand a mask",
        response_class=Response,
        responses={
            200: {
                "description": "The mask as a black and white PNG; white = hole.",
                "content": {"image/png": _PICTURES["image/png"]},
                "headers": _described({"X-Notes": "What was odd about the mask, if anything."}),
            },
            **_errors(400, 403, 408, 413, 415, 422, 503),
        },
        openapi_extra=form_schema(AdjustOptions, files=("mask",)),
    )
    async def adjust_mask(request: Request) -> Response:
        with gate.enter():
            upload = await read_upload(request, files=("mask",))
            asked = read_options(upload, AdjustOptions)
            data = upload.files["mask"]
            return await asyncio.to_thread(_adjusted, data, asked, options.max_pixels)


def _add_information(
    app: FastAPI, backend: Backend, *, options: ServingOptions, telemetry: Telemetry
) -> None:
    limits = Limits(max_body_bytes=options.max_body_bytes, max_pixels=options.max_pixels)

    @app.get("/api/v1/models", summary="The models being served, with their scores")
    async def models() -> ModelList:
        return ModelList(models=await within(backend.models(), _READY_TIMEOUT_S), limits=limits)

    @app.get("/healthz", summary="Is the server there?")
    async def healthz() -> Status:
        return Status(status="ok")

    @app.get("/readyz", summary="Is a model ready?", responses=_errors(503, 504))
    async def readyz() -> Status:
        if not await within(backend.models(), _READY_TIMEOUT_S):
            raise ApiError("no_model")
        return Status(status="ready")

    @app.get("/version", summary="Which software answers?")
    async def version_() -> Version:
        return Version(rayfill=app.version, api="v1")

    @app.get("/metrics", summary="Counters for Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(telemetry.text(), media_type=telemetry.content_type)


def _add_pages(app: FastAPI) -> None:
    static = files("rayfill_serving").joinpath("static")
    for path, name in (("/", "index.html"), ("/docs", "docs.html")):
        app.add_route(
            path, _page(static.joinpath(name).read_text("utf-8")), include_in_schema=False
        )
    app.mount("/static", StaticFiles(packages=[("rayfill_serving", "static")]), name="static")


def _page(text: str) -> Callable[[Request], Awaitable[Response]]:
    async def page(_request: Request) -> Response:
        return HTMLResponse(text, headers={"Cache-Control": "no-cache"})

    return page


def _adjusted(data: bytes, asked: AdjustOptions, max_pixels: int) -> Response:
    try:
        reading = decode_mask(data, max_pixels=max_pixels)
    except ImageError as error:
        return _answer(image_problem(error, part="mask"))
    mask = np.bitwise_not(reading.mask) if asked.invert else reading.mask
    mask = dilate(erode(mask, radius_px=asked.shrink), radius_px=asked.expand)
    return Response(encode_png(mask), media_type="image/png", headers=_notes(reading.notes))


def _about(reply: InpaintReply | SegmentReply, *, started: float) -> dict[str, str]:
    return {
        "X-Model": quote(reply.model),  # a registered name may be any text, a header may not
        "X-Run-Id": quote(reply.run_id),
        "X-Latency-Ms": f"{1e3 * (time.perf_counter() - started):.1f}",
    }


def _notes(notes: Sequence[str]) -> dict[str, str]:
    return {"X-Notes": " ".join(notes)} if notes else {}


def _answer(reason: Problem) -> Response:
    return Response(
        problem_body(reason),
        reason.status,
        headers=dict(problem_headers(reason)),
        media_type="application/json",
    )


async def _answer_api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _answer(error.problem)


async def _answer_http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed"}
    return _answer(problem(codes.get(error.status_code, "malformed_body")))


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorBody} for status in sorted(statuses)}


def _described(headers: dict[str, str]) -> dict[str, Any]:
    return {
        name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()
    }
