"""What a request brings: a recording and perhaps turns, read as they arrive and no further than they may be long.

A body is kept in memory up to :data:`SPOOL` bytes and goes on in a temporary file without a name, which the system
removes with the process, however that ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from serkit.data.turns import Turn, parse_turns
from serkit.errors import InputError, nearest
from serkit.serving.engine import Place
from serkit.serving.problems import Problem
from serkit.serving.settings import Settings

SPOOL = 1_000_000
PIECE = 65_536
"""So many bytes have to arrive within a server's ``read_seconds``."""
FIELDS = 4
"""A form may have so many fields, so that those that should not be there can be told."""
RECORDING = "recording"
"""How a recording without a file name is called."""
RAW = ("audio/", "video/", "application/octet-stream", "application/ogg", "application/x-www-form-urlencoded")
"""Types of a body that is a recording; the last one is what curl says of ``--data-binary``."""


class Recording:
    """An uploaded ``file`` under the ``name`` that messages and answers call it by; decoders read it as a file."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file, self.name = file, name
        self.read, self.tell = file.read, file.tell

    def seek(self, place: int, whence: int = 0) -> int:
        """Go to ``place``; -1 for one before the beginning, which broken recordings make decoders ask for."""
        try:
            return self.file.seek(place, whence)
        except (OSError, ValueError):
            return -1

    @property
    def source(self) -> BinaryIO:
        """Itself, as what decoders take: they read, seek, tell and ask for the name, and nothing else."""
        return cast(BinaryIO, self)

    def close(self) -> None:
        """Give the memory or the disk back."""
        self.file.close()


@dataclass
class Upload:
    """What a request brought: the ``recording``, and other ``files`` of its form."""

    recording: Recording
    files: dict[str, Recording] = field(default_factory=dict)

    def turns(self) -> tuple[Turn, ...] | None:
        """Return who speaks when, by the file ``turns``; None without one.

        Raises ``InputError`` for a file that cannot be read, has no turns, or has those of several other recordings.
        """
        given = self.files.get("turns")
        if given is None:
            return None
        try:
            found = parse_turns(given.read().decode("utf-8-sig"), given.name)
        except UnicodeDecodeError as error:
            raise InputError(
                f"turns: {given.name} is no text: give RTTM, or a table with start, end, speaker"
            ) from error
        if not found:
            raise InputError(f"turns: {given.name} has no turns: leave it out, or say who speaks when")
        if len(found) == 1:
            return next(iter(found.values()))
        name = self.recording.name
        for id in (name, PurePosixPath(name).stem):
            if id in found:
                return found[id]
        raise InputError(f"turns: {given.name} is of {len(found)} recordings, none of which is {name}")

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *_: object) -> None:
        """Give everything back."""
        for each in (self.recording, *self.files.values()):
            each.close()


async def receive(request: Request, place: Place, settings: Settings, files: Collection[str] = ()) -> Upload:
    """Read the body of ``request``: a form with a field ``file`` and perhaps others (``files``), or the recording.

    Raises ``Problem`` for a body that is longer than ``settings`` allow, arrives too slowly, or is none.
    """
    max_bytes = settings.max_bytes
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem("unsupported", "Content-Encoding: send the body as it is, recordings are compressed already")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise too_large(max_bytes)
    async with aclosing(arriving(request, place, max_bytes, settings.read_seconds)) as stream:
        if kind == "multipart/form-data":
            return await receive_form(request, stream, {"file", *files})
        if kind and not kind.startswith(RAW):
            known = "a recording (audio/*, video/*, application/octet-stream) or multipart/form-data"
            raise Problem("unsupported", f"Content-Type {kind[:80]!r}: send {known}")
        return await receive_raw(stream)


async def arriving(request: Request, place: Place, max_bytes: int, read_seconds: float) -> AsyncGenerator[bytes, None]:
    """Yield the body as it arrives; every :data:`PIECE` of it has ``read_seconds``."""
    total, goal, due = 0, PIECE, time.monotonic() + read_seconds
    async with aclosing(request.stream()) as stream:
        while True:
            place.check()
            left = due - time.monotonic()
            left = left if place.left is None else min(left, place.left)
            try:
                async with asyncio.timeout(max(left, 0.001)):
                    chunk = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError:
                place.check()
                raise Problem(
                    "timed_out", f"the body came too slowly: {PIECE} bytes within {read_seconds:g} s"
                ) from None
            total += len(chunk)
            if total > max_bytes:
                raise too_large(max_bytes)
            if total >= goal:
                goal, due = total + PIECE, time.monotonic() + read_seconds
            yield chunk


async def receive_raw(stream: AsyncGenerator[bytes, None]) -> Upload:
    """Take the whole body as the recording."""
    file = cast(BinaryIO, SpooledTemporaryFile(SPOOL))  # noqa: SIM115 - the answer's thread closes it
    try:
        async for chunk in stream:
            file.write(chunk)
        if file.tell() == 0:
            raise Problem("bad_audio", "no recording: send it as the body, or as the field file of a form")
    except BaseException:
        file.close()
        raise
    return Upload(Recording(file, RECORDING))


async def receive_form(request: Request, stream: AsyncGenerator[bytes, None], known: set[str]) -> Upload:
    """Take the recording, and what else is ``known``, from a form."""
    try:
        parser = MultiPartParser(request.headers, stream, max_files=FIELDS, max_fields=FIELDS)
        form = await parser.parse()
    except MultiPartException as error:
        raise Problem("bad_option", f"form: {error.message}") from error
    found: dict[str, Recording] = {}
    try:
        for name, value in form.multi_items():
            if name not in known:
                told = "; options go into the query" if isinstance(value, str) else ""
                raise Problem(
                    "bad_option", f"form: there is no field {name[:80]!r}{nearest(name, sorted(known))}{told}"
                )
            if name in found:
                raise Problem("bad_option", f"form: {name} is given twice")
            if not isinstance(value, UploadFile):
                raise Problem("bad_option", f"form: {name} is a file: send it with a file name")
            found[name] = Recording(value.file, tidy(value.filename))
        if "file" not in found:
            raise Problem("bad_audio", "form: no recording: send it as the field file")
        if found["file"].file.seek(0, 2) == 0:
            raise Problem("bad_audio", f"{found['file'].name}: is empty (0 bytes)")
    except Problem:
        for _, value in form.multi_items():
            if isinstance(value, UploadFile):
                value.file.close()
        raise
    return Upload(found.pop("file"), found)


def tidy(name: str | None) -> str:
    """Return the last part of a file ``name``, of at most 200 printable characters."""
    last = PurePosixPath((name or "").replace("\\", "/")).name
    return "".join(letter for letter in last if letter.isprintable())[:200] or RECORDING


def too_large(max_bytes: int) -> Problem:
    """Return the problem of a body that is too long."""
    return Problem("too_large", f"the body has more than {max_bytes} bytes: send a shorter or a compressed recording")
