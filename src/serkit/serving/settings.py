"""What a server is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass, field

from serkit.inference.bundle import DEFAULT


@dataclass(frozen=True)
class Settings:
    """Models, limits and doors of a server; times in seconds, sizes in bytes.

    ``models`` are names and bundle folders, the first of which answers where a request names none. A request's body
    has at most ``max_bytes`` and its recording at most ``max_seconds``; it is given up ``timeout_seconds`` after it
    began, and when no byte of its body came for ``read_seconds``. ``concurrency`` windows are judged at a time (None:
    one per core), for that many requests and ``queue`` more; what comes beyond is told to come again. ``streams`` live
    streams are open at a time. ``api_keys`` lets in who knows one of them, none everybody; ``allow_origins`` are the
    pages of other servers that may call this one. A stop waits ``grace_seconds`` for what is under way.
    """

    models: tuple[tuple[str, str], ...] = (("default", str(DEFAULT)),)
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    max_bytes: int = 500_000_000
    max_seconds: float = 4 * 3600.0
    timeout_seconds: float = 600.0
    read_seconds: float = 30.0
    concurrency: int | None = None
    queue: int = 32
    streams: int = 32
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    allow_origins: tuple[str, ...] = ()
    grace_seconds: float = 30.0
