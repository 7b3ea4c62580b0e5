"""Requests that nobody should send, as bytes on the wire: ``make_request(seeds, seed, number)``, ``make_stream``.

The same arguments give the same bytes. ``fuzz_server.py`` sends them.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
from hostile_files import make_hostile

ROUTES = ("/v1/predict", "/v1/timeline")
TYPES = (
    "audio/wav",
    "application/octet-stream",
    "video/mp4",
    "application/json",
    "text/plain",
    "image/png",
    "a/b;c=d",
    "",
    "multipart/form-data",
    "multipart/form-data; boundary=",
    "multipart/mixed; boundary=x",
    "\x00",
    "audio/" + "x" * 5000,
)
NAMES = (
    "a.wav",
    "",
    "../../etc/passwd",
    "/etc/passwd",
    "..\\..\\a.wav",
    "a\x00.wav",
    "\u202ea.wav",
    "x" * 3000,
    "a\r\nX: y",
    "-",
    "CON",
    "a.m3u8",
    "%2e%2e%2f",
    "\ud83d\ude00.wav".encode("utf-16", "surrogatepass").decode("utf-16"),
    "a;b=c.wav",
    '"',
)
VALUES = (
    "",
    "0",
    "1",
    "-1",
    "1e308",
    "-1e308",
    "1e-308",
    "nan",
    "inf",
    "-inf",
    "9" * 400,
    "true",
    "false",
    "TRUE",
    "yes",
    "null",
    "[]",
    "{}",
    "happy",
    "happy,sad",
    "happy,,sad",
    ",",
    "angry,nonsense",
    "\x00",
    "%00",
    "../../etc",
    "0.001",
    "0.5",
    "1e9",
    "2",
    "16000",
    "16001",
    "10000",
    "10001",
    "'; drop table",
    "<script>",
    "\u00e9",
    "x" * 3000,
    "default",
    "0x10",
    "1_000",
    " 1",
    "+1",
    "\u0661",
)
OPTIONS = (
    "labels",
    "embedding",
    "segment",
    "model",
    "speech",
    "window",
    "hop",
    "curve",
    "peaks",
    "sampling_rate",
    "turns",
)
TURNS = (
    b"SPEAKER a 1 0.0 0.2 <NA> <NA> s1 <NA> <NA>\n",
    b"start,end,speaker\n0,0.2,a\n",
    b"start,end,speaker\n0,1e308,a\n",
    b"start,end,speaker\nnan,inf,a\n",
    b"start,end,speaker\n-1,0,\n",
    b"\xff\xfe\x00",
    b"",
    b"SPEAKER\n" * 999,
    b"start,end,speaker\n" + b"0,0.1,a\n" * 20_000,
    b"SPEAKER a 1 -5 1e9 <NA> <NA> s <NA> <NA>\n",
)


@dataclass(frozen=True)
class Wire:
    """What is sent: ``pieces`` one after the other, of a ``kind``; with ``half``, the sending side is closed then."""

    kind: str
    pieces: tuple[bytes, ...]
    half: bool = False


def pick(rng: np.random.Generator, values: Sequence[Any]) -> Any:
    """Return one of ``values``; of a function, what it returns."""
    value = values[int(rng.integers(len(values)))]
    return value() if callable(value) else value


def make_query(rng: np.random.Generator, chance: float) -> str:
    """Return a query, empty or of odd options."""
    if rng.random() > chance:
        return ""
    if rng.random() < 0.1:
        return "?" + pick(rng, ("&" * 3000, "=", "%", "%zz=%", "a" * 30_000, "labels", "x=1;y=2", "?#", "%ff%fe=1"))
    parts = []
    for _ in range(int(rng.integers(1, 4))):
        name = pick(rng, OPTIONS) if rng.random() < 0.9 else quote(rng.bytes(4))
        value = pick(rng, VALUES)
        parts.append(f"{name}={quote(value) if rng.random() < 0.95 else quote(rng.bytes(6))}")
    return "?" + "&".join(parts)


def head(method: str, path: str, headers: list[tuple[str, str]]) -> bytes:
    """Return the head of a request that is closed after its answer."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def make_form(rng: np.random.Generator, content: bytes, timeline: bool, broken: bool) -> tuple[str, bytes]:
    """Return content type and body of a form, ``broken`` in one of many ways or not."""
    boundary = "serkit-boundary"
    name = pick(rng, NAMES) if rng.random() < 0.5 else "a.wav"
    text = name.replace("\r\n", "%0D%0A").replace('"', "%22") if not broken else name
    fields = [(f'name="file"; filename="{text}"', content)]
    if timeline and rng.random() < 0.5:
        fields.append(('name="turns"; filename="a.rttm"', pick(rng, TURNS)))
    if broken and rng.random() < 0.5:
        fields += [(pick(rng, ('name="file"; filename="b"', 'name="x"', "", 'name="labels"', 'filename="a"')), b"1")]
    if broken and rng.random() < 0.1:
        fields += [(f'name="f{n}"; filename="a"', b"") for n in range(2000)]
    body = b""
    for disposition, value in fields:
        body += f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode("utf-8", "replace")
        body += value + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    kind = f"multipart/form-data; boundary={boundary}"
    if broken:
        harm = int(rng.integers(8))
        if harm == 0:
            body = body[: int(rng.integers(len(body)))]
        elif harm == 1:
            kind = pick(
                rng,
                (
                    "multipart/form-data",
                    "multipart/form-data; boundary=",
                    f"multipart/form-data; boundary={'b' * 9000}",
                ),
            )
        elif harm == 2:
            body = body.replace(b"\r\n", b"\n")
        elif harm == 3:
            body = body.replace(
                b"Content-Disposition", pick(rng, (b"Content-Disposition" * 5000, b"X", b"\x00", b":")), 1
            )
        elif harm == 4:
            mutable = bytearray(body)
            for place in rng.integers(0, len(mutable), 20):
                mutable[place] = int(rng.integers(256))
            body = bytes(mutable)
        elif harm == 5:
            body = rng.bytes(int(rng.integers(1, 5000)))
        elif harm == 6:
            body = body.replace(b"form-data;", b"form-data; " + b"a=b; " * 3000, 1)
        else:
            body = body[: -len(boundary) - 6]
    return kind, body


def make_raw(rng: np.random.Generator, content: bytes) -> Wire:
    """Return bytes that are hardly a request, or none."""
    path, length = pick(rng, ROUTES), len(content)
    plain = head("POST", path, [("Content-Type", "audio/wav"), ("Content-Length", str(length))])
    chunked = head("POST", path, [("Content-Type", "audio/wav"), ("Transfer-Encoding", "chunked")])
    good = b"%x\r\n" % length + content + b"\r\n0\r\n\r\n"

    def sized(value: str) -> bytes:
        return head("POST", path, [("Content-Type", "audio/wav"), ("Content-Length", value)])

    choices = (
        ("noise", (rng.bytes(int(rng.integers(1, 4000))),), False),
        (
            "line",
            (
                pick(
                    rng,
                    (
                        b"GET\r\n\r\n",
                        b"\r\n\r\n",
                        b"GET / HTTP/9.9\r\n\r\n",
                        b"POST " + b"/a" * 40_000 + b" HTTP/1.1\r\n\r\n",
                        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                        b"GET http://x/ HTTP/1.1\r\n\r\n",
                        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
                        b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
                        b"GET / HTTP/0.9\r\n\r\n",
                        b"CONNECT a:1 HTTP/1.1\r\n\r\n",
                    ),
                ),
            ),
            True,
        ),
        (
            "method",
            (head(pick(rng, ("GET", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "X" * 500)), path, []),),
            False,
        ),
        (
            "path",
            (
                head(
                    "GET",
                    pick(
                        rng,
                        (
                            "/static/../../../etc/passwd",
                            "/static/%2e%2e/%2e%2e/etc/passwd",
                            "//",
                            "/static/%00",
                            "/%ff",
                            "/v1/predict/",
                            "/static//etc/passwd",
                            "/?" + "a" * 9000,
                            "/v1/stream",
                            "/../",
                        ),
                    ),
                    [],
                ),
            ),
            False,
        ),
        ("headers", (head("POST", path, [("X", "y" * int(rng.choice([10_000, 70_000, 300_000])))]),), False),
        ("many headers", (head("POST", path, [(f"X{n}", "y") for n in range(int(rng.choice([150, 5000])))]),), False),
        (
            "bad header",
            (
                plain[:-2]
                + pick(
                    rng, (b"X y\r\n\r\n", b": y\r\n\r\n", b"X: \x00\r\n\r\n", b" folded\r\n\r\n", b"\xff: a\r\n\r\n")
                ),
                content,
            ),
            True,
        ),
        (
            "length",
            (sized(pick(rng, ("-1", "abc", "9" * 30, "0x10", "1e3", " ", "+5", "5, 6", str(2**63)))), content),
            True,
        ),
        ("short length", (sized(str(max(0, length - int(rng.integers(1, 500))))), content), False),
        ("long length", (sized(str(length + int(rng.choice([1, 1000, 4_000_000])))), content), rng.random() < 0.9),
        ("too large", (sized(str(10**9)), content), True),
        ("two lengths", (plain[:-2] + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", content), True),
        ("chunked", (chunked, *(good[n : n + 500] for n in range(0, len(good), 500))), False),
        (
            "bad chunks",
            (
                chunked,
                pick(
                    rng,
                    (
                        b"zz\r\n",
                        b"-1\r\n",
                        b"ffffffffffffffffff\r\n",
                        b"5\r\nabc",
                        b"3;" + b"x" * 90_000,
                        b"\r\n",
                        b"3\r\nabcde\r\n",
                    ),
                ),
                content,
            ),
            True,
        ),
        (
            "encoding",
            (
                head(
                    "POST",
                    path,
                    [
                        ("Content-Encoding", pick(rng, ("gzip", "deflate", "br", "x"))),
                        ("Content-Length", str(length)),
                        ("Content-Type", "audio/wav"),
                    ],
                ),
                content,
            ),
            False,
        ),
        (
            "type",
            (head("POST", path, [("Content-Type", pick(rng, TYPES)), ("Content-Length", str(length))]), content),
            True,
        ),
        ("gone", (plain, content[: length // 2]), True),
        (
            "expect",
            (
                head("POST", path, [("Expect", pick(rng, ("100-continue", "x"))), ("Content-Length", str(length))]),
                content,
            ),
            False,
        ),
        (
            "upgrade",
            (
                head(
                    "GET",
                    "/v1/stream",
                    [
                        ("Upgrade", "websocket"),
                        ("Connection", "Upgrade"),
                        pick(rng, (("Sec-WebSocket-Key", "x"), ("X", "y"))),
                    ],
                ),
            ),
            True,
        ),
        ("pipeline", (plain.replace(b"Connection: close\r\n", b"") + content + head("GET", "/health", []),), False),
    )
    kind, pieces, half = choices[int(rng.integers(len(choices)))]
    return Wire(kind, tuple(pieces), bool(half))


def make_request(seeds: dict[str, tuple[str, bytes]], seed: int, number: int) -> Wire:
    """Return hostile request ``number`` of ``seed``: a broken recording, odd options, a broken form or broken HTTP."""
    rng = np.random.default_rng((seed, number, 1))
    content, chance = make_hostile(seeds, seed, number).content, rng.random()
    if chance > 0.75:
        return make_raw(rng, content)
    if chance > 0.45:  # the recording is good: what is odd is the rest
        content = seeds[pick(rng, list(seeds))][1]
    path = pick(rng, ROUTES)
    odd = chance > 0.6
    if rng.random() < 0.5 or odd:
        kind, body = make_form(rng, content, path.endswith("timeline"), broken=odd)
    else:
        kind, body = pick(rng, ("audio/wav", "application/octet-stream", "video/webm")), content
    what = "form" if odd else "options" if chance > 0.45 else "recording"
    query = make_query(rng, 0.9 if what == "options" else 0.2)
    start = head("POST", path + query, [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return Wire(what, (start, body))


def frame(
    opcode: int, payload: bytes, final: bool = True, masked: bool = True, length: int | None = None, rsv: int = 0
) -> bytes:
    """Return a WebSocket frame, which need not be a right one (RFC 6455)."""
    size = len(payload) if length is None else length
    first = bytes([(0x80 if final else 0) | rsv << 4 | opcode])
    mark = 0x80 if masked else 0
    if size < 126:
        first += bytes([mark | size])
    elif size < 2**16:
        first += bytes([mark | 126]) + struct.pack(">H", size)
    else:
        first += bytes([mark | 127]) + struct.pack(">Q", size)
    if not masked:
        return first + payload
    key = b"\x12\x34\x56\x78"
    pattern = np.frombuffer((key * (len(payload) // 4 + 1))[: len(payload)], np.uint8)
    return first + key + (np.frombuffer(payload, np.uint8) ^ pattern).tobytes()


def make_stream(seed: int, number: int) -> Wire:
    """Return hostile WebSocket stream ``number`` of ``seed``: handshake, frames, and mostly a finish."""
    rng = np.random.default_rng((seed, number, 2))
    odd = rng.random() < 0.4
    query = make_query(rng, 0.9 if odd else 0.1)
    key = base64.b64encode(rng.bytes(16)).decode()
    headers = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", key),
    ]
    if rng.random() < 0.1:
        headers.append(
            pick(
                rng,
                (
                    ("Origin", "http://evil.example"),
                    ("Sec-WebSocket-Protocol", "serkit.key.!!"),
                    ("Sec-WebSocket-Protocol", ",,"),
                    ("Sec-WebSocket-Extensions", "permessage-deflate; x=" + "9" * 5000),
                    ("Origin", "null"),
                ),
            )
        )
    start = head("GET", "/v1/stream" + query, headers).replace(b"Connection: close\r\n", b"")
    sound = (rng.normal(0, 3000, int(rng.choice([0, 1, 160, 8000, 40_000])))).astype("<i2").tobytes()
    pieces = [start, frame(2, sound)]
    finish = frame(1, b'{"type": "finish"}')
    texts = (
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"type": 1}',
        b'{"type": "stop"}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"type": "finish"',
        b"1e999",
        json.dumps({"type": "finish", "x": "y" * 200_000}).encode(),
        b'{"type": "finish", "type": "x"}',
        b'"finish"',
        b"9" * 6000,
    )
    frames = (
        frame(1, pick(rng, texts)),
        frame(2, sound[:-1] if sound else b"\x01"),
        frame(2, rng.bytes(int(rng.integers(0, 70_000)))),
        frame(2, b"\x00\x80" * 9000),
        frame(2, sound, masked=False),
        frame(2, b"ab", length=2**62),
        frame(2, b"ab", length=2**63 + 5),
        frame(int(rng.choice([3, 7, 11, 15])), b"x"),
        frame(9, b"p" * 200),
        frame(9, b"ping"),
        frame(10, b""),
        frame(8, b"\x03"),
        frame(8, struct.pack(">H", int(rng.choice([0, 999, 1000, 1005, 5000])))),
        frame(8, b"\x03\xe8\xff\xfe"),
        frame(0, b"more"),
        frame(2, sound, final=False) + frame(0, sound),
        frame(1, b'{"type":', final=False) + frame(0, b'"finish"}'),
        frame(2, b"a", rsv=4),
        frame(2, sound, final=False) + frame(1, b"x"),
        rng.bytes(int(rng.integers(1, 600))),
        lambda: frame(2, bytes(3_000_000)),
        lambda: frame(9, b"") * 500,
        lambda: frame(2, b"") * 2000,
    )
    kind = "stream options" if odd else "stream"
    if not odd:
        pieces += [pick(rng, frames) for _ in range(int(rng.integers(1, 5)))]
    if rng.random() < 0.95:
        pieces.append(finish)
    return Wire(kind, tuple(pieces), bool(rng.random() < 0.15))
