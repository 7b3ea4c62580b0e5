"""Published splits as facts: which speakers are tested in which fold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedSplit:
    """The folds of a paper: ``tests`` maps fold names to the tested values of ``column``.

    With ``dev`` the paper names its development speakers too (and, in ``train``, its training speakers), with ``devs``
    what is the dev part of each fold; without, the dev part is drawn from the training speakers. ``shared`` says, for
    the stamp, why the test speakers of a paper are also in training; without, such a fold is refused.
    """

    corpus: str
    summary: str
    tests: Mapping[str, tuple[str, ...]]
    column: str = "speaker"
    dev: tuple[str, ...] | None = None
    train: tuple[str, ...] = ()
    devs: Mapping[str, tuple[str, ...]] | None = None
    shared: str = ""

    @property
    def takes_dev(self) -> bool:
        """Whether the dev part is left to whoever uses the split."""
        return self.dev is None and self.devs is None


def _actors(first: int, last: int) -> tuple[str, ...]:
    return tuple(f"{actor:02d}" for actor in range(first, last + 1))


IEMOCAP_TEN = tuple(f"0{session}{sex}" for session in range(1, 6) for sex in "FM")

PUBLISHED: dict[str, PublishedSplit] = {
    # Ma et al. 2024, EmoBox, https://arxiv.org/abs/2406.07162
    "emobox/ravdess": PublishedSplit(
        "ravdess",
        "EmoBox's 6 folds of 4 actors",
        {
            "fold_1": ("01", "11", "20", "21"),
            "fold_2": ("04", "10", "12", "14"),
            "fold_3": ("08", "09", "19", "23"),
            "fold_4": ("03", "05", "07", "24"),
            "fold_5": ("02", "15", "16", "18"),
            "fold_6": ("06", "13", "17", "22"),
        },
    ),
    "emobox/emovo": PublishedSplit(
        "emovo",
        "EmoBox's 6 folds of one speaker",
        {f"fold_{n}": (speaker,) for n, speaker in enumerate(("f2", "m3", "m2", "f3", "f1", "m1"), 1)},
    ),
    "emobox/savee": PublishedSplit(
        "savee",
        "EmoBox's 4 folds of one speaker",
        {f"fold_{n}": (speaker,) for n, speaker in enumerate(("JE", "KL", "DC", "JK"), 1)},
    ),
    "emobox/iemocap": PublishedSplit(
        "iemocap",
        "5 folds of one session",
        {f"fold_{session}": (str(session),) for session in range(1, 6)},
        column="session",
    ),
    # audEERING, https://github.com/audeering/datasets
    "audeering/ravdess": PublishedSplit(
        "ravdess",
        "audEERING's 16, 4 and 4 actors",
        {"test": ("21", "22", "23", "24")},
        dev=("16", "17", "19", "20"),
        train=(*_actors(1, 15), "18"),
    ),
    "audeering/emodb": PublishedSplit(
        "emodb", "audEERING's 6 training and 4 test speakers", {"test": ("12", "14", "15", "16")}
    ),
    # Pepino, Riera and Ferrer 2021, https://arxiv.org/abs/2104.03502
    "pepino/ravdess": PublishedSplit(
        "ravdess", "train 01-20, dev 21-22, test 23-24", {"test": ("23", "24")}, dev=("21", "22"), train=_actors(1, 20)
    ),
    "pepino/iemocap": PublishedSplit(
        "iemocap",
        "5 folds of one session, another session for development",
        {f"fold_{session}": (str(session),) for session in range(1, 6)},
        column="session",
        devs={"fold_1": ("5",), "fold_2": ("5",), "fold_3": ("5",), "fold_4": ("5",), "fold_5": ("4",)},
    ),
    # Cai et al. 2021, https://doi.org/10.21437/Interspeech.2021-1852: "leave one speaker out" by the name that a file
    # begins with, which is who wears the markers. Both talkers of a session are heard in both of its recordings.
    "recording10": PublishedSplit(
        "iemocap",
        "Cai's 10 folds by recording (01F: Ses01F_...): both talkers are shared",
        {name: (f"Ses{name}",) for name in IEMOCAP_TEN},
        column="recording",
        shared="the talkers of a test fold are also in training",
    ),
    "talker10": PublishedSplit("iemocap", "10 folds by who talks", {name: (name,) for name in IEMOCAP_TEN}),
    # Delbrouck et al. 2020 (MAT, MNT), https://doi.org/10.18653/v1/2020.nlpbt-1.1: the supports of their report are
    # those of session 1. Checkpoints were chosen on it as well, which is dev_by="test".
    "session1": PublishedSplit(
        "iemocap", "session 1 is tested, as MAT and MNT were", {"session1": ("1",)}, column="session"
    ),
    "session5": PublishedSplit(
        "iemocap", "5 folds by session", {str(session): (str(session),) for session in range(1, 6)}, column="session"
    ),
}
