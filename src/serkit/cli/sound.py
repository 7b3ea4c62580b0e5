"""Where ``serkit listen`` hears from: a microphone, raw sound on stdin, or a file; and how it is stopped."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, Full, Queue
from types import FrameType
from typing import Any

import numpy as np

from serkit.data.audio import SAMPLING_RATE, stream_audio
from serkit.data.pcm import PcmDecoder, check_rate
from serkit.errors import InputError, SerkitError, missing_extra

BLOCK_SECONDS = 0.1
HELD_SECONDS = 30.0
"""A microphone does not wait: sound beyond this much that is not judged yet is lost, and that is told."""
READ_BYTES = 65_536


@dataclass(frozen=True)
class Sound:
    """What is heard: ``blocks`` of float32 ``(S,)`` at ``sampling_rate`` Hz.

    ``waits``: whether the sound can wait until there is room for it, as that of a file can and a microphone's cannot.
    """

    name: str
    sampling_rate: int
    blocks: Iterator[np.ndarray]
    waits: bool = True


def open_microphone(device: str | None = None, sampling_rate: int | None = None) -> Sound:
    """Return the sound of an input ``device`` (its number, or a part of its name; None: the system's choice).

    Without a ``sampling_rate`` it is 16 kHz where the device can do that, otherwise the device's own. Raises
    ``InputError`` where sounddevice or PortAudio is missing, or the device.
    """
    sounddevice = load_sounddevice()
    chosen: int | str | None = int(device) if device is not None and device.isdigit() else device
    try:
        known = sounddevice.query_devices(chosen, "input")
        rate = sampling_rate or _choose_rate(sounddevice, known)
        size = round(rate * BLOCK_SECONDS)
        stream = sounddevice.RawInputStream(rate, size, chosen, 1, "int16")
    except (sounddevice.PortAudioError, ValueError) as error:
        raise InputError(f"microphone {device or '(default)'}: {_reason(error)}: see --list-devices") from error
    return Sound(str(known["name"]), rate, _read_microphone(stream, size), waits=False)


def _choose_rate(sounddevice: Any, known: Any) -> int:
    try:
        sounddevice.check_input_settings(known["index"], 1, "int16", samplerate=SAMPLING_RATE)
    except (sounddevice.PortAudioError, ValueError):
        return round(known["default_samplerate"])
    return SAMPLING_RATE


def _read_microphone(stream: Any, size: int) -> Iterator[np.ndarray]:
    decoder = PcmDecoder()
    with stream:
        while True:
            data, lost = stream.read(size)
            if lost:
                print("serkit: the microphone was faster than this machine: some sound is lost", file=sys.stderr)
            yield decoder.push(bytes(data))


def list_microphones() -> list[str]:
    """Return a line for every input device: number, name, channels and sampling rate. Raises ``InputError``."""
    sounddevice = load_sounddevice()
    try:
        devices = sounddevice.query_devices()
    except sounddevice.PortAudioError as error:
        raise InputError(f"microphones: {_reason(error)}") from error
    return [
        f"{item['index']:>3}  {item['name']} ({item['max_input_channels']} channels, {item['default_samplerate']:g} Hz)"
        for item in devices
        if item["max_input_channels"] > 0
    ]


def load_sounddevice() -> Any:
    """Return the module that knows microphones; raises ``InputError`` saying what to install."""
    try:
        import sounddevice  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ModuleNotFoundError as error:
        raise missing_extra("sounddevice", "live") from error
    except OSError as error:  # what it says where the library of that name is missing
        remedy = "install it (Debian and Ubuntu: apt install libportaudio2)"
        raise InputError(f"microphone: {error}: {remedy}, or give a file or - for stdin") from error
    return sounddevice


def _reason(error: Exception) -> str:
    """Return the first line of what PortAudio says: its errors come with numbers, and some with a list of devices."""
    said = str(error.args[0] if error.args else error).strip()
    return said.splitlines()[0].rstrip(".") if said else type(error).__name__


def open_stdin(sampling_rate: int) -> Sound:
    """Return mono 16-bit little-endian PCM at ``sampling_rate`` from stdin, as soon as it comes."""
    if sys.stdin.isatty():
        raise InputError("-: stdin is a terminal: pipe raw 16-bit mono sound into it, or name a file")
    return Sound("stdin", check_rate(sampling_rate), _read_stdin(sys.stdin.fileno()))


def _read_stdin(number: int) -> Iterator[np.ndarray]:
    # Past the buffer of sys.stdin: a thread that waits inside it keeps the interpreter from ending.
    decoder = PcmDecoder()
    while data := os.read(number, READ_BYTES):
        yield decoder.push(data)
    if decoder.waiting:
        print("serkit: stdin ended within a sample: is it 16-bit mono?", file=sys.stderr)


def open_file(path: str, sampling_rate: int, realtime: bool) -> Sound:
    """Return a recording, brought to ``sampling_rate``; with ``realtime`` as fast as it would be played."""
    blocks = stream_audio(path, sampling_rate=sampling_rate)
    return Sound(path, sampling_rate, _pace(blocks, sampling_rate) if realtime else blocks)


def _pace(blocks: Iterator[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """Yield tenths of a second, each when its last sample would have been heard."""
    size, position, begun = round(rate * BLOCK_SECONDS), 0, time.monotonic()
    for block in blocks:
        for start in range(0, len(block), size):
            piece = block[start : start + size]
            position += len(piece)
            time.sleep(max(0.0, begun + position / rate - time.monotonic()))
            yield piece


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C and SIGTERM set; the second time they do what they did before."""
    stopped, before = threading.Event(), dict[int, Any]()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, stop)
    try:
        yield stopped
    finally:
        restore()


def each_block(sound: Sound, stopped: threading.Event) -> Iterator[np.ndarray]:
    """Yield the blocks of ``sound``, which a thread reads, until it ends, or what was heard when ``stopped`` was set.

    What is read and not yet taken is bounded. Raises what reading raised; a microphone that got too far ahead raises
    nothing: how much of it is lost is told on stderr at the end.
    """
    queue: Queue[np.ndarray | Exception | None] = Queue(round(HELD_SECONDS / BLOCK_SECONDS) if not sound.waits else 4)
    done, lost = threading.Event(), [0]

    def put(item: np.ndarray | Exception | None, waits: bool) -> bool:
        """Put ``item`` in the queue; tells whether that was possible."""
        while not done.is_set():
            try:
                queue.put(item, timeout=0.1 if waits else None, block=waits)
                return True
            except Full:
                if not waits:
                    return False
        return False

    reader = threading.Thread(target=_read, args=(sound, put, done, lost), daemon=True, name="listen")
    reader.start()
    try:
        while True:
            if stopped.is_set():
                done.set()
            try:
                item = queue.get(timeout=0.1)
            except Empty:
                if done.is_set():
                    return
                continue
            if item is None:
                return
            if isinstance(item, Exception):
                raise _told(item)
            yield item
    finally:
        done.set()
        reader.join(1.0)
        if lost[0]:
            seconds = lost[0] / sound.sampling_rate
            print(f"serkit: judging fell behind: {seconds:.1f} s of sound are lost", file=sys.stderr)


def _read(sound: Sound, put: Callable[[Any, bool], bool], done: threading.Event, lost: list[int]) -> None:
    try:
        for block in sound.blocks:
            if not put(block, sound.waits):
                lost[0] += len(block)
            if done.is_set():
                break
        put(None, True)
    except Exception as error:  # told by the thread that waits for the sound
        put(error, True)


def _told(error: Exception) -> Exception:
    """Return PortAudio's errors as ours, and others as they are."""
    if type(error).__name__ == "PortAudioError":
        return SerkitError(f"microphone: {_reason(error)}")
    return error
