"""Our emotion2vec against FunASR's own class, where it is installed: random weights, none left as initialised."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from serkit.encoders.emotion2vec import Emotion2vecEncoder
from serkit.encoders.emotion2vec.state import convert_state, read_model_conf

pytest.importorskip("funasr", reason="funasr is not installed: it is compared with where it is")
omegaconf = pytest.importorskip("omegaconf", reason="omegaconf is not installed: FunASR's class needs it")

LENGTHS = (400, 719, 8000, 24_001)


def build(conf):
    """FunASR's class and ours, with the same weights."""
    from funasr.models.emotion2vec.model import Emotion2vec

    theirs = Emotion2vec(model_conf=omegaconf.OmegaConf.create(conf), vocab_size=9).eval()
    generator = torch.Generator().manual_seed(1)
    for name, weight in theirs.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        size = 0.2 if weight.ndim == 1 else 1.0 if name.endswith("extra_tokens") else weight[0].numel() ** -0.5
        centre = float(weight.ndim == 1 and name.endswith("weight"))
        weight.data = (1 + 0.5 * noise).abs() if name.endswith("alibi_scale") else noise * size + centre
    config = read_model_conf(conf)
    state = convert_state(theirs.state_dict())
    encoders = [
        Emotion2vecEncoder("emotion2vec", config, [config.blocks], reference=reference) for reference in (False, True)
    ]
    for encoder in encoders:
        encoder.eval().load_state_dict({key: state[key] for key in encoder.state_dict()})
    return theirs, *encoders


@pytest.mark.parametrize("name", ["tiny_model_conf.json", "emotion2vec_base_model_conf.json"])
@torch.no_grad()
def test_features_and_logits_equal_those_of_the_class(reference_file, name):
    theirs, encoder, reference = build(json.loads(reference_file(f"emotion2vec/{name}").read_text()))
    generator = torch.Generator().manual_seed(2)
    clips = [torch.randn(size, generator=generator) * 0.1 + 0.01 for size in LENGTHS]
    normed = [F.layer_norm(clip, clip.shape) for clip in clips]
    for clip, wave in zip(clips, normed, strict=True):
        expected = theirs.extract_features(wave[None], padding_mask=None)["x"][0]
        for ours in (encoder, reference):
            found = ours(clip[None], torch.tensor([len(clip)])).layers[0, 0]
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(theirs.proj(found.mean(0)), theirs.proj(expected.mean(0)), atol=1e-4, rtol=0)
    padding = torch.arange(max(LENGTHS))[None, :] >= torch.tensor(LENGTHS)[:, None]
    expected = theirs.extract_features(torch.nn.utils.rnn.pad_sequence(normed, True), padding_mask=padding)["x"]
    features = reference(torch.nn.utils.rnn.pad_sequence(clips, True), torch.tensor(LENGTHS))
    for row, count in enumerate(features.lengths.tolist()):
        torch.testing.assert_close(features.layers[row, 0, :count], expected[row, :count], atol=1e-4, rtol=0)
