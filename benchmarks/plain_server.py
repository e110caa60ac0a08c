"""The same inpainter behind nothing but FastAPI and uvicorn: ``plain_server.py BUNDLE PORT``."""

from __future__ import annotations

import sys
from typing import Annotated

import uvicorn
from fastapi import FastAPI, File, Response

from rayfill.inference.inpainter import Inpainter
from rayfill_data.codec import decode_mask, decode_photo, encode_png


def make_app(inpainter: Inpainter) -> FastAPI:
    app = FastAPI()

    @app.post("/api/v1/inpaint")
    def inpaint(image: Annotated[bytes, File()], mask: Annotated[bytes, File()]) -> Response:
        photo, reading = decode_photo(image), decode_mask(mask)
        filled = inpainter.inpaint(photo.rgb, reading.mask)
        return Response(encode_png(filled), media_type="image/png")

    return app


if __name__ == "__main__":
    bundle, port = sys.argv[1:]
    uvicorn.run(
        make_app(Inpainter.from_bundle(bundle)), port=int(port), log_level="error", access_log=False
    )
