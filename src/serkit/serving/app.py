"""The application: routes, doors and how errors are told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

import serkit
from serkit.serving.doors import Doors
from serkit.serving.live import router as live_router
from serkit.serving.options import PredictOptions, TimelineQuery, explain
from serkit.serving.problems import Problem
from serkit.serving.routes import router
from serkit.serving.server import Server
from serkit.serving.settings import Settings

WEB = Path(__file__).parent / "web"
OPTIONS = {
    "/v1/predict": list(PredictOptions.model_fields),
    "/v1/timeline": list(TimelineQuery.model_fields),
}
TEXT = (
    "Speech emotion recognition. Answers say what is expressed in a recording, not what a person feels. Times are in "
    "seconds, probabilities in [0, 1]. Live audio goes over a WebSocket at /v1/stream."
)


def create_app(settings: Settings) -> FastAPI:
    """Return the application; its models are loaded here, so a bundle that cannot be used raises ``InputError``."""
    server = Server(settings)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        server.close()

    app = FastAPI(
        title="serkit",
        version=serkit.__version__,
        description=TEXT,
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would name the host that the request names
    )
    app.state.server = server
    app.add_middleware(Doors, server=server)
    if settings.allow_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.allow_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key"],
            expose_headers=["Retry-After"],
        )
    app.add_exception_handler(HTTPException, refuse_route)
    app.add_exception_handler(RequestValidationError, refuse_option)
    app.add_exception_handler(Problem, pass_on)
    app.include_router(router)
    app.include_router(live_router)
    mount_page(app)
    if settings.api_keys:
        declare_keys(app)
    return app


def mount_page(app: FastAPI) -> None:
    """Serve the page at ``/`` and its files below ``/static``."""

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(WEB / "index.html")

    app.mount("/static", StaticFiles(directory=WEB), name="static")


async def pass_on(request: Request, error: Exception) -> Response:
    """Leave a problem to the doors, which answer with it."""
    raise error


async def refuse_route(request: Request, error: Exception) -> Response:
    """Answer to an address or a method that there is not."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        raise Problem("not_allowed", "the method is not allowed here", headers=dict(error.headers or {}))
    if error.status_code == 404:
        raise Problem("not_found", "there is nothing here: see /openapi.json")
    raise Problem("bad_option", str(error.detail))


async def refuse_option(request: Request, error: Exception) -> Response:
    """Answer to an option that is unknown or wrong."""
    assert isinstance(error, RequestValidationError)
    route = getattr(request.scope.get("route"), "path", "")
    raise explain(error.errors()[0], OPTIONS.get(route, []))


def declare_keys(app: FastAPI) -> None:
    """Let the OpenAPI document say which operations ask for a key."""
    plain = app.openapi

    def document() -> dict[str, Any]:
        found = plain()
        schemes = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        found.setdefault("components", {})["securitySchemes"] = schemes
        for path, operations in found["paths"].items():
            if path.startswith("/v1/") or path == "/metrics":
                for operation in operations.values():
                    operation["security"] = [{"bearer": []}, {"key": []}]
        return found

    app.openapi = document  # type: ignore[method-assign]
