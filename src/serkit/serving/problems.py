"""Errors of the server: a code that programs can act on, and one line for people."""

from __future__ import annotations

STATUS = {
    "bad_audio": 422,
    "bad_option": 422,
    "unsupported": 415,
    "too_large": 413,
    "too_long": 413,
    "unauthorized": 401,
    "not_found": 404,
    "not_allowed": 405,
    "busy": 429,
    "timed_out": 503,
    "shutting_down": 503,
    "internal": 500,
}
"""The HTTP status of every code."""


class Problem(Exception):
    """A request that is not answered: ``code`` is one of :data:`STATUS`; ``retry`` seconds may pass before the next."""

    def __init__(
        self, code: str, message: str, retry: int | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.message = code, message
        self.headers = {**(headers or {}), **({} if retry is None else {"Retry-After": str(retry)})}
        if code == "unauthorized":
            self.headers["WWW-Authenticate"] = "Bearer"

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUS[self.code]

    def as_dict(self) -> dict[str, dict[str, str]]:
        """Return what a client is told."""
        return {"error": {"code": self.code, "message": self.message}}


def shutting_down() -> Problem:
    """Return what is told while the server stops."""
    return Problem("shutting_down", "the server is shutting down: try another, or later", 5)
