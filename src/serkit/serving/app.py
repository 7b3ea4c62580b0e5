"""The application: routes, doors and how errors are told."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool

import serkit
from serkit.errors import AudioError, InputError
from serkit.serving.problems import Problem
from serkit.serving.server import Server, describe, thresholds
from serkit.serving.settings import Settings

WEB = Path(__file__).parent / "web"


def create_app(settings: Settings) -> FastAPI:
    """Return the application; its models are loaded here, so a bundle that cannot be used raises ``InputError``."""
    server = Server(settings)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        server.closing = True
        server.engine.close()

    app = FastAPI(title="serkit", version=serkit.__version__, lifespan=life, docs_url=None, redoc_url=None)
    app.state.server = server
    app.add_exception_handler(Problem, tell)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "version": serkit.__version__, "models": list(server.models)}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"models": [describe(name, each) for name, each in server.models.items()]}

    @app.post("/v1/predict")
    async def predict(
        request: Request,
        labels: str | None = None,
        embedding: bool = False,
        segment: float | None = None,
        model: str | None = None,
    ) -> dict[str, Any]:
        predictor = server.choose(model)
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            upload: Any = (await request.form())["file"]
            data = await upload.read()
        else:
            data = await request.body()
        names = None if labels is None else labels.split(",")
        try:
            found = await run_in_threadpool(
                predictor.predict, io.BytesIO(data), labels=names, embedding=embedding, segment=segment, id="recording"
            )
        except AudioError as error:
            raise Problem("bad_audio", str(error)) from error
        except InputError as error:
            raise Problem("bad_option", str(error)) from error
        return {**found.as_dict(), "thresholds": thresholds(predictor)}

    if find_spec("serkit.serving.live") is not None:
        app.include_router(import_module("serkit.serving.live").router)
    if (WEB / "index.html").is_file():
        mount_page(app)
    return app


def mount_page(app: FastAPI) -> None:
    """Serve the page at ``/`` and its files below ``/static``."""

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(WEB / "index.html")

    app.mount("/static", StaticFiles(directory=WEB), name="static")


async def tell(request: Request, problem: Exception) -> JSONResponse:
    """Answer with a problem."""
    assert isinstance(problem, Problem)
    headers = {} if problem.retry is None else {"Retry-After": str(problem.retry)}
    return JSONResponse(problem.as_dict(), problem.status, headers)
