"""What the server answers: the same as offline, and a clear error for everything else."""

from __future__ import annotations

import io
import json
import logging
import tempfile
import threading
import time
from itertools import pairwise

import av
import numpy as np
import pytest

from serkit.data.audio import AudioInfo
from serkit.data.turns import Turn
from serkit.errors import InputError
from serkit.inference.bundle import Bundle
from serkit.inference.cuts import TimelineOptions
from serkit.serving import decoding
from serkit.serving.app import create_app
from serkit.serving.doors import JsonLines
from serkit.serving.problems import STATUS
from serkit.serving.settings import Settings


def error_of(response):
    """Code and message of an error, whose status is that of the code."""
    assert set(response.json()) == {"error"}, response.text
    told = response.json()["error"]
    assert set(told) == {"code", "message"}
    assert response.status_code == STATUS[told["code"]]
    assert told["message"] and "\n" not in told["message"]
    return told["code"], told["message"]


def as_json(values):
    return json.loads(json.dumps(values))


@pytest.fixture(scope="module")
def long_clip(make_speech, encode):
    """7 s: several windows of the tiny bundle, and utterances with a pause between them."""
    parts = [make_speech(3.0, seed=1), np.zeros(16_000, np.float32), make_speech(3.0, seed=2)]
    return encode(np.concatenate(parts))


@pytest.mark.parametrize(
    "options",
    [{}, {"labels": ["happy", "sad"]}, {"embedding": True}, {"segment": 0.5}, {"segment": 1.0, "embedding": True}],
    ids=str,
)
def test_predictions_are_those_of_the_predictor(client, predictor, long_clip, options):
    query = {
        name: ",".join(value) if isinstance(value, list) else str(value).lower() for name, value in options.items()
    }
    wanted = predictor.predict(io.BytesIO(long_clip), id="a.wav", **options).as_dict() | {"thresholds": {}}
    sent = client.post("/v1/predict", files={"file": ("a.wav", long_clip)}, params=query)
    assert sent.json() == as_json(wanted)
    raw = client.post("/v1/predict", content=long_clip, params=query)
    assert raw.json() == as_json(wanted | {"id": "recording"})


def test_predictions_are_those_of_the_command_line(client, serkit, bundle_folder, tmp_path, long_clip):
    path = tmp_path / "a.wav"
    path.write_bytes(long_clip)
    ran = serkit("predict", path, "--model", bundle_folder, "--format", "json", "--segment", "0.5")
    assert ran.code == 0, ran.err
    sent = client.post("/v1/predict?segment=0.5", files={"file": ("a.wav", long_clip)}).json()
    assert sent.pop("thresholds") == {}
    assert sent | {"id": str(path)} == json.loads(ran.out)


@pytest.mark.parametrize("options", [{}, {"window": 1.0, "hop": 0.25}, {"speech": False}], ids=str)
def test_timelines_are_those_of_the_predictor(client, predictor, long_clip, options):
    query = {name: str(value).lower() for name, value in options.items()}
    wanted = predictor.timeline(io.BytesIO(long_clip), options=TimelineOptions(**options), id="a.wav")
    sent = client.post("/v1/timeline", files={"file": ("a.wav", long_clip)}, params=query).json()
    assert sent == as_json(wanted.as_dict() | {"thresholds": {}})
    assert sent["segments"] or "speech" not in options
    query["curve"] = "false"
    bare = client.post("/v1/timeline", files={"file": ("a.wav", long_clip)}, params=query).json()
    assert bare == {name: value for name, value in sent.items() if name != "curve"}


def test_turns_make_a_timeline_of_each_speaker(client, predictor, long_clip):
    rttm = "SPEAKER a 1 0.0 3.0 <NA> <NA> anna <NA>\nSPEAKER a 1 4.0 3.0 <NA> <NA> ben <NA>\n"
    turns = (Turn(0.0, 3.0, "anna"), Turn(4.0, 7.0, "ben"))
    wanted = predictor.timeline(
        io.BytesIO(long_clip), turns=turns, id="a.wav", options=TimelineOptions(speech=False), labels=["sad", "angry"]
    ).as_dict()
    assert {segment["speaker"] for segment in wanted["segments"]} == {"anna", "ben"}
    query = {"speech": "false", "labels": "sad,angry"}
    for text in (rttm, "start,end,speaker\n0,3,anna\n4,7,ben\n", rttm + "SPEAKER b 1 0 1 <NA> <NA> eve <NA>\n"):
        files = {"file": ("a.wav", long_clip), "turns": ("turns.txt", text)}
        assert client.post("/v1/timeline", files=files, params=query).json() == as_json(wanted | {"thresholds": {}})
    files = {"file": ("c.wav", long_clip), "turns": ("who.rttm", rttm + "SPEAKER b 1 0 1 <NA> <NA> eve <NA>\n")}
    code, message = error_of(client.post("/v1/timeline", files=files))
    assert code == "bad_option" and "who.rttm is of 2 recordings" in message
    files = {"file": ("c.wav", long_clip), "turns": ("who.rttm", "start,end\n1,2\n")}
    assert "who.rttm:1" in error_of(client.post("/v1/timeline", files=files))[1]
    files = {"file": ("c.wav", long_clip), "turns": ("who.csv", "start,end,speaker\n")}
    assert "has no turns" in error_of(client.post("/v1/timeline", files=files))[1]
    files = {"file": ("c.wav", long_clip), "turns": ("who.rttm", b"\xff\xfe\x00")}
    assert error_of(client.post("/v1/timeline", files=files))[0] == "bad_option"


def test_peaks_are_the_largest_samples_of_equal_parts(client, make_speech, encode):
    waveform = make_speech(2.0, seed=3)
    sent = client.post("/v1/timeline?peaks=7", content=encode(waveform, subtype="FLOAT")).json()["peaks"]
    edges = np.arange(8) * len(waveform) / 7
    wanted = [np.abs(waveform[int(low) : int(np.ceil(high))]).max() for low, high in pairwise(edges)]
    assert np.allclose(sent, wanted, atol=1e-4)
    assert len(client.post("/v1/timeline?peaks=10000", content=encode(waveform[:8000])).json()["peaks"]) == 10_000


@pytest.mark.parametrize("kind", ["flac", "ogg", "mp3", "m4a", "96 kHz, 8 channels", "webm"])
def test_formats(client, predictor, make_speech, kind, encode):
    waveform = make_speech(1.5, seed=2)
    if kind in ("m4a", "webm"):
        data = encode_av(waveform, *(("mp4", "aac", 44_100) if kind == "m4a" else ("webm", "libopus", 48_000)))
    elif kind.startswith("96"):
        data = encode(np.repeat(np.repeat(waveform, 6)[:, None], 8, axis=1), 96_000, subtype="PCM_24")
    else:
        data = encode(waveform, format=kind)
    wanted = predictor.predict(io.BytesIO(data), id="recording").as_dict()
    assert client.post("/v1/predict", content=data).json() == as_json(wanted | {"thresholds": {}})


def encode_av(waveform, format, codec, rate):
    """The bytes of a recording in a container that libsndfile cannot read."""
    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        resampler = av.AudioResampler(stream.format, stream.layout, rate, stream.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("segmet=1", "there is no option 'segmet': did you mean 'segment'?"),
        ("window=1", "there is no option 'window' (known: labels, model, embedding, segment)"),
        ("segment=-1", "segment: input should be greater than 0"),
        ("segment=nan", "segment: input should be a finite number"),
        ("segment=0.001", "one frame"),
        ("segment=x", "segment: input should be a valid number"),
        ("embedding=1", "embedding: write true or false, not '1'"),
        ("labels=hapy", "did you mean 'happy'?"),
        ("labels=,", "labels: name at least one class"),
        ("model=tin", "did you mean 'tiny'?"),
        ("labels=sad&labels=happy", "labels: is given 2 times"),
    ],
)
def test_options_are_refused_by_name(client, clip, query, told):
    code, message = error_of(client.post(f"/v1/predict?{query}", content=clip))
    assert code == "bad_option" and told in message


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("peaks=0", "peaks: input should be greater"),
        ("peaks=10001", "peaks: input should be less"),
        ("window=9", "judges 0.25 to 2 s"),
        ("hop=5", "hop: "),
        ("segment=1", "there is no option 'segment'"),
    ],
)
def test_options_of_timelines(client, clip, query, told):
    code, message = error_of(client.post(f"/v1/timeline?{query}", content=clip))
    assert code == "bad_option" and told in message


@pytest.mark.parametrize(
    ("sent", "code", "told"),
    [
        ({"content": b""}, "bad_audio", "no recording"),
        ({"content": b"nonsense" * 100}, "bad_audio", "recording: is not a recording"),
        ({"files": {"file": ("../x/y.wav", b"nonsense")}}, "bad_audio", "y.wav: is not a recording"),
        ({"files": {"file": ("y.wav", b"")}}, "bad_audio", "y.wav: is empty"),
        ({"files": {"fil": ("y.wav", b"x")}}, "bad_option", "no field 'fil': did you mean 'file'?"),
        ({"files": {"turns": ("y.wav", b"x")}}, "bad_option", "there is no field 'turns'"),
        ({"data": {"file": "x"}, "files": {"turns": ("", b"")}}, "bad_option", "file is a file"),
        ({"files": [("file", ("a", b"x")), ("file", ("b", b"x"))]}, "bad_option", "file is given twice"),
        ({"files": {"file": ("a", b"x")}, "data": {"labels": "sad"}}, "bad_option", "options go into the query"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, "bad_option", "boundary"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}}, "bad_option", "form: "),
        ({"json": {}}, "unsupported", "'application/json'"),
        ({"content": b"x", "headers": {"content-type": "text/plain; charset=utf-8"}}, "unsupported", "'text/plain'"),
        ({"content": b"x", "headers": {"content-encoding": "gzip"}}, "unsupported", "Content-Encoding"),
    ],
    ids=str,
)
def test_bodies_are_refused_with_a_reason(client, sent, code, told):
    found = error_of(client.post("/v1/predict", **sent))
    assert found[0] == code and told in found[1]


def test_recordings_that_say_nothing(client, make_speech, encode):
    found = error_of(client.post("/v1/predict", content=encode(make_speech(0.1))))
    assert found[0] == "bad_audio" and "too short" in found[1]
    found = error_of(client.post("/v1/predict", content=encode(np.zeros(16_000))))
    assert found[0] == "bad_audio" and "silent" in found[1]


def test_addresses_and_methods_that_there_are_not(client):
    assert error_of(client.get("/v2/predict"))[0] == "not_found"
    assert error_of(client.post("/v1/predict/"))[0] == "not_found"  # no redirect to whatever host the request names
    refused = client.get("/v1/predict")
    assert error_of(refused)[0] == "not_allowed" and refused.headers["allow"] == "POST"
    assert error_of(client.get("/v1/models?x=1"))[1].startswith("there is no option 'x'")


def test_models_are_told_and_chosen(make_client, bundle_folder, clip):
    models = (("first", str(bundle_folder)), ("second", str(bundle_folder)))
    with make_client(models=models) as client:
        first, second = client.get("/v1/models").json()["models"]
        assert first == {
            "name": "first",
            "classes": ["angry", "happy", "neutral", "sad"],
            "sampling_rate": 16_000,
            "window_seconds": 2.0,
            "min_seconds": 0.25,
            "training_data": "made up",
            "licence": "none",
            "intended_use": "expressed emotion in a recording, not a person's inner state",
            "thresholds": {},
        }
        assert second == first | {"name": "second"}
        assert client.get("/health").json()["models"] == ["first", "second"]
        assert client.post("/v1/predict?model=second", content=clip).status_code == 200
    with pytest.raises(InputError, match="given twice"):
        create_app(Settings(models=(models[0], models[0])))


def test_a_body_that_is_too_large_is_refused_as_it_arrives(make_client, clip):
    with make_client(max_bytes=1000) as client:
        assert error_of(client.post("/v1/predict", content=clip))[0] == "too_large"
        assert error_of(client.post("/v1/predict", files={"file": ("a", clip)}))[0] == "too_large"
        sent = 0

        def chunks():
            nonlocal sent
            for _ in range(1000):
                sent += 1
                yield b"x" * 500

        assert error_of(client.post("/v1/predict", content=chunks()))[0] == "too_large"


def test_a_recording_that_is_too_long_is_refused_whatever_its_header_says(make_client, make_speech, encode):
    silence = encode(np.zeros(3600 * 8_000, np.int16), 8_000, "flac")
    assert len(silence) < 200_000  # an hour
    speech = encode(np.tile(make_speech(2.0), 10), format="flac")
    lying = bytearray(speech)
    lying[21] &= 0xF0  # STREAMINFO: the upper 4 of the 36 bits of the number of samples, and the lower 32
    lying[22:26] = (16_000).to_bytes(4, "big")
    with make_client(max_seconds=10.0) as client:
        for data in (silence, speech):
            assert error_of(client.post("/v1/predict", content=data))[0] == "too_long"
            assert error_of(client.post("/v1/timeline", content=data))[0] == "too_long"
        ogg = encode(np.tile(make_speech(2.0), 10), format="ogg")
        assert error_of(client.post("/v1/predict", content=ogg))[0] == "too_long"
        assert (
            error_of(
                client.post(
                    "/v1/predict", content=encode_av(np.tile(make_speech(2.0), 10), "matroska", "libopus", 48_000)
                )
            )[0]
            == "too_long"
        )
        answer = client.post("/v1/predict", content=bytes(lying))
        assert answer.status_code == 200 or error_of(answer)[0] in ("bad_audio", "too_long")
        assert client.post("/v1/predict", content=encode(make_speech(2.0))).status_code == 200


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/timeline"])
def test_a_recording_without_a_length_is_counted_while_it_is_decoded(
    make_client, make_speech, monkeypatch, encode, path
):
    decoded, decode = [], decoding.stream_audio
    monkeypatch.setattr(decoding, "read_info", lambda source: AudioInfo(None, 16_000, 1))
    monkeypatch.setattr(
        decoding, "stream_audio", lambda *given: (decoded.append(len(block)) or block for block in decode(*given))
    )
    with make_client(max_seconds=25.0) as client:
        assert error_of(client.post(path, content=encode(np.tile(make_speech(2.0), 50))))[0] == "too_long"
        assert sum(decoded) == 30 * 16_000  # blocks of ten seconds, and none after the one that is too much
        assert client.post(path, content=encode(np.tile(make_speech(2.0), 12))).status_code == 200


def test_keys_open_the_door(make_client, clip, caplog):
    caplog.set_level(logging.INFO, "serkit.access")
    with make_client(api_keys=("first-key", "other-key")) as client:
        for headers in ({}, {"X-API-Key": "first"}, {"Authorization": "Bearer wrong"}, {"Authorization": "first-key"}):
            refused = client.post("/v1/predict", content=clip, headers=headers)
            assert error_of(refused)[0] == "unauthorized" and refused.headers["www-authenticate"] == "Bearer"
            assert client.get("/metrics", headers=headers).status_code == 401
            assert client.get("/v1/models", headers=headers).status_code == 401
        for headers in ({"X-API-Key": "other-key"}, {"Authorization": "bearer first-key"}):
            assert client.post("/v1/predict", content=clip, headers=headers).status_code == 200
            assert client.get("/metrics", headers=headers).status_code == 200
        assert client.get("/health").status_code == 200
        document = client.get("/openapi.json").json()
        assert document["paths"]["/v1/predict"]["post"]["security"] == [{"bearer": []}, {"key": []}]
        assert "security" not in document["paths"]["/health"]["get"]
    assert "key" not in " ".join(map(JsonLines().format, caplog.records))


def test_browsers_are_told_what_pages_may_do(make_client, clip):
    with make_client() as client:
        for path in ("/health", "/v2", "/v1/models"):
            headers = client.get(path, headers={"Origin": "https://a.example"}).headers
            assert "default-src 'self'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert "access-control-allow-origin" not in headers
    with make_client(allow_origins=("https://a.example",), api_keys=("k",)) as client:
        answer = client.get("/v1/models", headers={"Origin": "https://a.example"})
        assert answer.status_code == 401 and answer.headers["access-control-allow-origin"] == "https://a.example"
        other = client.get("/health", headers={"Origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers
        asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
        asked["Access-Control-Request-Headers"] = "x-api-key"
        assert client.options("/v1/predict", headers=asked).status_code == 200


def test_the_log_tells_what_happened_and_nothing_private(client, clip, caplog):
    caplog.set_level(logging.INFO, "serkit.access")
    client.post("/v1/predict?labels=sad,happy", files={"file": ("secret-name.wav", clip)})
    client.post("/v1/predict", files={"file": ("secret-name.wav", b"x")})
    client.get("/secret-path")
    good, bad, missing = [json.loads(JsonLines().format(record)) for record in caplog.records]
    assert (good["route"], good["method"], good["status"]) == ("/v1/predict", "POST", 200)
    assert good["bytes"] > len(clip) and good["seconds"] > 0
    assert (bad["status"], bad["code"]) == (422, "bad_audio")
    assert (missing["route"], missing["code"]) == ("other", "not_found")
    assert not any("secret" in JsonLines().format(record) for record in caplog.records)


def counts(client):
    lines = [line for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_metrics_count_what_was_done(make_client, predictor, long_clip):
    with make_client() as client:
        client.post("/v1/predict", content=long_clip)
        client.post("/v1/predict", content=b"x")
        client.get("/nothing/here")
        found = counts(client)
    assert found['serkit_requests_total{method="POST",route="/v1/predict",status="200"}'] == 1
    assert found['serkit_requests_total{method="POST",route="/v1/predict",status="422"}'] == 1
    assert found['serkit_requests_total{method="GET",route="other",status="404"}'] == 1
    assert found["serkit_audio_seconds_total"] == pytest.approx(7.0)
    assert found["serkit_window_seconds_count"] == len(predictor.predict(io.BytesIO(long_clip)).segments)
    assert found["serkit_queue_windows"] == found["serkit_requests_under_way"] == found["serkit_live_streams"] == 0


class Slow:
    """Makes every window take ``seconds``, and counts them."""

    def __init__(self, monkeypatch, seconds):
        self.windows, run = 0, Bundle.run

        def slow(bundle, *arguments):
            self.windows += 1
            time.sleep(seconds)
            return run(bundle, *arguments)

        monkeypatch.setattr(Bundle, "run", slow)


def test_work_stops_when_its_time_is_up(make_client, make_speech, monkeypatch, encode):
    slow = Slow(monkeypatch, 0.1)
    long = encode(np.tile(make_speech(2.0), 100))
    with make_client(timeout_seconds=0.5) as client:
        for path in ("/v1/predict", "/v1/timeline"):
            before, began = slow.windows, time.monotonic()
            answer = client.post(path, content=long)
            assert error_of(answer)[0] == "timed_out" and "Retry-After" in answer.headers
            assert time.monotonic() - began < 5 and slow.windows - before < 30
            told = slow.windows
            time.sleep(0.4)
            assert slow.windows == told
            engine = client.app.state.server.engine
            assert not engine.places[False] and not engine.turn
            assert not [thread for thread in threading.enumerate() if thread.name == "request"]


def test_a_server_that_is_full_says_so(make_client, clip):
    with make_client(concurrency=1, queue=1) as client:
        engine = client.app.state.server.engine
        places = [engine.admit(10.0), engine.admit(10.0)]
        answer = client.post("/v1/predict", content=clip)
        assert error_of(answer)[0] == "busy" and int(answer.headers["retry-after"]) >= 1
        assert client.get("/health").status_code == 200
        engine.leave(places[0])
        assert client.post("/v1/predict", content=clip).status_code == 200


def test_nothing_new_is_taken_once_it_stops(make_client, clip):
    with make_client() as client:
        client.app.state.server.stopping.set()
        answer = client.post("/v1/predict", content=clip)
        assert error_of(answer)[0] == "shutting_down" and "Retry-After" in answer.headers
        told = client.get("/health")
        assert told.status_code == 503 and told.json()["status"] == "shutting_down"


def test_long_uploads_leave_no_file_behind(make_client, make_speech, tmp_path, monkeypatch, encode):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen, run = [], Bundle.run
    monkeypatch.setattr(Bundle, "run", lambda *given: seen.append(list(tmp_path.iterdir())) or run(*given))
    data = encode(np.tile(make_speech(2.0), 20))
    assert len(data) > 1_000_000
    with make_client() as client:
        assert client.post("/v1/predict", content=data).status_code == 200
        assert client.post("/v1/predict", files={"file": ("a", data)}).status_code == 200
    assert seen and all(files == [] for files in seen)


def test_what_fails_unexpectedly_is_told_as_such_and_logged(make_client, clip, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("secret details")

    monkeypatch.setattr(Bundle, "run", fail)
    with make_client() as client:
        code, message = error_of(client.post("/v1/predict", content=clip))
        assert code == "internal" and "secret" not in message
        assert not client.app.state.server.engine.places[False]
    assert "secret details" in caplog.text
