"""emotion2vec as FunASR answers (https://github.com/modelscope/FunASR), from a bundle and without PyTorch.

``AutoModel(model=BUNDLE).generate("clip.wav")`` gives what FunASR's gives: the same keys, labels, scores and features.
Where FunASR is wrong this is not: see docs/emotion2vec.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from serkit.data.audio import SAMPLING_RATE
from serkit.data.files import replace_atomically
from serkit.errors import InputError, nearest
from serkit.inference.bundle import DEFAULT, Bundle
from serkit.inference.funasr_inputs import Recording, read_inputs
from serkit.inference.windows import check_segment, hear
from serkit.inference.workers import each_in_order

GRANULARITIES = ("utterance", "frame")
WITHOUT_EFFECT = frozenset(
    "batch_size batch_size_s batch_size_threshold_s data_type device disable_log disable_pbar disable_update hub "
    "language log_level model_revision ngpu seed trust_remote_code use_itn".split()
)
"""What scripts for FunASR set and what changes no answer here: recordings are computed one by one on the CPU."""


@dataclass(frozen=True)
class Wanted:
    """What :meth:`AutoModel.generate` was asked for; see there."""

    granularity: str = "utterance"
    extract_embedding: bool = True
    candidates: tuple[str, ...] | None = None
    segments: float | None = None
    output_dir: Path | None = None


class AutoModel:
    """FunASR's ``AutoModel`` for emotion: ``model`` is the folder of a bundle, ``ncpu`` recordings are done at a time.

    Bundles come from ``serkit convert CHECKPOINT -o BUNDLE``; any other bundle of serkit does as well. ``kwargs`` may
    be FunASR's where they change no answer (:data:`WITHOUT_EFFECT`). Raises ``InputError`` for others and for what is
    not a bundle.
    """

    def __init__(self, model: str | Path = DEFAULT, *, ncpu: int | None = None, **kwargs: Any) -> None:
        _check_settings("AutoModel", kwargs, ("model", "ncpu"))
        self.bundle = Bundle(model)
        self.card, self.workers = self.bundle.card, ncpu
        if self.card.whole:
            raise InputError(f"{self.card.name}: judges an utterance as a whole: FunASR's answers have no place for it")
        self.labels = self.card.tokens or self.card.classes

    def generate(
        self,
        input: Any,
        output_dir: str | Path | None = None,
        granularity: str = "utterance",
        extract_embedding: bool = True,
        *,
        fs: int = SAMPLING_RATE,
        key: Any = None,
        candidates: Iterable[str] | None = None,
        segments: float | None = None,
        errors: str = "raise",
        workers: int | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """Recognise every recording of ``input``; returns one dictionary each, in order.

        ``input`` is what :func:`~serkit.inference.funasr_inputs.read_inputs` takes; arrays and raw bytes are at ``fs``
        Hz, and ``key`` names them. A dictionary has ``key``, ``labels`` (as in the card's tokens), ``scores`` (which
        add up to one; both are empty where the model has no head) and, with ``extract_embedding`` or without a head,
        ``feats``: float32, the mean over time ``(D,)``, or ``(T, D)`` with ``granularity`` "frame". With ``output_dir``
        they are also written to ``<key>.npy`` there.

        Beyond FunASR: ``candidates`` restricts the classes, named by the whole label, either half of it or the card's
        class. ``segments`` adds ``segments``, a list of ``{"start", "end", "label", "scores"}`` for every so
        many seconds, and the scores of single frames ``frame_scores (T, C)`` with ``frame_times (T,)``, the seconds at
        which they begin. ``errors`` "keep" puts ``{"key", "error"}`` in the place of a recording that cannot be used
        instead of raising its error.

        Raises ``InputError`` for a recording or a setting that cannot be used.
        """
        _check_settings("generate", kwargs, ("granularity", "extract_embedding", "candidates", "segments", "errors"))
        if errors not in ("raise", "keep"):
            raise InputError(f"errors: is raise or keep, not {errors!r}")
        folder = None if output_dir is None else Path(output_dir)
        names = None if candidates is None else tuple(candidates)
        wanted = Wanted(granularity, extract_embedding, names, segments, folder)
        found = []
        for recording, result in self.each(read_inputs(input, key, fs), wanted, workers):
            if isinstance(result, InputError):
                if errors == "raise":
                    raise result
                result = {"key": recording.key, "error": str(result)}
            found.append(result)
        return found

    def each(
        self, recordings: Iterable[Recording], wanted: Wanted, workers: int | None = None
    ) -> Iterator[tuple[Recording, dict[str, Any] | InputError]]:
        """Yield every recording with its answer as :meth:`generate` gives it, or its error, in the order given.

        Raises ``InputError`` for what cannot be wanted of the bundle, and for two recordings with one key where they
        would be written to one file.
        """
        if wanted.granularity not in GRANULARITIES:
            raise InputError(f"granularity: is {' or '.join(GRANULARITIES)}, not {wanted.granularity!r}")
        if wanted.segments is not None and not self.labels:
            raise InputError(f"segments: {self.card.name} has no head, so there is nothing to tell of them")
        check_segment(self.card, wanted.segments)
        keep = self._candidates(wanted.candidates)
        if wanted.output_dir is not None:
            wanted.output_dir.mkdir(parents=True, exist_ok=True)
            recordings = _check_keys(recordings)
        work = partial(self._answer_or_error, wanted=wanted, keep=keep)
        return each_in_order(work, recordings, workers or self.workers)

    def _answer_or_error(
        self, recording: Recording, wanted: Wanted, keep: np.ndarray | None
    ) -> dict[str, Any] | InputError:
        try:
            return self._answer(recording, wanted, keep)
        except InputError as error:
            return error

    def _answer(self, recording: Recording, wanted: Wanted, keep: np.ndarray | None) -> dict[str, Any]:
        embed = wanted.extract_embedding or not self.labels
        whole = wanted.granularity == "utterance"
        heard = hear(
            self.bundle,
            recording.blocks(self.card.sampling_rate),
            keep,
            silence=True,
            scores=wanted.segments is not None,
            frames=embed and not whole,
        )
        if not heard.windows:
            raise heard.refuse(str(recording.audio) if isinstance(recording.audio, str | Path) else recording.key)
        chosen = np.flatnonzero(np.ones(len(self.labels), bool) if keep is None else keep)
        labels = [self.labels[number] for number in chosen]
        found: dict[str, Any] = {"key": recording.key, "labels": labels}
        found["scores"] = heard.probabilities[chosen].tolist()
        if embed:
            found["feats"] = (heard.embedding if whole else heard.frames).astype(np.float32, copy=False)
            if wanted.output_dir is not None:
                write_array(wanted.output_dir, recording.key, found["feats"])
        if wanted.segments is not None:
            found["segments"] = [
                {
                    "start": start,
                    "end": end,
                    "label": labels[int(scores[chosen].argmax())],
                    "scores": scores[chosen].tolist(),
                }
                for start, end, scores in heard.segments(wanted.segments)
            ]
            found["frame_scores"] = heard.frame_probabilities[:, chosen].astype(np.float32)
            found["frame_times"] = heard.frame_times
        return found

    def _candidates(self, names: Iterable[str] | None) -> np.ndarray | None:
        """Return which classes are meant by ``names``."""
        if names is None:
            return None
        known: dict[str, int] = {}
        for number, (label, name) in enumerate(zip(self.labels, self.card.classes, strict=True)):
            known |= dict.fromkeys((label, *label.split("/"), name), number)
        keep = np.zeros(len(self.labels), bool)
        for each in names:
            if each not in known:
                raise InputError(f"candidates: the model has no class {each!r}{nearest(each, known)}")
            keep[known[each]] = True
        if not keep.any():
            raise InputError("candidates: name at least one class")
        return keep


def write_array(folder: Path, key: str, values: np.ndarray) -> None:
    """Write ``values`` to ``folder/<key>.npy``; raises ``InputError`` for a key that leads out of the folder."""
    path = folder / f"{key}.npy"
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{key}: leads out of {folder}: give another key")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(path) as part:
        np.save(part, values)


def _check_keys(recordings: Iterable[Recording]) -> Iterator[Recording]:
    """Pass ``recordings`` on; raises ``InputError`` when a key comes a second time."""
    seen: set[str] = set()
    for recording in recordings:
        if recording.key in seen:
            raise InputError(
                f"{recording.key}: is the key of two recordings, which would be written to one file: list them with ids"
            )
        seen.add(recording.key)
        yield recording


def _check_settings(place: str, settings: dict[str, Any], known: tuple[str, ...]) -> None:
    for name in settings:
        if name not in WITHOUT_EFFECT:
            raise InputError(f"{place}: has no setting {name!r}{nearest(name, (*known, *sorted(WITHOUT_EFFECT)))}")
