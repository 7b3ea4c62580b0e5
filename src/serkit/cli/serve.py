"""The verb that serves models over HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from serkit.cli.app import app, split_pair
from serkit.errors import InputError, missing_extra

SERVE_PACKAGES = {
    "fastapi", "pydantic", "prometheus_client", "python_multipart", "starlette", "uvicorn", "websockets",
}  # fmt: skip
KEY = "SERKIT_API_KEY"


@app.command()
def serve(
    model: Annotated[
        list[str] | None, typer.Option(help="a bundle folder, or NAME=FOLDER; again for more; the first one is usual")
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen on; 0.0.0.0: all of this machine's")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to listen on; 0: a free one")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="processes that serve")] = 1,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="windows judged at a time by a worker; its share of the cores if left out")
    ] = None,
    queue: Annotated[int, typer.Option(min=0, help="requests of a worker that may wait beside these")] = 32,
    streams: Annotated[int, typer.Option(min=0, help="live streams of a worker")] = 32,
    max_megabytes: Annotated[float, typer.Option(min=0.001, help="longest body of a request")] = 500.0,
    max_seconds: Annotated[float, typer.Option(min=1.0, help="longest recording")] = 14_400.0,
    timeout: Annotated[float, typer.Option(min=0.1, help="seconds after which a request is given up")] = 600.0,
    read_timeout: Annotated[float, typer.Option(min=0.1, help="seconds to wait for the next part of a body")] = 30.0,
    grace: Annotated[float, typer.Option(min=0.0, help="seconds to finish what is under way when stopped")] = 30.0,
    api_key_file: Annotated[Path | None, typer.Option(help=f"file of keys, one a line; or set {KEY}")] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="origin of other pages that may call the server; again for more")
    ] = None,
) -> None:
    """Serve models over HTTP and WebSocket, with a page for the browser.

    It stops at Ctrl-C or SIGTERM, when what is under way has been answered.
    """
    try:
        import python_multipart  # noqa: F401 - forms are refused at the first request without it
        import websockets  # noqa: F401 - so are live streams

        from serkit.serving import processes
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in SERVE_PACKAGES:
            raise
        raise missing_extra(str(error.name), "serve") from error
    from serkit.serving.settings import Settings

    processes.serve(
        Settings(
            models=tuple(name_model(each) for each in model) if model else Settings().models,
            host=host,
            port=port,
            workers=workers,
            max_bytes=round(max_megabytes * 1_000_000),
            max_seconds=max_seconds,
            timeout_seconds=timeout,
            read_seconds=read_timeout,
            concurrency=concurrency,
            queue=queue,
            streams=streams,
            api_keys=read_keys(api_key_file),
            allow_origins=tuple(allow_origin or ()),
            grace_seconds=grace,
        )
    )


def name_model(text: str) -> tuple[str, str]:
    """Return name and folder; a folder without a name is called as it is."""
    if "=" in text and not Path(text).exists():
        return split_pair(text, "--model", "NAME=FOLDER")
    return Path(text).resolve().name, text


def read_keys(path: Path | None) -> tuple[str, ...]:
    """Return the API keys of a file and of the environment; raises ``InputError`` for a place that holds none.

    A key that is set but empty is an error, not an open door.
    """
    found: list[str] = []
    if path is not None:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--api-key-file {path}: cannot be read ({type(error).__name__})") from error
        found += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not found:
            raise InputError(f"--api-key-file {path}: holds no key: write one a line")
    if KEY in os.environ:
        found.append(os.environ[KEY].strip())
    for key in found:
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise InputError(f"an API key ({KEY} or --api-key-file) is empty, or has spaces or letters beyond ASCII")
    return tuple(found)
