"""MAT and MNT computed a second time, in NumPy and float64, straight from the published description.

One utterance at a time, sequences with their padding, and masks from raw zeros as the published code has them. Weights
are those of :class:`serkit.models.fusion.FusionHead`, by name.
"""

import numpy as np

Weights = dict[str, np.ndarray]


def compute(kind: str, weights: Weights, heads: int, layers: int, words: np.ndarray, audio: np.ndarray) -> np.ndarray:
    """Return the logits ``(B, C)`` of word ids ``(B, L)`` and frames ``(B, T, D)``, zeros past their ends."""
    return np.stack([_utterance(kind, weights, heads, layers, *each) for each in zip(words, audio, strict=True)])


def _utterance(kind: str, w: Weights, heads: int, layers: int, ids: np.ndarray, frames: np.ndarray) -> np.ndarray:
    no_word, no_frame = ids == 0, np.abs(frames).sum(1) == 0
    x = _lstm(w, "word_lstm", w["embedding.weight"][ids])
    y = _lstm(w, "audio_lstm", frames)
    for i in range(layers):
        x = _self_block(w, f"fusion.words.{i}", x, no_word, heads)
    z_words = _reduce(w, "fusion.reduce_words", x, no_word)
    if kind == "mat":
        for i in range(layers):
            name = f"fusion.audio.{i}"
            y = _norm(w, f"{name}.norm_attention", y + _attention(w, f"{name}.attention", y, y, no_frame, heads))
            y = _norm(w, f"{name}.norm_guidance", y + _attention(w, f"{name}.guidance", y, x, no_word, heads))
            y = _norm(w, f"{name}.norm_feedforward", y + _mlp(w, f"{name}.feedforward", y))
    else:
        c = np.maximum(_linear(w, "fusion.modulate", z_words), 0)
        for i, part in enumerate(np.split(c, layers)):
            y = _self_block(w, f"fusion.audio.{i}", y, no_frame, heads, np.split(part, 4))
    z = z_words + _reduce(w, "fusion.reduce_audio", y, no_frame)
    return _linear(w, "decide", _norm(w, "norm", z))


def _linear(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _mlp(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return _linear(w, f"{name}.3", np.maximum(_linear(w, f"{name}.0", x), 0))


def _norm(w: Weights, name: str, x: np.ndarray, gain: np.ndarray | float = 0, bias: np.ndarray | float = 0):
    scaled = (x - x.mean(-1, keepdims=True)) / (x.std(-1, ddof=1, keepdims=True) + 1e-6)
    return (w[f"{name}.gain"] + gain) * scaled + w[f"{name}.bias"] + bias


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _attention(w: Weights, name: str, asking: np.ndarray, asked: np.ndarray, hidden: np.ndarray, heads: int):
    q, k, v = (
        np.split(_linear(w, f"{name}.{part}", x), heads, axis=1)
        for part, x in (("query", asking), ("key", asked), ("value", asked))
    )
    found = []
    for query, key, value in zip(q, k, v, strict=True):
        scores = query @ key.T / np.sqrt(query.shape[1])
        scores[:, hidden] = -1e9
        found.append(_softmax(scores) @ value)
    return _linear(w, f"{name}.out", np.concatenate(found, 1))


def _self_block(w: Weights, name: str, x: np.ndarray, hidden: np.ndarray, heads: int, offsets=(0, 0, 0, 0)):
    gain_1, bias_1, gain_2, bias_2 = offsets
    x = _norm(w, f"{name}.norm_attention", x + _attention(w, f"{name}.attention", x, x, hidden, heads), gain_1, bias_1)
    return _norm(w, f"{name}.norm_feedforward", x + _mlp(w, f"{name}.feedforward", x), gain_2, bias_2)


def _reduce(w: Weights, name: str, x: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    scores = _mlp(w, f"{name}.score", x)[:, 0]
    scores[hidden] = -1e9
    return _linear(w, f"{name}.out", _softmax(scores) @ x)


def _lstm(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    def sigmoid(values: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-values))

    dim = w[f"{name}.weight_hh_l0"].shape[1]
    hidden, cell, states = np.zeros(dim), np.zeros(dim), []
    for step in x:
        gates = w[f"{name}.weight_ih_l0"] @ step + w[f"{name}.bias_ih_l0"]
        gates = gates + w[f"{name}.weight_hh_l0"] @ hidden + w[f"{name}.bias_hh_l0"]
        i, f, g, o = np.split(gates, 4)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        states.append(hidden)
    return np.stack(states)
