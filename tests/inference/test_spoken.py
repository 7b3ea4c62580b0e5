"""Models that read: words and recordings, words alone, recordings alone, judged as a whole."""

from __future__ import annotations

import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import polars as pl
import pytest
import soundfile
import torch

import serkit as package
from serkit import bundling, export
from serkit.bundling import compare, write_bundle
from serkit.data.audio import read_audio
from serkit.data.clips import Clip
from serkit.data.words import Vocabulary
from serkit.encoders.mel_decibels import MelDecibels
from serkit.errors import AudioError, InputError
from serkit.export import export_run
from serkit.inference.bundle import Bundle, read_card
from serkit.inference.funasr import AutoModel
from serkit.inference.predictor import Predictor
from serkit.inference.transcribers import load_transcriber
from serkit.models.fusion import FusionConfig, create_fusion
from serkit.models.fusion_graph import FusionGraph
from serkit.models.heads import Batch, Stream
from serkit.models.layers import Segments
from serkit.training.material import load_data
from serkit.training.recipe import load_recipe
from serkit.training.run import train

torch.set_num_threads(1)

RECIPE = """
name = "tiny-{name}"
seeds = [0, 1]
[data]
corpora = {{ iemocap = "." }}
root = "{root}"
[labels]
classes = ["neutral", "happy", "sad", "angry"]
[protocol]
name = "leave-one-session-out"
only = ["1", "2"]
[encoder]
name = "mat-mel"
options = {{ reduction = 4 }}
[features]
normalise = "none"
max_frames = 7
[fusion]
modalities = {modalities}
hidden = 16
feedforward = 16
attention_heads = 2
layers = 1
dropout_output = 0.0
[training]
epochs = 2
optimizer = "adam"
lr = 0.01
batch_size = 8
balance = "none"
"""
TEXT = "\n[text]\ndim = 8\nmax_words = 3\n"


def trained(root, folder, modalities, extra=""):
    """A finished run of a tiny fusion head on generated recordings whose texts tell the class."""
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(name=len(modalities), root=root, modalities=json.dumps(modalities)) + extra)
    train(load_recipe(path), folder / "run", folder / "cache", workers=1)
    return folder / "run"


@pytest.fixture(scope="module")
def run(iemocap_folder, tmp_path_factory):
    return trained(iemocap_folder, tmp_path_factory.mktemp("both"), ["text", "audio"], TEXT)


@pytest.fixture(scope="module")
def bundle(run, tmp_path_factory):
    """The bundle of a run that reads and hears, written by the route of real ones."""
    folder = tmp_path_factory.mktemp("bundles") / "both"
    export_run(run, folder, folder.parent / "cache")
    return folder


@pytest.fixture(scope="module")
def both(bundle):
    return Predictor(bundle)


@pytest.fixture(scope="module")
def reader(iemocap_folder, tmp_path_factory):
    """A bundle that reads alone."""
    folder = tmp_path_factory.mktemp("reader")
    export_run(trained(iemocap_folder, folder, ["text"], TEXT), folder / "bundle", folder / "cache")
    return folder / "bundle"


@pytest.fixture
def clip(tmp_path, make_tone):
    """One second of a tone."""
    soundfile.write(tmp_path / "clip.wav", make_tone(1.0, rate=22_050, noise=0.05), 22_050, subtype="FLOAT")
    return tmp_path / "clip.wav"


@pytest.fixture
def exported(bundle, monkeypatch):
    """Exports in no time: the graph of the bundle that reads and hears is copied."""
    monkeypatch.setattr(bundling, "export_graph", lambda graph, path: shutil.copy(bundle / "model.onnx", path))


def shares(prediction):
    return np.array(list(prediction.probabilities.values()))


def vector(predictor, *given, **more):
    """The embedding, which says more of small differences than probabilities near 0 and 1 do."""
    return predictor.predict(*given, embedding=True, **more).embedding


def table(path, rows):
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(path) if path.suffix == ".parquet" else (
        pl.DataFrame(rows).write_csv(path) if path.suffix == ".csv" else pl.DataFrame(rows).write_ndjson(path)
    )
    return path


# A bundle says what its run says


def test_a_bundle_says_what_the_run_says_of_the_test_part(run, bundle, both):
    found = pl.read_parquet(run / "predictions.parquet").filter(fold="1", seed=0, part="test")
    rows = load_data(load_recipe(run / "recipe.toml")).select(found["id"].to_list()).table
    texts = dict(rows.select("id", "text").iter_rows())
    clips = [Clip(id, audio, None, None, texts[id]) for id, audio in rows.select("id", "audio").iter_rows()]
    said = {clip.id: answer for clip, answer in both.predict_many(clips, workers=2)}
    assert len(said) == 16
    for row in found.iter_rows(named=True):
        wanted = np.array([row[f"p_{name}"] for name in both.card.classes]) ** (1 / both.card.temperature)
        np.testing.assert_allclose(shares(said[row["id"]]), wanted / wanted.sum(), atol=1e-5)
        assert said[row["id"]].label == row["prediction"] and said[row["id"]].words == texts[row["id"]]
    right = found.filter(pl.col("prediction") == pl.col("truth"))
    told = read_card(bundle).details
    assert (told["fold"], told["seed"], told["test"]["utterances"]) == ("1", 0, 16)
    assert told["test"]["accuracy"] == pytest.approx(len(right) / 16, abs=1e-4)


def test_the_card_tells_what_is_read_and_heard(bundle):
    card = read_card(bundle)
    assert (card.sampling_rate, card.average) == (22_050, "nothing") and card.whole and card.hears and card.reads
    assert card.frame_rate == pytest.approx(22_050 / 1100)
    assert card.judged_seconds == pytest.approx(7 * 1100 / 22_050)
    assert card.text["words"][:2] == ["<pad>", "<unk>"] and "yes" in card.text["words"]
    assert (card.text["legacy"], card.text["max_words"]) == (False, 3)


def test_another_fold_and_seed_may_be_asked_for(run, exported, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(bundling, "compare", lambda *given: seen.append(given) or {"max_probability_difference": 0.0})
    export_run(run, tmp_path / "other", tmp_path, fold="2", seed=1)
    told = read_card(tmp_path / "other").details
    assert (told["fold"], told["seed"]) == ("2", 1)
    first, other = (export.load_file(run / "models" / f"{name}.safetensors") for name in ("1-seed0", "2-seed1"))
    head = seen[0][1].head.state_dict()
    assert torch.equal(head["decide.weight"], other["heads.0.decide.weight"])
    assert not torch.equal(head["decide.weight"], first["heads.0.decide.weight"])


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [({"fold": "7"}, r"has no fold '7' \(known: 1, 2\)"), ({"seed": 7}, r"has no seed 7 \(known: 0, 1\)")],
)
def test_a_fold_or_seed_that_the_run_lacks_is_refused(run, tmp_path, chosen, reason):
    with pytest.raises(InputError, match=reason):
        export_run(run, tmp_path / "bundle", tmp_path, **chosen)


def test_given_features_are_no_recordings(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    recipe = (copy / "recipe.toml").read_text().replace('name = "mat-mel"', 'name = "given"')
    (copy / "recipe.toml").write_text(recipe.replace("[encoder.options]\nreduction = 4\n", ""))
    with pytest.raises(InputError, match="features that its manifest brings, and a bundle hears recordings"):
        export_run(copy, tmp_path / "bundle", tmp_path)


def test_other_heads_have_no_fold_to_choose(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    recipe = (copy / "recipe.toml").read_text()
    start = recipe.index("[fusion]")
    end = recipe.index("\n[", start + 1)
    recipe = recipe[:start] + recipe[end + 1 :]
    start = recipe.index("[text]")
    end = recipe.find("\n[", start + 1)
    (copy / "recipe.toml").write_text(recipe[:start] + (recipe[end + 1 :] if end > 0 else ""))
    with pytest.raises(InputError, match="is trained again on all its speakers .* leave out --fold and --seed"):
        export_run(copy, tmp_path / "bundle", tmp_path, fold="1")


def test_temperature_and_thresholds_come_from_the_dev_part_of_the_fold(run, bundle):
    table = pl.read_parquet(run / "predictions.parquet").filter(fold="1", seed=0)
    dev, test = (table.filter(pl.col("part") == part) for part in ("dev", "test"))
    assert len(dev)
    card, wanted = read_card(bundle), export.table_calibration(dev.with_columns(part=pl.lit("test")))
    assert (card.temperature, card.thresholds) == (wanted.temperature, wanted.thresholds)
    assert export.fold_calibration(test) == export.table_calibration(test)


# ONNX and PyTorch, alone and in batches


def small(rate=11_025, **options):
    """A graph with random weights, of any modalities."""
    torch.manual_seed(0)
    config = FusionConfig(hidden=16, feedforward=16, attention_heads=2, layers=1, **options)
    encoder = MelDecibels(rate, 128, 100, 20, 8, 20, 60.0, "reflect").eval() if config.hears else None
    vocabulary = Vocabulary.build([["so", "very", "good", "bad"]]) if config.reads else None
    shapes = [(1, 20)] if config.hears else []
    head = create_fusion(config, shapes, 4, vocabulary, 8, 5, 9).heads[0].eval()
    return FusionGraph(head, encoder, (0,) if config.hears else (), 1).eval()


def answers(call, names):
    """Logits and embeddings of a batch with noise, other lengths and other numbers of words; and of each alone."""
    rng = np.random.default_rng(0)
    lengths, counts = np.array([6000, 1500, 9000, 2222]), [1, 0, 5, 2]
    waveforms = (rng.normal(0, 0.1, (4, 9000))).astype(np.float32)
    words = np.zeros((4, 5), np.int64)
    for row, count in zip(words, counts, strict=True):
        row[:count] = rng.integers(1, 6, count)
    given = {"waveforms": waveforms, "lengths": lengths, "words": words}
    together = call({name: given[name] for name in names})
    alone = []
    for row, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        one = {"waveforms": waveforms[row : row + 1, :length], "lengths": lengths[row : row + 1]}
        one["words"] = words[row : row + 1, : max(1, count)]
        alone.append(call({name: one[name] for name in names}))
    return together, [np.concatenate(each) for each in zip(*alone, strict=True)]


def in_pytorch(graph):
    def call(given):
        with torch.no_grad():
            return [
                values.numpy() for values in graph(**{name: torch.from_numpy(each) for name, each in given.items()})
            ]

    return call


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("modalities", [("text", "audio"), ("text",), ("audio",)])
@pytest.mark.parametrize("kind", ["mat", "mnt"])
def test_neighbours_and_padding_change_nothing(kind, modalities, reference):
    graph = small(kind=kind, modalities=modalities, reference=reference)
    together, alone = answers(in_pytorch(graph), graph.inputs)
    for ours, theirs in zip(together, alone, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.ptp(together[0], axis=0).max() > 0.01  # agreement means something


def test_the_graph_says_what_the_head_says_of_packed_frames():
    graph = small()
    rng = np.random.default_rng(1)
    waveforms = torch.from_numpy(rng.normal(0, 0.1, (2, 5000)).astype(np.float32))
    lengths = torch.tensor([5000, 3000])
    features = graph.encoder(waveforms, lengths)
    frames = torch.cat([features.layers[row, 0, :count] for row, count in enumerate(features.lengths)])
    words = graph.head.encode_words([["so", "bad"], []])
    batch = Batch((Stream(torch.zeros(2, 2, 1, 20), [frames[None]]),), Segments.packed(features.lengths), words)
    with torch.no_grad():
        wanted = graph.head(batch)
        found, _ = graph(waveforms, lengths, words)
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=1e-5)


def test_neighbours_change_nothing_in_the_bundle_either(both, bundle):
    session = both.bundle.session

    def call(given):
        given["waveforms"] = given["waveforms"][:, np.arange(2 * given["waveforms"].shape[1]) // 2]  # at 22,050 Hz
        given["lengths"] = given["lengths"] * 2
        given["words"] = given["words"][:, :3]
        return session.run(["logits", "embedding"], given)

    together, alone = answers(call, ["waveforms", "lengths", "words"])
    for ours, theirs in zip(together, alone, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"kind": "mnt"}, {"modalities": ("audio",)}, {"reference": True}])
def test_every_kind_is_exported(tmp_path, options):
    graph = small(**options)
    card = {"name": "any", "classes": tuple("abcd"), "temperature": 1.0} | export.fused_fields(graph)
    waveforms = [np.random.default_rng(n).normal(0, 0.1, 3000 * n).astype(np.float32) for n in (1, 2, 5)]
    agreement = write_bundle(
        tmp_path / "bundle", graph, card, waveforms, texts=["so good", None, "very very bad so so"]
    )
    assert agreement["max_probability_difference"] < 1e-5
    together, alone = answers(
        lambda given: Bundle(tmp_path / "bundle").session.run(["logits", "embedding"], given), graph.inputs
    )
    np.testing.assert_allclose(together[0], alone[0], atol=1e-5)


@pytest.mark.slow
def test_8_bit_fusion_heads_agree_and_are_smaller(tmp_path):
    torch.manual_seed(0)
    vocabulary = Vocabulary.build([["so", "very", "good", "bad"]])
    head = create_fusion(FusionConfig(hidden=256, layers=1, modalities=("text",)), [], 4, vocabulary, 8, 5, None).heads[
        0
    ]
    graph, sizes = FusionGraph(head.eval()), []
    card = {"name": "any", "classes": tuple("abcd"), "temperature": 1.0} | export.fused_fields(graph)
    for int8 in (False, True):
        agreement = write_bundle(tmp_path / "b", graph, card, [None] * 3, int8, ["so good", "bad", "very very bad"])
        sizes.append((tmp_path / "b" / "model.onnx").stat().st_size)
    assert 1e-7 < agreement["max_probability_difference"] < 0.05 and sizes[1] < 0.7 * sizes[0]


def test_8_bit_is_refused_where_there_is_nothing_to_make_smaller(exported, both, tmp_path):
    with pytest.raises(InputError, match="no matrix of 256 x 256 or more .* leave int8 out"):
        write_bundle(tmp_path / "b", small(), {**both.card.dump(), "name": "x"}, [np.zeros(9000, np.float32)], True)


# What words and sound do to an answer


def test_words_their_order_and_the_sound_matter(both, clip, make_tone):
    yes, no, turned = (vector(both, clip, text=text) for text in ("yes", "oh no", "no oh"))
    other = vector(both, make_tone(1.0, frequency=3000)[:, 0], text="yes")
    for one, two in ((yes, no), (no, turned), (yes, other)):
        assert np.abs(one - two).max() > 1e-2


def test_cleaning_and_words_past_the_limit_change_nothing(both, clip):
    plain = both.predict(clip, text="oh no yes")
    for text in ("Oh, NO!  yes", "oh no yes what", " oh no -- yes " + "what " * 50):
        assert both.predict(clip, text=text).probabilities == plain.probabilities
    assert not plain.cut or both.card.judged_seconds < 1
    assert both.predict(clip, text="oh no yes what").words == "oh no yes what"


def test_unknown_words_are_words(both, clip):
    unknown = both.predict(clip, text="gnarl")
    assert unknown.words == "gnarl"
    assert both.predict(clip, text="blob").probabilities == unknown.probabilities
    assert np.abs(vector(both, clip, text="gnarl") - vector(both, clip)).max() > 1e-2


@pytest.mark.parametrize("text", [None, "", "  ", "...", "-- ?!"])
def test_without_words_the_recording_is_judged_alone(both, clip, text):
    answer = both.predict(clip, text=text)
    assert answer.words is None and "words" not in answer.as_dict()
    assert answer.probabilities == both.predict(clip).probabilities


def test_the_rest_of_a_long_recording_is_not_judged_and_that_is_told(both, bundle, make_tone, tmp_path):
    long = make_tone(3.0, rate=22_050, noise=0.05)[:, 0]
    other = long.copy()
    other[2 * 22_050 :] *= 0.5
    answers = [both.predict(each, sampling_rate=22_050, text="yes") for each in (long, other)]
    assert answers[0].probabilities == pytest.approx(answers[1].probabilities, abs=1e-6)
    assert answers[0].cut and answers[0].as_dict()["cut"] is True
    short = both.predict(long[:7000], sampling_rate=22_050, text="yes")
    assert not short.cut and "cut" not in short.as_dict()
    assert both.predict(long[:7000], sampling_rate=22_050, text="yes no oh see").cut


def test_no_more_is_decoded_than_is_heard(bundle, both, monkeypatch, make_tone):
    seen = []

    def blocks(*_):
        for second in range(100):
            seen.append(second)
            yield make_tone(1.0, rate=22_050, seed=second)[:, 0]

    monkeypatch.setattr("serkit.inference.predictor.stream_audio", blocks)
    answer = both.predict("endless.wav", text="yes")
    assert len(seen) == 41 and answer.end == 40.0 and answer.cut


def test_files_are_resampled_straight_to_the_rate_of_the_card(both, make_tone, tmp_path):
    path = tmp_path / "high.wav"
    soundfile.write(path, make_tone(1.0, rate=44_100, frequency=9500, level=0.3), 44_100, subtype="FLOAT")
    straight = read_audio(path, sampling_rate=22_050)
    twice = soundfile.read(path)[0]
    assert both.predict(path).probabilities == both.predict(straight, sampling_rate=22_050).probabilities
    through_16k = vector(both, read_audio(path), sampling_rate=16_000)  # which cannot hold 9.5 kHz
    assert np.abs(through_16k - vector(both, path)).max() > 1e-2
    assert both.predict(twice, sampling_rate=44_100).probabilities == pytest.approx(
        both.predict(path).probabilities, abs=1e-5
    )


def test_silence_and_shortness_are_refused_as_of_any_model(both):
    with pytest.raises(AudioError, match="array: is silent"):
        both.predict(np.zeros(22_050, np.float32), text="yes")
    with pytest.raises(AudioError, match="array: is too short .* at least 0.25 s are needed"):
        both.predict(np.ones(2000, np.float32), text="yes")


def test_segments_are_refused(both, clip):
    with pytest.raises(InputError, match="segments: tiny-2 judges an utterance as a whole"):
        both.predict(clip, text="yes", segment=0.5)


def test_funasr_has_no_place_for_it(bundle):
    with pytest.raises(InputError, match="tiny-2: judges an utterance as a whole"):
        AutoModel(bundle)


def test_candidates_and_embeddings_work_as_ever(both, clip):
    answer = both.predict(clip, text="yes", labels=["happy", "sad"], embedding=True)
    assert answer.probabilities["angry"] == 0 and sum(answer.probabilities.values()) == pytest.approx(1)
    assert answer.embedding.shape == (32,) and answer.segments == ()


# Words alone


def test_a_model_that_reads_alone_needs_no_recording(reader):
    predictor = package.load(reader)
    card = predictor.card
    assert (card.hears, card.reads, card.window_seconds) == (False, True, 0.0)
    answer = predictor.predict(text="Oh no!")
    assert (answer.id, answer.start, answer.end, answer.words) == ("text", 0.0, 0.0, "Oh no!")
    assert np.abs(vector(predictor, text="oh no") - vector(predictor, text="yes")).max() > 1e-2
    assert predictor.predict("missing.wav", text="oh no").probabilities == answer.probabilities
    for text in (None, "?!"):
        with pytest.raises(InputError, match="tiny-1 reads words alone|holds no word"):
            predictor.predict(text=text)


def test_texts_are_recognised_from_the_command_line(serkit, reader, tmp_path):
    done = serkit("predict", "--text", "I see.", "--model", reader, "--format", "json")
    found = json.loads(done.out)
    assert (done.code, found["id"], found["words"], done.err) == (0, "text", "I see.", "")
    listed = table(tmp_path / "texts.csv", {"id": ["a", "b", None], "text": ["I see.", "?!", "oh no"]})
    done = serkit("predict", listed, "--model", reader, "--format", "json")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [row["id"] for row in rows] == ["a", "texts.csv:3"]
    assert rows[0]["probabilities"] == found["probabilities"]
    assert done.code == 2 and done.err == "serkit: b: holds no word, and tiny-1 reads words alone\n"


# The command line, lists


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_lists_say_what_is_spoken(serkit, both, bundle, clip, tmp_path, ending):
    rows = {"id": ["a", "b"], "audio": [str(clip)] * 2, "start": [0.0, 0.0], "end": [0.3, 0.3], "text": ["oh no", None]}
    done = serkit("predict", table(tmp_path / f"list{ending}", rows), "--model", bundle, "--format", "json")
    found = [json.loads(line) for line in done.out.splitlines()]
    wanted = [both.predict(clip, start=0.0, end=0.3, text=text, id="x").as_dict() for text in ("oh no", None)]
    assert [row["probabilities"] for row in found] == [row["probabilities"] for row in wanted]
    assert [row.get("words") for row in found] == ["oh no", None]
    assert done.code == 0
    assert done.err == (
        "serkit: no text for 1 of 2 recordings: judged by the recording alone: "
        "give --text, lists with a column text, or --transcriber\n"
    )


def test_the_text_of_one_recording_is_an_option(serkit, both, bundle, clip):
    done = serkit("predict", clip, "--text", "oh no", "--model", bundle, "--format", "json")
    assert json.loads(done.out)["words"] == "oh no"
    assert done.err == (
        "serkit: 1 of 1 go on for longer than the model judges: of them only the first 0.3 s and 3 words were judged\n"
    )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ["{clip}", "{clip}", "--text", "x", "--model", "{both}"],
            "--text is for one recording: of several, list them",
        ),
        (["--text", "x", "--model", "{both}"], "text: no recording, and tiny-2 needs one"),
        (["--model", "{both}"], "name recordings, folders or lists"),
        (["{clip}", "--text", "x"], "reads no text: leave out --text"),
        (["{clip}", "--transcriber", "bundle:x"], "reads no text, so a transcriber is of no use"),
        (["{clip}", "--text", "x", "--format", "funasr", "--model", "{both}"], "--format funasr knows no text"),
        (["{clip}", "--segment", "1", "--format", "json", "--model", "{both}"], "judges an utterance as a whole"),
        (["{clip}", "--transcriber", "wisper:x", "--model", "{both}"], "there is no 'wisper'"),
    ],
)
def test_what_cannot_be_is_one_line(serkit, bundle, clip, arguments, reason):
    done = serkit("predict", *(each.format(clip=clip, both=bundle) for each in arguments))
    assert done.code == 2 and reason in done.err and done.err.count("\n") == 1


def test_models_that_do_not_read_ignore_the_texts_of_a_list(serkit, clip, tmp_path):
    rows = {"audio": [str(clip)], "text": ["oh no"]}
    done = serkit("predict", table(tmp_path / "list.csv", rows), "--format", "json")
    assert (done.code, done.err) == (0, "") and "words" not in json.loads(done.out)
    with pytest.raises(InputError, match="reads no text"):
        package.load().predict(clip, text="oh no")


# Transcribers


def test_a_function_writes_down_what_comes_without_a_text(bundle, both, clip):
    heard = []

    def write(waveform):
        heard.append((len(waveform), waveform.dtype))
        return "Oh, no!"

    predictor = package.load(bundle, transcriber=write)
    answer = predictor.predict(clip)
    assert heard == [(16_000, np.float32)] and answer.words == "Oh, no!"
    assert answer.probabilities == both.predict(clip, text="oh no").probabilities
    predictor.predict(clip, text="yes")
    predictor.predict(clip, text="")
    assert len(heard) == 1


def test_a_reader_with_a_transcriber_takes_recordings(reader, clip):
    predictor = package.load(reader, transcriber=lambda waveform: "oh no")
    assert predictor.predict(clip).words == "oh no"


def test_transcribers_that_cannot_be_had_are_named(bundle, monkeypatch, tmp_path):
    with pytest.raises(InputError, match="transcriber bundle:.*: does not transcribe"):
        load_transcriber(f"bundle:{package.inference.bundle.DEFAULT}")
    with pytest.raises(InputError, match="names no model: write faster-whisper:SIZE"):
        load_transcriber("faster-whisper")
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(InputError, match=r"faster-whisper is not installed: run pip install 'serkit\[transcribe\]'"):
        load_transcriber("faster-whisper:small")


def test_faster_whisper_is_asked_for_the_same_text_every_time(monkeypatch, tmp_path):
    """With a stand-in of the package: what is asked of it, and how what it says and its errors are taken."""
    asked = {}

    class WhisperModel:
        def __init__(self, model, **options):
            if model == "nothing":
                raise ValueError("Invalid model size 'nothing'\nexpected one of: ...")
            asked["model"] = model

        def transcribe(self, waveform, **options):
            asked.update(options, samples=len(waveform))
            return iter(
                [SimpleNamespace(text=" Oh no. "), SimpleNamespace(text=" "), SimpleNamespace(text="Yes")]
            ), None

    monkeypatch.setitem(sys.modules, "faster_whisper", SimpleNamespace(WhisperModel=WhisperModel))
    assert load_transcriber(f"faster-whisper:{tmp_path}")(np.zeros(500, np.float32)) == "Oh no. Yes"
    assert (asked["model"], asked["samples"], asked["temperature"]) == (str(tmp_path), 500, 0.0)
    with pytest.raises(
        InputError, match="faster-whisper:nothing: cannot be loaded .Invalid model size 'nothing'.: give"
    ):
        load_transcriber("faster-whisper:nothing")
    with pytest.raises(InputError, match="faster-whisper:/no/where: no such folder"):
        load_transcriber("faster-whisper:/no/where")


# Damaged bundles


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"text": {"words": ["<pad>", "<unk>"], "legacy": False}}, "max_words"),
        ({"text": {"words": ["so"], "legacy": False, "max_words": 3}}, "<pad> and <unk> come first"),
        ({"average": "probabilities"}, "averages nothing"),
        ({"text": {}}, "is not a model of a serkit bundle"),
        ({"min_seconds": 0.0, "window_seconds": 0.0}, "is not a model of a serkit bundle"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(bundle, tmp_path, change, reason):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    card = json.loads((copy / "serkit.json").read_text())
    (copy / "serkit.json").write_text(json.dumps(card | change))
    with pytest.raises(InputError, match=reason):
        Bundle(copy)


def test_names_inside_a_graph_do_not_clash_with_its_outputs(reader):
    graph = onnx.load(reader / "model.onnx").graph
    made = [name for node in graph.node for name in node.output]
    assert made.count("embedding") == 1 and any(node.op_type == "LSTM" for node in graph.node)


def test_what_differs_from_pytorch_is_found(both, bundle):
    graph = small()
    graph.head.decide.weight.data *= 3
    waveform = np.random.default_rng(0).normal(0, 0.1, 22_050).astype(np.float32)
    found = compare(both.bundle, graph, [waveform], ["yes"])
    assert found["max_probability_difference"] > 1e-3
