"""``serkit listen``: stdin, files and a microphone that is made up; what a terminal shows, and how it ends."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from serkit.cli.listen import LiveTeller, bar, clock, describe
from serkit.cli.sound import Sound, each_block, open_file
from serkit.data.audio import read_audio
from serkit.data.pcm import PcmDecoder, check_rate
from serkit.errors import InputError
from serkit.inference.predictor import Predictor

CLIP = Path(__file__).parents[2] / "examples" / "sad-dumped.flac"
FIELDS = ["utterance", "start_ms", "end_ms", "label", "probabilities"]


@pytest.fixture(scope="module")
def pcm():
    """An example and a pause, 16-bit at 16 kHz."""
    return (np.concatenate([read_audio(CLIP), np.zeros(16_000, np.float32)]) * 32_767).astype("<i2")


@pytest.fixture(scope="module")
def expected(pcm):
    """The segments of its timeline."""
    found = [each.as_dict() for each in Predictor().timeline(pcm).segments]
    return [
        [
            each["utterance"],
            round(1000 * each["start"]),
            round(1000 * each["end"]),
            each["label"],
            each["probabilities"],
        ]
        for each in found
    ]


def segments(out):
    """The segments among lines of JSON."""
    events = [json.loads(line) for line in out.splitlines()]
    return [[event[name] for name in FIELDS] for event in events if event["type"] == "segment"]


def is_one_line(result, *hints):
    return (
        result.code == 2
        and result.err.startswith("serkit: ")
        and result.err.count("\n") == 1
        and all(hint in result.err for hint in hints)
    )


@pytest.fixture
def pipe(monkeypatch):
    """``pipe(data, size)`` makes stdin a pipe that ``data`` comes through in pieces of ``size`` bytes."""

    def feed(data, size):
        out, into = os.pipe()

        def write():
            with os.fdopen(into, "wb", buffering=0) as file:
                for at in range(0, len(data), size):
                    file.write(data[at : at + size])

        threading.Thread(target=write, daemon=True).start()
        monkeypatch.setattr(sys, "stdin", os.fdopen(out, "r"))

    return feed


class Microphone:
    """A sounddevice of its own: a module with one input device that gives ``pcm`` once, then fails as if unplugged."""

    def __init__(self, pcm, rates=(16_000,), devices=True, lost=False):
        self.pcm, self.rates, self.devices, self.lost, self.opened = pcm, rates, devices, lost, []
        self.module = ModuleType("sounddevice")
        self.module.PortAudioError = type("PortAudioError", (Exception,), {})
        self.module.query_devices = self.query
        self.module.check_input_settings = self.check
        self.module.RawInputStream = self.open

    def query(self, device=None, kind=None):
        known = {"index": 1, "name": "Made Up", "max_input_channels": 1, "default_samplerate": float(self.rates[-1])}
        if kind is None:
            speakers = {**known, "index": 0, "name": "Speakers", "max_input_channels": 0}
            return [speakers, known] if self.devices else []
        if not self.devices:
            raise self.module.PortAudioError("Error querying device -1")
        if isinstance(device, str) and device not in known["name"]:
            raise ValueError(f"No input device matching {device!r}")
        return known

    def check(self, device, channels, dtype, samplerate):
        if samplerate not in self.rates:
            raise self.module.PortAudioError("Invalid sample rate [PaErrorCode -9997]", -9997)

    def open(self, samplerate, blocksize, device, channels, dtype):
        self.check(device, channels, dtype, samplerate)
        self.opened.append((samplerate, device, channels, dtype))
        return Recording(self)


class Recording:
    """An open input stream."""

    def __init__(self, microphone):
        self.microphone, self.at = microphone, 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.microphone.opened.append("closed")

    def read(self, frames):
        if self.at >= len(self.microphone.pcm):
            if self.microphone.lost:
                raise self.microphone.module.PortAudioError("Device unavailable [PaErrorCode -9985]", -9985)
            os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C
            time.sleep(0.5)
        data = self.microphone.pcm[self.at : self.at + frames]
        self.at += frames
        return data.tobytes(), False


@pytest.fixture
def plug(monkeypatch):
    """``plug(pcm, ...)`` plugs a microphone in."""

    def plug(*arguments, **options):
        microphone = Microphone(*arguments, **options)
        monkeypatch.setitem(sys.modules, "sounddevice", microphone.module)
        return microphone

    return plug


@pytest.mark.parametrize("size", [999, 65_536])
def test_stdin(serkit, pipe, pcm, expected, size):
    pipe(pcm.tobytes(), size)
    result = serkit("listen", "-", "--format", "json")
    assert result.code == 0 and segments(result.out) == expected != []
    kinds = [json.loads(line)["type"] for line in result.out.splitlines()]
    assert {"start", "update", "segment", "end"} == set(kinds)


def test_stdin_at_another_rate_with_options(serkit, pipe, pcm):
    pipe(pcm.repeat(3).tobytes(), 10_000)  # a poor way to 48 kHz, but one
    options = ["--sampling-rate", 48_000, "--labels", "sad, angry", "--window", 2, "--hop", 0.5]
    result = serkit("listen", "-", "--format", "json", *options)
    assert result.code == 0
    events = [json.loads(line) for line in result.out.splitlines()]
    assert {event["label"] for event in events if "label" in event} <= {"sad", "angry"}
    updates = [event["end_ms"] for event in events if event["type"] == "update"]
    assert 500 in np.diff(updates) and 1_000 not in np.diff(updates)


def test_stdin_that_ends_within_a_sample(serkit, pipe, pcm, expected):
    pipe(pcm.tobytes() + b"\x01", 4_096)
    result = serkit("listen", "-", "--format", "json")
    assert result.code == 0 and segments(result.out) == expected
    assert "16-bit mono" in result.err


def test_nothing_on_stdin(serkit, pipe):
    pipe(b"", 1)
    result = serkit("listen", "-")
    assert (result.code, result.out) == (0, "")


def test_a_file_as_lines_for_people(serkit):
    found = Predictor().timeline(CLIP).segments
    result = serkit("listen", CLIP)
    assert result.code == 0 and len(result.out.splitlines()) == len(found) > 0
    for line, segment in zip(result.out.splitlines(), found, strict=True):
        assert segment.label in line and f"{segment.confidence:.2f}" in line and clock(1000 * segment.start) in line


def test_realtime_is_the_pace_of_the_recording(tmp_path, write_wav):
    path = write_wav(tmp_path / "tone.wav", seconds=0.5)
    began, times, samples = time.monotonic(), [], 0
    for block in open_file(str(path), 16_000, True).blocks:
        times.append(time.monotonic() - began)
        samples += len(block)
        assert times[-1] >= samples / 16_000 - 0.005  # never before its last sample would have been heard
    assert samples == 8_000 and len(times) == 5


def test_a_microphone(serkit, plug, pcm, expected):
    before = signal.getsignal(signal.SIGINT)
    microphone = plug(pcm)
    result = serkit("listen", "--format", "json")
    assert result.code == 0 and segments(result.out) == expected
    assert microphone.opened == [(16_000, None, 1, "int16"), "closed"]
    assert "Made Up, 16000 Hz" in result.err and signal.getsignal(signal.SIGINT) == before


def test_ctrl_c_within_an_utterance_tells_its_segment(serkit, plug, pcm):
    plug(pcm[:24_000])
    found = segments(serkit("listen", "--format", "json").out)
    assert len(found) == 1 and 1_400 <= found[0][2] <= 1_500


def test_a_microphone_that_knows_other_rates_only(serkit, plug, pcm):
    microphone = plug(pcm.repeat(3), rates=(44_100, 48_000))
    assert serkit("listen", "--device", 1).code == 0
    assert microphone.opened[0] == (48_000, 1, 1, "int16")
    assert is_one_line(serkit("listen", "--sampling-rate", 16_000), "Invalid sample rate", "--list-devices")
    assert serkit("listen", "--sampling-rate", 44_100, "--device", "Made").code == 0
    assert microphone.opened[2][:2] == (44_100, "Made")


def test_a_microphone_that_is_unplugged(serkit, plug, pcm):
    plug(pcm, lost=True)
    result = serkit("listen")
    assert result.code == 1 and "Device unavailable" in result.err and "Traceback" not in result.err


def test_a_microphone_faster_than_the_judging_loses_sound_and_tells(capsys):
    def blocks():
        for number in range(400):
            yield np.full(1_600, number, np.float32)

    stopped, taken = threading.Event(), []
    for block in each_block(Sound("made up", 16_000, blocks(), waits=False), stopped):
        if not taken:
            time.sleep(0.3)  # all that comes meanwhile is more than is kept
            stopped.set()
        taken.append(int(block[0]))
    assert 300 <= len(taken) <= 302 and taken == list(range(len(taken)))
    lost = float(re.search(r"([\d.]+) s of sound are lost", capsys.readouterr().err).group(1))
    assert 9.0 <= lost <= 10.0


def test_a_file_faster_than_the_judging_waits():
    made = []

    def blocks():
        for number in range(100):
            made.append(number)
            yield np.zeros(1, np.float32)

    for number, _ in enumerate(each_block(Sound("made up", 16_000, blocks()), threading.Event())):
        assert len(made) <= number + 7
        time.sleep(0.001)
    assert number == 99


def test_devices_are_listed(serkit, plug):
    plug(np.zeros(0, "<i2"))
    result = serkit("listen", "--list-devices")
    assert result.code == 0 and result.out == "  1  Made Up (1 channels, 16000 Hz)\n"


def test_what_is_missing_is_told_in_a_line(serkit, plug, monkeypatch, tmp_path):
    plug(np.zeros(0, "<i2"), devices=False)
    assert is_one_line(serkit("listen"), "microphone (default)", "Error querying device -1")
    plug(np.zeros(0, "<i2"))
    assert is_one_line(serkit("listen", "--device", "Other"), "microphone Other", "No input device matching")
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert is_one_line(serkit("listen"), "serkit[live]")
    assert is_one_line(serkit("listen", "--list-devices"), "serkit[live]")
    folder = tmp_path / "sounddevice.py"
    folder.write_text('raise OSError("PortAudio library not found")')
    monkeypatch.delitem(sys.modules, "sounddevice")
    monkeypatch.syspath_prepend(tmp_path)
    assert is_one_line(serkit("listen"), "PortAudio library not found", "libportaudio2")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["-", "--realtime"], "--realtime"),
        (["--realtime"], "--realtime"),
        ([CLIP, "--device", "1"], "--device"),
        ([CLIP, "--sampling-rate", "8000"], "--sampling-rate"),
        (["-", "--sampling-rate", "96000"], "8000 to 48000"),
        (["--sampling-rate", "1"], "8000 to 48000"),
        (["nowhere.wav"], "no such file"),
        ([CLIP, "--window", "60"], "window"),
        ([CLIP, "--labels", "angy"], "angry"),
        ([CLIP, "--model", "nowhere"], "nowhere"),
    ],
)
def test_wrong_options(serkit, pipe, arguments, hint):
    pipe(b"", 1)
    result = serkit("listen", *arguments)
    assert result.code == 2 and hint in result.err and "Traceback" not in result.err
    assert result.err.splitlines()[-1].startswith("serkit: ")


def run(*arguments, **options):
    """Start the command line as a process."""
    command = [sys.executable, "-m", "serkit.cli", "listen", *map(str, arguments)]
    return subprocess.Popen(command, **options)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_waits_for_sound(pcm, number):
    child = run("-", "--format", "json", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        child.stdin.write(pcm[:30_000].tobytes())
        child.stdin.flush()
        lines = [child.stdout.readline() for _ in range(2)]  # they come while stdin is still open
        assert [json.loads(line)["type"] for line in lines] == ["start", "update"]
        child.send_signal(number)
        out, err = child.communicate(timeout=20)
    finally:
        child.kill()
    assert child.returncode == 0 and len(segments(out.decode())) == 1
    assert b"Traceback" not in err and b"Fatal" not in err


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_shows_a_line_that_moves():
    import pty

    outer, inner = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
    child = run(CLIP, stdin=subprocess.DEVNULL, stdout=inner, stderr=subprocess.DEVNULL, env=environment)
    os.close(inner)
    shown = b""
    try:
        while piece := os.read(outer, 65_536):
            shown += piece
    except OSError:  # how the end of a pseudo-terminal looks on Linux
        pass
    finally:
        os.close(outer)
    assert child.wait(20) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    predictor = Predictor()
    for each in predictor.timeline(CLIP).segments:
        assert re.search(rf"{re.escape(clock(1000 * each.start))} - .*{each.label} +{each.confidence:.2f}", text)
    assert "█" in text and all(name in text for name in predictor.card.classes)
    assert shown.count(b"\x1b[2K") > 2  # the line is drawn again


def test_the_line_fits_a_narrow_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    file = io.StringIO()
    file.isatty = lambda: True
    probabilities = {"angry": 0.7, "happy": 0.2, "neutral": 0.05, "sad": 0.05}
    event = {"utterance": 1, "start_ms": 0, "end_ms": 61_230, "label": "angry", "probabilities": probabilities}
    with LiveTeller(file, probabilities) as teller:
        for kind in ("start", "update", "end"):
            teller.tell({**event, "type": kind, "confidence": 0.7})
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue()).replace("\r", "\n").split("\n")
    assert max(len(line) for line in lines) <= 40
    assert any("1:01.2  angry" in line for line in lines)


def test_small_things():
    assert (clock(0), clock(61_250), clock(3_600_000), clock(59_960)) == ("0:00.0", "1:01.2", "60:00.0", "1:00.0")
    assert [bar(value, 2) for value in (0, 0.26, 0.5, 1)] == ["  ", "▌ ", "█ ", "██"]
    told = describe(
        {"start_ms": 0, "end_ms": 900, "label": "a", "confidence": 1.0, "probabilities": {"a": 1.0, "b": 0.0}}
    )
    assert told.split() == ["0:00.0", "-", "0:00.9", "a", "1.00"]
    assert check_rate(8_000) == 8_000
    with pytest.raises(InputError, match="48000"):
        check_rate(48_001)


def test_pcm_in_pieces_is_pcm_as_a_whole():
    rng = np.random.default_rng(0)
    samples = rng.integers(-32_768, 32_768, 1_000).astype("<i2")
    data, decoder, at, pieces = samples.tobytes(), PcmDecoder(), 0, []
    while at < len(data):
        size = int(rng.integers(0, 8))
        pieces.append(decoder.push(data[at : at + size]))
        at += size
    found = np.concatenate(pieces)
    assert decoder.waiting == 0 and found.dtype == np.float32
    assert np.array_equal(found, samples.astype(np.float32) / 32_768)
    assert len(decoder.push(b"\x01")) == 0 and decoder.waiting == 1
