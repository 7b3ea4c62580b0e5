"""emotion2vec (Ma et al. 2024): the encoder, names and sizes of its published checkpoints, and how they are found."""

from serkit.encoders.emotion2vec.encoder import (
    TINY,
    Emotion2vecConfig,
    Emotion2vecEncoder,
    alibi_slopes,
    create,
    create_tiny,
)

__all__ = ["TINY", "Emotion2vecConfig", "Emotion2vecEncoder", "alibi_slopes", "create", "create_tiny"]
