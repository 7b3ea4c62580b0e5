"""Speech emotion recognition: recognise, train, evaluate.

    >>> import serkit
    >>> serkit.load().predict("clip.wav").label  # doctest: +SKIP
    'happy'
"""

from __future__ import annotations
