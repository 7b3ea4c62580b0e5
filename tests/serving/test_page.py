"""The page in a real browser, at a real server with the packaged model."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serkit.inference.bundle import DEFAULT
from serkit.inference.palette import COLOURS

playwright = pytest.importorskip(
    "playwright.sync_api", reason="the page is tested with playwright: pip install playwright"
)
httpx = pytest.importorskip("httpx", reason="the page is tested beside the API: pip install httpx")
pytest.importorskip("fastapi", reason="the server is an extra: pip install serkit[serve]")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on PATH")

EXAMPLES = Path(__file__).parents[2] / "examples"
KEY = "a-key-of-the-tests"
PATIENCE = 30_000  # ms


@contextmanager
def serving(folder, *options, **environment):
    """``serkit serve`` as its own process on a free port; yields its address and the process."""
    command = [sys.executable, "-m", "serkit.cli", "serve", "--port", "0", "--concurrency", "1", *options]
    log = folder / "server.log"
    with log.open("w") as told:
        process = subprocess.Popen(
            command, stdout=told, stderr=told, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}
        )
    try:
        end = time.monotonic() + 60
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield found[0], process
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server")) as (address, _):
        yield address


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Two speakers, with pauses: a WAV file, and its turns."""
    path, parts, turns = tmp_path_factory.mktemp("recording") / "talk, one.wav", [], []
    noise = np.random.default_rng(0).normal(0, 1e-4, 9600).astype(np.float32)
    for number, name in enumerate(("neutral-islands", "angry-furious", "sad-dumped")):
        samples, rate = soundfile.read(EXAMPLES / f"{name}.flac", dtype="float32")
        start = sum(map(len, parts)) / rate + 0.6
        turns.append(f"{start:.3f},{start + len(samples) / rate:.3f},{'AB'[number % 2]}")
        parts += [noise, samples]
    soundfile.write(path, np.concatenate([*parts, noise]), rate)
    path.with_suffix(".csv").write_text("\n".join(["start,end,speaker", *turns]) + "\n")
    return path


@pytest.fixture(scope="module")
def browser(recording):
    """Chromium with a microphone that hears the recording, again and again."""
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    arguments += ["--disable-sync", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    arguments.append(f"--use-file-for-fake-audio-capture={recording}")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield started
        started.close()


@contextmanager
def opened(browser, address, quiet=True, **options):
    """A fresh page; at the end no request has left the server, and the console tells no error."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    page, asked, errors = context.new_page(), [], []
    page.set_default_timeout(PATIENCE)
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(address)
    yield page
    context.close()
    host = address.removeprefix("http://")
    assert [url for url in asked if not url.startswith((f"{address}/", f"ws://{host}/", f"blob:{address}/"))] == []
    refused = [each for each in errors if "the server responded with a status of" in each]  # told to people as well
    assert errors == refused or not quiet, errors


@pytest.fixture
def page(browser, served):
    with opened(browser, served) as found:
        yield found


def give(page, path):
    """Choose a file, and return the server's answer once it is shown."""
    with page.expect_response(lambda response: "/v1/timeline" in response.url) as answer:
        page.set_input_files("#file", path)
    page.wait_for_selector("#result:not([hidden])")
    return answer.value.json()


def until(page, true):
    """Wait until an expression is true; by questions, as the page's policy forbids the evaluation that waits in it."""
    end = time.monotonic() + PATIENCE / 1000
    while not page.evaluate(true):
        assert time.monotonic() < end, true
        time.sleep(0.05)


def rows(page):
    script = "rows => rows.filter(row => !row.hidden).map(row => [...row.cells].map(cell => cell.innerText.trim()))"
    return page.eval_on_selector_all("#table tbody tr", script)


def clock(seconds):
    ticks = int(seconds * 10 + 0.5)
    return f"{ticks // 600}:{ticks // 10 % 60:02d}.{ticks % 10}"


def hues(page, selector):
    """The numbers of pixels of every opaque colour on a canvas."""
    script = """canvas => {
      const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height), found = {};
      for (let at = 0; at < data.length; at += 4) if (data[at + 3] === 255) {
        const name = "#" + [0, 1, 2].map(each => data[at + each].toString(16).padStart(2, "0")).join("");
        found[name] = (found[name] ?? 0) + 1;
      }
      return found;
    }"""
    return page.eval_on_selector(f"{selector} canvas", script)


def test_a_file_is_shown_as_the_api_tells_it(page, served, recording):
    told = give(page, recording)
    asked = httpx.post(
        f"{served}/v1/timeline", params={"peaks": 1000}, files={"file": recording.open("rb")}, timeout=60
    ).json()
    assert told["segments"] == asked["segments"] and len(told["segments"]) > 2
    assert len(told["peaks"]) >= 1000
    shown = [[*row[:3], row[3].split()[0]] for row in rows(page)]
    percents = [f"{int(100 * each['confidence'] + 0.5)}" for each in told["segments"]]
    assert [row[0] for row in shown] == [clock(each["start"]) for each in told["segments"]]
    assert [row[1] for row in shown] == [clock(each["end"]) for each in told["segments"]]
    assert [row[2].split(" also ")[0] for row in shown] == [each["label"] for each in told["segments"]]
    assert [row[3] for row in shown] == percents
    labels = {each["label"] for each in told["segments"]}
    for where in ("#wave", "#curves"):
        drawn = hues(page, where)
        for label in labels:
            assert drawn.get(COLOURS[label], 0) > 20, (where, label)


def test_classes_can_be_left_out(page, recording):
    told = give(page, recording)
    label = told["segments"][0]["label"]
    before = {where: hues(page, where) for where in ("#wave", "#curves")}
    page.uncheck(f"#filter input[value={label}]")
    left = [each for each in told["segments"] if each["label"] != label]
    assert [row[0] for row in rows(page)] == [clock(each["start"]) for each in left]
    page.wait_for_timeout(100)
    for where, drawn in before.items():
        assert drawn[COLOURS[label]] > 20
        assert hues(page, where).get(COLOURS[label], 0) < 5, where
    for name in told["classes"]:
        page.uncheck(f"#filter input[value={name}]")
    assert page.inner_text("#table") == "No segment has one of the emotions chosen above."
    for name in told["classes"]:
        page.check(f"#filter input[value={name}]")
    assert len(rows(page)) == len(told["segments"])


def test_turns_give_speakers_and_speech_can_be_left_unsought(page, recording):
    page.click("#options summary")
    page.set_input_files("#turns", recording.with_suffix(".csv"))
    told = give(page, recording)
    assert {each["speaker"] for each in told["segments"]} == {"A", "B"}
    assert [row[-1] for row in rows(page)] == [each["speaker"] for each in told["segments"]]
    page.click("#turns-clear")
    page.uncheck("#speech")
    with page.expect_response(lambda response: "/v1/timeline" in response.url) as answer:
        page.click("#again")
    assert "speech=false" in answer.value.url
    page.wait_for_selector("#result:not([hidden])")
    everything = answer.value.json()["segments"]
    assert everything[0]["start"] == 0 and len(rows(page)) == len(everything)


def test_downloads(page, recording):
    told = give(page, recording)
    with page.expect_download() as saved:
        page.click("#save-json")
    assert saved.value.suggested_filename == "talk, one.json"
    kept = json.loads(Path(saved.value.path()).read_text(encoding="utf-8"))
    assert kept == {name: value for name, value in told.items() if name != "peaks"}
    with page.expect_download() as saved:
        page.click("#save-csv")
    table = list(csv.DictReader(io.StringIO(Path(saved.value.path()).read_text(encoding="utf-8"))))
    assert len(table) == len(told["segments"])
    for row, segment in zip(table, told["segments"], strict=True):
        assert float(row["start"]) == segment["start"] and row["label"] == segment["label"]
        assert {name: float(row[f"p_{name}"]) for name in told["classes"]} == segment["probabilities"]


def test_the_recording_plays_from_where_it_is_asked_to(page, recording):
    told = give(page, recording)
    second = told["segments"][1]["start"]
    page.click("#table tbody tr:nth-child(2) button")
    until(page, f"document.querySelector('#audio').currentTime > {second + 0.3}")
    assert page.get_attribute("#play", "aria-label") == "Pause"
    assert page.get_attribute("#table tbody tr:nth-child(2)", "aria-current") == "true"
    page.click("#play")
    page.wait_for_selector("#play[aria-label=Play]")
    box = page.locator("#curves .u-over").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 20)
    now = float(page.eval_on_selector("#audio", "audio => audio.currentTime"))
    assert now == pytest.approx(told["seconds"] / 2, abs=0.2)
    page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 20, steps=4)
    page.mouse.up()
    page.mouse.click(box["x"] + 2, box["y"] + 20)
    now = float(page.eval_on_selector("#audio", "audio => audio.currentTime"))
    assert now == pytest.approx(0.1 * told["seconds"], abs=0.3)


def test_everything_is_done_from_the_keyboard(page, recording):
    page.on("filechooser", lambda chooser: chooser.set_files(recording))
    page.wait_for_selector(".model")
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert outline == "3px", reached[-1]
    assert reached[:6] == ["Skip to the content", "serkit", "About", "theme", "choose", "record"]
    page.focus("#choose")
    page.keyboard.press("Enter")
    page.wait_for_selector("#result:not([hidden])")
    assert page.evaluate("document.activeElement.id") == "result-title"
    page.focus("#seek")
    for key, seconds in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("Home", 0)):
        page.keyboard.press(key)
        assert float(page.get_attribute("#seek", "aria-valuenow")) == seconds
    page.keyboard.press("PageUp")
    length = float(page.get_attribute("#seek", "aria-valuemax"))
    assert float(page.get_attribute("#seek", "aria-valuenow")) == pytest.approx(length / 10, abs=0.1)
    page.keyboard.press("Space")
    page.wait_for_selector("#play[aria-label=Pause]")
    page.keyboard.press("Space")
    page.wait_for_selector("#play[aria-label=Play]")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "table"
    page.keyboard.press("Tab")
    assert re.match(r"Play from 0:\d\d\.\d", page.evaluate("document.activeElement.getAttribute('aria-label')"))


def test_light_and_dark(browser, served):
    paper = "getComputedStyle(document.body).backgroundColor"
    with opened(browser, served, color_scheme="dark") as page:
        assert page.evaluate(paper) == "rgb(18, 21, 25)"
        assert page.get_attribute("#theme", "aria-pressed") == "true"
        page.click("#theme")
        assert page.evaluate(paper) == "rgb(247, 246, 242)"
        page.reload()
        assert page.evaluate(paper) == "rgb(247, 246, 242)"
    with opened(browser, served, color_scheme="light") as page:
        assert page.evaluate(paper) == "rgb(247, 246, 242)"
        page.emulate_media(color_scheme="dark")
        until(page, f"{paper} === 'rgb(18, 21, 25)'")


def test_a_phone_needs_no_sideways_scrolling(browser, served, recording):
    wide = "document.documentElement.scrollWidth"
    small = "Array.from(document.querySelectorAll('button, select, summary, label:has(input)')).filter(each => "
    small += "each.offsetParent && (each.offsetHeight < 24 || each.offsetWidth < 24)).map(each => each.outerHTML)"
    with opened(browser, served, viewport={"width": 360, "height": 740}) as page:
        assert page.evaluate(wide) == 360
        give(page, recording)
        assert page.evaluate(wide) == 360
        assert page.evaluate("document.querySelector('#table').scrollWidth") <= page.evaluate(
            "document.querySelector('#table').clientWidth"
        )
        assert page.evaluate(small) == []


@pytest.mark.parametrize(
    ("name", "content", "hint"),
    [("notes.txt", b"no sound in here\n" * 40, "notes.txt"), ("empty.wav", b"", "empty.wav is empty")],
)
def test_what_is_no_recording_is_told(page, name, content, hint):
    page.set_input_files("#file", {"name": name, "mimeType": "application/octet-stream", "buffer": content})
    line = page.wait_for_selector("#problem:not([hidden])")
    assert hint in line.inner_text() and "\n" not in line.inner_text()
    assert page.get_attribute("#problem", "role") == "alert"
    assert page.is_hidden("#result") and page.is_hidden("#work")


def test_sending_can_be_cancelled(page, recording):
    page.route("**/v1/timeline*", lambda route: None)  # never answered
    page.set_input_files("#file", recording)
    page.click("#cancel")
    page.wait_for_selector("#work", state="hidden")
    assert page.is_hidden("#problem") and page.is_hidden("#result")


def test_what_is_said_is_shown_while_it_is_said(page):
    page.click("#record")
    page.wait_for_selector("#now-label:not([data-quiet])")
    label = page.inner_text("#now-label").lower()
    assert label in COLOURS
    assert page.get_attribute("#now-told", "aria-live") == "polite" and page.inner_text("#now-told").lower() in COLOURS
    shares = page.eval_on_selector_all("#now-bars [role=meter]", "all => all.map(each => +each.ariaValueNow)")
    assert sum(shares) == pytest.approx(100, abs=4)
    page.wait_for_selector("#live-segments li")
    assert int(page.get_attribute("#level", "aria-valuenow")) >= 0
    page.click("#stop")
    page.wait_for_selector("#result:not([hidden])")
    assert page.is_hidden("#problem")
    heard = page.inner_text("#table tbody tr:first-child")
    with page.expect_download() as saved:
        page.click("#save-wav")
    samples, rate = soundfile.read(saved.value.path())
    assert samples.ndim == 1 and len(samples) / rate > 3 and np.abs(samples).max() > 0.05
    assert re.search(r"\d:\d\d\.\d\s+\d:\d\d\.\d\s+\w+\s+\d+ %", heard)
    with page.expect_response(lambda response: "/v1/timeline" in response.url) as answer:
        page.click("#again")
    assert answer.value.json()["seconds"] == pytest.approx(len(samples) / rate, abs=0.01)


def test_a_fast_sound_card_is_slowed_down(page):
    fast = "class extends AudioContext { constructor() { super({sampleRate: 96000}); } }"
    page.evaluate(f"() => {{ window.AudioContext = {fast}; }}")
    with page.expect_websocket(lambda socket: "sampling_rate=48000" in socket.url):
        page.click("#record")
    page.wait_for_selector("#now-label:not([data-quiet])")
    page.click("#stop")
    page.wait_for_selector("#result:not([hidden])")
    assert page.is_hidden("#problem")


@pytest.mark.parametrize(
    ("failure", "hint"), [("NotAllowedError", "is not allowed here"), ("NotFoundError", "No microphone was found")]
)
def test_a_microphone_that_cannot_be_had_is_told(page, failure, hint):
    refuse = f"() => Promise.reject(new DOMException('', '{failure}'))"
    page.evaluate(f"() => {{ navigator.mediaDevices.getUserMedia = {refuse}; }}")
    page.click("#record")
    assert hint in page.wait_for_selector("#problem:not([hidden])").inner_text()
    assert page.is_enabled("#record")


def test_keys_limits_models_and_a_server_that_goes(browser, tmp_path, recording):
    models = ("--model", f"one={DEFAULT}", "--model", f"two={DEFAULT}")
    with (
        serving(tmp_path, "--max-megabytes", "0.9", *models, SERKIT_API_KEY=KEY) as (address, process),
        opened(browser, address, quiet=False) as page,
    ):
        page.wait_for_selector("#key-form:not([hidden])")
        for key, known in (("wrong", False), (KEY, True)):
            page.fill("#key", key)
            page.click("#key-form button")
            page.wait_for_selector(".model" if known else "#problem:not([hidden])")
            assert page.is_hidden("#key-form") == known
        page.wait_for_selector("#problem", state="hidden")
        assert (
            page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])").count(KEY) == 0
        )
        big = {"name": "big.wav", "mimeType": "audio/wav", "buffer": bytes(1_000_000)}
        page.set_input_files("#file", big)
        line = page.wait_for_selector("#problem:not([hidden])").inner_text()
        assert "big.wav has 1.0 MB" in line and "at most 900 kB" in line
        page.click("#options summary")
        page.select_option("#model", "two")
        with page.expect_request(lambda request: "model=two" in request.url):
            give(page, recording)
        with page.expect_websocket(lambda socket: "model=two" in socket.url):
            page.click("#record")
        page.wait_for_selector("#now-label:not([data-quiet])")
        process.kill()
        process.wait(10)
        line = page.wait_for_selector("#problem:not([hidden])").inner_text()
        assert "connection to the server was lost" in line
        page.wait_for_selector("#result:not([hidden])")
        assert page.inner_text("#result-title").startswith("recording ") and page.is_enabled("#play")
        page.set_input_files("#file", recording)
        until(page, "document.querySelector('#problem').textContent.includes('does not answer')")
