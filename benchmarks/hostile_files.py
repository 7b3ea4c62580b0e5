"""Recordings that nobody should send: small files of every format, and what a seed and a number make of them.

``make_seeds()`` writes a third of a second of sound in every container and codec that can be written here, and
``make_hostile(seeds, seed, number)`` returns the hostile file of that number: the same arguments, the same bytes.
``fuzz.py`` gives them to the decoder, ``fuzz_server.py`` to the server.
"""

from __future__ import annotations

import gzip
import io
import re
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile

SECONDS = 0.35
SNDFILE = {
    "wav": "PCM_U8 PCM_16 PCM_24 PCM_32 FLOAT DOUBLE ALAW ULAW IMA_ADPCM MS_ADPCM GSM610",
    "rf64": "PCM_16",
    "wavex": "PCM_16",
    "w64": "PCM_16 FLOAT",
    "flac": "PCM_16 PCM_24",
    "ogg": "VORBIS OPUS",
    "mp3": "MPEG_LAYER_III",
    "aiff": "PCM_16 FLOAT",
    "au": "PCM_16 DOUBLE ULAW",
    "caf": "PCM_16 FLOAT",
}
"""Formats and subtypes that libsndfile writes."""

AV = (
    ("m4a", "ipod", "aac"), ("m4a", "ipod", "alac"), ("mp4", "mp4", "aac"), ("aac", "adts", "aac"),
    ("mov", "mov", "pcm_s16le"), ("webm", "webm", "libopus"), ("mka", "matroska", "flac"), ("mka", "matroska", "aac"),
    ("opus", "ogg", "libopus"), ("wma", "asf", "wmav2"), ("avi", "avi", "libmp3lame"), ("ts", "mpegts", "mp2"),
    ("flv", "flv", "aac"), ("ac3", "ac3", "ac3"), ("wv", "wv", "wavpack"), ("tta", "tta", "tta"),
    ("3gp", "3gp", "libopencore_amrnb"), ("mkv", "matroska", "pcm_f32le"),
)  # fmt: skip
"""Name ending, container and codec that FFmpeg writes."""

ENDINGS = ".wav .flac .mp3 .ogg .m4a .webm .raw .vox .gsm .sd2 .svx .m3u8 .ffconcat .txt .WAV .tar.gz .".split()
EXTREMES = (0, 1, 2, 255, 256, 1000, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
TAGS = re.compile(rb"(?<![ -~])[A-Za-z][A-Za-z0-9 ]{3}(?![A-Za-z])|fLaC|OggS|OpusHead|vorbis")


@dataclass(frozen=True)
class Hostile:
    """A file: the ``ending`` of its name, its ``content``, and the ``kind`` of harm that was done to it."""

    ending: str
    content: bytes
    kind: str


def make_wave(rate: int = 16_000, channels: int = 1, seconds: float = SECONDS) -> np.ndarray:
    """Return a tone in noise, float32 ``(S, channels)``."""
    time = np.arange(round(seconds * rate))[:, None] / rate
    noise = np.random.default_rng(0).normal(0, 0.02, (len(time), channels))
    return (0.4 * np.sin(2 * np.pi * 220 * time) + noise).astype(np.float32)


def encode(wave: np.ndarray, rate: int, container: str, codec: str, picture: tuple[int, int] | None = None) -> bytes:
    """Return ``wave (S, channels)`` in FFmpeg's ``container``; with ``picture`` there is a video of that size too."""
    file, layout = io.BytesIO(), {1: "mono", 2: "stereo"}[wave.shape[1]]
    with av.open(file, "w", format=container, options={"fflags": "+bitexact"}) as out:  # no random numbers
        if picture is not None:
            video = out.add_stream("mpeg4", rate=10)
            video.width, video.height = picture
            video.pix_fmt = "yuv420p"
        stream = out.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 4_750 if "amr" in codec else 32_000
        if picture is not None:
            black = np.zeros((picture[1] * 3 // 2, picture[0]), np.uint8)
            for _ in range(2):
                out.mux(video.encode(av.VideoFrame.from_ndarray(black, "yuv420p")))
            out.mux(video.encode(None))
        pcm = np.ascontiguousarray((wave * 32767).astype(np.int16).reshape(1, -1))
        convert = av.AudioResampler(stream.format, layout, rate, frame_size=stream.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout=layout)
        frame.rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for piece in [*convert.resample(frame), *convert.resample(None)]:
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return file.getvalue()


def make_seeds() -> dict[str, tuple[str, bytes]]:
    """Return name -> (ending, content) of one small good recording per container and codec."""
    seeds = {}
    for format, subtypes in SNDFILE.items():
        for subtype in subtypes.split():
            for channels in (1, 2) if subtype in ("PCM_16", "FLOAT", "VORBIS") else (1,):
                if (format, subtype) == ("ogg", "OPUS"):
                    continue  # below, by FFmpeg; libsndfile's own takes a second to write
                file = io.BytesIO()
                rate = 8_000 if subtype in ("GSM610", "ULAW") else 16_000
                soundfile.write(file, make_wave(rate, channels), rate, subtype=subtype, format=format.upper())
                ending = {"rf64": "wav", "wavex": "wav"}.get(format, format)
                seeds[f"{format}-{subtype.lower()}-{channels}"] = ("." + ending, settle(file.getvalue()))
    for ending, container, codec in AV:
        rate = {"libopencore_amrnb": 8_000, "ac3": 44_100, "libopus": 48_000}.get(codec, 16_000)
        content = encode(make_wave(rate), rate, container, codec)
        seeds[f"{container}-{codec}"] = ("." + ending, settle(content))
    seeds["mp4-video"] = (".mp4", encode(make_wave(16_000, 2), 16_000, "mp4", "aac", picture=(64, 48)))
    return seeds


def make_playlists(target: str) -> dict[str, bytes]:
    """Return texts in FFmpeg's playlist formats that name the file or address ``target``."""
    segment = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1.0,\n{target}\n#EXT-X-ENDLIST\n"
    mpd = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
        f'<Period><AdaptationSet mimeType="audio/mp4"><Representation id="a" bandwidth="1"><BaseURL>{target}</BaseURL>'
        "</Representation></AdaptationSet></Period></MPD>"
    )
    sdp = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n"
    texts = {
        ".ffconcat": f"ffconcat version 1.0\nfile '{target}'\n", ".m3u8": segment, ".mpd": mpd, ".sdp": sdp,
        ".rtsp": f"RTSPtext\n{target}\n", ".ram": f"{target}\n", ".txt": f"concat:{target}", ".lnk": f"file:{target}",
        ".asx": f'<asx version="3.0"><entry><ref href="{target}"/></entry></asx>',
        ".imf": f'<CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016"><Id>{target}</Id>'
        "</CompositionPlaylist>",
    }  # fmt: skip
    return {ending: text.encode() for ending, text in texts.items()}


def make_text(rng: np.random.Generator, seeds: dict[str, tuple[str, bytes]], target: str) -> tuple[bytes, str]:
    """Return bytes that are no recording, and what they are."""
    names = list(seeds)
    inner = seeds[names[rng.integers(len(names))]][1]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo("a.wav"), inner, zipfile.ZIP_DEFLATED)  # without a date
    playlists = list(make_playlists(target).values())
    choices: list[tuple[str, Callable[[], bytes]]] = [
        ("text", lambda: b"these are words, not sounds\n" * int(rng.integers(1, 400))),
        ("json", lambda: b'{"file": [' + b"1," * int(rng.integers(1, 4000)) + b"]}"),
        ("zip", archive.getvalue),
        ("gzip", lambda: gzip.compress(inner, mtime=0)),
        ("random", lambda: rng.bytes(int(rng.integers(1, 20_000)))),
        ("zeros", lambda: bytes(int(rng.integers(0, 20_000)))),
        ("empty", lambda: b""),
        ("picture", lambda: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 30_000, 30_000) + rng.bytes(200)),
        ("playlist", lambda: playlists[rng.integers(len(playlists))]),
        ("frame-sync", lambda: (b"\xff\xfb\x90\x64" + rng.bytes(413)) * int(rng.integers(1, 40))),
    ]
    kind, make = choices[rng.integers(len(choices))]
    return make(), kind


def flip(rng: np.random.Generator, content: bytearray) -> None:
    """Turn a few bits over, half of the time in the first 512 bytes only."""
    reach = len(content) if rng.random() < 0.5 else min(512, len(content))
    for place in rng.integers(0, reach, int(rng.choice([1, 2, 8, 64]))):
        content[place] ^= 1 << int(rng.integers(8))


def overwrite(rng: np.random.Generator, content: bytearray) -> None:
    """Write an extreme number over some bytes of the header."""
    for _ in range(int(rng.integers(1, 4))):
        code = "<>"[rng.integers(2)] + "BHIQ"[rng.integers(4)]
        place = int(rng.integers(0, min(len(content), int(rng.choice([48, 200, 4000])))))
        value = EXTREMES[rng.integers(len(EXTREMES))] & (2 ** (8 * struct.calcsize(code)) - 1)
        content[place : place + struct.calcsize(code)] = struct.pack(code, value)


def lie(rng: np.random.Generator, content: bytearray) -> None:
    """Write an extreme number beside the four letters of a chunk: its size, or one of its first fields."""
    tags = [match.start() for match in TAGS.finditer(bytes(content[:8000]))]
    if not tags:
        return overwrite(rng, content)
    for _ in range(int(rng.integers(1, 3))):
        place = tags[rng.integers(len(tags))] + int(rng.choice([-4, 4, 8, 10, 12, 14, 16, 20, 22, 24]))
        code = "<>"[rng.integers(2)] + "HIQ"[rng.integers(3)]
        value = EXTREMES[rng.integers(len(EXTREMES))] & (2 ** (8 * struct.calcsize(code)) - 1)
        if place >= 0:
            content[place : place + struct.calcsize(code)] = struct.pack(code, value)


def repeat(rng: np.random.Generator, content: bytearray) -> None:
    """Insert a part of the file (often a whole chunk) many times."""
    tags = [match.start() for match in TAGS.finditer(bytes(content[:8000]))] or [0]
    start = tags[rng.integers(len(tags))] if rng.random() < 0.7 else int(rng.integers(len(content)))
    part = bytes(content[start : start + int(rng.choice([4, 8, 26, 100, 1000]))])
    content[start:start] = part * int(rng.choice([1, 10, 1000 if len(part) < 100 else 50]))


def erase(rng: np.random.Generator, content: bytearray) -> None:
    """Put zeros, or ones, over a stretch."""
    start, length = int(rng.integers(len(content))), int(rng.choice([1, 16, 200, 5000]))
    end = min(len(content), start + length)
    content[start:end] = bytes([0 if rng.random() < 0.7 else 255]) * (end - start)


def poison(rng: np.random.Generator, content: bytearray) -> None:
    """Write NaN, infinity or the largest float over some places that are multiples of four."""
    for place in rng.integers(0, max(1, len(content) // 4 - 2), int(rng.choice([1, 50]))) * 4:
        value = (np.nan, np.inf, -np.inf, 3.4e38)[rng.integers(4)]
        content[place : place + 4] = struct.pack("<>"[rng.integers(2)] + "f", value)


def truncate(rng: np.random.Generator, content: bytearray) -> None:
    """Leave the first bytes only."""
    del content[int(rng.integers(1, len(content))) :]


MUTATIONS = (flip, overwrite, overwrite, lie, lie, lie, repeat, erase, poison, truncate)


def mend_ogg(content: bytearray) -> None:
    """Give every Ogg page its right checksum, so that what was changed is not dropped as a broken page."""
    place = content.find(b"OggS")
    while -1 < place <= len(content) - 27:
        table = content[place + 27 : place + 27 + content[place + 26]]
        end = place + 27 + len(table) + sum(table)
        content[place + 22 : place + 26] = bytes(4)
        content[place + 22 : place + 26] = struct.pack("<I", ogg_checksum(content[place:end]))
        place = content.find(b"OggS", place + 4)


def settle(content: bytes) -> bytes:
    """Replace what encoders draw or take from the clock: the numbers of Ogg streams, the date of the PEAK chunk."""
    settled = bytearray(content)
    for match in re.finditer(b"OggS", content):
        settled[match.start() + 14 : match.start() + 18] = struct.pack("<I", 1)
    peak = content.find(b"PEAK")
    if peak >= 0:
        settled[peak + 12 : peak + 16] = bytes(4)
    mend_ogg(settled)
    return bytes(settled)


def ogg_checksum(page: bytes | bytearray) -> int:
    """Return the CRC-32 of RFC 3533: polynomial 0x04c11db7, no reflection, no inversion."""
    checksum = 0
    for byte in page:
        checksum = ((checksum << 8) & 0xFFFFFFFF) ^ OGG_TABLE[(checksum >> 24) ^ byte]
    return checksum


def _ogg_row(value: int) -> int:
    value <<= 24
    for _ in range(8):
        value = ((value << 1) ^ 0x04C11DB7) & 0xFFFFFFFF if value & 0x80000000 else value << 1
    return value


OGG_TABLE = [_ogg_row(value) for value in range(256)]


def make_hostile(seeds: dict[str, tuple[str, bytes]], seed: int, number: int, target: str = "canary.wav") -> Hostile:
    """Return hostile file ``number`` of ``seed``; ``target`` is the file that playlists try to read."""
    rng = np.random.default_rng((seed, number))
    names = list(seeds)
    ending, whole = seeds[names[number % len(names)]]
    content, chance = bytearray(whole), rng.random()
    if chance < 0.08:
        text, kind = make_text(rng, seeds, target)
        content = bytearray(text)
    elif chance < 0.16:
        other = seeds[names[rng.integers(len(names))]][1]
        content = content[: int(rng.integers(1, len(content)))] + other[int(rng.integers(len(other))) :]
        kind = "splice"
    elif chance < 0.18:
        kind = "whole"
    else:
        mutate = MUTATIONS[rng.integers(len(MUTATIONS))]
        mutate(rng, content)
        kind = mutate.__name__
        while rng.random() < 0.2 and content:
            MUTATIONS[rng.integers(len(MUTATIONS))](rng, content)
    if content[:4] == b"OggS" and rng.random() < 0.8:
        mend_ogg(content)
    if rng.random() < 0.15:
        ending = ENDINGS[rng.integers(len(ENDINGS))]
    return Hostile(ending, bytes(content), kind)


def write_canary(folder: Path) -> Path:
    """Write the recording that no playlist may reach: a second of noise of its own level."""
    path = folder / "canary.wav"
    soundfile.write(path, np.random.default_rng(1).normal(0, 0.2, 16_000).clip(-1, 1), 16_000)
    return path
