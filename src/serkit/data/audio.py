"""Decode any recording to mono float32 at 16 kHz, whole, by span or as a stream of bounded size.

libsndfile reads wav, flac, ogg, opus and mp3; PyAV reads what it cannot (m4a, mp4, webm and other containers). Channels
are averaged; soxr resamples. A lossless recording gives the same samples whichever container it is in.

What happens to bad input: an empty, unreadable or non-finite recording, a FLAC, MP3 or MP4 file that ends early, and a
span outside the file raise :class:`~serkit.errors.AudioError`. A WAV, Ogg, WebM or Matroska file that ends early gives
the samples it has: Ogg has no header that tells how long it should be, and recorders often leave that of the others
empty.

What happens to hostile input: a file cannot make another file or the network be read (FFmpeg gets the formats below,
which name no other files, and no protocol), memory stays bounded whatever a header claims, pictures are not decoded,
and a stream that is no longer asked closes its file.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from serkit.errors import AudioError

SAMPLING_RATE = 16_000
"""Hz; what encoders and bundles take unless they say otherwise."""

SILENCE_PEAK = 10 ** (-80 / 20)
"""A recording whose peak stays below -80 dB full scale counts as silent."""

LOUDEST = 2.0**32
"""Full scale is 1, but floats on the scale of 32-bit integers are read too; squares of far more are beyond float32."""

EXTENSIONS = frozenset(
    ".wav .flac .ogg .oga .opus .mp3 .aif .aiff .au .caf .w64 .m4a .mp4 .aac .webm .mkv .mka .mov .wma .3gp".split()
)
"""File name endings that folder scans take for recordings."""

RATES = range(1_000, 768_001)
"""Hz; a header that says another sampling rate is broken, or made so that resampling takes days."""

AV_FORMATS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dts,eac3,flac,flv,latm,loas,matroska,mov,mp3,mpeg,mpegts,ogg,tta,"
    "w64,wav,wv"
)
"""Containers that FFmpeg may open: recordings and films, no playlists, no devices, no sessions on the network."""

AV_CODECS = (
    "aac aac_latm ac3 adpcm_ima_qt adpcm_ima_wav adpcm_ms adpcm_swf adpcm_yamaha alac amrnb amrwb ape dca eac3 "
    "flac g722 g726 gsm gsm_ms libopencore_amrnb libopencore_amrwb libopus mp1 mp1float mp2 mp2float mp3 mp3float "
    "nellymoser opus pcm_alaw pcm_bluray pcm_dvd pcm_f32be pcm_f32le pcm_f64be pcm_f64le pcm_mulaw pcm_s16be "
    "pcm_s16le pcm_s24be pcm_s24le pcm_s32be pcm_s32le pcm_s8 pcm_u8 speex tta vorbis wavpack wmalossless wmapro "
    "wmav1 wmav2 wmavoice"
).split()
"""What FFmpeg may decode; nothing of pictures, which it would else decode to learn their size."""

Source = str | Path | BinaryIO
BLOCK_SECONDS = 10.0
BLOCK_VALUES = 4_000_000
"""Most values of a block over all channels (16 MB); ten seconds of 1024 channels at 768 kHz would be 31 GB."""


@dataclass(frozen=True)
class AudioInfo:
    """What the header says: ``seconds`` (None when it does not tell), ``sampling_rate`` in Hz and ``channels``."""

    seconds: float | None
    sampling_rate: int
    channels: int


def read_info(source: Source) -> AudioInfo:
    """Read duration, sampling rate and channels without decoding. Raises ``AudioError``."""
    _check_source(source)
    file = _open_sndfile(source)
    if file is not None:
        with file:
            return AudioInfo(file.frames / file.samplerate, file.samplerate, file.channels)
    with _open_av(source) as container:
        stream = container.streams.audio[0]
        seconds: float | None
        if stream.duration is not None and stream.time_base is not None:
            seconds = float(stream.duration * stream.time_base)
        else:
            seconds = container.duration / 1e6 if container.duration else None
        known = seconds if seconds is not None and seconds >= 0 else None
        return AudioInfo(known, stream.rate, stream.channels)


def read_audio(
    source: Source,
    start: float | None = None,
    end: float | None = None,
    native: bool = False,
    sampling_rate: int = SAMPLING_RATE,
) -> np.ndarray:
    """Decode ``source`` from ``start`` to ``end`` seconds to a mono float32 waveform ``(S,)`` at ``sampling_rate`` Hz.

    With ``native`` the recording keeps its own sampling rate.

    Only the span is decoded. Raises :class:`~serkit.errors.AudioError` naming the file when it cannot be decoded, is
    empty, ends before its header says (in formats whose header does), holds non-finite samples, or does not contain
    the span.

    >>> read_audio("clip.flac", start=1.0, end=2.5).shape  # doctest: +SKIP
    (24000,)
    """
    blocks = list(stream_audio(source, start, end, native, sampling_rate))
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def stream_audio(
    source: Source,
    start: float | None = None,
    end: float | None = None,
    native: bool = False,
    sampling_rate: int = SAMPLING_RATE,
) -> Iterator[np.ndarray]:
    """Yield the same samples as :func:`read_audio` in blocks of at most about ten seconds, so memory stays bounded.

    A small file may hold days of silence: whoever has a limit stops asking, which closes the file.
    """
    _check_source(source)
    name = source_name(source)
    if not 0 <= (start or 0) < (math.inf if end is None else end) or end == math.inf:
        raise AudioError(f"{name}: the span {start}-{end} s is not a span: start must be >= 0 and before end")
    rate, blocks = _open_blocks(source, start, end)
    resampler = (
        None if native or rate == sampling_rate else soxr.ResampleStream(rate, sampling_rate, 1, "float32", "HQ")
    )
    total = 0
    with closing(blocks):
        for block in blocks:
            mono = _mix_down(block, name)
            if resampler is not None:
                mono = resampler.resample_chunk(mono)
            total += len(mono)
            if len(mono):
                yield mono
    if resampler is not None:
        mono = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        total += len(mono)
        if len(mono):
            yield mono
    if total == 0:
        raise AudioError(f"{name}: holds no audio" + ("" if start is None else f" at {start} s"))


def read_channels(source: Source) -> tuple[np.ndarray, int]:
    """Decode a whole recording as it is: its channels ``(S, channels)`` as float32, and its sampling rate in Hz.

    Raises ``AudioError`` as :func:`read_audio` does.
    """
    _check_source(source)
    rate, blocks = _open_blocks(source, None, None)
    pieces = list(blocks)
    if not pieces:
        raise AudioError(f"{source_name(source)}: holds no audio")
    samples = np.concatenate(pieces)
    if not np.isfinite(samples).all():
        raise AudioError(f"{source_name(source)}: holds NaN or infinite samples")
    return samples.astype(np.float32, copy=False), rate


def to_mono(waveform: np.ndarray, sampling_rate: int, wanted: int = SAMPLING_RATE) -> np.ndarray:
    """Bring an array ``(S,)`` or ``(S, channels)`` at any rate to mono float32 at the ``wanted`` rate.

    Integers are scaled by their type's range. Raises ``AudioError`` for other shapes, empty or non-finite arrays.
    """
    waveform = np.asarray(waveform)
    if waveform.ndim not in (1, 2) or waveform.size == 0:
        raise AudioError(f"array: a waveform has shape (S,) or (S, channels), got {waveform.shape}")
    if not 0 < sampling_rate < math.inf:
        raise AudioError(f"array: a sampling rate is a positive number of Hz, got {sampling_rate}")
    if waveform.dtype.kind not in "iuf":
        raise AudioError(f"array: a waveform holds integers or floats, got {waveform.dtype}")
    if waveform.ndim == 2 and waveform.shape[1] > waveform.shape[0]:
        raise AudioError(f"array: shape {waveform.shape} has more channels than samples: transpose it to (S, channels)")
    if waveform.dtype.kind in "iu":
        info = np.iinfo(waveform.dtype)
        middle = 0 if waveform.dtype.kind == "i" else (info.max + 1) / 2
        waveform = (waveform.astype(np.float32) - middle) / ((info.max + 1) if middle == 0 else middle)
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which is refused below
        waveform = waveform.astype(np.float32, copy=False)
    mono = _mix_down(waveform.reshape(len(waveform), -1), "array")
    return mono if sampling_rate == wanted else soxr.resample(mono, sampling_rate, wanted, "HQ")


def is_silent(waveform: np.ndarray) -> bool:
    """Tell whether no sample of ``waveform`` reaches :data:`SILENCE_PEAK`."""
    return float(np.abs(waveform).max(initial=0.0)) < SILENCE_PEAK


def source_name(source: Source) -> str:
    """Return how ``source`` is called in messages: its path, or the ``name`` of an open file."""
    return str(source) if isinstance(source, str | Path) else str(getattr(source, "name", "stream"))


def _check_source(source: Source) -> None:
    if not isinstance(source, str | Path):
        return
    path = Path(source)
    if path.is_dir():
        raise AudioError(f"{path}: is a folder, not a recording")
    if not path.exists():
        raise AudioError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise AudioError(f"{path}: is empty (0 bytes)")


def _rewound(source: Source) -> str | BinaryIO:
    if isinstance(source, str | Path):
        return str(source)
    source.seek(0)
    return source


def _check_rate(rate: int | None, name: str) -> None:
    if rate not in RATES:
        raise AudioError(f"{name}: the header says {rate} Hz, but recordings have {RATES[0]} to {RATES[-1]} Hz")


def _mix_down(block: np.ndarray, name: str) -> np.ndarray:
    if len(block) and not (block.min() >= -LOUDEST and block.max() <= LOUDEST):  # NaN is neither
        kind = "samples beyond any scale" if np.isfinite(block).all() else "NaN or infinite samples"
        raise AudioError(f"{name}: holds {kind}")
    mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
    return np.ascontiguousarray(mono, dtype=np.float32)


def _open_sndfile(source: Source) -> soundfile.SoundFile | None:
    """Open with libsndfile; None for what it does not know."""
    try:
        file = soundfile.SoundFile(_rewound(source))
    except (soundfile.LibsndfileError, TypeError):  # TypeError: soundfile takes the ending .raw for no header
        return None
    if file.format == "RAW":  # libsndfile takes anything called .au, .gsm or .vox for samples without a header
        file.close()
        return None
    try:
        _check_rate(file.samplerate, source_name(source))
    except AudioError:
        file.close()
        raise
    return file


def _open_blocks(source: Source, start: float | None, end: float | None) -> tuple[int, Generator[np.ndarray]]:
    """Return the sampling rate, and the span in blocks ``(S, channels)``."""
    file = _open_sndfile(source)
    if file is None:
        return _av_blocks(source, start or 0.0, end)
    return file.samplerate, _sndfile_blocks(file, source_name(source), start, end)


def _sndfile_blocks(
    file: soundfile.SoundFile, name: str, start: float | None, end: float | None
) -> Generator[np.ndarray]:
    with file:
        rate, frames = file.samplerate, file.frames
        first, last = round((start or 0.0) * rate), frames if end is None else round(end * rate)
        # Half a frame of 50 Hz: times written with two decimals may end a few samples late.
        if first >= frames > 0 or last > frames + rate // 100:
            raise AudioError(
                f"{name}: the span {start or 0}-{end} s lies outside the file, which has {frames / rate:.3f} s"
            )
        try:
            size = min(int(BLOCK_SECONDS * rate), BLOCK_VALUES // file.channels)
            if first:
                # In a Vorbis file without a sound block libsndfile's seek ends the process (1.2.2).
                if file.format == "OGG" and len(file.read(1)) == 0:
                    raise AudioError(f"{name}: ends early: {frames / rate:.3f} s of {frames / rate:.3f} s are missing")
                file.seek(first)
            left = min(last, frames) - first
            while left > 0:
                block = file.read(min(left, size), dtype="float32", always_2d=True)
                if len(block) == 0:
                    raise AudioError(f"{name}: ends early: {left / rate:.3f} s of {frames / rate:.3f} s are missing")
                left -= len(block)
                yield block
        except soundfile.LibsndfileError as error:
            raise AudioError(f"{name}: cannot be decoded: {error.error_string}") from error


def _open_av(source: Source):  # noqa: ANN202 - av is imported only where libsndfile gave up
    import av

    name, path = source_name(source), isinstance(source, str | Path)
    allowed = {
        "format_whitelist": AV_FORMATS,
        "codec_whitelist": ",".join(AV_CODECS),
        "protocol_whitelist": "file" if path else "none",
    }
    try:
        opened = f"file:{source}" if path else _rewound(source)
        container = av.open(opened, container_options=allowed, metadata_errors="ignore")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise AudioError(f"{name}: is not a recording in a known format ({type(error).__name__})") from error
    try:
        _check_stream(container, name)
    except AudioError:
        container.close()
        raise
    return container


def _check_stream(container, name: str) -> None:  # noqa: ANN001
    if not container.streams.audio:
        raise AudioError(f"{name}: has no audio track")
    stream = container.streams.audio[0]
    if stream.codec_context is None or stream.codec_context.name not in AV_CODECS:
        raise AudioError(f"{name}: the audio track is in a codec that is not read")
    _check_rate(stream.rate, name)
    if stream.channels < 1:
        raise AudioError(f"{name}: the header says that there are no channels")


def _av_blocks(source: Source, start: float, end: float | None) -> tuple[int, Generator[np.ndarray]]:
    container = _open_av(source)
    stream = container.streams.audio[0]
    rate = stream.rate
    return rate, _decode_av(container, stream, rate, source_name(source), start, end)


def _decode_av(container, stream, rate: int, name: str, start: float, end: float | None) -> Generator[np.ndarray]:  # noqa: ANN001
    import av

    # Interleaved, as PyAV's arrays of more than eight planes end the process (18.1).
    to_float = av.AudioResampler(format="flt", layout=stream.layout, rate=rate)
    origin = float((stream.start_time or 0) * stream.time_base)
    position, last = None, None if end is None else round(end * rate)
    first = round(start * rate)
    with container:
        try:
            if start > 0:
                container.seek(int((start + origin) / stream.time_base), stream=stream, backward=True)
            for frame in container.decode(stream):
                if position is None:  # after a seek the first frame says where the decoder really is
                    position = round((frame.time - origin) * rate) if start > 0 and frame.time is not None else 0
                for piece in to_float.resample(frame):
                    samples = piece.to_ndarray().reshape(-1, piece.layout.nb_channels)
                    low = max(0, first - position)
                    high = len(samples) if last is None else min(len(samples), last - position)
                    position += len(samples)
                    if high > low:
                        yield samples[low:high]
                if last is not None and position >= last:
                    return
        except (av.FFmpegError, OSError, ValueError, ArithmeticError, LookupError) as error:
            raise AudioError(f"{name}: cannot be decoded: {getattr(error, 'strerror', None) or error}") from error
    if last is not None and last > (position or 0) + rate // 10:
        raise AudioError(
            f"{name}: the span {start}-{end} s lies outside the file, which has {(position or 0) / rate:.3f} s"
        )
