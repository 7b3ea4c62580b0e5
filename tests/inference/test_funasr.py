"""Recognition in FunASR's form: its numbers on the stored values, and what it gets wrong done right."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
import soundfile
import torch
from emotion2vec_weights import seeded_state

from serkit import bundling
from serkit.encoders.emotion2vec.files import Emotion2vecCheckpoint, write_emotion2vec
from serkit.encoders.emotion2vec.state import convert_state, read_model_conf
from serkit.errors import AudioError, InputError
from serkit.export import export_emotion2vec
from serkit.inference import funasr_inputs
from serkit.inference.bundle import Bundle, read_card, softmax
from serkit.inference.funasr import AutoModel
from serkit.inference.funasr_inputs import read_inputs, to_columns
from serkit.inference.predictor import Predictor
from serkit.inference.windows import cut
from serkit.models.emotion2vec import english_names, load_emotion2vec

torch.set_num_threads(1)

RATE = 16_000
CLASSES = ("angry", "disgusted", "fearful", "happy", "neutral", "other", "sad", "surprised", "unknown")


def checkpoint_of(reference_file, tokens="tokens.txt", keys="tiny_state_dict_keys.txt", conf="tiny_model_conf.json"):
    """A recogniser with weights that follow from their names, and the classes of a published list."""
    settings = json.loads(reference_file(f"emotion2vec/{conf}").read_text())
    state = convert_state(seeded_state(reference_file(f"emotion2vec/{keys}")))
    head = state.pop("proj.weight"), state.pop("proj.bias")
    ours = {key: value for key, value in state.items() if not key.startswith("decoder.")}
    names = tuple(reference_file(f"emotion2vec/{tokens}").read_text(encoding="utf-8").split())
    return Emotion2vecCheckpoint("tiny", read_model_conf(settings), ours, head, names)


@pytest.fixture(scope="module")
def checkpoint(reference_file):
    return checkpoint_of(reference_file)


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    """Its bundle, exported once for all."""
    folder = tmp_path_factory.mktemp("emotion2vec") / "tiny"
    agreement = export_emotion2vec(checkpoint, folder)
    assert agreement["max_probability_difference"] < 1e-4 and agreement["equal_labels"] == 1
    return folder


@pytest.fixture
def exported(folder, monkeypatch):
    """Exports in no time: the graph is copied, with the outputs that are wanted."""

    def copy(graph, path):
        model = onnx.load(folder / "model.onnx")
        kept = [output for output in model.graph.output if output.name in graph.outputs]
        del model.graph.output[:]
        model.graph.output.extend(kept)
        onnx.save(model, path)

    monkeypatch.setattr(bundling, "export_graph", copy)


@pytest.fixture(scope="module")
def model(folder):
    return AutoModel(model=str(folder), device="cpu", disable_update=True)


@pytest.fixture(scope="module")
def golden(reference_file):
    return dict(np.load(reference_file("emotion2vec/golden_tiny.npz")))


@pytest.fixture(scope="module")
def network(checkpoint):
    return load_emotion2vec(checkpoint).graph


@pytest.fixture(scope="module")
def clip(golden, tmp_path_factory):
    path = tmp_path_factory.mktemp("wavs") / "a.b.wav"
    soundfile.write(path, golden["wav"], RATE, subtype="FLOAT")
    return path


def noise(seconds, seed=0):
    rng = np.random.default_rng(seed)
    level = np.repeat(rng.uniform(0.02, 0.5, 1 + int(seconds * 4)), RATE // 4)[: round(seconds * RATE)]
    return (rng.normal(0, 1, len(level)) * level).astype(np.float32)


def in_pytorch(network, waveform):
    """Frames, their logits, and the logits of their mean, by the module and by hand."""
    with torch.no_grad():
        features = network.encoder(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
    frames = features.layers[0, -1].numpy().astype(np.float64)
    weight, bias = (value.detach().numpy().astype(np.float64) for value in (network.head.weight, network.head.bias))
    return frames, frames @ weight.T + bias, frames.mean(0) @ weight.T + bias


# FunASR's numbers and form


def test_the_numbers_of_funasr(model, folder, golden, clip):
    (found,) = model.generate(str(clip))
    assert list(found) == ["key", "labels", "scores", "feats"] and found["key"] == "a.b"
    assert found["labels"][0] == "生气/angry" and found["labels"][-1] == "<unk>" and len(found["labels"]) == 9
    assert found["scores"] == pytest.approx(golden["probs"], abs=1e-4) and isinstance(found["scores"][0], float)
    assert found["feats"].dtype == np.float32 and found["feats"].shape == (48,)
    np.testing.assert_allclose(found["feats"], golden["x"].mean(0), atol=1e-4)
    (frames,) = model.generate(clip, granularity="frame")
    np.testing.assert_allclose(frames["feats"], golden["x"], atol=1e-4)
    assert frames["feats"].dtype == np.float32 and frames["scores"] == found["scores"]
    feed = {"waveforms": golden["wav"][None], "lengths": np.array([8000])}
    np.testing.assert_allclose(Bundle(folder).session.run(["logits"], feed)[0][0], golden["logits"], atol=1e-4)


def test_a_batch_of_the_graph_equals_its_clips_alone(folder, network):
    waveforms = [noise(seconds, seed) for seed, seconds in enumerate((0.025, 1.3, 0.6))]
    batch = np.full((3, len(waveforms[1])), 9.0, np.float32)
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = waveform
    names = ["logits", "embedding", "frame_logits", "frame_lengths", "frames"]
    feed = {"waveforms": batch, "lengths": np.array([len(waveform) for waveform in waveforms])}
    found = dict(zip(names, Bundle(folder).session.run(names, feed), strict=True))
    for row, waveform in enumerate(waveforms):
        frames, each, whole = in_pytorch(network, waveform)
        count = int(found["frame_lengths"][row])
        assert count == len(frames) == (len(waveform) - 400) // 320 + 1
        np.testing.assert_allclose(found["frames"][row, :count], frames, atol=1e-4)
        np.testing.assert_allclose(found["frame_logits"][row, :count], each, atol=1e-4)
        np.testing.assert_allclose(found["logits"][row], whole, atol=1e-4)
        assert not found["frames"][row, count:].any() and not found["frame_logits"][row, count:].any()


@pytest.mark.parametrize("seconds", [0.025, 7.7, 60.0])
def test_windows_of_any_length_and_silence(folder, network, seconds):
    bundle = Bundle(folder)
    for waveform in (noise(seconds), np.zeros(round(seconds * RATE), np.float32)):
        frames, _, whole = in_pytorch(network, waveform)
        found = bundle.run(waveform, frames=True)
        np.testing.assert_allclose(found.frames, frames, atol=2e-4)
        np.testing.assert_allclose(found.probabilities, softmax(whole), atol=1e-4)


def test_silence_is_answered_as_by_funasr_but_not_by_the_predictor(model, folder):
    (found,) = model.generate(np.zeros(RATE, np.float32))
    assert sum(found["scores"]) == pytest.approx(1) and np.isfinite(found["feats"]).all()
    with pytest.raises(AudioError, match="is silent"):
        Predictor(folder).predict(np.zeros(RATE, np.float32))


def test_the_card(folder):
    card = read_card(folder)
    assert card.classes == CLASSES and card.tokens[3] == "开心/happy" and card.average == "logits"
    assert (card.min_seconds, card.window_seconds, card.frame_rate, card.temperature) == (0.025, 30.0, 50.0, 1.0)
    assert list(Predictor(folder).predict(noise(1.0)).probabilities) == list(CLASSES)


def test_features_come_when_asked_for(model, clip, tmp_path):
    (found,) = model.generate(str(clip), extract_embedding=False, output_dir=tmp_path / "none")
    assert list(found) == ["key", "labels", "scores"] and not list((tmp_path / "none").iterdir())
    found = model.generate([clip, noise(0.5)], tmp_path / "npy", "frame", key=["one", "sub/two"])
    for each in found:
        np.testing.assert_array_equal(np.load(tmp_path / "npy" / f"{each['key']}.npy"), each["feats"])
    assert [each["feats"].shape for each in found] == [(24, 48), (24, 48)]
    with pytest.raises(InputError, match="leads out of"):
        model.generate(noise(0.5), tmp_path / "npy", key="../x")
    with pytest.raises(InputError, match="a.b: is the key of two recordings"):
        model.generate([clip, clip], tmp_path / "npy")


def test_unused_classes_are_removed_and_the_others_share_their_scores(reference_file, golden):
    loaded = load_emotion2vec(checkpoint_of(reference_file, "tokens_may2024_old.txt"))
    assert loaded.classes == ("angry", "happy", "neutral", "sad", "unknown")
    assert loaded.tokens == ("生气/angry", "开心/happy", "中立/neutral", "难过/sad", "<unk>")
    logits = golden["logits"].astype(np.float64)
    logits[[1, 2, 5, 7]] = -np.inf
    with torch.no_grad():
        said = loaded.graph(torch.from_numpy(golden["wav"])[None], torch.tensor([8000]))[0][0].softmax(0)
    np.testing.assert_allclose(said, softmax(logits)[[0, 3, 4, 6, 8]], atol=1e-5)


def test_a_head_can_be_trained_further(checkpoint, golden):
    model = load_emotion2vec(checkpoint).to_model()
    from serkit.models.model import Waveforms

    with torch.no_grad():
        said = model(Waveforms.pad([torch.from_numpy(golden["wav"])]))["emotion"][0, 0].softmax(0)
    np.testing.assert_allclose(said, golden["probs"], atol=1e-4)
    assert model.emotion.classes == CLASSES


def test_without_a_head_there_are_features_alone(exported, checkpoint, golden, tmp_path, clip):
    export_emotion2vec(replace(checkpoint, head=None, tokens=None), tmp_path / "bare")
    bare = AutoModel(tmp_path / "bare")
    (found,) = bare.generate(clip, granularity="frame", extract_embedding=False)
    assert (found["labels"], found["scores"]) == ([], [])
    np.testing.assert_allclose(found["feats"], golden["x"], atol=1e-4)
    with pytest.raises(InputError, match="bare: knows no classes and gives features alone") as caught:
        Predictor(tmp_path / "bare")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="has no head"):
        bare.generate(clip, segments=1.0)
    with pytest.raises(InputError, match="has no head"):
        load_emotion2vec(replace(checkpoint, head=None, tokens=None)).to_model()


def test_a_bundle_is_refused_when_its_features_are_others(exported, checkpoint, tmp_path):
    state = {**checkpoint.state, "utterance_tokens": checkpoint.state["utterance_tokens"].flip(-1)}
    with pytest.raises(bundling.SerkitError, match="not written"):
        export_emotion2vec(replace(checkpoint, head=None, tokens=None, state=state), tmp_path / "bare")


def test_classes_nobody_names_are_refused(checkpoint):
    with pytest.raises(InputError, match="put its tokens.txt beside it"):
        load_emotion2vec(replace(checkpoint, tokens=None))
    with pytest.raises(InputError, match="no names of their own"):
        english_names(["怒/angry", "生气/angry"])


# Candidates, long recordings, segments


@pytest.mark.parametrize("names", [["happy", "angry"], ["生气", "开心"], ["开心/happy", "angry", "生气"]])
def test_candidates_in_either_language(model, clip, golden, names):
    (found,) = model.generate(clip, candidates=names)
    assert found["labels"] == ["生气/angry", "开心/happy"]
    pair = golden["probs"][[0, 3]]
    assert found["scores"] == pytest.approx(pair / pair.sum(), abs=1e-4)


def test_wrong_candidates(model, clip):
    with pytest.raises(InputError, match="no class 'hapy': did you mean 'happy'"):
        model.generate(clip, candidates=["hapy"])
    with pytest.raises(InputError, match="name at least one"):
        model.generate(clip, candidates=[])


def with_window(folder, seconds, place):
    copied = shutil.copytree(folder, place)
    card = json.loads((copied / "serkit.json").read_text())
    (copied / "serkit.json").write_text(json.dumps({**card, "window_seconds": seconds}))
    return copied


@pytest.mark.parametrize("samples", [16_080, 16_081, 33_000, 48_080, 80_123])
def test_a_long_recording_is_the_mean_over_the_frames_of_its_windows(folder, network, tmp_path, samples):
    short = AutoModel(with_window(folder, 1.0, tmp_path / "short"))
    waveform = noise(6.0)[:samples]
    (found,) = short.generate(waveform, granularity="frame", segments=0.5)
    windows = [window for window, _ in cut([waveform], short.card)]
    said = [in_pytorch(network, window) for window in windows]
    frames, logits = (np.concatenate([each[place] for each in said]) for place in (0, 1))
    assert len(frames) == (samples - 400) // 320 + 1 == len(found["feats"]) == len(found["frame_scores"])
    assert (len(windows) == 1) == (samples <= 16_080)
    np.testing.assert_allclose(found["feats"], frames, atol=1e-4)
    assert found["scores"] == pytest.approx(softmax(logits.mean(0)), abs=1e-4)
    np.testing.assert_allclose(short.generate(waveform)[0]["feats"], frames.mean(0), atol=1e-4)
    np.testing.assert_allclose(found["frame_times"], np.arange(len(frames)) * 0.02, atol=1e-9)
    prediction = Predictor(tmp_path / "short").predict(waveform)
    assert list(prediction.probabilities.values()) == pytest.approx(found["scores"])


def test_segments_are_what_the_head_says_of_their_frames(model, network):
    waveform = noise(3.37)
    (found,) = model.generate(waveform, segments=1.0)
    _, logits, _ = in_pytorch(network, waveform)
    np.testing.assert_allclose(found["frame_scores"], softmax(logits), atol=1e-4)
    times = [(each["start"], each["end"]) for each in found["segments"]]
    assert times == [(0, 1), (1, 2), (2, 3), (3, 3.37)]
    middles = np.arange(len(logits)) * 0.02 + 0.01
    for each in found["segments"]:
        inside = (middles >= each["start"]) & (middles < each["end"])
        expected = softmax(logits[inside].mean(0))
        assert each["scores"] == pytest.approx(expected, abs=1e-4)
        assert each["label"] == found["labels"][int(expected.argmax())]
    (some,) = model.generate(waveform, segments=1.0, candidates=["happy", "sad"])
    assert some["frame_scores"].shape == (len(logits), 2)
    np.testing.assert_allclose(some["frame_scores"].sum(1), 1, rtol=1e-6)
    for seconds in (0.0, 0.01, float("nan"), float("inf")):
        with pytest.raises(InputError, match="segments last at least 0.02 s"):
            model.generate(waveform, segments=seconds)


def test_a_recording_shorter_than_a_segment_is_one(model):
    (found,) = model.generate(noise(0.4), segments=1.0)
    assert [(each["start"], each["end"]) for each in found["segments"]] == [(0, 0.4)]
    assert found["segments"][0]["scores"] == pytest.approx(found["scores"])
    (found,) = model.generate(noise(1.02), segments=0.5)  # 20 ms hold no frame: they belong to what is before
    assert [(each["start"], each["end"]) for each in found["segments"]] == [(0, 0.5), (0.5, 1.02)]


# Input


def test_every_form_of_input_gives_the_same_scores(model, clip, golden, tmp_path):
    wav = golden["wav"]
    integers = np.round(wav * 20_000).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, integers, RATE, format="WAV")
    flac = io.BytesIO()
    soundfile.write(flac, integers, RATE, format="FLAC")
    forms = [integers, integers.tobytes(), file.getvalue(), flac.getvalue(), integers[None], integers[:, None]]
    forms += [torch.from_numpy(integers), np.stack([integers, integers]), np.stack([integers] * 2, 1), flac]
    found = model.generate(forms)
    for each in found:
        assert each["scores"] == pytest.approx(found[0]["scores"], abs=1e-5)
        assert each["key"].startswith("rand_key_") and len(each["key"]) == 22
    assert len({each["key"] for each in found}) == len(forms)
    assert model.generate(torch.from_numpy(wav), key="t")[0]["key"] == "t"


def test_channels_are_averaged_and_not_put_end_to_end(model):
    left, right = noise(1.0, 1), noise(1.0, 2)
    stereo, mono = model.generate([np.stack([left, right]), (left + right) / 2], granularity="frame")
    assert stereo["feats"].shape == mono["feats"].shape == (49, 48)
    np.testing.assert_allclose(stereo["feats"], mono["feats"], atol=1e-4)
    for shape in ((4, 20), (30, 3000), (2, 2, 4000)):
        with pytest.raises(AudioError, match="is no recording"):
            to_columns(np.zeros(shape))


def test_other_rates_of_arrays(model, make_tone):
    low, high = (make_tone(1.0, rate, frequency=300, noise=0)[:, 0] for rate in (8_000, RATE))
    (resampled,) = model.generate(low, fs=8_000, granularity="frame", extract_embedding=True)
    assert resampled["feats"].shape == (49, 48)
    (taken_as_it_is,) = model.generate(low)
    (expected,) = model.generate(high)
    distances = [np.abs(np.subtract(each["scores"], expected["scores"])).max() for each in (resampled, taken_as_it_is)]
    assert distances[0] < distances[1]


def keys(path):
    return [(each.key, str(each.audio)) for each in read_inputs(path)]


def test_lists(clip, tmp_path):
    shutil.copy(clip, tmp_path / "near.wav")
    lists = {
        "wav.scp": f"u1 {clip}\n\nu2\tnear.wav\n",
        "plain.txt": f"{clip}\n",
        "lines.jsonl": f'{{"source": "{clip}", "key": "k"}}\n{{"source": "near.wav"}}\n',
        "array.json": json.dumps([{"source": str(clip), "key": "k"}, "near.wav"]),
        "one.json": json.dumps({"source": str(clip), "key": 7}),
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
    near = str(tmp_path / "near.wav")
    assert keys(tmp_path / "wav.scp") == [("u1", str(clip)), ("u2", near)]
    assert keys(str(tmp_path / "plain.txt")) == [("a.b", str(clip))]
    assert keys(tmp_path / "lines.jsonl") == keys(tmp_path / "array.json") == [("k", str(clip)), ("near", near)]
    assert keys(tmp_path / "one.json") == [("7", str(clip))]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("https://example.org/a.wav", "nothing is downloaded"),
        (3.5, "float is no recording"),
        ({"a": 1}, "dict is no recording"),
        ([0.1, 0.2], "give numbers as one array"),
        (b"", "0 bytes are neither"),
        (b"\x01\x02\x03", "3 bytes are neither"),
        ("gone.scp", "gone.scp: cannot be read"),
    ],
)
def test_what_is_no_recording(source, message):
    with pytest.raises(InputError, match=message):
        list(read_inputs(source))


@pytest.mark.parametrize("text", ["", "{", '{"wav": "x"}', "[3]"])
def test_lists_that_cannot_be_read(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=r"x.json: (lists no recording|cannot be read: )"):
        list(read_inputs(tmp_path / "x.json"))
    with pytest.raises(InputError, match="2 keys for 1 recordings"):
        list(read_inputs([b"ab"], key=["a", "b"]))


def test_random_keys_leave_the_users_random_numbers_alone():
    funasr_inputs.random.seed(3)
    expected = funasr_inputs.random.random()
    funasr_inputs.random.seed(3)
    list(read_inputs(b"abcd"))
    assert funasr_inputs.random.random() == expected


# Settings, errors, many recordings


def test_settings_that_nothing_reads_are_refused(model, folder, clip):
    model.generate(clip, batch_size=4, disable_pbar=True)
    with pytest.raises(InputError, match="generate: has no setting 'granularty': did you mean 'granularity'"):
        model.generate(clip, granularty="frame")
    with pytest.raises(InputError, match="AutoModel: has no setting 'vad_model'"):
        AutoModel(model=folder, vad_model="fsmn-vad")
    with pytest.raises(InputError, match="granularity: is utterance or frame, not 'word'"):
        model.generate(clip, granularity="word")
    with pytest.raises(InputError, match="errors: is raise or keep"):
        model.generate(clip, errors="ignore")
    with pytest.raises(InputError, match="emotion2vec_plus_large: is not a bundle"):
        AutoModel(model="iic/emotion2vec_plus_large")


def test_a_bad_recording_is_told_and_the_others_go_on(model, clip, tmp_path):
    bad = tmp_path / "none.wav"
    clips = [clip, bad, noise(0.5)[:399], noise(0.5)]
    with pytest.raises(AudioError, match="none.wav: no such file"):
        model.generate(clips)
    found = model.generate(clips, errors="keep", key=["a", "b", "c", "d"])
    assert [each["key"] for each in found] == ["a", "b", "c", "d"]
    assert found[1]["error"] == f"{bad}: no such file"
    assert found[2]["error"] == "c: is too short (0.025 s, 399 samples): at least 0.025 s are needed"
    assert ["error" in each for each in found] == [False, True, True, False]


def test_many_at_a_time_give_the_answers_of_one_in_order(model):
    waveforms = [noise(0.2 + 0.37 * (number * 5 % 7), number) for number in range(12)]
    alone = [model.generate(waveform, key=str(number))[0] for number, waveform in enumerate(waveforms)]
    for workers in (1, 3):
        found = model.generate(waveforms, key=list(map(str, range(12))), workers=workers)
        for each, expected in zip(found, alone, strict=True):
            assert (each["key"], each["scores"]) == (expected["key"], expected["scores"])
            np.testing.assert_array_equal(each["feats"], expected["feats"])


def test_any_bundle_answers_in_this_form(bundle_folder, predictor, make_speech):
    model = AutoModel(bundle_folder)
    (found,) = model.generate(make_speech(1.0), segments=0.5)
    assert found["labels"] == ("angry", "happy", "neutral", "sad") or found["labels"] == list(predictor.card.classes)
    assert found["scores"] == pytest.approx(list(predictor.predict(make_speech(1.0)).probabilities.values()))
    with pytest.raises(InputError, match="gives no embeddings of frames"):
        model.generate(make_speech(1.0), granularity="frame")


# The command line


def test_predict_writes_funasrs_lines(serkit, folder, clip, golden, tmp_path):
    (tmp_path / "wav.scp").write_text(f"u1 {clip}\nu2 {tmp_path / 'none.wav'}\n")
    ran = serkit("predict", tmp_path / "wav.scp", clip, "--model", folder, "--format", "funasr", "--segment", 0.25)
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert ran.code == 2 and "none.wav: no such file" in ran.err
    assert [row["key"] for row in rows] == ["u1", "a.b"]
    assert list(rows[0]) == ["key", "labels", "scores", "segments"] and "生气/angry" in ran.out
    assert rows[1]["scores"] == pytest.approx(golden["probs"], abs=1e-4)
    assert [row["end"] for row in rows[0]["segments"]] == [0.25, 0.5]
    ran = serkit("predict", clip, "--model", folder, "--format", "funasr", "--embedding", "--labels", "难过,happy")
    row = json.loads(ran.out)
    assert row["labels"] == ["开心/happy", "难过/sad"] and len(row["feats"]) == 48
    assert "needs --format json or funasr" in serkit("predict", clip, "--segment", 1).err


def test_convert_writes_a_bundle_on_request(serkit, exported, checkpoint, clip, golden, tmp_path):
    write_emotion2vec(tmp_path / "own", checkpoint)
    ran = serkit("convert", tmp_path / "own", "-o", tmp_path / "bundle", "--bundle")
    assert ran.code == 0 and "bundle: written; probabilities differ" in ran.out and "9 classes: 生气/angry" in ran.out
    assert sorted(path.name for path in (tmp_path / "bundle").iterdir()) == ["model.onnx", "serkit.json"]
    (found,) = AutoModel(tmp_path / "bundle").generate(clip)
    assert found["scores"] == pytest.approx(golden["probs"], abs=1e-4)
    assert serkit("convert", tmp_path / "own", "-o", tmp_path / "small", "--int8").code == 0
    assert read_card(tmp_path / "small").details["precision"] == "int8"


@pytest.mark.slow
def test_base_size_through_a_bundle_gives_the_numbers_of_funasr(reference_file, tmp_path):
    base = checkpoint_of(reference_file, keys="state_dict_keys.txt", conf="emotion2vec_base_model_conf.json")
    golden = np.load(reference_file("emotion2vec/golden_base_testwav.npz"))
    export_emotion2vec(base, tmp_path / "base")
    (found,) = AutoModel(tmp_path / "base").generate(reference_file("emotion2vec/test.wav"), granularity="frame")
    assert found["scores"] == pytest.approx(golden["probs"], abs=1e-4)
    np.testing.assert_allclose(found["feats"][:8], golden["x_first8"], atol=1e-4)
    np.testing.assert_allclose(found["feats"][-8:], golden["x_last8"], atol=1e-4)
    export_emotion2vec(base, tmp_path / "int8", int8=True)
    (small,) = AutoModel(tmp_path / "int8").generate(reference_file("emotion2vec/test.wav"))
    assert small["scores"] == pytest.approx(golden["probs"], abs=0.05) and small["scores"] != found["scores"]
