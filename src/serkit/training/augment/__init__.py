"""Changes to a waveform that leave the expressed emotion alone: chains of transforms, as data, seeded per utterance.

Transforms have names: serkit's own (:data:`TRANSFORMS`), classes of audiomentations and torch-audiomentations
(``audiomentations.PitchShift``), and those that :func:`register_transform` or an installed package adds.
See ``docs/augmentation.md``.
"""

from serkit.training.augment.chain import REVISION, Augmentation
from serkit.training.augment.i3 import from_i3_augmentations
from serkit.training.augment.registry import TRANSFORMS, register_transform

__all__ = ["REVISION", "TRANSFORMS", "Augmentation", "from_i3_augmentations", "register_transform"]
