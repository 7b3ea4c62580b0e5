"""CMU-MOSI, opinions about films in English videos: audio, transcripts and sentiment.

The videos are by 89 people, but nothing tells who speaks in which: ``speaker`` is the video, so that a person who made
two of them may be in training and test, as in every paper on these folds.
"""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from serkit.data.cmu import Spans, find_speech, read_csd
from serkit.data.corpora import Corpus, decode, find_table, look_up, read_rows
from serkit.data.sentiment import name_sentiment, round_sentiment7
from serkit.errors import InputError

# The standard folds of the CMU Multimodal SDK: 52 videos to train (1284 segments), 10 dev (229) and 31 test (686).
TRAIN = """
03bSnISJMiM 0h-zjBukYpk 1DmNV9C1hbY 1iG0909rllw 2WGyTLYerpo 2iD-tVS8NPw 5W7Z1C_fDaE 6Egk_28TtTM 6_0THN4chvY
73jzhE8R1TQ 7JsX8y1ysxY 8OtFthrtaJM 8d-gEyoeBzc 8qrpnFRGt2A 9J25DZhivz8 9T9Hf74oK10 9c67fiY0wGQ 9qR7uwkblbs
Af8D0E4ZXaw BI97DNYfe5I BXuRRbG0Ugk Bfr499ggo-0 BioHAh1qJAQ BvYR0L6f2Ig Ci-AH39fi3Y Clx4VXItLTE Dg_0XKD0Mf4
G-xst2euQUc G6GlGvlkxAQ GWuJjcEuzt8 HEsqda8_d0Q I5y0__X72p0 Iu2PFX3z_1s IumbAb8q2dM Jkswaaud0hk LSi-o-IrDMs
MLal-t_vJPM Njd1F0vZSm4 Nzq88NnDkEk OQvJTdtJ2H4 OtBXNcAL_lE Oz06ZWiO20M POKffnXeBds PZ-lDQFboO8 QN9ZIUWUXsY
Qr1Ca94K55A Sqr0AcuoNnk TvyZBvOMOTc VCslbP0mgZI VbQk4H8hgr0 Vj1wYRQjB-o W8NXH0Djyww
""".split()
DEV = """
WKA5OygbEKI X3j2zQgwYgE ZAIRrfG22O0 ZUXBRvtny7o _dI--eQ6qVU aiEXnCPZubE atnd_PF-Lbs bOL9jKpeJRs bvLlb-M3UXU
c5xsKMxpXnc
""".split()
TEST = """
c7UH_rxdZv4 cM3Yna7AavY cW1FSBF59ik cXypl4FnoZo d3_k5Xpfmik d6hH302o4v8 dq3Nf_lMPnE etzxEpPuc6I f9O3YtZ2VfI
f_pcplsH_V0 fvVhgmXxadc iiK8YX8oH1E jUzDDGyPkXU k5Y_838nuGo lXPQBPVc5Cw nbWiPyCm4g0 nzpVDcQ0ywM ob23OKe5a9Q
pLTX3ipuDJI phBUpBr1hSo rnaNMUZpvvg tIrG4oNLFzE tStelxIAHjw tmZoasNr4rU v0zCBqDeKcE vvZ4IcEtiZc vyB00TXsimI
wMbj6ajWbic yDtzw_Y-7RU yvsjCA6Y5Fc zhpQhgha_KU
""".split()
STANDARD_FOLDS = {video: part for part, videos in (("train", TRAIN), ("dev", DEV), ("test", TEST)) for video in videos}
"""The part of each of the 93 videos."""

TABLE, FEATURES = "mosi_utterances.csv", "mosi_features.npz"
FEATURE_NAMES = {"audio": "audio_features", "visual": "visual_features", "text_cnn": "text_cnn"}
LABELS = {"0": "negative", "1": "positive"}  # of two classes: a score of 0 counts as positive
OPINIONS = ("OpinionLevelSentiment.csv", "CMU_MOSI_Opinion_Labels.csd")
NAME = re.compile(r"(.+)_(\d+)")

Opinion = tuple[float, float, float]  # from and to in seconds, score


def read(root: Path) -> Iterator[dict[str, Any]]:
    """Yield every segment; ``sentiment`` is an extra column, and ``speaker`` is the video.

    Of the raw release: scores of ``Labels/OpinionLevelSentiment.csv`` (no header: from, to, video, segment, score) or,
    with h5py, ``CMU_MOSI_Opinion_Labels.csd``; texts of ``Transcript/Segmented/<video>.annotprocessed``; recordings
    ``Audio/WAV_16000/Segmented/<video>_<n>.wav``, or the segment's span of ``Full/<video>.wav``. ``sentiment`` is
    negative, neutral (exactly 0) or positive, ``sentiment_score`` is from -3 to 3, ``sentiment7`` its nearest class.

    Of the table ``mosi_utterances.csv`` (id, video, split_cmu, split_bclstm, label, text): ``sentiment`` has two
    classes, and neutral segments are positive, unless the scores above are below the folder too. ``mosi_features.npz``
    beside it (one row for each of the table's) is named by ``audio_features``, ``visual_features`` and ``text_cnn``.
    The last was learnt on the segments whose ``split_bclstm`` is train, which are in all standard parts.

    ``part`` is the standard fold. Without any recording ``audio`` is empty; where some are there, segments without one
    are left out with a warning. Raises ``InputError`` for a table and features of different lengths, and for texts
    without scores.
    """
    table = find_table(root, TABLE)
    scores = _read_scores(root, required=table is None)
    texts = dict(_read_texts(root))
    rows: list[dict[str, Any]] = _table_rows(table) if table else [{"id": id, "text": texts.get(id)} for id in scores]
    speech, spans, lost = find_speech(root) if rows else {}, Spans(), []
    some = any(row["id"] in speech for row in rows) or any(video in speech for video in STANDARD_FOLDS)
    for row in rows:
        video = row["id"].rpartition("_")[0]
        opinion = scores.get(row["id"])
        place = _place(row["id"], video, opinion, speech, spans)
        if some and place is None:
            lost.append(row["id"])
            continue
        yield {
            "speaker": video,
            "part": STANDARD_FOLDS.get(video),
            **row,
            **(place or {"audio": None}),
            **_sentiment(opinion),
        }
    if lost:
        warnings.warn(f"{root}: {len(lost)} segments have no recording, the first is {lost[0]}", stacklevel=2)


def _place(
    id: str, video: str, opinion: Opinion | None, speech: dict[str, Path], spans: Spans
) -> dict[str, Any] | None:
    if id in speech:
        return {"audio": str(speech[id])}
    return spans.cut(speech[video], *opinion[:2]) if opinion and video in speech else None


def _sentiment(opinion: Opinion | None) -> dict[str, Any]:
    if opinion is None:
        return {}
    score = opinion[2]
    return {"sentiment": name_sentiment(score), "sentiment_score": score, "sentiment7": round_sentiment7(score)}


def _table_rows(table: Path) -> list[dict[str, Any]]:
    listed = read_rows(table, "id", "video", "split_bclstm", "label", "text")
    found: dict[str, int] = {}
    file = table.parent / FEATURES
    if file.is_file():
        try:
            with np.load(file) as arrays:
                found = {column: len(arrays[name]) for name, column in FEATURE_NAMES.items() if name in arrays}
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{file}: cannot be read as arrays: {error}") from error
    for name, column in FEATURE_NAMES.items():
        if found.get(column, len(listed)) != len(listed):
            raise InputError(f"{file}: {name} has {found[column]} rows, {table.name} has {len(listed)}")
    rows = []
    for place, row in enumerate(listed):
        if not row["id"].startswith(f"{row['video']}_") or not NAME.fullmatch(row["id"]):
            raise InputError(f"{table}: id {row['id']!r} is not a segment of the video {row['video']!r}")
        names = {column: f"{file}#{name}[{place}]" for name, column in FEATURE_NAMES.items() if column in found}
        rows.append(
            {
                "id": row["id"],
                "text": row["text"],
                "sentiment": look_up(LABELS, row["label"], table),
                "split_bclstm": row["split_bclstm"],
                **names,
            }
        )
    return rows


def _read_scores(root: Path, required: bool) -> dict[str, Opinion]:
    """Return the scores of all segments by id; those of a .csd are counted from 1."""
    path = find_table(root, *OPINIONS)
    if path is None:
        if required and (texts := sorted(root.rglob("*.annotprocessed"))):
            raise InputError(f"{texts[0]}: has no labels: no {' or '.join(OPINIONS)} below {root}")
        return {}
    if path.suffix == ".csd":
        return {
            f"{video}_{number}": (start, end, values[0])
            for video, segments in read_csd(path).items()
            for number, (start, end, values) in enumerate(segments, 1)
        }
    scores = {}
    for number, line in enumerate(csv.reader(io.StringIO(decode(path.read_bytes(), "cp1252"), newline="")), 1):
        try:
            start, end, video, segment, score = (field.strip() for field in line)
            scores[f"{video}_{int(segment)}"] = (float(start), float(end), float(score))
            name_sentiment(float(score))
        except (ValueError, InputError) as error:
            raise InputError(f"{path}: line {number} is not: from, to, video, segment, score (-3 to 3)") from error
    return scores


def _read_texts(root: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(root.rglob("*.annotprocessed")):
        for line in decode(path.read_bytes(), "cp1252").splitlines():
            number, delimiter, text = line.partition("_DELIM_")
            if delimiter and number.strip().isdigit():
                yield f"{path.stem}_{int(number)}", text.strip()


CORPUS = Corpus(
    name="mosi",
    title="CMU-MOSI",
    language="en",
    utterances=2199,
    speakers=93,  # videos, of 89 people
    licence="CMU, research use",
    source="Zadeh et al. 2016, https://arxiv.org/abs/1606.06259",
    layout="Labels/OpinionLevelSentiment.csv with Audio/WAV_16000/Segmented/03bSnISJMiM_1.wav and Transcript, "
    "or mosi_utterances.csv with mosi_features.npz",
    read=read,
)
