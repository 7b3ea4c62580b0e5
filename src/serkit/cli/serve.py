"""The verb that serves models over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from serkit.cli.app import app
from serkit.errors import missing_extra


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to listen on; 0: a free one")] = 8000,
) -> None:
    """Serve models over HTTP and WebSocket, with a page for the browser."""
    try:
        import uvicorn

        from serkit.serving.app import create_app
    except ModuleNotFoundError as error:
        raise missing_extra(str(error.name), "serve") from error
    from serkit.serving.settings import Settings

    uvicorn.run(create_app(Settings(host=host, port=port)), host=host, port=port)
